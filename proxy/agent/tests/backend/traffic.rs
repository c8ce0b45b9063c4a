// SPDX-License-Identifier: Apache-2.0
//! Pods, clients and their connections, whatever the backend.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::Context;
use berth_model::{Conditions, Endpoint, EndpointHints, NodeName};
use berth_testkit::netns::Netns;

use crate::cluster::{TARGET_PORT, pod_ips};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The node's addresses, at the other end of every Pod's link.
pub(crate) const NODE: [&str; 2] = ["10.244.255.254", "fd00:10:244:ffff::1"];

/// A Pod: a namespace with a link of its own to the node, which is the sandbox's own namespace.
pub(crate) fn mk_pod(n: u16) -> anyhow::Result<Netns> {
    let name = format!("pod-{n}");
    let pod = Netns::create(&name)?;
    let node = Netns::current("node")?;
    let ([v4, v6], [node4, node6]) = (pod_ips(n), NODE);
    node.ip(&format!(
        "link add v{n} type veth peer name eth0 netns {name}\n\
         link set v{n} up\n\
         addr add {node4}/32 dev v{n}\n\
         addr add {node6}/128 dev v{n} nodad\n"
    ))?;
    pod.ip(&format!(
        "link set lo up\nlink set eth0 up\n\
         addr add {v4}/32 dev eth0\n\
         addr add {v6}/128 dev eth0 nodad\n\
         route add {node4} dev eth0\nroute add default via {node4} dev eth0\n\
         route add {node6} dev eth0\nroute add default via {node6} dev eth0\n"
    ))?;
    node.ip(&format!("route add {v4} dev v{n}\nroute add {v6} dev v{n}\n"))?;
    Ok(pod)
}

/// Answers each TCP connection and each datagram with `N CLIENT`.
pub(crate) fn serve(pod: &Netns, n: u16) -> anyhow::Result<()> {
    let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, TARGET_PORT));
    let (tcp, udp) = pod.run(|| (TcpListener::bind(all), UdpSocket::bind(all)))?;
    let (tcp, udp) = (tcp?, udp?);
    std::thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            let mut stream = stream;
            if let Ok(peer) = stream.peer_addr() {
                let _ = stream.write_all(format!("{n} {}", peer.ip().to_canonical()).as_bytes());
            }
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{n} {}", peer.ip().to_canonical()).as_bytes(), peer);
        }
    });
    Ok(())
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// One new connection: the answer.
pub(crate) fn ask(transport: Transport, to: SocketAddr) -> std::io::Result<String> {
    ask_for(PATIENCE, transport, to)
}

/// One new connection, with this patience.
pub(crate) fn ask_for(patience: Duration, transport: Transport, to: SocketAddr) -> std::io::Result<String> {
    let mut answer = String::new();
    match transport {
        Transport::Tcp => {
            let mut stream = TcpStream::connect_timeout(&to, patience)?;
            stream.set_read_timeout(Some(patience))?;
            stream.read_to_string(&mut answer)?;
        }
        Transport::Udp => {
            let any: IpAddr = if to.is_ipv4() {
                [0; 4].into()
            } else {
                [0; 16].into()
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(patience))?;
            socket.connect(to)?;
            socket.send(b"?")?;
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer)?;
            answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
        }
    }
    Ok(answer)
}

pub(crate) fn ask_from(
    from: &Netns,
    transport: Transport,
    to: SocketAddr,
) -> anyhow::Result<std::io::Result<String>> {
    Ok(from.run(|| ask(transport, to))?)
}

pub(crate) fn spread(
    from: &Netns,
    transport: Transport,
    to: SocketAddr,
    times: usize,
) -> anyhow::Result<BTreeMap<String, usize>> {
    let answers: Vec<_> = from.run(|| (0..times).map(|_| ask(transport, to)).collect())?;
    let mut counts = BTreeMap::new();
    for answer in answers {
        let answer = answer.with_context(|| format!("{transport:?} {to}"))?;
        let pod = answer.split(' ').next().unwrap_or_default().to_owned();
        *counts.entry(pod).or_default() += 1;
    }
    Ok(counts)
}

