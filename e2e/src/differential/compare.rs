// SPDX-License-Identifier: Apache-2.0
//! One namespace on both sides: what differs, and whether that is a deviation on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::explain::{self, Deviation};
use super::history::Theme;
use super::observe::{EndpointsView, Observed, SliceRow, Writer};
use super::packing::{self, Packed};
use super::step::{Map, SliceMeddling};
use super::world::{Scope, World};

/// The same namespace on both sides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) peer: &'a Observed,
    pub(crate) berth: &'a Observed,
}

/// What is known of the nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeLedger {
    /// Zone of each node that is there now.
    pub(crate) zones: BTreeMap<String, Option<String>>,
    /// Those that changed since they were made first.
    pub(crate) changed: BTreeSet<String>,
    /// Those that were missing at some time after the first barrier.
    pub(crate) missing: BTreeSet<String>,
}

/// How far what differs may be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rigour {
    /// Upstream may not have looked again since something changed that it does not see.
    Settled,
    /// Every Service was touched: upstream has looked.
    Touched,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Aspect {
    /// Services and Pods: a harness that treats the two sides differently.
    Inputs,
    Endpoints,
    Labels,
    Slices,
    SliceCount,
    Mirror,
    Hints,
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inputs => "inputs",
            Self::Endpoints => "Endpoints",
            Self::Labels => "labels or annotations of Endpoints",
            Self::Slices => "EndpointSlices",
            Self::SliceCount => "number of EndpointSlices",
            Self::Mirror => "mirrored EndpointSlices",
            Self::Hints => "shares of the zones",
        })
    }
}

/// A difference that nothing explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) name: String,
    pub(crate) aspect: Aspect,
    /// Why an explanation did not hold, if one was tried.
    pub(crate) why: Option<String>,
    pub(crate) only_peer: Vec<String>,
    pub(crate) only_berth: Vec<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} differ{}",
            self.name,
            self.aspect,
            self.why
                .as_ref()
                .map_or_else(String::new, |why| format!(" ({why})"))
        )?;
        for line in &self.only_peer {
            writeln!(f, "    - only kube-controller-manager: {line}")?;
        }
        for line in &self.only_berth {
            writeln!(f, "    + only berth: {line}")?;
        }
        Ok(())
    }
}

/// What a comparison gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) differences: Vec<Difference>,
    /// Deviations on purpose that were met, and how often.
    pub(crate) deviations: BTreeMap<Deviation, usize>,
    /// Names whose controllers' objects were compared.
    pub(crate) compared: usize,
    /// Services whose number of slices upstream has as the model of its packing says, of how many.
    pub(crate) as_modelled: usize,
    pub(crate) modelled: usize,
}

/// Slices of a namespace, by what they are for.
pub(crate) type Slices = BTreeMap<(String, Writer), Vec<Packed>>;

/// The slices of both sides at a barrier, and what strangers have done to them since.
#[derive(Clone, Debug, Default)]
pub(crate) struct Before {
    pub(crate) peer: Slices,
    pub(crate) berth: Slices,
}

impl Before {
    /// A stranger has changed the n-th slice of a Service.
    pub(crate) fn meddled(&mut self, service: &str, nth: usize, how: SliceMeddling) {
        let key = (service.to_owned(), Writer::Selector);
        for side in [&mut self.peer, &mut self.berth] {
            if let Some(slices) = side.get_mut(&key) {
                packing::meddled(slices, nth, how);
            }
        }
    }
}

/// Everything that the comparison of a namespace depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) theme: Theme,
    pub(crate) world: &'a World,
    pub(crate) nodes: &'a NodeLedger,
    /// Names whose mirroring upstream fails on for ever.
    pub(crate) stuck_mirrors: &'a BTreeSet<String>,
    /// What was there at the comparison before this one.
    pub(crate) before: &'a Before,
    pub(crate) rigour: Rigour,
}

