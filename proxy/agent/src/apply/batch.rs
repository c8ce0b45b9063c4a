// SPDX-License-Identifier: Apache-2.0
//! Changes of elements as netlink messages, and how many of them fit into a transaction.

use std::ops::Range;

use berth_proxy_core::names::{MapName, NumberMap, SetName};
use berth_proxy_core::nft::{Change, Element};
use nlink::netlink::nftables::{
    NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM, NFTA_SET_ELEM_KEY_END, RawMessage, SetElement, Transaction,
};

use super::attributes::{
    CREATE, DATA_VALUE, ELEMENT_KEY, ELEMENTS_LIST, ELEMENTS_SET, ELEMENTS_TABLE, LIST_ELEMENT, attribute,
    text,
};
use super::{Place, elements, family_of};
use crate::Error;

/// `nla_len` has 16 bits: 400 of our largest elements (IPv6 with a source range, about 120 bytes) fit.
pub(super) const ELEMENTS_PER_MESSAGE: usize = 400;
/// Upper bounds on the wire, for splitting: of an element with its attributes, and of a message's rest.
const ELEMENT_BYTES: usize = 140;
pub(super) const MESSAGE_BYTES: usize = 120;
/// What a change counts as, which may be a replacement: at least, since its message comes on top.
pub(super) const CHANGE_BYTES: usize = 2 * ELEMENT_BYTES;

/// Removes all elements: the message that names none.
pub(super) fn flush_set(place: Place, set: SetName) -> RawMessage {
    let attributes = [
        text(ELEMENTS_TABLE, place.table),
        text(ELEMENTS_SET, &set.to_string()),
    ];
    RawMessage::new(NFT_MSG_DELSETELEM, family_of(place.family)).attrs(attributes.concat())
}

/// What one netlink message can hold: changes of one kind to one set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Add,
    Remove,
    Replace,
}

fn shape(change: &Change) -> (Verb, String) {
    let set_of = berth_proxy_core::nft::render::set_of;
    match change {
        Change::Add(element) => (Verb::Add, set_of(element)),
        Change::Remove(element) => (Verb::Remove, set_of(element)),
        Change::Replace { entry, .. } => (Verb::Replace, MapName::of(entry).to_string()),
    }
}

/// Runs of changes that go into one message (a replacement: two).
pub(super) fn messages(changes: &[Change]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut last = None;
    for (index, change) in changes.iter().enumerate() {
        let shape = shape(change);
        match runs.last_mut() {
            Some(run) if last.as_ref() == Some(&shape) && run.len() < ELEMENTS_PER_MESSAGE => {
                run.end = index + 1;
            }
            Some(_) | None => runs.push(index..index + 1),
        }
        last = Some(shape);
    }
    runs
}

/// Counts every change as a replacement.
pub(super) fn message_bytes(run: &Range<usize>) -> usize {
    2 * MESSAGE_BYTES + run.len() * CHANGE_BYTES
}

/// Parts that fit the budget each, at least one message per part.
pub(super) fn split(changes: &[Change], budget: usize) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut size = 0;
    for run in messages(changes) {
        let bytes = message_bytes(&run);
        match parts.last_mut() {
            Some(part) if size + bytes <= budget => {
                part.end = run.end;
                size += bytes;
            }
            Some(_) | None => {
                parts.push(run);
                size = bytes;
            }
        }
    }
    parts
}