/// For at most 2 degrees of freedom, 27.6 is exceeded by chance once in a million.
pub(crate) fn is_even(counts: &BTreeMap<String, usize>, pods: usize, times: usize) -> bool {
    let expected = times as f64 / pods as f64;
    let chi_square: f64 = counts
        .values()
        .map(|count| (*count as f64 - expected).powi(2) / expected)
        .sum();
    counts.len() == pods && chi_square < 27.6
}

/// A host's own datagram that a rule of its output hook rejects fails in `send` already.
pub(crate) fn is_refusal(from: &Netns, transport: Transport, outcome: &std::io::Result<String>) -> bool {
    let kind = outcome.as_ref().map_err(std::io::Error::kind);
    let own_datagram = from.name() == "node" && matches!(transport, Transport::Udp);
    kind == Err(ErrorKind::ConnectionRefused) || (own_datagram && kind == Err(ErrorKind::PermissionDenied))
}

/// How long an answer that must not come is waited for.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);
/// External and LoadBalancer addresses.
pub(crate) const VIPS: [&str; 2] = ["192.0.2.7", "2001:db8:192::7"];
pub(crate) const OTHER_VIPS: [&str; 2] = ["192.0.2.8", "2001:db8:192::8"];
/// Addresses of the node that are not a Pod's.
pub(crate) const HOST: [&str; 2] = ["10.77.0.11", "fd00:77::b"];

pub(crate) fn ips(texts: [&str; 2]) -> [IpAddr; 2] {
    texts.map(|text| text.parse().unwrap())
}

/// Outside the cluster: 203.0.113.n and 2001:db8::n.
pub(crate) fn stranger_ips(n: u16) -> [IpAddr; 2] {
    [
        [203, 0, 113, u8::try_from(n).unwrap()].into(),
        format!("2001:db8::{n:x}").parse().unwrap(),
    ]
}

/// A client outside the cluster, for which this node is the way to everything.
pub(crate) fn mk_stranger(n: u16) -> anyhow::Result<Netns> {
    let stranger = mk_pod(1_000 + n)?;
    let ([v4, v6], [node4, node6]) = (stranger_ips(n), NODE);
    stranger.ip(&format!(
        "addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\n\
         route replace default via {node4} dev eth0 src {v4}\n\
         route replace default via {node6} dev eth0 src {v6}\n"
    ))?;
    let link = 1_000 + n;
    Netns::current("node")?.ip(&format!(
        "route add {v4} dev v{link}\nroute add {v6} dev v{link}\n"
    ))?;
    Ok(stranger)
}

/// Gives the node addresses outside the Pods', which it uses towards Service addresses.
pub(crate) fn mk_host() -> anyhow::Result<Netns> {
    let node = Netns::current("node")?;
    let [v4, v6] = HOST;
    node.ip(&format!(
        "link set lo up\naddr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad\n\
         route add 192.0.2.0/24 dev v1 src {v4}\nroute add 2001:db8:192::/64 dev v1 src {v6}\n"
    ))?;
    Ok(node)
}

/// The Pod, on a node that is or is not this one.
pub(crate) fn endpoints_on(pod: u16, node: &str, conditions: Conditions) -> [Endpoint; 2] {
    pod_ips(pod).map(|ip| Endpoint {
        ip,
        port: TARGET_PORT.try_into().unwrap(),
        conditions,
        node: Some(NodeName::new(node)),
        zone: None,
        hints: EndpointHints::default(),
    })
}

pub(crate) const DRAINING: Conditions = Conditions {
    ready: false,
    serving: true,
    terminating: true,
};

/// The new connection is neither answered nor refused.
pub(crate) fn is_silent(from: &Netns, transport: Transport, to: SocketAddr) -> anyhow::Result<bool> {
    let outcome = from.run(|| ask_for(SILENCE, transport, to))?;
    let kind = outcome.map_err(|error| error.kind());
    let silent = matches!(kind, Err(ErrorKind::TimedOut | ErrorKind::WouldBlock));
    // A host's own packet that a rule of its output hook drops fails in `send` already.
    Ok(silent || (from.name() == "node" && kind == Err(ErrorKind::PermissionDenied)))
}