/// Compares a namespace.
pub(crate) fn compare(pair: Pair<'_>, terms: Terms<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let inputs = |side: &Observed| {
        side.inputs
            .iter()
            .map(|(what, input)| format!("{what} {input}"))
            .collect::<Vec<_>>()
    };
    outcome.note(
        "inputs",
        Aspect::Inputs,
        None,
        inputs(pair.peer),
        inputs(pair.berth),
    );
    let world = terms.world;
    let names: BTreeSet<&String> = world
        .services
        .keys()
        .chain(pair.peer.endpoints.keys())
        .chain(pair.berth.endpoints.keys())
        .chain(world.ledgers.keys())
        .collect();
    for name in names {
        let scope = world.scope(name);
        outcome.compared += usize::from(matches!(scope, Scope::Selected | Scope::ByHand));
        match scope {
            Scope::Selected => selected(&mut outcome, pair, terms, name),
            Scope::ByHand => by_hand(&mut outcome, pair, terms, name),
            Scope::Leftovers => outcome.deviate(Deviation::Leftovers),
            Scope::Record => match pair.berth.endpoints.get(name) {
                Some(_) => outcome.deviate(Deviation::RecordKept),
                None => outcome.note(
                    name,
                    Aspect::Endpoints,
                    Some("berth deleted a leader-election record"),
                    Vec::new(),
                    vec!["nothing".to_owned()],
                ),
            },
        }
    }
    outcome
}

impl Outcome {
    pub(crate) fn deviate(&mut self, deviation: Deviation) {
        *self.deviations.entry(deviation).or_default() += 1;
    }

    /// Notes a difference, if there is one or a reason to.
    pub(crate) fn note(
        &mut self,
        name: &str,
        aspect: Aspect,
        why: Option<&str>,
        peer: Vec<String>,
        berth: Vec<String>,
    ) {
        if why.is_none() && peer == berth {
            return;
        }
        self.differences.push(Difference {
            name: name.to_owned(),
            aspect,
            why: why.map(str::to_owned),
            only_peer: without(&peer, &berth),
            only_berth: without(&berth, &peer),
        });
    }
}

/// What is in one list more often than in the other.
fn without(these: &[String], those: &[String]) -> Vec<String> {
    let mut left: BTreeMap<&String, usize> = BTreeMap::new();
    for line in those {
        *left.entry(line).or_default() += 1;
    }
    these
        .iter()
        .filter(|line| match left.get_mut(line) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            Some(_) | None => true,
        })
        .cloned()
        .collect()
}

/// Rows as text, one a line.
pub(crate) fn lines(rows: &[impl Serialize]) -> Vec<String> {
    rows.iter()
        .map(|row| serde_json::to_string(row).unwrap_or_else(|error| error.to_string()))
        .collect()
}

fn selected(outcome: &mut Outcome, pair: Pair<'_>, terms: Terms<'_>, name: &str) {
    explain::endpoints(outcome, pair, terms, name);
    let key = (name.to_owned(), Writer::Selector);
    let rows = |side: &Observed| side.rows.get(&key).cloned().unwrap_or_default();
    let (mut peer, mut berth) = (rows(pair.peer), rows(pair.berth));
    if terms.theme == Theme::Topology {
        // Which of several equal endpoints serves another zone is anybody's choice; how many do is not.
        if !disowned(terms, name) {
            outcome.note(name, Aspect::Hints, None, shares(&peer), shares(&berth));
        }
        for row in peer.iter_mut().chain(&mut berth) {
            if let Some(endpoint) = &mut row.endpoint {
                endpoint.for_zones.clear();
            }
        }
    }
    for rows in [&mut peer, &mut berth] {
        rows.sort();
        without_empty_slices(rows);
    }
    explain::slices(outcome, pair, terms, name, peer, berth);
    // Where upstream has stopped writing, its number of slices says nothing.
    if !disowned(terms, name) {
        counts(outcome, pair, terms, &key);
    }
    mirror(outcome, pair, terms, name);
}

fn per_family(slices: &[Packed]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for slice in slices {
        *counts.entry(slice.family.clone()).or_default() += 1;
    }
    counts
}

fn disowned(terms: Terms<'_>, name: &str) -> bool {
    terms
        .world
        .ledgers
        .get(name)
        .is_some_and(|ledger| ledger.slice_disowned)
}

