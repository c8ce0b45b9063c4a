// SPDX-License-Identifier: Apache-2.0
//! A node: its addresses, and who of its Pods has which address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Error;
use crate::netns::Netns;
use crate::pods::Addresses;

/// A node of the cluster: a host on the LAN with a range of Pod addresses. Clones refer to the same one.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    number: u8,
    netns: Netns,
    taken: Mutex<Taken>,
}

impl Node {
    pub(crate) fn new(number: u8, netns: Netns) -> Self {
        let inner = Inner {
            name: netns.name().to_owned(),
            number,
            netns,
            taken: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// `node-N`.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// N, from 1.
    pub fn number(&self) -> u8 {
        self.inner.number
    }

    /// The node's namespace.
    pub fn netns(&self) -> &Netns {
        &self.inner.netns
    }

    /// `zone-N`: each node stands in a zone of its own.
    pub fn zone(&self) -> String {
        format!("zone-{}", self.number())
    }

    /// 10.77.0.(10+N)
    pub fn ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 10 + self.number())
    }

    /// fd00:77::(10+N), written with the decimal digits of the IPv4 address.
    pub fn ipv6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, decimal_digits(10 + self.number()))
    }

    /// Both addresses, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv4().into(), self.ipv6().into()]
    }

    /// The hardware address of the node's LAN interface: `02:77:00:00:00:` and 10+N in hexadecimal.
    pub fn mac(&self) -> String {
        format!("02:77:00:00:00:{:02x}", 10 + self.number())
    }

    /// The ranges of the node's Pods: `10.244.N.0/24` and `fd00:10:244:N::/64`.
    pub fn pod_ranges(&self) -> [String; 2] {
        [
            format!("10.244.{}.0/24", self.number()),
            format!("fd00:10:244:{}::/64", self.number()),
        ]
    }

    /// The node's own address on each of its Pod links, 10.244.N.1.
    pub(crate) fn pod_gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number(), 1)
    }

    /// The bridge's end of the node's cable.
    pub fn port(&self) -> String {
        format!("port-{}", self.name())
    }

    /// Takes a pair of Pod addresses: `wanted` if it lies in the node's range and is free, else the
    /// next free one after the last given, so that an address rests before it is used again.
    ///
    /// # Errors
    /// When all are in use.
    pub fn allocate(&self, owner: &str, wanted: Option<Ipv4Addr>) -> Result<Addresses, Error> {
        let wanted = wanted
            .map(|ip| ip.octets())
            .and_then(|[a, b, node, host]| ([a, b, node] == [10, 244, self.number()]).then_some(host));
        let host = self
            .taken()
            .take(owner, wanted)
            .ok_or_else(|| Error::PodAddressesExhausted {
                node: self.name().to_owned(),
                range: self.pod_ranges()[0].clone(),
            })?;
        let (node, last) = (decimal_digits(self.number()), decimal_digits(host));
        Ok(Addresses {
            ipv4: Ipv4Addr::new(10, 244, self.number(), host),
            ipv6: Ipv6Addr::new(0xfd00, 0x10, 0x244, node, 0, 0, 0, last),
        })
    }

    /// Gives a pair of Pod addresses back.
    pub fn release(&self, addresses: Addresses) {
        let [_, _, _, host] = addresses.ipv4.octets();
        self.taken().owners.remove(&host);
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.inner.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Within a node's /24 Pod range: .0 is the network, .1 the node, .255 the broadcast address.
const POD_HOSTS: std::ops::RangeInclusive<u8> = 2..=254;

#[derive(Debug, Default)]
struct Taken {
    /// Last part of the Pod address -> who has it.
    owners: BTreeMap<u8, String>,
    /// The last one given without being asked for.
    last: u8,
}

impl Taken {
    fn take(&mut self, owner: &str, wanted: Option<u8>) -> Option<u8> {
        let free = |host: &u8| !self.owners.contains_key(host);
        let kept = wanted.filter(|host| POD_HOSTS.contains(host) && free(host));
        let next = || {
            let (later, earlier): (Vec<u8>, Vec<u8>) = POD_HOSTS.partition(|host| *host > self.last);
            later.into_iter().chain(earlier).find(free)
        };
        let host = kept.or_else(next)?;
        self.owners.insert(host, owner.to_owned());
        if kept.is_none() {
            self.last = host;
        }
        Some(host)
    }
}

/// 123 -> 0x123, so that both families of an address look alike.
fn decimal_digits(number: u8) -> u16 {
    let number = u16::from(number);
    (number / 100 % 10) << 8 | (number / 10 % 10) << 4 | (number % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_show_the_same_digits() {
        for (number, digits) in [(1, 0x1), (11, 0x11), (100, 0x100), (254, 0x254)] {
            assert_eq!(decimal_digits(number), digits);
        }
    }

    #[test]
    fn addresses_rest_before_reuse_until_none_is_left() {
        let mut taken = Taken::default();
        assert_eq!(taken.take("a", None), Some(2));
        taken.owners.remove(&2);
        assert_eq!(taken.take("b", None), Some(3), "2 rests");
        assert_eq!(taken.take("a", Some(2)), Some(2), "asked for and free");
        assert_eq!(taken.take("c", Some(2)), Some(4), "asked for and taken");
        for outside in [0, 1, 255] {
            assert!(
                POD_HOSTS.contains(&taken.take("d", Some(outside)).expect("a free one")),
                "{outside}"
            );
        }
        let rest: Vec<u8> = std::iter::from_fn(|| taken.take("e", None)).collect();
        assert_eq!(taken.owners.len(), 253);
        assert_eq!((rest.first(), rest.last()), (Some(&8), Some(&254)));
        taken.owners.remove(&100);
        assert_eq!(
            taken.take("f", None),
            Some(100),
            "the search begins again at the start"
        );
    }
}
