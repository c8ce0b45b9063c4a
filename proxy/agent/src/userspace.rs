// SPDX-License-Identifier: Apache-2.0
//! The user-space backend: relays in this process, and the table `berth-relay` that steers to them.
//!
//! In: the intent. Out: sockets on one address of this node, elements of that table by netlink. Touches: that table,
//! its own sockets, its limit of open files.
//!
//! ```text
//!  Intent -> core::Switchboard -> relays opened, changed, closed (Relays: tcp, udp)
//!                             \-> Steering -> Nftables (the same stages, observation and audit, another table)
//! ```
//!
//! Relays end with the process, and with them their connections. The table stays, so that clients are refused at once
//! and do not hang, until the next process has put its own relays into it.

mod limits;
mod pipe;
mod relay;
mod relays;
pub mod stream;
mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use berth_model::{IpFamily, Protocol};
use berth_proxy_core::conntrack::StaleFlows;
use berth_proxy_core::names::RELAY_TABLE;
use berth_proxy_core::nft::{Layout, Wishes as _};
use berth_proxy_core::userspace::{
    PortRange, Relay, RelayChange, RelayIntent, Socket, Switchboard, relay_address,
};
use berth_proxy_core::{Frontend, Intent, Settings, Touched};
use tokio::runtime::Handle;

use crate::Error;
use crate::apply::nft::{Counters, Nft};
use crate::backend::{Backend, Turned};
use crate::nftables::Nftables;
use crate::node::own_addresses;

pub use limits::Capacity;
pub use relay::Refusal;
use relays::Relays;

/// When a relay that could not be opened is tried again, and a socket that could not be closed is looked at again.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps relays and the steering to them as the intent wants them.
#[derive(Debug)]
pub struct Userspace {
    tables: Nftables,
    relays: Relays,
    board: Switchboard,
    settings: Settings,
    /// Whether the machine's addresses are to be looked at: where relays listen depends on them.
    readdress: bool,
    /// What of the steering no turn has carried out yet.
    pending: Touched,
    retire_delay: Duration,
    started: Instant,
}

impl Userspace {
    /// A backend without relays, that knows nothing of the kernel yet. `nft` is [`Userspace::nft`]'s. Relays run on
    /// `runtime`, with ports from `ports`; what no new connection is led to any more is left for `retire_delay`.
    pub fn new(
        nft: Nft,
        settings: &Settings,
        retire_delay: Duration,
        ports: PortRange,
        capacity: Capacity,
        runtime: Handle,
    ) -> Self {
        let layout = |family| Layout::of_relays(family, settings);
        Self {
            tables: Nftables::with_layouts(nft, layout, retire_delay),
            relays: Relays::new(settings.mark, ports, capacity, runtime),
            board: Switchboard::default(),
            settings: settings.clone(),
            readdress: true,
            pending: Touched::default(),
            retire_delay,
            started: Instant::now(),
        }
    }

    /// The netlink side of this backend.
    ///
    /// # Errors
    /// The kernel has no nf_tables, or the socket cannot be opened.
    pub fn nft() -> Result<Nft, Error> {
        Nft::open_for(RELAY_TABLE)
    }

    /// Demand, relays and steering.
    pub fn board(&self) -> &Switchboard {
        &self.board
    }

    /// How many sockets listen.
    pub fn listeners(&self) -> usize {
        self.relays.len()
    }

