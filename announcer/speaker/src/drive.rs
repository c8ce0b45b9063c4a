// SPDX-License-Identifier: Apache-2.0
//! The loop: observations into the engine, its outputs into sockets.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use berth_announcer_core::engine::{FrameKind, HeartbeatDrop};
use berth_announcer_core::link::Link;
use berth_announcer_core::membership::Change;
use berth_announcer_core::wire::heartbeat::HeartbeatError;
use berth_announcer_core::{Engine, Options, Output};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::groups::Groups;
use crate::heartbeat::HeartbeatSockets;
use crate::links;
use crate::lock::NodeLock;
use crate::ports::{Ports, Received};
use crate::report::Reporter;
use crate::{AnnouncerMetrics, Cluster, Report, SpeakerError};

/// What does not change while a speaker runs.
pub type Setup = Options;

/// Datagrams and frames taken in before the engine is asked what to do about them.
const BATCH: usize = 256;

/// The announcer's sockets and engine.
#[derive(Debug)]
pub struct Speaker {
    setup: Setup,
    clock: Clock,
    ports: Ports,
    frames: mpsc::Receiver<Received>,
    groups: Groups,
    heartbeats: HeartbeatSockets,
    metrics: AnnouncerMetrics,
    reporter: Reporter,
    warned: BTreeSet<HeartbeatError>,
    unjoined: BTreeSet<(u32, Ipv6Addr)>,
    _lock: NodeLock,
}

/// Why the loop turns.
enum Wake {
    Stop,
    Time,
    Heartbeats,
    Frame(Received),
    Links,
    Cluster,
}

impl Speaker {
    /// Takes the heartbeat port and makes sure that packet sockets are allowed. To be called on a tokio runtime.
    ///
    /// # Errors
    /// [`SpeakerError::Privilege`], [`SpeakerError::PortTaken`] or [`SpeakerError::SameMachine`], or that the sockets fail otherwise.
    pub fn open(setup: Setup, metrics: AnnouncerMetrics) -> Result<Self, SpeakerError> {
        let (ports, frames) = Ports::new()?;
        Ok(Self {
            heartbeats: HeartbeatSockets::bind(setup.port)?,
            _lock: NodeLock::take(&setup.identity.node)?,
            setup,
            clock: Clock::start(),
            ports,
            frames,
            groups: Groups::default(),
            metrics,
            reporter: Reporter::default(),
            warned: BTreeSet::new(),
            unjoined: BTreeSet::new(),
        })
    }

    /// Announces what the cluster wants until `stop`, then says farewell. Joins once `cluster` has a first value;
    /// when its sender goes away the last value stays in force.
    ///
    /// # Errors
    /// [`SpeakerError::NameTaken`], or that the machine's interfaces cannot be listed at the start.
    pub async fn run(
        self,
        cluster: watch::Receiver<Option<Cluster>>,
        report: watch::Sender<Option<Report>>,
        stop: CancellationToken,
    ) -> Result<(), SpeakerError> {
        let (sender, links) = watch::channel(links::list().await?);
        tokio::select! {
            result = self.drive(links, cluster, report, stop) => result,
            () = links::follow(sender) => Err(SpeakerError::Ended("watching the interfaces")),
        }
    }

