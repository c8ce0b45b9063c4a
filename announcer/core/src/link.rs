// SPDX-License-Identifier: Apache-2.0
//! Which interfaces can carry an announcement.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use berth_model::IpFamily;
use ipnet::IpNet;

use crate::wire::ethernet::MacAddr;
use crate::wire::heartbeat::{MAX_PREFIXES, Reach};

/// Name prefixes of interfaces that lead to Pods or virtual machines and not to the LAN. The list is
/// that of MetalLB's default exclusions, so that a migration changes nothing.
pub const EXCLUDED_PREFIXES: [&str; 12] = [
    "docker",
    "cbr",
    "dummy",
    "virbr",
    "lxc",
    "veth",
    "cali",
    "tunl",
    "flannel",
    "kube-ipvs",
    "cni",
    "nodelocaldns",
];

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, if it has one of six bytes.
    pub mac: Option<MacAddr>,
    /// What its flags say.
    pub flags: Flags,
    /// The bond, bridge or VRF that it belongs to.
    pub controller: Option<u32>,
    /// The addresses on it, with their prefix lengths.
    pub addresses: BTreeSet<IpNet>,
}

/// The interface flags that matter here (netdevice(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `IFF_UP`: switched on by the administrator.
    pub up: bool,
    /// `IFF_LOWER_UP`: the driver sees a carrier.
    pub carrier: bool,
    /// `IFF_BROADCAST`.
    pub broadcast: bool,
    /// `IFF_MULTICAST`.
    pub multicast: bool,
    /// `IFF_NOARP`.
    pub no_arp: bool,
    /// `IFF_LOOPBACK`.
    pub loopback: bool,
}

/// Why an interface is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unfit {
    /// Not named by `--interface`.
    NotSelected,
    /// Named like an interface that leads to Pods, and not asked for by name.
    Excluded,
    /// The loopback interface.
    Loopback,
    /// Part of a bond, bridge or VRF, which is used in its place.
    HasController,
    /// No six-byte hardware address.
    NotEthernet,
    /// Switched off.
    Down,
    /// No carrier.
    NoCarrier,
    /// It does not broadcast, or its neighbours are not asked for by ARP.
    NoArp,
    /// It has no multicast, which NDP needs.
    NoMulticast,
}

impl Unfit {
    /// The stable short form.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotSelected => "not_selected",
            Self::Excluded => "excluded",
            Self::Loopback => "loopback",
            Self::HasController => "has_controller",
            Self::NotEthernet => "not_ethernet",
            Self::Down => "down",
            Self::NoCarrier => "no_carrier",
            Self::NoArp => "no_arp",
            Self::NoMulticast => "no_multicast",
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

/// The operator's choice of interfaces: names or patterns in which `*` stands for any text. Empty means
/// every interface that is fit and not excluded by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection(pub Vec<String>);

impl Selection {
    fn admits(&self, name: &str) -> Result<(), Unfit> {
        if !self.0.is_empty() {
            let named = self.0.iter().any(|pattern| matches(pattern, name));
            return if named { Ok(()) } else { Err(Unfit::NotSelected) };
        }
        if EXCLUDED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(Unfit::Excluded);
        }
        Ok(())
    }
}

/// Whether a name fits a pattern in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len())
                .filter(|cut| rest.is_char_boundary(*cut))
                .any(|cut| matches(tail, &rest[cut..]))
        }),
    }
}

impl Link {
    /// Whether the interface can carry announcements of a family, or why not.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn fitness(&self, selection: &Selection, family: IpFamily) -> Result<MacAddr, Unfit> {
        if self.flags.loopback {
            return Err(Unfit::Loopback);
        }
        selection.admits(&self.name)?;
        if self.controller.is_some() {
            return Err(Unfit::HasController);
        }
        let mac = self.mac.ok_or(Unfit::NotEthernet)?;
        if !self.flags.up {
            return Err(Unfit::Down);
        }
        if !self.flags.carrier {
            return Err(Unfit::NoCarrier);
        }
        if !self.flags.broadcast || self.flags.no_arp {
            return Err(Unfit::NoArp);
        }
        match family {
            IpFamily::V6 if !self.flags.multicast => Err(Unfit::NoMulticast),
            IpFamily::V4 | IpFamily::V6 => Ok(mac),
        }
    }
}

/// The interfaces of this node that can carry announcements, by family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carriers {
    links: BTreeMap<u32, Link>,
    fit: BTreeSet<(IpFamily, u32)>,
}

impl Carriers {
    /// Judges all interfaces of the node.
    pub fn new(links: impl IntoIterator<Item = Link>, selection: &Selection) -> Self {
        let links: BTreeMap<u32, Link> = links.into_iter().map(|link| (link.index, link)).collect();
        let fit = links
            .values()
            .flat_map(|link| IpFamily::ALL.map(|family| (family, link)))
            .filter(|(family, link)| link.fitness(selection, *family).is_ok())
            .map(|(family, link)| (family, link.index))
            .collect();
        Self { links, fit }
    }

    /// The hardware address of a fit interface.
    pub fn mac(&self, index: u32) -> Option<MacAddr> {
        let fit = IpFamily::ALL
            .iter()
            .any(|family| self.fit.contains(&(*family, index)));
        self.links.get(&index).filter(|_| fit)?.mac
    }

    /// The name of an interface, fit or not.
    pub fn name(&self, index: u32) -> Option<&str> {
        self.links.get(&index).map(|link| link.name.as_str())
    }

