// SPDX-License-Identifier: Apache-2.0
//! One list: what leads it from what the kernel holds to what it should be.

use ipnet::IpNet;

use super::{Due, Sets, Stages, Wanted};
use crate::names::{List, SetName};
use crate::nft::objects::{Element, Entry, Key};
use crate::nft::plan::Change;
use crate::nft::slots::{reassign, slot_count};
use crate::nft::state::EntryState;
use crate::{AffinityNumber, Outcome, Target};

impl Stages {
    pub(super) fn towards(&mut self, entry: Entry, state: &EntryState, wanted: &Wanted<'_>, due: Due) {
        self.guard(entry, state, wanted.sources, due);
        match wanted.outcome {
            Outcome::Endpoints(targets) => {
                self.serve(entry, state, targets, wanted, due);
            }
            Outcome::Reject(_) => self.refuse(entry, state, due),
            Outcome::Drop(_) => self.drop(entry, state, due),
        }
    }

    pub(super) fn away(&mut self, entry: Entry, state: &EntryState, due: Due) {
        let sets = Sets::of(&entry);
        for (present, set) in [
            (state.listed, sets.listed),
            (state.refused, sets.refused),
            (state.dropped, sets.dropped),
        ] {
            if present {
                self.switch_out.push(remove(set, entry));
            }
        }
        self.guard(entry, state, None, due);
        self.number(entry, state, None);
        if due.is_due(state.idle_since) {
            self.retire_translation(entry, state);
        }
    }

    /// Who is let in. Sources go at once where others take their place: nobody is let in for longer than wished, and
    /// networks that overlap cannot be in the set at the same time.
    fn guard(&mut self, entry: Entry, state: &EntryState, sources: Option<&[IpNet]>, due: Due) {
        let element =
            |net: &IpNet| Element::Member(SetName::AllowedSources, Key::Source(entry.frontend, *net));
        if let Some(wanted) = sources {
            let gone = state.sources.iter().filter(|net| !wanted.contains(net));
            self.fill.extend(gone.map(|net| Change::Remove(element(net))));
            let new = wanted.iter().filter(|net| !state.sources.contains(net));
            self.fill.extend(new.map(|net| Change::Add(element(net))));
            if !state.ranged {
                self.fill.push(add(SetName::RangedVips, entry));
            }
            return;
        }
        if state.ranged {
            self.switch_out.push(remove(SetName::RangedVips, entry));
        }
        if due.is_due(state.open_since) {
            let gone = state.sources.iter().map(|net| Change::Remove(element(net)));
            self.retire.extend(gone);
        }
    }

    fn refuse(&mut self, entry: Entry, state: &EntryState, due: Due) {
        let sets = Sets::of(&entry);
        if !state.refused {
            self.switch_in.push(add(sets.refused, entry));
        }
        if state.dropped {
            self.switch_out.push(remove(sets.dropped, entry));
        }
        self.unserve(entry, state, due);
    }

    /// A local list drops before it is listed: packets from outside must not get endpoints of the main list meanwhile.
    fn drop(&mut self, entry: Entry, state: &EntryState, due: Due) {
        let sets = Sets::of(&entry);
        if !state.dropped {
            match entry.list {
                List::Main => self.switch_in.push(add(sets.dropped, entry)),
                List::Local => self.fill.push(add(sets.dropped, entry)),
            }
        }
        if state.refused {
            self.switch_out.push(remove(sets.refused, entry));
        }
        if entry.list == List::Local && !state.listed {
            self.switch_in.push(add(sets.listed, entry));
        }
        self.unserve(entry, state, due);
    }

    /// What no packet looks for any more. A local list that drops stays listed.
    fn unserve(&mut self, entry: Entry, state: &EntryState, due: Due) {
        self.number(entry, state, None);
        if due.is_due(state.idle_since) {
            if state.listed && entry.list == List::Main {
                self.retire.push(remove(Sets::of(&entry).listed, entry));
            }
            self.retire_translation(entry, state);
        }
    }

    fn serve(&mut self, entry: Entry, state: &EntryState, targets: &[Target], wanted: &Wanted<'_>, due: Due) {
        let sets = Sets::of(&entry);
        let count = slot_count(targets.len());
        let masquerade = wanted.masqueraded;
        self.number(entry, state, wanted.number);
        self.fill_slots(entry, state, targets, count);
        if masquerade && !state.masqueraded {
            self.fill.push(add(sets.masqueraded, entry));
        }
        if !state.counts.contains(&count) {
            self.switch_in.push(add(sets.count(count), entry));
        }
        if !state.listed {
            self.switch_in.push(add(sets.listed, entry));
        }
        let smaller = state.counts.range(..count);
        self.switch_out
            .extend(smaller.map(|smaller| remove(sets.count(*smaller), entry)));
        for (present, set) in [
            (state.refused, sets.refused),
            (state.dropped, sets.dropped),
            (state.masqueraded && !masquerade, sets.masqueraded),
        ] {
            if present {
                self.switch_out.push(remove(set, entry));
            }
        }
        let (gone, kept): (Vec<u32>, Vec<u32>) = state
            .counts
            .range(count + 1..)
            .copied()
            .partition(|larger| due.is_due(state.shadowed.get(larger).copied()));
        self.retire
            .extend(gone.into_iter().map(|larger| remove(sets.count(larger), entry)));
        let reachable = kept.last().copied().unwrap_or(count);
        self.retire.extend(slots_from(entry, state, reachable));
    }

    /// Which memory the list has. A client that comes while it has none is spread like any other.
    fn number(&mut self, entry: Entry, state: &EntryState, wanted: Option<AffinityNumber>) {
        if state.number == wanted {
            return;
        }
        if let Some(old) = state.number {
            self.fill.push(Change::Remove(Element::Numbered(entry, old)));
        }
        if let Some(new) = wanted {
            self.switch_in.push(Change::Add(Element::Numbered(entry, new)));
        }
    }

    fn fill_slots(&mut self, entry: Entry, state: &EntryState, targets: &[Target], count: u32) {
        for (slot, new) in reassign(&state.slots, targets, count) {
            self.fill.push(match state.slots.get(&slot) {
                Some(old) => Change::Replace {
                    entry,
                    slot,
                    old: *old,
                    new,
                },
                None => Change::Add(Element::Slot(entry, slot, new)),
            });
        }
    }

    fn retire_translation(&mut self, entry: Entry, state: &EntryState) {
        let sets = Sets::of(&entry);
        let counts = state.counts.iter();
        self.retire
            .extend(counts.map(|count| remove(sets.count(*count), entry)));
        self.retire.extend(slots_from(entry, state, 0));
        if state.masqueraded {
            self.retire.push(remove(sets.masqueraded, entry));
        }
    }
}

fn add(set: SetName, entry: Entry) -> Change {
    Change::Add(Element::Member(set, Key::Frontend(entry.frontend)))
}

fn remove(set: SetName, entry: Entry) -> Change {
    Change::Remove(Element::Member(set, Key::Frontend(entry.frontend)))
}

fn slots_from(entry: Entry, state: &EntryState, first: u32) -> impl Iterator<Item = Change> {
    state
        .slots
        .range(first..)
        .map(move |(slot, target)| Change::Remove(Element::Slot(entry, *slot, *target)))
}
