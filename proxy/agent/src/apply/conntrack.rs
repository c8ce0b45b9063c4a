// SPDX-License-Identifier: Apache-2.0
//! Makes the kernel forget stale UDP flows.

use berth_model::{IpFamily, Port, Protocol};
use berth_proxy_core::conntrack::StaleFlows;
use berth_proxy_core::{Frontend, Target};
use nlink::netlink::netfilter::{ConntrackEntry, ConntrackFilter, IpProtocol};
use nlink::netlink::{Connection, Netfilter};

use crate::Error;

/// `IPS_DST_NAT`: the destination was translated.
const TRANSLATED: u32 = 1 << 5;

/// Deletes the stale flows among all UDP flows, by one dump. Returns how many went.
///
/// # Errors
/// The table cannot be dumped, or a flow cannot be deleted.
pub async fn forget(stale: &StaleFlows) -> Result<usize, Error> {
    if stale.is_empty() {
        return Ok(0);
    }
    let connection = Connection::<Netfilter>::new().map_err(Error::kernel("open a conntrack socket"))?;
    let udp = ConntrackFilter::new().proto(IpProtocol::Udp);
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
