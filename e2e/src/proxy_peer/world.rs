// SPDX-License-Identifier: Apache-2.0
//! A node with what lies around it, as often as there are proxies to compare: same addresses, no way from one to another.
//!
//! ```text
//!                 lan: 10.77.0.1, knows no way out and says so (ICMP)
//!        +------------------+--------------------+
//!   node 10.77.0.11     elsewhere 10.77.0.12   outside 10.77.0.100
//!    |  10.77.0.21        another node's Pods    sends everything to the node
//!    |  uplink to the API server
//!   a 10.244.1.2, b 10.244.1.3, idle 10.244.1.4: Pods of this node
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use berth_testkit::netns::Netns;

/// An address in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Both {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Both {
    /// The one of a family.
    pub fn of(self, ipv6: bool) -> IpAddr {
        if ipv6 { self.v6.into() } else { self.v4.into() }
    }
}

const fn lan(v4: u8, v6: u16) -> Both {
    Both {
        v4: Ipv4Addr::new(10, 77, 0, v4),
        v6: Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, v6),
    }
}

const fn pod(node: u8, host: u8) -> Both {
    Both {
        v4: Ipv4Addr::new(10, 244, node, host),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, node as u16, 0, 0, 0, host as u16),
    }
}

/// The node's address, by which its Node object knows it.
pub const NODE: Both = lan(11, 0x11);
/// Another address of the node's, which its Node object does not name.
pub const SECOND: Both = lan(21, 0x21);
const ROUTER: Both = lan(1, 1);
const ELSEWHERE: Both = lan(12, 0x12);
const OUTSIDE: Both = lan(100, 0x100);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The Node objects, by name and address. The first is the one that a proxy works for.
pub const NODES: [(&str, Both); 2] = [("node-1", NODE), ("node-2", ELSEWHERE)];

/// Where an endpoint lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// A Pod on the node.
    A,
    /// Another Pod on the node.
    B,
    /// In the node's own namespace.
    Host,
    /// A Pod on another node.
    FarA,
    /// Another Pod on another node.
    FarB,
}

impl Site {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::A, Self::B, Self::Host, Self::FarA, Self::FarB];

    /// In answers and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::Host => "host",
            Self::FarA => "far-a",
            Self::FarB => "far-b",
        }
    }

    /// Its address.
    pub fn address(self) -> Both {
        match self {
            Self::A => pod(1, 2),
            Self::B => pod(1, 3),
            Self::Host => NODE,
            Self::FarA => pod(2, 2),
            Self::FarB => pod(2, 3),
        }
    }

    /// The name of its Node.
    pub fn node(self) -> &'static str {
        match self {
            Self::A | Self::B | Self::Host => NODES[0].0,
            Self::FarA | Self::FarB => NODES[1].0,
        }
    }
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A Pod on the node that is also an endpoint.
    PodA,
    /// A Pod on the node that is no endpoint.
    IdlePod,
    /// A process on the node itself.
    Host,
    /// A host on the LAN that is no cluster member.
    Outside,
    /// A Pod of another node.
    FarPod,
}

impl Origin {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::PodA, Self::IdlePod, Self::Host, Self::Outside, Self::FarPod];

    /// The address to send from, where the kernel would take another.
    pub fn bound(self, ipv6: bool) -> Option<IpAddr> {
        match self {
            Self::PodA | Self::IdlePod | Self::Host | Self::Outside => None,
            Self::FarPod => Some(Site::FarA.address().of(ipv6)),
        }
    }
}

/// Settings of every namespace.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/arp_ignore", "0"),
    // What nobody translates goes back to the LAN that it came from: nobody may learn a shorter way.
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
    // Refusals are counted here by the hundred, and Linux sends one client one a second.
    ("net/ipv4/icmp_ratelimit", "0"),
    ("net/ipv6/icmp/ratelimit", "0"),
    ("net/ipv4/icmp_ratemask", "0"),
];
/// Where br_netfilter is there, frames from one host of the LAN to another would meet the router's rules.
const BRIDGE: &[(&str, &str)] = &[
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
    ("net/bridge/bridge-nf-call-arptables", "0"),
];
const FORWARDING: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
];