    async fn drive(
        mut self,
        mut links: watch::Receiver<Vec<Link>>,
        mut cluster: watch::Receiver<Option<Cluster>>,
        report: watch::Sender<Option<Report>>,
        stop: CancellationToken,
    ) -> Result<(), SpeakerError> {
        let first = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            first = cluster.wait_for(Option::is_some) => first.is_ok(),
        };
        if !first {
            return Err(SpeakerError::Ended("watching the API server"));
        }
        // Those who said it may be dead by now: the API server can keep us waiting for minutes.
        let discarded = self.heartbeats.discard();
        tracing::debug!(discarded, "heartbeats from before the start");
        let mut engine = Engine::new(self.setup.clone(), self.clock.now());
        self.take_cluster(&mut engine, &mut cluster);
        self.take_links(&mut engine, &mut links);
        let mut leaving = false;
        let mut news = true;
        loop {
            engine.poll(self.clock.now());
            let outputs = engine.take_outputs();
            news |= outputs.iter().any(is_news);
            let done = self.apply(&engine, outputs)?;
            if std::mem::take(&mut news) {
                self.tell(&engine, &report);
            }
            if done {
                return Ok(());
            }
            let stop = (!leaving).then_some(&stop);
            match self.wait(&engine, stop, &mut links, &mut cluster).await {
                Wake::Stop => {
                    leaving = true;
                    news = true;
                    engine.leave(self.clock.now());
                }
                Wake::Frame(frame) => self.take_frame(&mut engine, &frame),
                Wake::Links => {
                    news = true;
                    self.take_links(&mut engine, &mut links);
                }
                Wake::Cluster => {
                    news = true;
                    self.take_cluster(&mut engine, &mut cluster);
                }
                Wake::Time | Wake::Heartbeats => {}
            }
            // Whatever woke us: what peers have said counts before the clock does.
            self.take_heartbeats(&mut engine);
            for _ in 0..BATCH {
                let Ok(frame) = self.frames.try_recv() else { break };
                self.take_frame(&mut engine, &frame);
            }
        }
    }

    /// Publishes what this announcer does, if that has changed.
    fn tell(&mut self, engine: &Engine, report: &watch::Sender<Option<Report>>) {
        let owned: BTreeSet<_> = engine.announced().keys().map(|(address, _)| address).collect();
        self.metrics.state(owned.len(), engine.peers().count());
        let current = Some(self.reporter.report(engine, &self.clock));
        report.send_if_modified(|known| {
            let changed = *known != current;
            *known = current;
            changed
        });
    }

    async fn wait(
        &mut self,
        engine: &Engine,
        stop: Option<&CancellationToken>,
        links: &mut watch::Receiver<Vec<Link>>,
        cluster: &mut watch::Receiver<Option<Cluster>>,
    ) -> Wake {
        let stopped = async {
            match stop {
                Some(stop) => stop.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let deadline = async {
            match engine.next_deadline() {
                Some(moment) => tokio::time::sleep_until(self.clock.instant(moment)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopped => Wake::Stop,
            () = deadline => Wake::Time,
            () = self.heartbeats.readable() => Wake::Heartbeats,
            Some(frame) = self.frames.recv() => Wake::Frame(frame),
            Ok(()) = links.changed() => Wake::Links,
            Ok(()) = cluster.changed() => Wake::Cluster,
        }
    }

    fn take_cluster(&self, engine: &mut Engine, cluster: &mut watch::Receiver<Option<Cluster>>) {
        let cluster = cluster.borrow_and_update().clone().unwrap_or_default();
        let listed = cluster.nodes.contains_key(&self.setup.identity.node);
        if !listed {
            let node = &self.setup.identity.node;
            tracing::warn!(%node, "the cluster has no such Node: nothing is announced; is --node-name right?");
        }
        engine.set_nodes(cluster.nodes);
        engine.set_addresses(cluster.addresses);
    }

    fn take_links(&mut self, engine: &mut Engine, links: &mut watch::Receiver<Vec<Link>>) {
        let links = links.borrow_and_update().clone();
        for link in &links {
            for family in berth_model::IpFamily::ALL {
                if let Err(reason) = link.fitness(&self.setup.selection, family) {
                    tracing::debug!(interface = link.name, %family, %reason, "interface not used");
                }
            }
        }
        engine.set_links(links, self.clock.now());
        let fit: BTreeSet<u32> = engine.carriers().fit().map(|link| link.index).collect();
        for (interface, error) in self.ports.set_interfaces(&fit) {
            tracing::warn!(interface = engine.carriers().name(interface), %error, "packet socket");
        }
        self.listen(engine, &fit);
    }

    fn take_heartbeats(&mut self, engine: &mut Engine) {
        let now = self.clock.now();
        let (metrics, warned) = (&self.metrics, &mut self.warned);
        self.heartbeats.drain(BATCH, |from, datagram| {
            let result = engine.receive_datagram(now, from, datagram);
            metrics.heartbeat_received(result);
            if let Err(HeartbeatDrop::Unreadable(error)) = result
                && error != HeartbeatError::Foreign
                && warned.insert(error)
            {
                tracing::warn!(%from, %error, "heartbeat not believed; this is said once for each reason");
            }
        });
    }

    fn take_frame(&self, engine: &mut Engine, (interface, frame): &Received) {
        if let Err(reason) = engine.receive_frame(*interface, frame) {
            self.metrics.frame_dropped(reason);
            tracing::trace!(interface, %reason, "frame not answered");
        }
    }

    /// Sets filters and groups on some interfaces to what is announced there.
    fn listen(&mut self, engine: &Engine, interfaces: &BTreeSet<u32>) {
        for interface in interfaces {
            let addresses = engine.announced_on(*interface);
            if let Err(error) = self.ports.set_addresses(*interface, &addresses) {
                tracing::error!(interface = engine.carriers().name(*interface), %error, "packet filter");
            }
        }
        let failed = self.groups.set(engine.announced().keys().copied());
        for (interface, group, error) in &failed {
            if !self.unjoined.contains(&(*interface, *group)) {
                let interface = engine.carriers().name(*interface);
                tracing::warn!(interface, %group, %error, "joining a solicited-node group; is IPv6 disabled there?");
            }
        }
        self.unjoined = failed
            .into_iter()
            .map(|(interface, group, _)| (interface, group))
            .collect();
    }

    /// Does what the engine says; true when it has ended.
    fn apply(&mut self, engine: &Engine, outputs: Vec<Output>) -> Result<bool, SpeakerError> {
        let mut changed = BTreeSet::new();
        for output in &outputs {
            if let Output::Announce { interface, .. } | Output::Withdraw { interface, .. } = output {
                changed.insert(*interface);
            }
        }
        // Before the first frame is sent: whoever hears it may ask at once.
        if !changed.is_empty() {
            self.listen(engine, &changed);
        }
        let mut done = false;
        for output in outputs {
            match output {
                Output::Announce { address, interface } => {
                    self.metrics.take_over();
                    let interface = engine.carriers().name(interface);
                    tracing::info!(%address, interface, "announcing");
                }
                Output::Withdraw {
                    address,
                    interface,
                    reason,
                } => {
                    self.metrics.withdraw(reason);
                    let interface = engine.carriers().name(interface);
                    tracing::info!(%address, interface, reason = reason.reason(), "withdrawn");
                }
                Output::SendFrame {
                    interface,
                    kind,
                    frame,
                } => self.send_frame(interface, kind, &frame),
                Output::SendHeartbeat { to, datagram } => {
                    let sent = self.heartbeats.send(to, &datagram);
                    self.metrics.heartbeat(sent.is_ok());
                    if let Err(error) = sent {
                        tracing::trace!(%to, %error, "heartbeat not sent");
                    }
                }
                Output::Membership(change) => log_change(&change),
                Output::NameTaken(taken) => return Err(SpeakerError::NameTaken(taken)),
                Output::Gone => done = true,
            }
        }
        Ok(done)
    }

    fn send_frame(&self, interface: u32, kind: FrameKind, frame: &[u8]) {
        let sent = self.ports.send(interface, frame);
        self.metrics.frame(kind, sent.is_ok());
        if let Err(error) = sent {
            tracing::debug!(interface, kind = kind.name(), %error, "frame not sent");
        }
    }
}

/// Whether something has changed that others want to know; frames and heartbeats come all the time.
fn is_news(output: &Output) -> bool {
    match output {
        Output::SendFrame { .. } | Output::SendHeartbeat { .. } => false,
        Output::Announce { .. }
        | Output::Withdraw { .. }
        | Output::Membership(_)
        | Output::NameTaken(_)
        | Output::Gone => true,
    }
}

fn log_change(change: &Change) {
    match change {
        Change::Established => tracing::info!("joined the announcers"),
        Change::Stalled(stalled) => {
            tracing::warn!(
                ?stalled,
                "this process did not run for too long; joining the announcers anew"
            );
        }
        Change::Reconnected => tracing::info!("connected again; joining the announcers anew"),
        Change::Appeared(node) => tracing::info!(%node, "announcer appeared"),
        Change::Discovered(node) => {
            tracing::info!(%node, "announcer is heard for the first time, already at work")
        }
        Change::Returned(node) => tracing::info!(%node, "announcer is heard again"),
        Change::Died(node) => tracing::warn!(%node, "announcer is silent and taken for dead"),
        Change::Left(node) => tracing::info!(%node, "announcer left"),
        Change::ReachChanged(node) => tracing::info!(%node, "announcer reaches other subnets now"),
    }
}
