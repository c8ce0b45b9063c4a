// SPDX-License-Identifier: Apache-2.0
//! Syncers of this backend, and what they need of the node.

use std::net::SocketAddr;

use berth_model::Protocol;
use berth_proxy_agent::sync::Syncer;
use berth_proxy_agent::userspace::{Capacity, Userspace};
use berth_proxy_core::Settings;
use berth_proxy_core::userspace::{PortRange, Socket};
use berth_testkit::netns::Netns;
use tokio::runtime::Handle;

use crate::cluster::settings;
use crate::traffic::{HOST, ips};

pub(crate) const SOON: std::time::Duration = std::time::Duration::from_millis(100);

pub(crate) const CAPACITY: Capacity = Capacity {
    connections: 500,
    udp_clients: 100,
};

pub(crate) type Proxy = Syncer<Userspace>;

pub(crate) fn all_settings() -> Settings {
    Settings {
        node_ips: ips(HOST).into(),
        ..settings()
    }
}

pub(crate) fn mk_proxy() -> anyhow::Result<Proxy> {
    mk_proxy_with(all_settings(), PortRange::Any, CAPACITY)
}

pub(crate) fn mk_proxy_with(
    settings: Settings,
    ports: PortRange,
    capacity: Capacity,
) -> anyhow::Result<Proxy> {
    let backend = Userspace::new(
        Userspace::nft()?,
        &settings,
        SOON,
        ports,
        capacity,
        Handle::current(),
    );
    Ok(Syncer::new(backend, settings))
}

/// The node has an address of its own, and ways to Service addresses, which its own packets need.
pub(crate) fn mk_node() -> anyhow::Result<Netns> {
    let node = crate::traffic::mk_host()?;
    node.ip("route add 10.96.0.0/16 dev v1\nroute add fd00:10:96::/112 dev v1\n")?;
    Ok(node)
}

/// Where the relays of a protocol listen.
pub(crate) fn sockets(proxy: &Proxy, protocol: Protocol) -> Vec<Socket> {
    let board = proxy.backend().board();
    let relays = board.demand().relays();
    relays
        .filter(|(relay, _)| relay.protocol() == protocol)
        .filter_map(|(relay, _)| board.listening().socket(relay))
        .collect()
}

pub(crate) fn address(socket: &Socket) -> SocketAddr {
    (socket.at.ip, socket.at.port.get()).into()
}