/// Adds changes to a transaction, in order.
///
/// # Errors
/// An element has no form on the wire.
pub(super) fn add_changes(
    mut transaction: Transaction,
    place: Place,
    changes: &[Change],
) -> Result<Transaction, Error> {
    for run in messages(changes) {
        let run = changes.get(run).unwrap_or_default();
        let Some(first) = run.first() else {
            continue;
        };
        let (removed, added): (Vec<Option<Element>>, Vec<Option<Element>>) = run.iter().map(ends).unzip();
        let encoded = |side: Vec<Option<Element>>| -> Result<Vec<SetElement>, Error> {
            side.iter().flatten().map(elements::encode).collect()
        };
        let (removed, added) = (encoded(removed)?, encoded(added)?);
        let set = match ends(first) {
            (Some(Element::Member(name, _)), _) | (_, Some(Element::Member(name, _))) => {
                elements::set(place, name)
            }
            (Some(Element::Slot(entry, ..)), _) | (_, Some(Element::Slot(entry, ..))) => {
                elements::map(place, MapName::of(&entry))
            }
            (Some(Element::Numbered(entry, _)), _) | (_, Some(Element::Numbered(entry, _))) => {
                elements::number_map(place, NumberMap(entry.group()))
            }
            (None, None) => continue,
        };
        if !removed.is_empty() {
            transaction = transaction.del_set_elements(&set, &removed);
        }
        let concatenated = matches!(
            ends(first),
            (_, Some(Element::Member(SetName::AllowedSources, _)))
        );
        if concatenated {
            transaction = transaction.raw(add_ranges(place, SetName::AllowedSources, &added));
        } else if !added.is_empty() {
            transaction = transaction.add_set_elements(&set, &added);
        }
    }
    Ok(transaction)
}

/// Adds elements whose key has a range in it. Each names its end, even where that is its start: nft reads an
/// element without one as the start of the next (seen with nft 1.0.6), and nlink leaves it out.
fn add_ranges(place: Place, set: SetName, elements: &[SetElement]) -> RawMessage {
    let value = |kind, bytes: &[u8]| attribute(kind, &attribute(DATA_VALUE, bytes));
    let element = |element: &SetElement| {
        let end = element.key_end().unwrap_or(element.key());
        let key = [
            value(ELEMENT_KEY, element.key()),
            value(NFTA_SET_ELEM_KEY_END, end),
        ];
        attribute(LIST_ELEMENT, &key.concat())
    };
    let list: Vec<u8> = elements.iter().flat_map(element).collect();
    let attributes = [
        text(ELEMENTS_TABLE, place.table),
        text(ELEMENTS_SET, &set.to_string()),
        attribute(ELEMENTS_LIST, &list),
    ];
    RawMessage::new(NFT_MSG_NEWSETELEM, family_of(place.family))
        .flags(CREATE)
        .attrs(attributes.concat())
}

/// The element that goes and the one that comes.
fn ends(change: &Change) -> (Option<Element>, Option<Element>) {
    match change {
        Change::Add(element) => (None, Some(*element)),
        Change::Remove(element) => (Some(*element), None),
        Change::Replace {
            entry,
            slot,
            old,
            new,
        } => (
            Some(Element::Slot(*entry, *slot, *old)),
            Some(Element::Slot(*entry, *slot, *new)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use berth_model::{IpFamily, Protocol};
    use berth_proxy_core::Frontend;
    use berth_proxy_core::names::Group;
    use berth_proxy_core::nft::Key;

    use super::*;

    fn mk_change(set: SetName, n: u16) -> Change {
        let frontend = Frontend::NodePort {
            family: IpFamily::V4,
            protocol: Protocol::Tcp,
            port: (n + 1).try_into().unwrap(),
        };
        Change::Add(Element::Member(set, Key::Frontend(frontend)))
    }

    #[test]
    fn changes_to_one_set_share_a_message_up_to_its_limit() {
        let mut changes: Vec<Change> = (0..500)
            .map(|n| mk_change(SetName::Count(Group::ALL[2], 1), n))
            .collect();
        changes.push(mk_change(SetName::Count(Group::ALL[2], 2), 0));
        assert_eq!(messages(&changes), [0..400, 400..500, 500..501]);
    }

    #[test]
    fn parts_fit_the_budget_and_cover_everything_in_order() {
        let changes: Vec<Change> = (0..2_000)
            .map(|n| mk_change(SetName::Count(Group::ALL[2], 1), n))
            .collect();
        for budget in [1, 100_000, 250_000, usize::MAX / 2] {
            let parts = split(&changes, budget);
            assert_eq!(parts.first().unwrap().start, 0);
            assert_eq!(parts.last().unwrap().end, 2_000);
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
        assert_eq!(split(&changes, 1).len(), 5, "one message is never split");
        assert_eq!(split(&changes, usize::MAX / 2).len(), 1);
    }
}
