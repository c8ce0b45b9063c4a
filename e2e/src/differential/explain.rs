// SPDX-License-Identifier: Apache-2.0
//! Deviations on purpose (controllers/core/BEHAVIOUR.md): each says what upstream has and what Berth has, and holds
//! only where that is so. What upstream merely has not looked at again is compared exactly once it has.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::compare::{Aspect, Outcome, Pair, Rigour, Terms, lines, metadata};
use super::observe::{EndpointsView, Observed, SliceRow, Writer};
use super::request::{STRANGER, STRANGERS_ADDRESS};
use super::rows::HEADLESS;
use super::step::{Kind, Map};

/// A difference on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Deviation {
    /// A Pod that ended without having been ready: upstream still publishes it, Berth does not.
    PhaseUnseen,
    /// A Node's zone changed: upstream has the old one, Berth the new one.
    ZoneStale,
    /// A Node came or went: upstream has not looked at its Pods again, Berth has.
    NodeUnseen,
    /// A stranger's change of Endpoints: upstream keeps it, Berth has put it right.
    MeddlingKept,
    /// A stranger gave a slice away (another managed-by label): upstream waits for it for ever, since it counts on
    /// seeing what it wrote, and writes nothing for this Service any more; Berth has made another.
    SliceDisowned,
    /// A Service became headless, or no longer is: either side writes the label with its next change only, and
    /// which change that is depends on how many it saw at once.
    HeadlessLabelLags,
    /// The empty slice of a Service that was deleted and made again with the same labels: upstream keeps it, though
    /// the garbage collector is about to take it; Berth has made one that the new Service owns.
    PlaceholderOutdated,
    /// Hand-written Endpoints whose ports changed while a family was added: upstream's mirroring fails for ever with
    /// a name that exists; Berth's mirror says what the Endpoints say.
    MirrorStuck,
    /// Upstream has put a Service off: the delay that grows with each failure over a Pod whose Node is missing also
    /// holds back what came later. It ends where Berth is as soon as it is made to look.
    PutOff,
    /// Left over from a selector: depends on timing upstream, so it is not compared.
    Leftovers,
    /// Upstream packs into fewer slices by luck: of the slices that Berth had it would have made as many as Berth has.
    PackedByLuck,
    /// A leader-election record outlives a Service of its name that is deleted: upstream deletes it, Berth does not.
    RecordKept,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PhaseUnseen => "upstream misses the end of a Pod that was not ready",
            Self::ZoneStale => "upstream misses a Node's new zone",
            Self::NodeUnseen => "upstream misses that a Node came or went",
            Self::MeddlingKept => "upstream keeps a stranger's change of Endpoints",
            Self::SliceDisowned => "upstream waits for ever for a slice that was given away",
            Self::HeadlessLabelLags => "the headless label comes with the next change",
            Self::PlaceholderOutdated => "upstream keeps the empty slice of an earlier Service of the name",
            Self::MirrorStuck => "upstream's mirroring fails for ever on a slice that exists",
            Self::PutOff => "upstream had put off a Service, and ended alike once it looked",
            Self::Leftovers => "left over from a selector, not compared",
            Self::PackedByLuck => "upstream's endpoints were together by luck, and need fewer slices",
            Self::RecordKept => "Berth keeps a leader-election record",
        })
    }
}

/// Compares the Endpoints of a Service with a selector.
pub(super) fn endpoints(outcome: &mut Outcome, pair: Pair<'_>, terms: Terms<'_>, name: &str) {
    let (Some(peer), Some(berth)) = (pair.peer.endpoints.get(name), pair.berth.endpoints.get(name)) else {
        let (peer, berth) = (presence(pair.peer, name), presence(pair.berth, name));
        return outcome.note(name, Aspect::Endpoints, None, peer, berth);
    };
    let (peer_lines, berth_lines) = (lines(&peer.rows), lines(&berth.rows));
    let none = Map::new();
    let (peer_labels, berth_labels) = (metadata(peer, &none), metadata(berth, &none));
    if peer_lines == berth_lines && peer_labels == berth_labels {
        return;
    }
    if terms.rigour == Rigour::Touched {
        outcome.note(name, Aspect::Endpoints, None, peer_lines, berth_lines);
        return outcome.note(name, Aspect::Labels, None, peer_labels, berth_labels);
    }
    let ledger = terms.world.ledgers.get(name).cloned().unwrap_or_default();
    let emptied = peer.rows.is_empty() && !berth.rows.is_empty();
    if ledger.endpoints_meddled && (marked(peer) || emptied) && !marked(berth) {
        return outcome.deviate(Deviation::MeddlingKept);
    }
    let finished: BTreeSet<&String> = pair.berth.finished.iter().collect();
    let ended = |target: Option<&String>| target.is_some_and(|name| finished.contains(name));
    let published = |view: &EndpointsView| {
        let alive = view.rows.iter().filter(|row| {
            let target = row.target.as_ref().and_then(|target| target.name.as_ref());
            !ended(target)
        });
        alive.cloned().collect::<Vec<_>>()
    };
    if published(berth).len() != berth.rows.len() {
        outcome.note(
            name,
            Aspect::Endpoints,
            Some("berth publishes a Pod that has ended"),
            peer_lines,
            berth_lines,
        );
        return;
    }
    let left = published(peer);
    if left.len() != peer.rows.len() && left == berth.rows {
        outcome.deviate(Deviation::PhaseUnseen);
    } else {
        outcome.note(name, Aspect::Endpoints, None, peer_lines, berth_lines);
    }
    let ignored = Map::from([(HEADLESS.to_owned(), String::new())]);
    if peer_labels != berth_labels
        && ledger.headless_flipped
        && metadata(peer, &ignored) == metadata(berth, &ignored)
    {
        outcome.deviate(Deviation::HeadlessLabelLags);
    } else {
        outcome.note(name, Aspect::Labels, None, peer_labels, berth_labels);
    }
}