    /// All fit interfaces, by index.
    pub fn fit(&self) -> impl Iterator<Item = &Link> {
        let indices: BTreeSet<u32> = self.fit.iter().map(|(_, index)| *index).collect();
        indices.into_iter().filter_map(|index| self.links.get(&index))
    }

    /// The interfaces on which an address is announced: those with the address in a subnet of theirs,
    /// or, where there is none, every one that can carry the family (the address may be routed here).
    pub fn for_address(&self, address: IpAddr) -> BTreeSet<u32> {
        let family = IpFamily::of(address);
        let able = self
            .fit
            .iter()
            .filter(|(of, _)| *of == family)
            .map(|(_, index)| *index);
        let able: BTreeSet<u32> = able.collect();
        let on_link: BTreeSet<u32> = able
            .iter()
            .copied()
            .filter(|index| self.links.get(index).is_some_and(|link| link.is_on_link(address)))
            .collect();
        if on_link.is_empty() { able } else { on_link }
    }

    /// What the node tells its peers about all of this.
    pub fn reach(&self) -> Reach {
        let networks = self.fit.iter().flat_map(|(family, index)| {
            let addresses = self.links.get(index).map(|link| &link.addresses);
            let of_family = |net: &&IpNet| IpFamily::of(net.addr()) == *family;
            addresses.into_iter().flatten().filter(of_family)
        });
        let prefixes: BTreeSet<IpNet> = networks.filter(|net| is_told(net)).map(IpNet::trunc).collect();
        Reach {
            families: self.fit.iter().map(|(family, _)| *family).collect(),
            // Cut here and not when it is written, so that this node judges itself as its peers do.
            prefixes: prefixes.into_iter().take(MAX_PREFIXES).collect(),
        }
    }
}

impl Link {
    fn is_on_link(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.contains(&address))
    }
}

/// Link-local subnets are the same on every link and say nothing; neither does a single address.
fn is_told(net: &IpNet) -> bool {
    let local = match net.addr() {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !local && net.prefix_len() < net.max_prefix_len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lan() -> Link {
        Link {
            index: 2,
            name: "eth0".to_owned(),
            mac: Some(MacAddr([2, 0, 0, 0, 0, 2])),
            flags: Flags {
                up: true,
                carrier: true,
                broadcast: true,
                multicast: true,
                no_arp: false,
                loopback: false,
            },
            controller: None,
            addresses: ["10.77.0.11/24", "fd00:77::11/64", "fe80::2/64"]
                .map(|net| net.parse().unwrap())
                .into(),
        }
    }

    fn changed(change: impl FnOnce(&mut Link)) -> Link {
        let mut link = lan();
        change(&mut link);
        link
    }

    #[test]
    fn unfit_interfaces_say_why() {
        let rows = [
            (changed(|link| link.mac = None), Unfit::NotEthernet),
            (changed(|link| link.controller = Some(9)), Unfit::HasController),
            (changed(|link| link.name = "veth1234".to_owned()), Unfit::Excluded),
            (changed(|link| link.flags.up = false), Unfit::Down),
            (changed(|link| link.flags.carrier = false), Unfit::NoCarrier),
            (changed(|link| link.flags.no_arp = true), Unfit::NoArp),
            (changed(|link| link.flags.broadcast = false), Unfit::NoArp),
            (changed(|link| link.flags.loopback = true), Unfit::Loopback),
        ];
        for (link, reason) in rows {
            let got = link.fitness(&Selection::default(), IpFamily::V4);
            assert_eq!(got, Err(reason), "{link:?}");
        }
        let quiet = changed(|link| link.flags.multicast = false);
        assert!(quiet.fitness(&Selection::default(), IpFamily::V4).is_ok());
        let got = quiet.fitness(&Selection::default(), IpFamily::V6);
        assert_eq!(got, Err(Unfit::NoMulticast));
    }

    #[test]
    fn a_selection_names_interfaces_or_patterns_and_beats_the_default_exclusions() {
        for (patterns, name, admitted) in [
            (vec![], "eth0", true),
            (vec![], "cni0", false),
            (vec!["cni0"], "cni0", true),
            (vec!["eth*"], "eth17", true),
            (vec!["eth*"], "bond0", false),
            (vec!["en*s0", "bond0"], "enp3s0", true),
            (vec!["en*s0"], "enp3s1", false),
            (vec!["*"], "veth1", true),
            (vec!["eth"], "eth0", false),
        ] {
            let selection = Selection(patterns.iter().map(|text| (*text).to_owned()).collect());
            assert_eq!(selection.admits(name).is_ok(), admitted, "{patterns:?} {name}");
        }
    }

    #[test]
    fn an_address_goes_to_the_interface_of_its_subnet_else_to_all() {
        let other = Link {
            index: 3,
            name: "eth1".to_owned(),
            addresses: ["192.0.2.1/24".parse().unwrap()].into(),
            ..lan()
        };
        let carriers = Carriers::new([lan(), other], &Selection::default());
        for (address, expected) in [
            ("10.77.0.200", vec![2]),
            ("192.0.2.9", vec![3]),
            ("198.51.100.1", vec![2, 3]),
            ("fd00:77::200", vec![2]),
            ("fd01::1", vec![2, 3]),
        ] {
            let got: Vec<u32> = carriers
                .for_address(address.parse().unwrap())
                .into_iter()
                .collect();
            assert_eq!(got, expected, "{address}");
        }
        let told: Vec<String> = carriers.reach().prefixes.iter().map(IpNet::to_string).collect();
        assert_eq!(told, ["10.77.0.0/24", "192.0.2.0/24", "fd00:77::/64"]);
    }
}