/// Of several equal empty slices one is left, and none beside endpoints of their family: how many there are is a matter
/// of the count.
fn without_empty_slices(rows: &mut Vec<SliceRow>) {
    let with = rows.iter().filter(|row| row.endpoint.is_some());
    let families: BTreeSet<String> = with.map(|row| row.family.clone()).collect();
    rows.retain(|row| row.endpoint.is_some() || !families.contains(&row.family));
    rows.dedup_by(|one, other| one.endpoint.is_none() && one == other);
}

fn shares(rows: &[SliceRow]) -> Vec<String> {
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows {
        if let Some(endpoint) = &row.endpoint {
            let line = format!(
                "{} {:?} serves {:?}",
                row.family, endpoint.zone, endpoint.for_zones
            );
            *shares.entry(line).or_default() += 1;
        }
    }
    shares
        .into_iter()
        .map(|(line, count)| format!("{count} x {line}"))
        .collect()
}

/// Berth has no more slices than upstream has, or would have made of those that Berth had before.
fn counts(outcome: &mut Outcome, pair: Pair<'_>, terms: Terms<'_>, key: &(String, Writer)) {
    let slices = |side: &Observed| side.slices.get(key).cloned().unwrap_or_default();
    let (peer, berth) = (slices(pair.peer), slices(pair.berth));
    let model = |before: &Slices, after: &[Packed]| {
        let before = before.get(key).map_or(&[][..], Vec::as_slice);
        packing::upstreams(before, after, terms.theme.slice_size())
    };
    if key.1 == Writer::Selector {
        outcome.modelled += 1;
        outcome.as_modelled += usize::from(model(&terms.before.peer, &peer) == per_family(&peer));
    }
    let (peer, model) = (per_family(&peer), model(&terms.before.berth, &berth));
    for (family, count) in per_family(&berth) {
        let most = peer.get(&family).copied().unwrap_or_default();
        // Without any slices there the rows differ already.
        if count > most && most > 0 {
            if key.1 == Writer::Selector && model.get(&family).is_some_and(|model| count <= *model) {
                outcome.deviate(Deviation::PackedByLuck);
                continue;
            }
            let line = |count| vec![format!("{count} {family} slices")];
            outcome.note(&key.0, Aspect::SliceCount, None, line(most), line(count));
        }
    }
}

fn mirror(outcome: &mut Outcome, pair: Pair<'_>, terms: Terms<'_>, name: &str) {
    let key = (name.to_owned(), Writer::Mirror);
    if explain::mirror_stuck(outcome, pair, terms, &key) {
        return;
    }
    let rows = |side: &Observed| lines(side.rows.get(&key).map_or(&[], Vec::as_slice));
    outcome.note(name, Aspect::Mirror, None, rows(pair.peer), rows(pair.berth));
    counts(outcome, pair, terms, &key);
}

/// What was written by hand is left alone, and mirrored.
fn by_hand(outcome: &mut Outcome, pair: Pair<'_>, terms: Terms<'_>, name: &str) {
    let rows = |side: &Observed| {
        side.endpoints
            .get(name)
            .map_or_else(|| vec!["no Endpoints".to_owned()], |view| lines(&view.rows))
    };
    outcome.note(name, Aspect::Endpoints, None, rows(pair.peer), rows(pair.berth));
    let metadata = |side: &Observed| {
        let view = side.endpoints.get(name);
        view.map_or_else(Vec::new, |view| metadata(view, &Map::new()))
    };
    outcome.note(
        name,
        Aspect::Labels,
        None,
        metadata(pair.peer),
        metadata(pair.berth),
    );
    mirror(outcome, pair, terms, name);
}

/// Labels and annotations of Endpoints, but for those in `ignored`.
pub(crate) fn metadata(view: &EndpointsView, ignored: &Map) -> Vec<String> {
    let labels = view.labels.iter().filter(|(key, _)| !ignored.contains_key(*key));
    let labels = labels.map(|(key, value)| format!("label {key}={value:?}"));
    let annotations = view
        .annotations
        .iter()
        .map(|(key, value)| format!("annotation {key}={value:?}"));
    let owner = view.owned.then(|| "an owner reference".to_owned());
    labels.chain(annotations).chain(owner).collect()
}

#[cfg(test)]
mod tests;
