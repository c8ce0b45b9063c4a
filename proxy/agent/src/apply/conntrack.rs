// SPDX-License-Identifier: Apache-2.0
//! Makes the kernel forget stale UDP flows.

use std::fmt;

use berth_model::{IpFamily, Port, Protocol};
use berth_proxy_core::conntrack::StaleFlows;
use berth_proxy_core::{Frontend, Target};
use nlink::netlink::netfilter::{ConntrackEntry, ConntrackFilter, IpProtocol};
use nlink::netlink::types::AddressFamily;
use nlink::netlink::{Connection, Netfilter};

use crate::Error;

/// `IPS_DST_NAT`: the destination was translated.
const TRANSLATED: u32 = 1 << 5;

/// A conntrack socket, opened when first needed and kept: closing one waits for an RCU grace period.
#[derive(Default)]
pub struct Conntrack {
    connection: Option<Connection<Netfilter>>,
}

impl fmt::Debug for Conntrack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conntrack")
            .field("open", &self.connection.is_some())
            .finish()
    }
}

impl Conntrack {
    /// Deletes the stale flows, by one dump of the UDP flows of each family concerned: a dump walks the
    /// kernel's whole table, some milliseconds. Returns how many went.
    ///
    /// # Errors
    /// The table cannot be dumped, or a flow cannot be deleted.
    pub async fn forget(&mut self, stale: &StaleFlows) -> Result<usize, Error> {
        let mut forgotten = 0;
        for family in IpFamily::ALL {
            if stale.allowed.keys().any(|frontend| frontend.family() == family) {
                forgotten += self.forget_in(family, stale).await?;
            }
        }
        Ok(forgotten)
    }

    async fn forget_in(&mut self, family: IpFamily, stale: &StaleFlows) -> Result<usize, Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            closed @ None => closed
                .insert(Connection::<Netfilter>::new().map_err(Error::kernel("open a conntrack socket"))?),
        };
        let udp = ConntrackFilter::new()
            .proto(IpProtocol::Udp)
            .family(match family {
                IpFamily::V4 => AddressFamily::Inet,
                IpFamily::V6 => AddressFamily::Inet6,
            });
        let entries = connection
            .get_conntrack_matching(&udp)
            .await
            .map_err(Error::kernel("dump conntrack"))?;
        let mut forgotten = 0;
        for entry in entries.iter().filter(|entry| is_stale(stale, entry)) {
            match connection.del_conntrack_entry(entry).await {
                Ok(()) => forgotten += 1,
                // It expired meanwhile.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(Error::kernel("delete a conntrack entry")(error)),
            }
        }
        Ok(forgotten)
    }
}

fn is_stale(stale: &StaleFlows, entry: &ConntrackEntry) -> bool {
    let port = |port: Option<u16>| port.and_then(Port::new);
    let (Some(ip), Some(dport)) = (entry.orig.dst_ip, port(entry.orig.dst_port)) else {
        return false;
    };
    let (Some(source), Some(sport)) = (entry.reply.src_ip, port(entry.reply.src_port)) else {
        return false;
    };
    let replies_from = Target {
        ip: source,
        port: sport,
    };
    let protocol = Protocol::Udp;
    let vip = Frontend::Vip {
        ip,
        protocol,
        port: dport,
    };
    let node_port = Frontend::NodePort {
        family: IpFamily::of(ip),
        protocol,
        port: dport,
    };
    // Only a translated flow to that port is surely a node port's: others may pass through to a
    // foreign host's port of the same number.
    let translated = entry.status.unwrap_or_default() & TRANSLATED != 0;
    stale.is_stale(&vip, replies_from) || (translated && stale.is_stale(&node_port, replies_from))
}
