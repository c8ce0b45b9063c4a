// SPDX-License-Identifier: Apache-2.0
//! From what the kernel holds to what it should hold.
//!
//! IPVS and ipset have no transactions, so the order counts (see [`StageKind`]): who is dropped or masqueraded is known
//! before a server answers, servers answer before an address or a mark leads to them, and all of it goes in the
//! opposite order.
//!
//! **Endpoints that left** get weight 0 and keep their connections; they go once they have none, or after a bound. UDP,
//! which has no connections, goes at once. A Service that goes keeps its sockets, which refuse, as long as that takes.
//! After a restart what is wanted gets its weight back, and what is not drains from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_model::{IpFamily, Protocol};

use super::desired::{Desired, Spec, Wanted};
use super::names::SetName;
use super::objects::{MarkSpace, Member, Scheduler, ServerKey, Socket};
use super::plan::{Change, Plan, Stage, StageKind};
use super::state::{Destination, Installed, Server, SocketState, mark_key};
use crate::{Intent, Touched};

/// What the backend was told, and what the agent knows of its node.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// The addresses of this node on links other than ours.
    pub own: &'a BTreeSet<IpAddr>,
    /// How servers pick.
    pub scheduler: Scheduler,
    /// How long an endpoint that left may keep connections.
    pub drain_bound: Duration,
}

/// What has to change: of what an update touched and of what drains, or (`None`) of everything.
pub fn diff(
    installed: &Installed,
    intent: &Intent,
    choice: &Choice<'_>,
    touched: Option<&Touched>,
    now: Duration,
) -> Plan {
    let differ = Differ {
        installed,
        desired: Desired { intent, choice },
        space: MarkSpace::beside(intent.settings().mark),
        taken: BTreeMap::new(),
        now,
        stages: BTreeMap::new(),
    };
    differ.plan(touched)
}

/// Whether a socket is wanted.
pub fn wants(intent: &Intent, choice: &Choice<'_>, socket: &Socket) -> bool {
    Desired { intent, choice }.socket(socket).is_some()
}

struct Differ<'a> {
    installed: &'a Installed,
    desired: Desired<'a>,
    space: MarkSpace,
    /// How many marks of a family were looked at for a free one.
    taken: BTreeMap<IpFamily, usize>,
    now: Duration,
    stages: BTreeMap<StageKind, Vec<Change>>,
}

/// What is left of a server that nobody wants.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Gone,
    Drains,
}

/// When something of a server goes.
fn leaving(key: &ServerKey) -> StageKind {
    match key {
        ServerKey::Socket(_) => StageKind::Withdraw,
        ServerKey::Mark { .. } => StageKind::Retire,
    }
}

