// SPDX-License-Identifier: Apache-2.0
//! Makes the kernel forget stale UDP flows.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use berth_model::{IpFamily, Port};
use berth_proxy_core::Target;
use berth_proxy_core::conntrack::{Flow, StaleFlows};
use nlink::netlink::netfilter::{ConntrackEntry, ConntrackFilter, IpProtocol};
use nlink::netlink::types::AddressFamily;
use nlink::netlink::{Connection, Netfilter};

use crate::Error;
use crate::node::own_addresses;

/// `IPS_DST_NAT`: the destination was translated.
const TRANSLATED: u32 = 1 << 5;

/// One look at the UDP flows of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The family.
    pub family: IpFamily,
    /// How long it took.
    pub took: Duration,
    /// How many flows went.
    pub deleted: usize,
}

/// A conntrack socket, opened when first needed and kept: closing one waits for an RCU grace period.
#[derive(Default)]
pub struct Conntrack {
    connection: Option<Connection<Netfilter>>,
    /// What was done since somebody last asked.
    passes: Vec<Pass>,
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
                let started = Instant::now();
                let deleted = self.forget_in(family, stale).await?;
                self.passes.push(Pass {
                    family,
                    took: started.elapsed(),
                    deleted,
                });
                forgotten += deleted;
            }
        }
        Ok(forgotten)
    }

    /// What was done since the last call.
    pub fn take_passes(&mut self) -> Vec<Pass> {
        std::mem::take(&mut self.passes)
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
        let own = own_addresses().ok();
        let is_stale = |entry: &&ConntrackEntry| {
            flow(entry).is_some_and(|flow| stale.is_stale_flow(&flow, own.as_ref()))
        };
        let mut forgotten = 0;
        for entry in entries.iter().filter(is_stale) {
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

/// The flow of an entry that has all of its parts.
fn flow(entry: &ConntrackEntry) -> Option<Flow> {
    let target = |ip: Option<IpAddr>, port: Option<u16>| {
        Some(Target {
            ip: ip?,
            port: Port::new(port?)?,
        })
    };
    Some(Flow {
        source: entry.orig.src_ip?,
        destination: target(entry.orig.dst_ip, entry.orig.dst_port)?,
        replies_from: target(entry.reply.src_ip, entry.reply.src_port)?,
        translated: entry.status.unwrap_or_default() & TRANSLATED != 0,
    })
}
