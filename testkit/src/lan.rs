// SPDX-License-Identifier: Apache-2.0
//! The office LAN: a bridge, nodes with their Pod ranges, and a host that is no cluster member.
//!
//! ```text
//!   sandbox's own namespace: br-lan 10.77.0.1, fd00:77::1 (router, API server)
//!        | port-node-1            | port-node-2             | port-client
//!      eth0 10.77.0.11          eth0 10.77.0.12           eth0 10.77.0.100
//!      fd00:77::11              fd00:77::12               fd00:77::100
//!      node-1                   node-2                    client: on-link addresses only,
//!      Pods 10.244.1.0/24       Pods 10.244.2.0/24        no route to Pods or Services
//!      fd00:10:244:1::/64       fd00:10:244:2::/64
//! ```
//!
//! Nodes and the router have routes to every node's Pod range. As on any Linux host, a node answers
//! ARP for each of its own addresses on each of its interfaces. Pods reach hosts beyond the cluster with
//! their node's address, as with any CNI plug-in.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::Error;
use crate::netns::{Netns, feed};
pub use crate::node::Node;
use crate::sandbox;
use crate::wait::eventually_blocking;

/// The bridge that stands for the LAN, in the sandbox's own namespace.
pub const BRIDGE: &str = "br-lan";
/// Where the API server listens: the bridge's own addresses.
pub const ROUTER: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 77, 0, 1),
    Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1),
);
/// The host on the LAN that is no cluster member.
pub const CLIENT: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 77, 0, 100),
    Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x100),
);
/// The interface that each node and the client have on the LAN.
pub const INTERFACE: &str = "eth0";
/// node-1 has 10.77.0.11; 10.77.0.100 is the client's.
pub const MAX_NODES: u8 = 80;

/// For a link to come up; the kernel takes a second at most.
const SETTLED: Duration = Duration::from_secs(10);

/// Settings of every namespace on the LAN and of every Pod.
const HOST_SYSCTLS: &[(&str, &str)] = &[
    // Duplicate address detection would keep each new address unusable for a second.
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    // A new namespace inherits IPv4 settings from the machine (devconf_inherit_init_net): say them.
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/all/arp_ignore", "0"),
    ("net/ipv4/conf/default/arp_ignore", "0"),
    ("net/ipv4/conf/all/arp_announce", "0"),
    ("net/ipv4/conf/default/arp_announce", "0"),
    // Loose, as systemd sets it (50-default.conf).
    ("net/ipv4/conf/default/rp_filter", "2"),
];
/// What a kubelet's host has besides.
const NODE_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
];

/// How the LAN is to be built.
#[derive(Clone, Debug)]
pub struct LanBuilder {
    nodes: u8,
}

impl LanBuilder {
    /// How many nodes, 0..=80; 3 unless told.
    #[must_use]
    pub fn nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes.min(MAX_NODES);
        self
    }

    /// Builds the LAN in the sandbox.
    ///
    /// # Errors
    /// Outside the sandbox; when a LAN is there already; when the kernel refuses.
    pub fn build(self) -> Result<Lan, Error> {
        sandbox::require_inside("Lan::build")?;
        let router = Netns::current("router")?;
        let nodes = (1..=self.nodes).map(create_node).collect::<Result<Vec<_>, _>>()?;
        let client = Netns::create("client")?;
        client.sysctl(HOST_SYSCTLS)?;
        router.ip(&router_batch(&nodes)?)?;
        for node in &nodes {
            node.netns().ip(&node_batch(node, &nodes)?)?;
            node.netns().run(|| feed("nft", &["-f", "-"], &pod_egress()))??;
        }
        client.ip(&format!(
            "link set lo up\nlink set {INTERFACE} up\naddr add {}/24 dev {INTERFACE}\naddr add {}/64 dev {INTERFACE} nodad\n",
            CLIENT.0, CLIENT.1
        ))?;
        Ok(Lan {
            router,
            nodes,
            client,
        })
    }
}

/// The LAN. It ends with the sandbox.
#[derive(Debug)]
pub struct Lan {
    router: Netns,
    nodes: Vec<Node>,
    client: Netns,
}

impl Lan {
    /// A LAN of three nodes, unless told otherwise.
    pub fn builder() -> LanBuilder {
        LanBuilder { nodes: 3 }
    }

    /// The nodes in order; `nodes()[0]` is node-1.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name() == name)
    }

    /// The host that is no cluster member.
    pub fn client(&self) -> &Netns {
        &self.client
    }

    /// The sandbox's own namespace: the LAN's router, where the API server lives.
    pub fn router(&self) -> &Netns {
        &self.router
    }

    /// Pulls the node's cable: its interface loses the carrier. Pods and processes stay.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn cut(&self, node: &Node) -> Result<(), Error> {
        self.router.ip(&format!("link set {} down\n", node.port()))
    }

    /// Separates the node while its interface keeps its carrier, as a failing switch does.
    ///
    /// # Errors
    /// When `bridge` fails; while the cable is cut.
    pub fn isolate(&self, node: &Node) -> Result<(), Error> {
        self.port_state(node, "disabled")
    }

    /// Ends [`Lan::cut`] and [`Lan::isolate`].
    ///
    /// # Errors
    /// When `ip` or `bridge` fails.
    pub fn mend(&self, node: &Node) -> Result<(), Error> {
        self.router.ip(&format!("link set {} up\n", node.port()))?;
        self.port_state(node, "forwarding")
    }

    /// Cuts the node for good: to be used together with killing the node's processes.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn crash(&self, node: &Node) -> Result<(), Error> {
        self.cut(node)
    }

    /// What passed the node's port since the LAN was built, as the node sees it.
    ///
    /// # Errors
    /// When the port is not there.
    pub fn counters(&self, node: &Node) -> Result<Counters, Error> {
        let port = node.port();
        self.router.run(|| {
            let table = fs::read_to_string("/proc/thread-self/net/dev").map_err(Error::io("net/dev"))?;
            parse_counters(&table, &port).ok_or_else(|| Error::Io {
                what: format!("counters of {port}"),
                source: std::io::ErrorKind::NotFound.into(),
            })
        })?
    }

    fn port_state(&self, node: &Node, state: &str) -> Result<(), Error> {
        let port = node.port();
        // The kernel tells the bridge of a new carrier some time after it is there, and the bridge then
        // sets the port to forwarding by itself.
        eventually_blocking(format!("{port} is up"), SETTLED, || {
            match self.router.output("ip", &["-o", "link", "show", "dev", &port]) {
                Ok(link) if link.contains(" state UP ") => Ok(()),
                Ok(link) => Err(link),
                Err(error) => Err(error.to_string()),
            }
        })?;
        // `bridge` and not `ip link ... type bridge_slave state`: the latter is undone by the next carrier event.
        let line = format!("link set dev {port} state {state}\n");
        self.router.run(|| feed("bridge", &["-batch", "-"], &line))?
    }
}