impl Differ<'_> {
    fn push(&mut self, stage: StageKind, change: Change) {
        self.stages.entry(stage).or_default().push(change);
    }

    fn plan(mut self, touched: Option<&Touched>) -> Plan {
        let mut addresses: BTreeMap<IpAddr, bool> = BTreeMap::new();
        let sockets = self.sockets(touched);
        for socket in &sockets {
            let remains = self.socket(socket);
            *addresses.entry(socket.ip).or_default() |= remains;
        }
        self.orphans(touched.is_none(), &sockets);
        if touched.is_none() {
            for ip in self.installed.bound() {
                addresses.entry(ip).or_default();
            }
        }
        for (ip, remains) in addresses {
            let elsewhere = || {
                self.installed
                    .sockets_at(ip)
                    .any(|other| !sockets.contains(other))
            };
            let wanted = (remains || elsewhere()) && !self.desired.choice.own.contains(&ip);
            self.address(ip, wanted);
        }
        self.networks(touched);
        let stages = self.stages.into_iter();
        Plan {
            stages: stages.map(|(kind, changes)| Stage { kind, changes }).collect(),
        }
    }

    fn sockets(&self, touched: Option<&Touched>) -> BTreeSet<Socket> {
        let Some(touched) = touched else {
            let known = self.installed.sockets().map(|(socket, _)| *socket);
            return self.desired.sockets().into_iter().chain(known).collect();
        };
        let of_waiting = self.installed.waiting().filter_map(|key| match key {
            ServerKey::Socket(socket) => Some(socket),
            ServerKey::Mark { family, mark } => self.installed.steering.get(&(family, mark)).copied(),
        });
        let frontends = touched.frontends.iter();
        frontends
            .flat_map(|frontend| self.desired.sockets_of(frontend))
            .chain(of_waiting)
            .collect()
    }

    /// Says whether anything of the socket remains.
    fn socket(&mut self, socket: &Socket) -> bool {
        let nothing = SocketState::default();
        let held = self.installed.socket(socket).unwrap_or(&nothing);
        let wanted = self.desired.socket(socket);
        self.members(socket, held, wanted.as_ref());
        let key = ServerKey::Socket(*socket);
        let Some(wanted) = wanted else {
            let rest = match &held.server {
                None => Rest::Gone,
                Some(server) => self.withdraw(&key, server, socket.protocol),
            };
            if rest == Rest::Gone && held.sets.contains(&SetName::Sockets) {
                let member = Member::Socket(*socket);
                self.push(StageKind::Forget, Change::Leave(SetName::Sockets, member));
            }
            return rest == Rest::Drains;
        };
        self.serve(&key, held.server.as_ref(), &wanted.server, socket.protocol);
        if let Some(inside) = &wanted.inside {
            let mark = held.mark.or_else(|| self.free_mark(socket.family()));
            if let Some(mark) = mark {
                let key = mark_key(socket.family(), mark);
                self.serve(&key, self.installed.server(&key), inside, socket.protocol);
                if held.mark.is_none() {
                    let member = Member::Steered(*socket, mark);
                    self.push(StageKind::Steer, Change::Join(SetName::Inside, member));
                }
            }
        }
        true
    }

    /// Its elements of sets, but the record that it is ours.
    fn members(&mut self, socket: &Socket, held: &SocketState, wanted: Option<&Wanted>) {
        let (no_sets, no_sources) = (BTreeSet::new(), BTreeSet::new());
        let sets = wanted.map_or(&no_sets, |wanted| &wanted.sets);
        let sources = wanted.map_or(&no_sources, |wanted| &wanted.sources);
        let member = Member::Socket(*socket);
        for net in sources.difference(&held.sources) {
            let source = Member::Source(*socket, *net);
            self.push(StageKind::Admit, Change::Join(SetName::Sources, source));
        }
        for set in sets.difference(&held.sets) {
            self.push(StageKind::Admit, Change::Join(*set, member));
        }
        if let (Some(mark), None) = (held.mark, wanted.and_then(|wanted| wanted.inside.as_ref())) {
            let steered = Member::Steered(*socket, mark);
            self.push(StageKind::Unsteer, Change::Leave(SetName::Inside, steered));
        }
        for set in held.sets.difference(sets) {
            let stage = match set {
                // When all is gone that it is the record of.
                SetName::Sockets => continue,
                SetName::Drop | SetName::DropOutside | SetName::Ranged => StageKind::Release,
                SetName::Masquerade
                | SetName::MasqueradeForeign
                | SetName::Sources
                | SetName::Inside
                | SetName::Addresses
                | SetName::Pods
                | SetName::Hairpin => StageKind::Forget,
            };
            self.push(stage, Change::Leave(*set, member));
        }
        for net in held.sources.difference(sources) {
            let source = Member::Source(*socket, *net);
            self.push(StageKind::Release, Change::Leave(SetName::Sources, source));
        }
    }

    /// Brings a server to where it should be.
    fn serve(&mut self, key: &ServerKey, held: Option<&Server>, wanted: &Spec, protocol: Protocol) {
        let stage = match key {
            ServerKey::Socket(_) => StageKind::Serve,
            ServerKey::Mark { .. } => StageKind::Prepare,
        };
        match held {
            None => self.push(stage, Change::AddServer(*key, wanted.config)),
            Some(held) if held.config != wanted.config => {
                self.push(stage, Change::EditServer(*key, wanted.config));
            }
            Some(_) => {}
        }
        for target in wanted.targets.iter() {
            let destination = held.and_then(|held| held.destinations.get(target));
            match destination.map(|destination| destination.weight) {
                None => self.push(stage, Change::AddDestination(*key, *target)),
                Some(1) => {}
                Some(_) => self.push(stage, Change::Weigh(*key, *target, 1)),
            }
        }
        for (target, destination) in held.iter().flat_map(|held| &held.destinations) {
            if !wanted.targets.contains(target)
                && let Some(change) = self.leave(key, target, destination, protocol)
            {
                self.push(leaving(key), change);
            }
        }
    }

    /// What a destination that left has to do next.
    fn leave(
        &self,
        key: &ServerKey,
        target: &crate::Target,
        destination: &Destination,
        protocol: Protocol,
    ) -> Option<Change> {
        let since = destination.draining.unwrap_or(self.now);
        let is_due = match protocol {
            Protocol::Udp => true,
            Protocol::Tcp | Protocol::Sctp => {
                destination.weight == 0
                    && (destination.connections == Some(0)
                        || self.now.saturating_sub(since) >= self.desired.choice.drain_bound)
            }
        };
        if is_due {
            Some(Change::RemoveDestination(*key, *target))
        } else if destination.weight > 0 {
            Some(Change::Weigh(*key, *target, 0))
        } else {
            None
        }
    }

    /// Takes a server away as far as its connections allow.
    fn withdraw(&mut self, key: &ServerKey, server: &Server, protocol: Protocol) -> Rest {
        let next: Vec<Option<Change>> = server
            .destinations
            .iter()
            .map(|(target, destination)| self.leave(key, target, destination, protocol))
            .collect();
        let goes = |change: &Option<Change>| matches!(change, Some(Change::RemoveDestination(..)));
        if next.iter().all(goes) {
            self.push(leaving(key), Change::RemoveServer(*key));
            return Rest::Gone;
        }
        for change in next.into_iter().flatten() {
            self.push(leaving(key), change);
        }
        Rest::Drains
    }

    /// Servers that no socket leads to any more. Of one that was left behind by an earlier process it is not known what
    /// it served: it drains.
    fn orphans(&mut self, all: bool, sockets: &BTreeSet<Socket>) {
        let left = sockets
            .iter()
            .filter_map(|socket| Some(mark_key(socket.family(), self.installed.socket(socket)?.mark?)));
        let marked = self.installed.marked.keys();
        let every = marked
            .filter(|_| all)
            .map(|(family, mark)| mark_key(*family, *mark));
        let candidates: BTreeSet<ServerKey> = left.chain(every).chain(self.installed.waiting()).collect();
        for key in candidates {
            let ServerKey::Mark { family, mark } = key else {
                continue;
            };
            let socket = self.installed.steering.get(&(family, mark));
            let led_to = socket.and_then(|socket| self.desired.socket(socket)?.inside);
            if let (None, Some(server)) = (led_to, self.installed.server(&key)) {
                let protocol = socket.map_or(Protocol::Tcp, |socket| socket.protocol);
                self.withdraw(&key, server, protocol);
            }
        }
    }

    /// The lowest mark that nothing uses. There are more than sockets fit into memory; beyond the last one Pods and this
    /// host get the local list.
    fn free_mark(&mut self, family: IpFamily) -> Option<u32> {
        let taken = self.taken.entry(family).or_default();
        let mut marks = self.space.marks().enumerate().skip(*taken);
        let free = |mark: u32| {
            let key = (family, mark);
            !self.installed.marked.contains_key(&key) && !self.installed.steering.contains_key(&key)
        };
        let (index, mark) = marks.find(|(_, mark)| free(*mark))?;
        *taken = index + 1;
        Some(mark)
    }

    fn address(&mut self, ip: IpAddr, wanted: bool) {
        let member = Member::Address(ip);
        let held = self.installed.has(SetName::Addresses, member);
        match (wanted, held) {
            (true, false) => self.push(StageKind::Admit, Change::Join(SetName::Addresses, member)),
            (false, true) => self.push(StageKind::Forget, Change::Leave(SetName::Addresses, member)),
            (true, true) | (false, false) => {}
        }
        match (wanted, self.installed.is_bound(ip)) {
            (true, false) => self.push(StageKind::Bind, Change::Bind(ip)),
            (false, true) => self.push(StageKind::Bind, Change::Unbind(ip)),
            (true, true) | (false, false) => {}
        }
    }

    /// Local endpoints, and where Pods live.
    fn networks(&mut self, touched: Option<&Touched>) {
        let intent = self.desired.intent;
        let pair = |ip: IpAddr| (SetName::Hairpin, Member::Pair(ip));
        let (scope, wanted): (BTreeSet<_>, BTreeSet<_>) = match touched {
            Some(touched) => {
                let local = touched.local_endpoints.iter().copied();
                let wanted = local.clone().filter(|ip| intent.is_local_endpoint(*ip));
                (local.map(pair).collect(), wanted.map(pair).collect())
            }
            None => {
                let local = IpFamily::ALL
                    .into_iter()
                    .flat_map(|family| intent.local_endpoints(family));
                let pods = intent.settings().cluster_cidrs.iter();
                let pods = pods.map(|net| (SetName::Pods, Member::Net(net.trunc())));
                let wanted: BTreeSet<_> = local.map(pair).chain(pods).collect();
                let others = self.installed.members.iter().copied();
                let others = others.filter(|(set, _)| *set != SetName::Addresses);
                (wanted.iter().copied().chain(others).collect(), wanted)
            }
        };
        for (set, member) in scope {
            match (wanted.contains(&(set, member)), self.installed.has(set, member)) {
                (true, false) => self.push(StageKind::Admit, Change::Join(set, member)),
                (false, true) => self.push(StageKind::Forget, Change::Leave(set, member)),
                (true, true) | (false, false) => {}
            }
        }
    }
}
