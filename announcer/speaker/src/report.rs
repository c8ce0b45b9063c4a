// SPDX-License-Identifier: Apache-2.0
//! What this announcer does at the moment, for status, readiness and tests.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_announcer_core::Engine;
use berth_announcer_core::engine::Place;
use berth_announcer_core::wire::heartbeat::Phase;
use berth_model::NodeName;
use jiff::Timestamp;

use crate::clock::Clock;

/// What this announcer does at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether the cluster has its node.
    pub listed: bool,
    /// Names of the interfaces that can carry announcements, sorted.
    pub interfaces: Vec<String>,
    /// Addresses answered for, with the interface's name and since when.
    pub announced: Vec<(IpAddr, String, Timestamp)>,
    /// Other announcers that live.
    pub peers: Vec<NodeName>,
}

/// Makes reports; remembers the wall clock time of each take-over, so that it does not wander with the clock.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    since: BTreeMap<Place, Timestamp>,
}

impl Reporter {
    pub(crate) fn report(&mut self, engine: &Engine, clock: &Clock) -> Report {
        let announced = engine.announced();
        self.since.retain(|place, _| announced.contains_key(place));
        for (place, moment) in announced {
            self.since.entry(*place).or_insert_with(|| clock.wall(*moment));
        }
        let name = |index: u32| engine.carriers().name(index).unwrap_or_default().to_owned();
        let mut interfaces: Vec<String> = engine.carriers().fit().map(|link| link.name.clone()).collect();
        interfaces.sort();
        Report {
            phase: engine.phase(),
            listed: engine.is_listed(),
            interfaces,
            announced: self
                .since
                .iter()
                .map(|((address, interface), since)| (*address, name(*interface), *since))
                .collect(),
            peers: engine.peers().cloned().collect(),
        }
    }
}
