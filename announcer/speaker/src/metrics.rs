// SPDX-License-Identifier: Apache-2.0
//! Counters of the announcer. Labels come from closed sets: no address, no Service, no node.

use berth_announcer_core::engine::{FrameKind, HeartbeatDrop, WithdrawReason};
use berth_announcer_core::responder::DropReason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// What the announcer counts. Clones count into the same place.
#[derive(Clone, Debug, Default)]
pub struct AnnouncerMetrics {
    owned: Gauge,
    peers: Gauge,
    taken_over: Counter,
    withdrawn: Family<Reason, Counter>,
    frames_sent: Family<Kind, Counter>,
    frames_failed: Family<Kind, Counter>,
    frames_dropped: Family<Reason, Counter>,
    heartbeats_sent: Counter,
    heartbeats_failed: Counter,
    heartbeats_received: Counter,
    heartbeats_dropped: Family<Reason, Counter>,
}

impl AnnouncerMetrics {
    /// Registers the metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        let registry = registry.sub_registry_with_prefix("berth_announcer");
        registry.register(
            "owned_addresses",
            "Addresses that this node answers for",
            this.owned.clone(),
        );
        registry.register("peers", "Other announcers that live", this.peers.clone());
        registry.register(
            "taken_over",
            "Addresses taken over, once for each interface",
            this.taken_over.clone(),
        );
        registry.register(
            "withdrawn",
            "Addresses withdrawn, once for each interface",
            this.withdrawn.clone(),
        );
        registry.register("frames_sent", "ARP and NDP frames sent", this.frames_sent.clone());
        registry.register(
            "frames_failed",
            "ARP and NDP frames that the kernel did not take",
            this.frames_failed.clone(),
        );
        registry.register(
            "frames_dropped",
            "Frames that passed the kernel's filter and got no answer",
            this.frames_dropped.clone(),
        );
        registry.register("heartbeats_sent", "Heartbeats sent", this.heartbeats_sent.clone());
        registry.register(
            "heartbeats_failed",
            "Heartbeats that the kernel did not take",
            this.heartbeats_failed.clone(),
        );
        registry.register(
            "heartbeats_received",
            "Heartbeats received and believed",
            this.heartbeats_received.clone(),
        );
        registry.register(
            "heartbeats_dropped",
            "Datagrams on the heartbeat port that changed nothing",
            this.heartbeats_dropped.clone(),
        );
        this
    }

    pub(crate) fn state(&self, owned: usize, peers: usize) {
        self.owned.set(i64::try_from(owned).unwrap_or(i64::MAX));
        self.peers.set(i64::try_from(peers).unwrap_or(i64::MAX));
    }

    pub(crate) fn take_over(&self) {
        self.taken_over.inc();
    }

    pub(crate) fn withdraw(&self, reason: WithdrawReason) {
        let label = Reason {
            reason: reason.reason(),
        };
        self.withdrawn.get_or_create(&label).inc();
    }

    pub(crate) fn frame(&self, kind: FrameKind, sent: bool) {
        let label = Kind { kind: kind.name() };
        let family = if sent {
            &self.frames_sent
        } else {
            &self.frames_failed
        };
        family.get_or_create(&label).inc();
    }

    pub(crate) fn frame_dropped(&self, reason: DropReason) {
        let label = Reason {
            reason: reason.reason(),
        };
        self.frames_dropped.get_or_create(&label).inc();
    }

    pub(crate) fn heartbeat(&self, sent: bool) {
        if sent {
            self.heartbeats_sent.inc();
        } else {
            self.heartbeats_failed.inc();
        }
    }

    pub(crate) fn heartbeat_received(&self, result: Result<(), HeartbeatDrop>) {
        match result {
            Ok(()) => drop(self.heartbeats_received.inc()),
            Err(reason) => {
                let label = Reason {
                    reason: reason.reason(),
                };
                self.heartbeats_dropped.get_or_create(&label).inc();
            }
        }
    }
}
