// SPDX-License-Identifier: Apache-2.0
//! Solicited-node groups: without membership the interface, or a switch that snoops, drops the question.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use berth_announcer_core::wire::ndp::solicited_node_group;
use socket2::{Domain, Socket, Type};

/// A group on an interface.
type Membership = (u32, Ipv6Addr);

/// The groups that this process is a member of. An ordinary IPv6 membership and not that of a packet socket:
/// it sends the reports that a switch with MLD snooping wants to see (RFC 4541 section 3).
#[derive(Debug, Default)]
pub(crate) struct Groups {
    sockets: Vec<Socket>,
    joined: BTreeMap<Membership, usize>,
}

impl Groups {
    /// Joins and leaves so that exactly the groups of these addresses are joined. What cannot be joined is
    /// returned with its error and tried again next time.
    pub(crate) fn set(
        &mut self,
        places: impl Iterator<Item = (IpAddr, u32)>,
    ) -> Vec<(u32, Ipv6Addr, io::Error)> {
        let wanted: BTreeSet<Membership> = places.filter_map(membership).collect();
        let over: Vec<Membership> = self
            .joined
            .keys()
            .filter(|key| !wanted.contains(key))
            .copied()
            .collect();
        for (interface, group) in over {
            let socket = self
                .joined
                .remove(&(interface, group))
                .and_then(|index| self.sockets.get(index));
            if let Some(Err(error)) = socket.map(|socket| socket.leave_multicast_v6(&group, interface)) {
                // The interface is gone, and its memberships with it.
                tracing::debug!(%group, interface, %error, "leaving a solicited-node group");
            }
        }
        let missing = wanted
            .into_iter()
            .filter(|key| !self.joined.contains_key(key))
            .collect::<Vec<_>>();
        let mut failed = Vec::new();
        for (interface, group) in missing {
            match self.join(interface, group) {
                Ok(index) => {
                    self.joined.insert((interface, group), index);
                }
                Err(error) => failed.push((interface, group, error)),
            }
        }
        failed
    }

    /// The kernel limits the memberships of one socket (net.core.optmem_max): take another one when it is full.
    fn join(&mut self, interface: u32, group: Ipv6Addr) -> io::Result<usize> {
        for (index, socket) in self.sockets.iter().enumerate().rev() {
            match socket.join_multicast_v6(&group, interface) {
                Ok(()) => return Ok(index),
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM)) => {}
                Err(error) => return Err(error),
            }
        }
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.join_multicast_v6(&group, interface)?;
        self.sockets.push(socket);
        Ok(self.sockets.len() - 1)
    }
}

fn membership((address, interface): (IpAddr, u32)) -> Option<Membership> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some((interface, solicited_node_group(v6))),
    }
}
