// SPDX-License-Identifier: Apache-2.0
//! A node, its Pods, a client, and the file that says what is behind the one Service.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;

use anyhow::Context;
use berth_testkit::netns::Netns;
use berth_testkit::sandbox::SCRATCH;

use crate::stream::CLIENTS;

const TARGET_PORT: u16 = 8_080;
const CLIENT: u16 = 100;
/// One line for each CPU, in hexadecimal.
const CONNTRACK_STATISTICS: &str = "/proc/net/stat/nf_conntrack";
const GATE: &str = "10.244.255.254";
/// All Pods that there are.
pub(crate) const PODS: [u16; 6] = [1, 2, 3, 4, 5, 6];

/// The Service.
pub(crate) fn service() -> SocketAddr {
    ([10, 96, 0, 1], 80).into()
}

/// What an EndpointSlice says of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Is {
    Ready,
    Terminating,
}

pub(crate) struct World {
    pub(crate) node: Netns,
    pub(crate) client: Netns,
    pods: Vec<Netns>,
    pub(crate) state: PathBuf,
}

impl World {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let node = Netns::current("node")?;
        // While nobody translates, clients are to be told so, every time.
        node.sysctl(&[("net/ipv4/icmp_ratelimit", "0")])?;
        let mut pods = Vec::new();
        for n in PODS {
            let pod = mk_host(&node, n)?;
            serve(&pod, n)?;
            pods.push(pod);
        }
        let client = mk_host(&node, CLIENT)?;
        client.ip(&format!("route add local {CLIENTS} dev lo\n"))?;
        node.ip(&format!("route add {CLIENTS} dev v{CLIENT}\n"))?;
        Ok(Self {
            client,
            node,
            pods,
            state: PathBuf::from(SCRATCH).join("state.yaml"),
        })
    }

    /// Flows that the node's kernel gave up for want of room in its table, or could not take: no proxy can help it.
    pub(crate) fn overflowed(&self) -> anyhow::Result<u64> {
        let text = self
            .node
            .run(|| std::fs::read_to_string(CONNTRACK_STATISTICS))??;
        let mut lines = text.lines().map(str::split_whitespace);
        let names: Vec<&str> = lines.next().context(CONNTRACK_STATISTICS)?.collect();
        let mut overflowed = 0;
        for cpu in lines {
            for (name, count) in names.iter().zip(cpu) {
                if ["drop", "early_drop"].contains(name) {
                    overflowed += u64::from_str_radix(count, 16)?;
                }
            }
        }
        Ok(overflowed)
    }

    /// Makes way for another one.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        for n in PODS.into_iter().chain([CLIENT]) {
            self.node.ip(&format!("link del v{n}\n"))?;
        }
        for host in self.pods.into_iter().chain([self.client]) {
            host.delete()?;
        }
        Ok(())
    }

    /// The Pod is gone: whoever is still led there gets no answer.
    pub(crate) fn stop(&self, pod: u16) -> anyhow::Result<()> {
        Ok(self.node.ip(&format!("link set v{pod} down\n"))?)
    }

    /// Says what is behind the Service, by a rename, so that nobody reads half of it.
    pub(crate) fn write(&self, pods: &BTreeMap<u16, Is>) -> anyhow::Result<()> {
        let mut text = String::from(SERVICE);
        for (n, is) in pods {
            let ready = *is == Is::Ready;
            writeln!(
                text,
                "- {{addresses: [10.244.0.{n}], nodeName: node-1, \
                 conditions: {{ready: {ready}, serving: true, terminating: {}}}}}",
                !ready
            )?;
        }
        let next = self.state.with_extension("next");
        std::fs::write(&next, text)?;
        std::fs::rename(&next, &self.state)?;
        Ok(())
    }
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  ipFamilies: [IPv4]
  ports: [{name: stream, port: 80, protocol: TCP}, {name: datagram, port: 80, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: stream, port: 8080, protocol: TCP}, {name: datagram, port: 8080, protocol: UDP}]
endpoints:
";

fn mk_host(node: &Netns, n: u16) -> anyhow::Result<Netns> {
    let name = format!("pod-{n}");
    let host = Netns::create(&name)?;
    let ip = format!("10.244.0.{n}");
    node.ip(&format!(
        "link add v{n} type veth peer name eth0 netns {name}\n\
         link set v{n} up\naddr add {GATE}/32 dev v{n}\n"
    ))?;
    host.ip(&format!(
        "link set lo up\nlink set eth0 up\naddr add {ip}/32 dev eth0\n\
         route add {GATE} dev eth0\nroute add default via {GATE} dev eth0\n"
    ))?;
    node.ip(&format!("route add {ip} dev v{n}\n"))?;
    Ok(host)
}

/// Answers each connection and each datagram with the Pod's number.
fn serve(pod: &Netns, n: u16) -> anyhow::Result<()> {
    let all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, TARGET_PORT));
    let (tcp, udp) = pod.run(|| (TcpListener::bind(all), UdpSocket::bind(all)))?;
    let (tcp, udp) = (tcp?, udp?);
    let answer = n.to_string();
    std::thread::spawn({
        let answer = answer.clone();
        move || {
            for mut stream in tcp.incoming().flatten() {
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(answer.as_bytes(), peer);
        }
    });
    Ok(())
}