/// Whether Endpoints are there at all, as a line to print.
fn presence(side: &Observed, name: &str) -> Vec<String> {
    let there = side.endpoints.contains_key(name);
    vec![if there { "Endpoints" } else { "no Endpoints" }.to_owned()]
}

/// Whether a stranger's label or address is there.
fn marked(view: &EndpointsView) -> bool {
    let address = view.rows.iter().any(|row| row.ip == STRANGERS_ADDRESS);
    address || view.labels.contains_key(STRANGER)
}

fn is_headless(terms: Terms<'_>, name: &str) -> bool {
    let service = terms.world.services.get(name);
    service.is_some_and(|service| service.kind == Kind::Headless)
}

/// Compares the slices that a Service's selector makes.
pub(super) fn slices(
    outcome: &mut Outcome,
    pair: Pair<'_>,
    terms: Terms<'_>,
    name: &str,
    mut peer: Vec<SliceRow>,
    berth: Vec<SliceRow>,
) {
    let adopted = peer
        .iter_mut()
        .filter_map(|row| row.adopt_placeholder(is_headless(terms, name)).then_some(()))
        .count();
    // Whether upstream keeps a slice that lost its endpoints for its ports, or makes a placeholder, depends on what it
    // saw first: a stranger's edit or the end of a Node. Berth has the placeholder.
    let placeholders = peer.iter_mut().filter(|row| row.endpoint.is_none());
    placeholders.for_each(|row| row.ports.clear());
    if adopted > 0 {
        outcome.deviate(Deviation::PlaceholderOutdated);
        peer.sort();
    }
    if peer == berth {
        return;
    }
    let ledger = terms.world.ledgers.get(name).cloned().unwrap_or_default();
    if ledger.slice_disowned && slices_of_endpoints(pair.berth.endpoints.get(name), &berth) {
        return outcome.deviate(Deviation::SliceDisowned);
    }
    let (peer_lines, berth_lines) = (lines(&peer), lines(&berth));
    if terms.rigour == Rigour::Touched {
        return outcome.note(name, Aspect::Slices, None, peer_lines, berth_lines);
    }
    match explained(pair, terms, name, peer, berth) {
        Ok(deviations) => deviations
            .into_iter()
            .for_each(|deviation| outcome.deviate(deviation)),
        Err(why) => outcome.note(name, Aspect::Slices, why, peer_lines, berth_lines),
    }
}

/// Whether each address that Endpoints publish is in a slice, as far as the ready ones go: where upstream shows
/// nothing to compare with.
fn slices_of_endpoints(view: Option<&EndpointsView>, rows: &[SliceRow]) -> bool {
    let endpoints = || rows.iter().filter_map(|row| row.endpoint.as_ref());
    let published = |ip: &String| endpoints().any(|endpoint| endpoint.addresses.contains(ip));
    let ready = view
        .into_iter()
        .flat_map(|view| &view.rows)
        .filter(|row| row.ready);
    // The Endpoints controller does not look at Nodes, the one of slices leaves out Pods of unknown ones.
    let mut on_nodes = ready.filter(|row| endpoints().any(|endpoint| endpoint.node == row.node));
    !rows.is_empty() && on_nodes.all(|row| published(&row.ip))
}