/// What no proxy took ends at the router, which says so for each packet: the refusals of a kernel without a route are
/// limited by settings that are the machine's (net.ipv4.route.error_cost).
const NO_WAY_OUT: &str = "table inet out { chain prerouting { type filter hook prerouting priority 0; \
    ip daddr { 10.96.0.0/16, 203.0.113.0/24, 198.51.100.0/24 } reject with icmp type net-unreachable; \
    ip6 daddr { fd00:10:96::/112, 2001:db8::/32 } reject with icmpv6 type no-route; }; }";

/// A node with what lies around it. Ends with the sandbox.
#[derive(Debug)]
pub struct World {
    number: u8,
    node: Netns,
    outside: Netns,
    elsewhere: Netns,
    a: Netns,
    b: Netns,
    idle: Netns,
}

impl World {
    /// Builds one. Its number, from 1, is in the names of its namespaces and in the address of its uplink.
    ///
    /// # Errors
    /// Outside the sandbox; when the kernel refuses.
    pub fn build(number: u8) -> Result<Self> {
        let (world, lan) = Self::wired(number)?;
        lan.output("nft", &[NO_WAY_OUT])?;
        Ok(world)
    }

    /// Builds one in the guest kernel, which has no nftables to refuse with: what no proxy took ends at the router all the
    /// same, which may say so more seldom.
    ///
    /// # Errors
    /// As [`World::build`].
    pub fn in_guest(number: u8) -> Result<Self> {
        Ok(Self::wired(number)?.0)
    }

    fn wired(number: u8) -> Result<(Self, Netns)> {
        let create = |name: &str| -> Result<Netns> {
            let netns = Netns::create(&format!("w{number}-{name}"))?;
            netns.sysctl(SYSCTLS)?;
            Ok(netns)
        };
        let lan = create("lan")?;
        let world = Self {
            number,
            node: create("node")?,
            outside: create("outside")?,
            elsewhere: create("elsewhere")?,
            a: create("a")?,
            b: create("b")?,
            idle: create("idle")?,
        };
        lan.sysctl(FORWARDING)?;
        lan.sysctl(BRIDGE)?;
        world.node.sysctl(FORWARDING)?;
        world.cable(&lan)?;
        world.uplink()?;
        world.pods()?;
        Ok((world, lan))
    }

    /// Where the node finds the API server.
    pub fn api_server(&self) -> Ipv4Addr {
        api_server(self.number)
    }

    /// The node's namespace.
    pub fn node(&self) -> &Netns {
        &self.node
    }

    /// The namespace that packets of an origin start in.
    pub fn origin(&self, origin: Origin) -> &Netns {
        match origin {
            Origin::PodA => &self.a,
            Origin::IdlePod => &self.idle,
            Origin::Host => &self.node,
            Origin::Outside => &self.outside,
            Origin::FarPod => &self.elsewhere,
        }
    }

    /// The namespace that has a site's address.
    pub fn site(&self, site: Site) -> &Netns {
        match site {
            Site::A => &self.a,
            Site::B => &self.b,
            Site::Host => &self.node,
            Site::FarA | Site::FarB => &self.elsewhere,
        }
    }

    fn cable(&self, lan: &Netns) -> Result<()> {
        let mut batch = format!(
            "link set lo up\nlink add bridge address {} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set bridge up\n",
            mac(ROUTER)
        );
        for (port, netns, has) in [
            ("node", &self.node, NODE),
            ("outside", &self.outside, OUTSIDE),
            ("elsewhere", &self.elsewhere, ELSEWHERE),
        ] {
            batch += &format!(
                "link add {port} type veth peer name eth0 address {} netns {}\nlink set {port} master bridge up\n",
                mac(has),
                netns.name()
            );
        }
        batch += &addresses("bridge", &[ROUTER]);
        batch += &neighbours("bridge", &[NODE, SECOND, OUTSIDE, ELSEWHERE]);
        for (via, node) in [(NODE, 1), (ELSEWHERE, 2)] {
            batch += &pod_routes(via, node);
        }
        lan.ip(&batch)?;
        let up = "link set lo up\nlink set eth0 up\n".to_owned();
        self.node.ip(&(up.clone()
            + &addresses("eth0", &[NODE, SECOND])
            + &neighbours("eth0", &[ROUTER, OUTSIDE, ELSEWHERE])
            + &default_route(ROUTER)
            + &pod_routes(ELSEWHERE, 2)))?;
        self.outside.ip(&(up.clone()
            + &addresses("eth0", &[OUTSIDE])
            + &neighbours("eth0", &[ROUTER, NODE, SECOND, ELSEWHERE])
            + &default_route(NODE)))?;
        self.elsewhere.ip(&(up
            + &addresses("eth0", &[ELSEWHERE])
            + &neighbours("eth0", &[ROUTER, NODE, SECOND, OUTSIDE])
            + &default_route(NODE)
            + &own("lo", Site::FarA.address())
            + &own("lo", Site::FarB.address())))?;
        Ok(())
    }

