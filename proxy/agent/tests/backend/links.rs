// SPDX-License-Identifier: Apache-2.0
//! Clients behind a bridge and behind links of a certain name, and what becomes of their connections as Pods and as
//! others, whatever the backend.

use std::net::{IpAddr, SocketAddr};

use anyhow::ensure;
use berth_model::{Conditions, NodeName, TrafficPolicy};
use berth_proxy_core::{Links, Settings};
use berth_testkit::netns::Netns;

use crate::cluster::{Cluster, PORT, cluster_ips, pod_ips};
use crate::traffic::{
    NODE, Transport, VIPS, ask_from, endpoints_on, ips, mk_host, mk_pod, mk_stranger, serve, spread,
    stranger_ips,
};

const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];
const BRIDGE: &str = "cni0";

/// A client with the addresses that it comes from.
pub(crate) struct Client {
    pub(crate) netns: Netns,
    pub(crate) ips: [IpAddr; 2],
}

/// Who asks.
pub(crate) struct Clients {
    /// Behind the bridge `cni0`.
    pub(crate) bridged: Client,
    /// Behind the link `cali101`.
    pub(crate) linked: Client,
    /// With an address of the Pods' range, behind a link that is nothing of theirs.
    pub(crate) disguised: Client,
    /// From outside the cluster.
    pub(crate) stranger: Client,
}

/// Endpoint 1 here, endpoint 2 on another node, external policy Local.
pub(crate) fn mk_world(cluster: &mut Cluster) -> anyhow::Result<Clients> {
    for n in 1..=2 {
        serve(&mk_pod(n)?, n)?;
    }
    mk_host()?;
    Netns::current("node")?.ip(&format!(
        "link add {BRIDGE} type bridge stp_state 0 forward_delay 0\nlink set {BRIDGE} up\n\
         addr add {}/32 dev {BRIDGE}\naddr add {}/128 dev {BRIDGE} nodad\n",
        NODE[0], NODE[1]
    ))?;
    cluster.set(1, Some(&[])).edit(1, |service, endpoints| {
        service.external_ips = ips(VIPS).into();
        service.external_policy = TrafficPolicy::Local;
        let here = endpoints_on(1, "node-1", Conditions::READY);
        *endpoints = [here, endpoints_on(2, "node-2", Conditions::READY)].concat();
    });
    Ok(Clients {
        bridged: mk_client(100, "port100", BRIDGE)?,
        linked: mk_client(101, "cali101", "cali101")?,
        disguised: Client {
            netns: mk_pod(200)?,
            ips: pod_ips(200),
        },
        stranger: Client {
            netns: mk_stranger(5)?,
            ips: stranger_ips(5),
        },
    })
}

/// Its link's end on the node is `link`; packets come in by `by`, that link or its bridge.
fn mk_client(n: u16, link: &str, by: &str) -> anyhow::Result<Client> {
    let name = format!("pod-{n}");
    let netns = Netns::create(&name)?;
    let node = Netns::current("node")?;
    let ([v4, v6], [node4, node6]) = (pod_ips(n), NODE);
    let attached = if link == by {
        format!("addr add {node4}/32 dev {link}\naddr add {node6}/128 dev {link} nodad\n")
    } else {
        format!("link set {link} master {by}\n")
    };
    node.ip(&format!(
        "link add {link} type veth peer name eth0 netns {name}\nlink set {link} up\n{attached}"
    ))?;
    netns.ip(&format!(
        "link set lo up\nlink set eth0 up\n\
         addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\n\
         route add {node4} dev eth0\nroute add default via {node4} dev eth0\n\
         route add {node6} dev eth0\nroute add default via {node6} dev eth0\n"
    ))?;
    node.ip(&format!("route add {v4} dev {by}\nroute add {v6} dev {by}\n"))?;
    Ok(Client {
        netns,
        ips: pod_ips(n),
    })
}

/// Pods are told by these interfaces, and not by their addresses.
pub(crate) fn told_by(links: Links) -> Settings {
    Settings {
        node: Some(NodeName::new("node-1")),
        pod_links: Some(links),
        ..Settings::default()
    }
}

/// The two ways to tell Pods, with who is one then.
pub(crate) fn cases(clients: &Clients) -> [(Settings, [(&Client, bool); 4]); 2] {
    let all = |bridged, linked| {
        [
            (&clients.bridged, bridged),
            (&clients.linked, linked),
            (&clients.disguised, false),
            (&clients.stranger, false),
        ]
    };
    [
        (told_by(Links::named(BRIDGE).unwrap()), all(true, false)),
        (told_by(Links::beginning("cali").unwrap()), all(false, true)),
    ]
}

/// Pods keep their address on the way to a ClusterIP, and get every endpoint of an address under policy Local; others
/// are masqueraded, and get the local one with their own address.
pub(crate) fn expect(clients: &[(&Client, bool)]) -> anyhow::Result<()> {
    for (client, is_pod) in clients {
        for (index, vip) in ips(VIPS).into_iter().enumerate() {
            let own = client.ips[index].to_string();
            for transport in TRANSPORTS {
                let asked = |to: IpAddr| -> anyhow::Result<String> {
                    Ok(ask_from(&client.netns, transport, (to, PORT).into())??)
                };
                let who = format!("{} ({own}), a Pod: {is_pod}", client.netns.name());
                let internal = asked(cluster_ips(1)[index])?;
                let kept = internal.ends_with(&format!(" {own}"));
                ensure!(kept == *is_pod, "{who} to the ClusterIP: {internal}");
                let external = asked(vip)?;
                ensure!(
                    external.ends_with(&format!(" {own}")),
                    "{who} to {vip}: {external}"
                );
            }
            // By TCP only: a datagram from the same port as before follows its flow, whoever counts as a Pod by now.
            let to = SocketAddr::from((vip, PORT));
            let met = spread(&client.netns, Transport::Tcp, to, 40)?;
            let endpoints: Vec<&str> = met.keys().map(String::as_str).collect();
            let wanted: &[&str] = if *is_pod { &["1", "2"] } else { &["1"] };
            ensure!(endpoints == wanted, "{} to {to}: {met:?}", client.netns.name());
        }
    }
    Ok(())
}