/// Traffic of a node's LAN interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that the node sent.
    pub sent: u64,
    /// Packets that the node received.
    pub received: u64,
}

/// The port's view is the mirror of the node's: what it received, the node sent.
fn parse_counters(table: &str, port: &str) -> Option<Counters> {
    let line = table
        .lines()
        .find_map(|line| line.trim().strip_prefix(port)?.strip_prefix(':'))?;
    let mut fields = line.split_whitespace().map(str::parse::<u64>);
    Some(Counters {
        sent: fields.nth(1)?.ok()?,
        received: fields.nth(7)?.ok()?,
    })
}

fn create_node(number: u8) -> Result<Node, Error> {
    let netns = Netns::create(&format!("node-{number}"))?;
    netns.sysctl(HOST_SYSCTLS)?;
    netns.sysctl(NODE_SYSCTLS)?;
    Ok(Node::new(number, netns))
}

fn router_batch(nodes: &[Node]) -> Result<String, Error> {
    let mut batch = format!(
        "link add {BRIDGE} address 02:77:00:00:00:01 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         link set {BRIDGE} up\n\
         addr add {}/24 dev {BRIDGE}\n\
         addr add {}/64 dev {BRIDGE} nodad\n",
        ROUTER.0, ROUTER.1
    );
    let cables = nodes
        .iter()
        .map(|node| (node.port(), node.mac(), node.name()))
        .chain([("port-client".to_owned(), "02:77:00:00:00:64".to_owned(), "client")]);
    for (port, mac, netns) in cables {
        write_line(
            &mut batch,
            format_args!(
                "link add {port} type veth peer name {INTERFACE} address {mac} netns {netns}\n\
                 link set {port} master {BRIDGE} addrgenmode none up"
            ),
        )?;
    }
    for node in nodes {
        write_pod_routes(&mut batch, node)?;
    }
    Ok(batch)
}

fn node_batch(node: &Node, nodes: &[Node]) -> Result<String, Error> {
    let mut batch = format!(
        "link set lo up\n\
         link set {INTERFACE} up\n\
         addr add {}/24 dev {INTERFACE}\n\
         addr add {}/64 dev {INTERFACE} nodad\n\
         route add default via {}\n\
         route add default via {}\n",
        node.ipv4(),
        node.ipv6(),
        ROUTER.0,
        ROUTER.1
    );
    for other in nodes.iter().filter(|other| other.number() != node.number()) {
        write_pod_routes(&mut batch, other)?;
    }
    Ok(batch)
}

/// What a CNI plug-in (or ip-masq-agent) does on every node: hosts beyond the cluster have no route to Pods,
/// so what a Pod sends there leaves with the node's address. The router, which has routes, is a host of the cluster.
fn pod_egress() -> String {
    let table = |family: &str, pods: &str, inside: &str| {
        format!(
            "table {family} cni {{\n\
                chain postrouting {{\n\
                    type nat hook postrouting priority 110;\n\
                    {family} saddr {pods} {family} daddr != {{ {inside} }} masquerade\n\
                }}\n\
            }}\n"
        )
    };
    table("ip", "10.244.0.0/16", &format!("10.244.0.0/16, {}", ROUTER.0))
        + &table(
            "ip6",
            "fd00:10:244::/48",
            &format!("fd00:10:244::/48, {}", ROUTER.1),
        )
}

fn write_pod_routes(batch: &mut String, node: &Node) -> Result<(), Error> {
    for (range, via) in node.pod_ranges().into_iter().zip(node.addresses()) {
        write_line(batch, format_args!("route add {range} via {via}"))?;
    }
    Ok(())
}

pub(crate) fn write_line(batch: &mut String, line: std::fmt::Arguments<'_>) -> Result<(), Error> {
    writeln!(batch, "{line}")
        .map_err(|_| Error::io("write an ip batch")(std::io::ErrorKind::OutOfMemory.into()))
}

/// Settings of a Pod's namespace.
pub(crate) const POD_SYSCTLS: &[(&str, &str)] = HOST_SYSCTLS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_line_of_the_port() {
        let table = "Inter-| Receive | Transmit\n face |bytes packets\n port-node-11: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n port-node-1: 10 20 0 0 0 0 0 0 30 40 0 0 0 0 0 0\n";
        assert_eq!(
            parse_counters(table, "port-node-1"),
            Some(Counters {
                sent: 20,
                received: 40
            })
        );
        assert_eq!(parse_counters(table, "port-node-2"), None);
    }
}