    fn uplink(&self) -> Result<()> {
        let (number, node) = (self.number, self.node.name());
        Netns::current("stage")?.ip(&format!(
            "link add uplink-{number} type veth peer name uplink netns {node}\n\
             link set uplink-{number} up\n\
             addr add {}/30 dev uplink-{number}\n",
            self.api_server()
        ))?;
        let own = Ipv4Addr::from(u32::from(self.api_server()) + 1);
        Ok(self
            .node
            .ip(&format!("link set uplink up\naddr add {own}/30 dev uplink\n"))?)
    }

    /// Point to point, as CNI plug-ins do.
    fn pods(&self) -> Result<()> {
        for (link, netns, address) in [
            ("pod-a", &self.a, Site::A.address()),
            ("pod-b", &self.b, Site::B.address()),
            ("pod-idle", &self.idle, pod(1, 4)),
        ] {
            let Both { v4, v6 } = address;
            let gateway = Both {
                v6: GATEWAY6,
                ..pod(1, 1)
            };
            self.node.ip(&format!(
                "link add {link} address {} type veth peer name eth0 address {} netns {}\nlink set {link} up\n\
                 addr add {}/32 dev {link}\naddr add {}/64 dev {link} nodad\n\
                 route add {v4}/32 dev {link} scope link\nroute add {v6}/128 dev {link}\n{}",
                mac(gateway),
                mac(address),
                netns.name(),
                gateway.v4,
                gateway.v6,
                neighbours(link, &[address])
            ))?;
            netns.ip(&format!(
                "link set lo up\nlink set eth0 up\n{}{}route add {} dev eth0 scope link\n\
                 route add default via {}\nroute add default via {} dev eth0\n",
                own("eth0", address),
                neighbours("eth0", &[gateway]),
                gateway.v4,
                gateway.v4,
                gateway.v6
            ))?;
        }
        Ok(())
    }
}

/// The stage's end of an uplink.
pub fn api_server(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 31, number, 1)
}

fn addresses(device: &str, those: &[Both]) -> String {
    let lines = those.iter().map(|Both { v4, v6 }| {
        format!("addr add {v4}/24 dev {device}\naddr add {v6}/64 dev {device} nodad\n")
    });
    lines.collect()
}

/// The link-layer address of whoever has an address.
fn mac(of: Both) -> String {
    // A node answers to all of its addresses.
    let [.., network, node, host] = if of == SECOND { NODE } else { of }.v4.octets();
    format!("02:00:00:{network:02x}:{node:02x}:{host:02x}")
}

/// Everybody knows everybody: a neighbour that a busy machine has not found in time would look like a packet that no proxy
/// took.
fn neighbours(device: &str, those: &[Both]) -> String {
    let lines = those.iter().map(|both| {
        let mac = mac(*both);
        [IpAddr::from(both.v4), both.v6.into()]
            .map(|address| format!("neigh add {address} lladdr {mac} nud permanent dev {device}\n"))
            .concat()
    });
    lines.collect()
}

fn own(device: &str, Both { v4, v6 }: Both) -> String {
    format!("addr add {v4}/32 dev {device}\naddr add {v6}/128 dev {device} nodad\n")
}

fn default_route(Both { v4, v6 }: Both) -> String {
    format!("route add default via {v4}\nroute add default via {v6}\n")
}

fn pod_routes(via: Both, node: u8) -> String {
    format!(
        "route add 10.244.{node}.0/24 via {}\nroute add fd00:10:244:{node}::/64 via {}\n",
        via.v4, via.v6
    )
}