/// The deviations that explain all of a difference, or why they do not.
fn explained(
    pair: Pair<'_>,
    terms: Terms<'_>,
    name: &str,
    mut peer: Vec<SliceRow>,
    mut berth: Vec<SliceRow>,
) -> Result<BTreeSet<Deviation>, Option<&'static str>> {
    let mut used = BTreeSet::new();
    let ended = |row: &SliceRow| {
        let target = row
            .endpoint
            .as_ref()
            .and_then(|endpoint| endpoint.target.as_ref());
        let name = target.and_then(|target| target.name.as_ref());
        name.is_some_and(|name| pair.berth.finished.contains(name))
    };
    if berth.iter().any(ended) {
        return Err(Some("berth publishes a Pod that has ended"));
    }
    let before = peer.len();
    peer.retain(|row| !ended(row));
    if peer.len() != before {
        used.insert(Deviation::PhaseUnseen);
    }
    let publishes_all = terms
        .world
        .services
        .get(name)
        .is_some_and(|service| service.publish_not_ready);
    for row in &berth {
        node_is_current(row, terms, publishes_all)?;
    }
    for rows in [&mut peer, &mut berth] {
        forgive_nodes(rows, terms, &mut used);
        forgive_headless(rows, terms, name, &mut used);
        // A placeholder stands where all else was unseen.
        rows.retain(|row| row.endpoint.is_some());
        rows.sort();
    }
    if peer == berth && !used.is_empty() {
        Ok(used)
    } else {
        Err(None)
    }
}

/// Berth sees nodes: what it says of one is what is so now.
fn node_is_current(
    row: &SliceRow,
    terms: Terms<'_>,
    publishes_all: bool,
) -> Result<(), Option<&'static str>> {
    let Some(endpoint) = &row.endpoint else {
        return Ok(());
    };
    let Some(node) = &endpoint.node else {
        return Ok(());
    };
    match terms.nodes.zones.get(node) {
        Some(zone) if *zone == endpoint.zone => Ok(()),
        Some(_) => Err(Some("berth has not the zone that the Node has now")),
        None if publishes_all && endpoint.zone.is_none() => Ok(()),
        None => Err(Some("berth publishes a Pod on a Node that is not there")),
    }
}

fn forgive_nodes(rows: &mut Vec<SliceRow>, terms: Terms<'_>, used: &mut BTreeSet<Deviation>) {
    let on = |row: &SliceRow, nodes: &BTreeSet<String>| {
        let node = row.endpoint.as_ref().and_then(|endpoint| endpoint.node.as_ref());
        node.is_some_and(|node| nodes.contains(node))
    };
    let before = rows.len();
    rows.retain(|row| !on(row, &terms.nodes.missing));
    if rows.len() != before {
        used.insert(Deviation::NodeUnseen);
    }
    for row in rows.iter_mut() {
        if on(row, &terms.nodes.changed)
            && let Some(endpoint) = &mut row.endpoint
        {
            endpoint.zone = None;
            endpoint.for_zones.clear();
            endpoint.for_nodes.clear();
            used.insert(Deviation::ZoneStale);
        }
    }
}

fn forgive_headless(rows: &mut [SliceRow], terms: Terms<'_>, name: &str, used: &mut BTreeSet<Deviation>) {
    let flipped = terms
        .world
        .ledgers
        .get(name)
        .is_some_and(|ledger| ledger.headless_flipped);
    if flipped {
        for row in rows {
            row.labels.remove(HEADLESS);
        }
        used.insert(Deviation::HeadlessLabelLags);
    }
}

/// Whether mirrors differ for no other reason than that upstream fails on them for ever.
pub(super) fn mirror_stuck(
    outcome: &mut Outcome,
    pair: Pair<'_>,
    terms: Terms<'_>,
    key: &(String, Writer),
) -> bool {
    let rows = |side: &Observed| side.rows.get(key).cloned().unwrap_or_default();
    let (peer, berth) = (rows(pair.peer), rows(pair.berth));
    let view = pair.berth.endpoints.get(&key.0);
    let stuck = peer != berth
        && terms.stuck_mirrors.contains(&key.0)
        && view.is_some_and(|view| mirrored_addresses(view) == addresses_of(&berth));
    if stuck {
        outcome.deviate(Deviation::MirrorStuck);
    }
    stuck
}

/// The addresses that Endpoints hold, in the spelling that slices have.
fn mirrored_addresses(view: &EndpointsView) -> BTreeSet<String> {
    let canonical = |ip: &String| {
        ip.parse::<IpAddr>()
            .map_or_else(|_| ip.clone(), |ip| ip.to_string())
    };
    view.rows.iter().map(|row| canonical(&row.ip)).collect()
}

fn addresses_of(rows: &[SliceRow]) -> BTreeSet<String> {
    let endpoints = rows.iter().filter_map(|row| row.endpoint.as_ref());
    endpoints
        .flat_map(|endpoint| endpoint.addresses.clone())
        .collect()
}
