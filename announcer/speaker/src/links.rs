// SPDX-License-Identifier: Apache-2.0
//! The machine's interfaces: listed whole at each change, because an event lost is then never missed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_announcer_core::link::{Flags, Link};
use berth_announcer_core::wire::ethernet::MacAddr;
use ipnet::IpNet;
use nlink::netlink::messages::{AddressMessage, LinkMessage};
use nlink::netlink::{Connection, Route, RtnetlinkGroup};
use tokio::sync::watch;

use crate::SpeakerError;

/// Flags of `struct ifinfomsg` (netdevice(7)).
const IFF_UP: u32 = 0x1;
const IFF_BROADCAST: u32 = 0x2;
const IFF_LOOPBACK: u32 = 0x8;
const IFF_NOARP: u32 = 0x80;
const IFF_MULTICAST: u32 = 0x1000;
const IFF_LOWER_UP: u32 = 0x1_0000;

/// Wait before netlink is tried anew after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// All interfaces, once.
pub(crate) async fn list() -> Result<Vec<Link>, SpeakerError> {
    let connection = Connection::<Route>::new().map_err(failed)?;
    read(&connection).await.map_err(failed)
}

fn failed(error: nlink::Error) -> SpeakerError {
    SpeakerError::Links(Box::new(error))
}

/// Publishes the interfaces at each change. Never ends while somebody listens.
pub(crate) async fn follow(links: watch::Sender<Vec<Link>>) {
    while !links.is_closed() {
        if let Err(error) = follow_once(&links).await {
            // Also when the kernel has dropped events because this process was too slow (ENOBUFS).
            tracing::warn!(%error, "interface events interrupted; listing all interfaces again");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow_once(links: &watch::Sender<Vec<Link>>) -> Result<(), nlink::Error> {
    let events = Connection::<Route>::new()?;
    events.subscribe(&[
        RtnetlinkGroup::Link,
        RtnetlinkGroup::Ipv4Addr,
        RtnetlinkGroup::Ipv6Addr,
    ])?;
    let requests = Connection::<Route>::new()?;
    let mut stream = events.events().await;
    loop {
        // After the subscription, so that nothing falls between list and events.
        let current = read(&requests).await?;
        links.send_if_modified(|known| {
            let changed = *known != current;
            *known = current;
            changed
        });
        match futures::StreamExt::next(&mut stream).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
            None => return Ok(()),
        }
    }
}

async fn read(connection: &Connection<Route>) -> Result<Vec<Link>, nlink::Error> {
    let links = connection.get_links().await?;
    let mut addresses = by_interface(&connection.get_addresses().await?);
    Ok(links
        .iter()
        .map(|message| convert(message, addresses.remove(&message.ifindex()).unwrap_or_default()))
        .collect())
}

fn by_interface(messages: &[AddressMessage]) -> BTreeMap<u32, BTreeSet<IpNet>> {
    let mut addresses: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
    for message in messages {
        // On a point-to-point link `local` is ours and `address` the peer's.
        let Some(address) = message.local().or(message.address()) else {
            continue;
        };
        if let Ok(net) = IpNet::new(*address, message.prefix_len()) {
            addresses.entry(message.ifindex()).or_default().insert(net);
        }
    }
    addresses
}

fn convert(message: &LinkMessage, addresses: BTreeSet<IpNet>) -> Link {
    let flags = message.flags();
    let set = |flag: u32| flags & flag != 0;
    Link {
        index: message.ifindex(),
        name: message.name().unwrap_or_default().to_owned(),
        mac: message
            .address()
            .and_then(|bytes| bytes.try_into().ok())
            .map(MacAddr),
        flags: Flags {
            up: set(IFF_UP),
            carrier: set(IFF_LOWER_UP),
            broadcast: set(IFF_BROADCAST),
            multicast: set(IFF_MULTICAST),
            no_arp: set(IFF_NOARP),
            loopback: set(IFF_LOOPBACK),
        },
        controller: message.master(),
        addresses,
    }
}