    /// What was not relayed, by reason.
    pub fn refusals(&self) -> BTreeMap<Refusal, u64> {
        self.relays.common.refusals().collect()
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Chooses where relays listen. Addresses that cannot be read stay as they are.
    fn choose_addresses(&mut self) {
        let machine = match own_addresses() {
            Ok(machine) => machine,
            Err(error) => return tracing::warn!(%error, "the machine's addresses cannot be read"),
        };
        let used = self.board.addresses();
        let chosen = IpFamily::ALL.into_iter().filter_map(|family| {
            let used = used.get(&family).copied();
            let chosen = relay_address(family, used, &self.settings.node_ips, &machine);
            Some((family, chosen?))
        });
        let chosen: BTreeMap<_, _> = chosen.collect();
        if chosen != *used {
            tracing::info!(addresses = ?chosen, "relays listen");
        }
        self.board.set_addresses(chosen);
        self.readdress = false;
    }

    fn carry_out(&mut self, change: RelayChange, intent: &Intent) {
        tracing::debug!(%change, "relay");
        let now = self.now();
        self.board.apply(&change, now);
        match change {
            RelayChange::Open { relay, ip, wish } => self.open(relay, ip, wish, intent),
            RelayChange::Resume { socket, wish, .. } | RelayChange::Update { socket, wish, .. } => {
                self.relays.update(&socket, &wish);
            }
            RelayChange::Retire { .. } => {}
            RelayChange::Close { socket } => self.relays.close(&socket),
        }
    }

    fn open(&mut self, relay: Relay, ip: std::net::IpAddr, wish: RelayIntent, intent: &Intent) {
        let before = self.board.listening().socket(&relay);
        let taken = |socket: &Socket| is_a_services(socket, intent);
        match self.relays.open(&relay, ip, &wish, before, taken) {
            Ok(socket) => self.board.opened(relay, socket, wish, self.now()),
            Err(error) => {
                self.relays.not_opened(&relay, &error);
                // The address may be gone, or not be there yet.
                self.readdress = true;
                self.board.failed(relay);
            }
        }
    }

    /// Closes what nothing leads to any more.
    fn close(&mut self, intent: &Intent) {
        let plan = self
            .board
            .closable(self.tables.installed(), self.now(), self.retire_delay);
        for change in plan.changes {
            self.carry_out(change, intent);
        }
    }

    /// The flows of UDP frontends that were touched may stay with their relays, and with nothing else.
    fn stale(&self, touched: &Touched) -> StaleFlows {
        let udp = touched
            .frontends
            .iter()
            .filter(|frontend| frontend.protocol() == Protocol::Udp);
        let allowed = udp.map(|frontend| {
            let wish = self.board.steering().get(frontend);
            let relays = wish.map(|wish| wish.serving.iter().copied().collect());
            (*frontend, relays.unwrap_or_default())
        });
        StaleFlows {
            allowed: allowed.collect(),
            ..StaleFlows::default()
        }
    }
}

/// Whether clients may address the socket as a Service's.
fn is_a_services(socket: &Socket, intent: &Intent) -> bool {
    let node_port = Frontend::NodePort {
        family: IpFamily::of(socket.at.ip),
        protocol: socket.protocol,
        port: socket.at.port,
    };
    [socket.frontend(), node_port]
        .iter()
        .any(|frontend| intent.get(frontend).is_some())
}

impl Backend for Userspace {
    fn reconfigure(&mut self, settings: &Settings) {
        self.tables.reconfigure(settings);
        self.settings = settings.clone();
        self.readdress = true;
    }

    /// Relays first, then the way to them; what nothing leads to any more goes last.
    async fn turn(&mut self, intent: &Intent, touched: &Touched) -> Result<Turned, Error> {
        if self.readdress {
            self.choose_addresses();
        }
        let plan = self.board.plan(intent, touched);
        for change in plan.changes {
            self.carry_out(change, intent);
        }
        let demand = self.board.demand();
        self.relays.forget_failing(|relay| demand.get(relay).is_some());
        self.pending.merge(self.board.steer(intent, touched));
        let mut turned = self.tables.follow(self.board.steering(), &self.pending).await?;
        let carried_out = std::mem::take(&mut self.pending);
        turned.stale.merge(self.stale(&carried_out));
        for (relay, why) in self.relays.failing() {
            let refused = turned.refused.entry(relay.owner.service.clone());
            refused.or_insert_with(|| why.to_owned());
        }
        self.close(intent);
        Ok(turned)
    }

    async fn glance(&mut self) -> Result<bool, Error> {
        self.tables.glance().await
    }

    /// Besides the tables, the machine's addresses are looked at.
    async fn audit(&mut self) -> Result<(), Error> {
        self.readdress = true;
        self.tables.audit().await
    }

    fn next_wake(&self) -> Option<Duration> {
        let now = self.now();
        let close = self.board.next_close(self.retire_delay).map(|due| {
            // Due, and still there: something leads to it, which the tables' own wake deals with first.
            if due <= now { RETRY } else { due - now }
        });
        let retry = self.board.lacks().then_some(RETRY);
        [self.tables.next_wake(), close, retry]
            .into_iter()
            .flatten()
            .min()
    }

    fn elements(&self) -> Vec<(IpFamily, usize)> {
        self.tables.elements()
    }

    async fn counters(&self, family: IpFamily) -> Result<Option<Counters>, Error> {
        self.tables.counters(family).await
    }
}
