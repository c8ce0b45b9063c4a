// SPDX-License-Identifier: Apache-2.0
//! Transactions on our tables.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use berth_model::IpFamily;
use berth_proxy_core::names::{BINDINGS, MapName, NumberMap, SetName, TABLE, UNREMEMBERED, UNTRANSLATED};
use berth_proxy_core::nft::bindings::Binding;
use berth_proxy_core::nft::{Change, Element, Key, Layout};
use ipnet::IpNet;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nlink::netlink::nftables::{
    NFT_MSG_DELSETELEM, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM, NFTA_SET_ELEM_KEY_END, Object, ObjectState,
    RawMessage, SetElement, SetKeyType, Transaction,
};
use nlink::netlink::{Connection, Nftables};

use super::attributes::{attribute, number, text};
use super::{Place, elements, family_of, rules, set_userdata};
use crate::Error;

/// `nla_len` has 16 bits: 400 of our largest elements (IPv6 with a source range, about 120 bytes) fit.
const ELEMENTS_PER_MESSAGE: usize = 400;
/// Upper bounds on the wire, for splitting: of an element with its attributes, and of a message's rest.
const ELEMENT_BYTES: usize = 140;
const MESSAGE_BYTES: usize = 120;
/// Room that a transaction must leave in the socket's buffer for its frame.
const MARGIN: usize = 8 * 1024;
/// A batch is one send, so it must fit the socket's buffer: half a million elements do.
const SEND_BUFFER: usize = 64 << 20;
/// So much at a time where a table is filled that no packet reaches yet: what is being sent exists several times.
const FIRST_FILL: usize = 2 << 20;
/// Upper bound on the wire of one rule.
const RULE_BYTES: usize = 900;
/// `NLM_F_CREATE | NLM_F_EXCL`.
const CREATE: u16 = 0x600;
/// `NFTA_SET_*` and `NFT_SET_MAP`.
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
const FLAG_MAP: u32 = 8;
/// `NFTA_SET_ELEM_LIST_*`.
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;
/// `NFTA_LIST_ELEM`, `NFTA_SET_ELEM_KEY`, `NFTA_DATA_VALUE`.
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const DATA_VALUE: u16 = 1;
/// Ids of sets within a batch that are declared here; nlink counts its own from 1.
const RAW_IDS: u32 = 1 << 20;

/// A netlink socket in the current network namespace.
pub struct Nft {
    pub(super) connection: Connection<Nftables>,
    /// The table, of this name in both families.
    pub(super) table: &'static str,
    /// How many bytes one transaction may have.
    budget: usize,
    /// Transactions committed here.
    commits: AtomicU32,
}

impl fmt::Debug for Nft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nft")
            .field("table", &self.table)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

/// What a table's named counters say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that had a frontend and found no endpoint, and were dropped: 0 unless Berth is wrong.
    pub untranslated: u64,
    /// Connections of clients that session affinity could not remember: there were too many clients.
    pub unremembered: u64,
}

/// What a whole table consists of.
#[derive(Clone, Copy)]
enum Part {
    /// Table, counter, sets, maps, networks, chains that no packet reaches by themselves.
    Inner,
    /// What makes packets arrive, and the marker that says that all is there.
    Hooks,
}

impl Nft {
    /// Opens a socket for the nftables backend's table.
    ///
    /// # Errors
    /// The kernel has no nf_tables, or the socket cannot be opened.
    pub fn open() -> Result<Self, Error> {
        Self::open_for(TABLE)
    }

    /// Opens a socket for this table, with as large a buffer as this process may have.
    ///
    /// # Errors
    /// The kernel has no nf_tables, or the socket cannot be opened.
    pub fn open_for(table: &'static str) -> Result<Self, Error> {
        let connection = Connection::<Nftables>::new().map_err(Error::kernel("open a netlink socket"))?;
        let socket = connection.socket();
        // In a user namespace only the second one works, up to net.core.wmem_max.
        if setsockopt(socket, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
            setsockopt(socket, sockopt::SndBuf, &SEND_BUFFER)?;
        }
        let granted = getsockopt(socket, sockopt::SndBuf)?;
        tracing::debug!(bytes = granted, "netlink send buffer");
        Ok(Self {
            connection,
            table,
            budget: granted.saturating_sub(MARGIN),
            commits: AtomicU32::new(0),
        })
    }

    fn place(&self, family: IpFamily) -> Place {
        Place {
            table: self.table,
            family,
        }
    }

    /// Makes transactions no larger than this, to exercise splitting.
    #[must_use]
    pub fn with_budget(mut self, bytes: usize) -> Self {
        self.budget = self.budget.min(bytes);
        self
    }

    /// Replaces the family's table, whatever it is, by this one: in one transaction where it fits the
    /// socket's buffer. Otherwise, and where there was none, the elements are filled in before any packet is led to them.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn rebuild(&self, layout: &Layout, present: bool, changes: &[Change]) -> Result<(), Error> {
        // Where there is nothing that packets could miss meanwhile, memory counts.
        let budget = if present {
            self.budget
        } else {
            self.budget.min(FIRST_FILL)
        };
        let family = layout.family();
        let mut transaction = self.connection.transaction();
        if present {
            transaction = transaction.del_table(self.table, family_of(family));
        }
        transaction = add_structure(transaction, layout, Part::Inner)?;
        let rules: usize = layout.chains().iter().map(|chain| chain.rules.len()).sum();
        let size = rules * RULE_BYTES
            + layout.sets().len() * 2 * MESSAGE_BYTES
            + messages(changes).iter().map(message_bytes).sum::<usize>();
        if size <= budget {
            transaction = add_changes(transaction, self.place(family), changes)?;
            transaction = add_structure(transaction, layout, Part::Hooks)?;
            return self.commit("rebuild the table", transaction).await;
        }
        tracing::debug!(%family, bytes = size, budget, "the table is filled in parts");
        self.commit("make the table", transaction).await?;
        self.change_within(budget, family, changes).await?;
        let hooks = add_structure(self.connection.transaction(), layout, Part::Hooks)?;
        self.commit("hook the table in", hooks).await
    }

    /// Adds the sets and rules that `larger` has beyond `layout`, in one transaction.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn grow(&self, layout: &Layout, larger: &Layout) -> Result<(), Error> {
        let family = layout.family();
        let mut transaction = self.connection.transaction();
        let mut ids = RAW_IDS..;
        for set in layout.missing_sets(larger) {
            transaction = add_set(transaction, self.place(family), set, &mut ids);
        }
        for (chain, rule) in layout.missing_rules(larger) {
            let rule = rules::lower(self.place(family), &chain.to_string(), &rule)?;
            transaction = transaction.add_rule(rule);
        }
        self.commit("add rules for more endpoints", transaction).await
    }

    /// Makes the sets of networks hold what the layout says, in one transaction.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn replace_networks(&self, layout: &Layout) -> Result<(), Error> {
        let family = layout.family();
        let mut transaction = self.connection.transaction();
        for (set, _) in layout.networks() {
            transaction = transaction.raw(flush_set(self.place(family), set));
        }
        transaction = add_changes(transaction, self.place(family), &networks(layout))?;
        self.commit("replace the networks", transaction).await
    }

    /// Carries out changes in order, in one transaction where they fit.
    ///
    /// # Errors
    /// The kernel refused; transactions before the refused one hold.
    pub async fn change(&self, family: IpFamily, changes: &[Change]) -> Result<(), Error> {
        self.change_within(self.budget, family, changes).await
    }

    async fn change_within(&self, budget: usize, family: IpFamily, changes: &[Change]) -> Result<(), Error> {
        for part in split(changes, budget) {
            let transaction = add_changes(
                self.connection.transaction(),
                self.place(family),
                changes.get(part).unwrap_or_default(),
            )?;
            self.commit("change elements", transaction).await?;
        }
        Ok(())
    }

    /// What the family's named counters have counted since the table was made.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn counters(&self, family: IpFamily) -> Result<Counters, Error> {
        let objects = self
            .connection
            .list_objects_in(self.table, family_of(family))
            .await
            .map_err(Error::kernel("read the counters"))?;
        let count = |name: &str| {
            let ours = objects.iter().find(|object| object.name == name);
            match ours.map(|object| &object.state) {
                Some(ObjectState::Counter { packets, .. }) => *packets,
                Some(_) | None => 0,
            }
        };
        Ok(Counters {
            untranslated: count(UNTRANSLATED),
            unremembered: count(UNREMEMBERED),
        })
    }

    /// Which clients are bound to which endpoints: as many elements as there are clients.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn bindings(&self, family: IpFamily) -> Result<Vec<Binding>, Error> {
        let listed = self
            .connection
            .list_set_elements(self.table, BINDINGS, family_of(family))
            .await
            .map_err(Error::kernel("list the bindings of clients"))?;
        let bindings = listed
            .iter()
            .filter_map(|element| elements::decode_binding(family, element));
        Ok(bindings.collect())
    }

    /// Removes bindings, some hundred in a transaction: they are independent of each other.
    ///
    /// # Errors
    /// The kernel refused: one of them had expired meanwhile, for example.
    pub async fn unbind(&self, family: IpFamily, bindings: &[Binding]) -> Result<(), Error> {
        let set = elements::bindings(self.place(family));
        for part in bindings.chunks(ELEMENTS_PER_MESSAGE) {
            let keys: Vec<SetElement> = part.iter().map(elements::encode_binding).collect();
            let transaction = self.connection.transaction().del_set_elements(&set, &keys);
            self.commit("remove bindings of clients", transaction).await?;
        }
        Ok(())
    }

    /// The number that every committed transaction in the namespace, anybody's, increases.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn generation(&self) -> Result<u32, Error> {
        self.connection
            .generation()
            .await
            .map_err(Error::kernel("read the ruleset's generation"))
    }

    /// How many transactions this socket has committed: as often, the generation grew by our doing.
    pub fn commits(&self) -> u32 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Whether the family has a table of ours.
    ///
    /// # Errors
    /// Tables cannot be listed: missing privileges, no nf_tables.
    pub async fn has_table(&self, family: IpFamily) -> Result<bool, Error> {
        let tables = self
            .connection
            .list_tables_in(family_of(family))
            .await
            .map_err(Error::kernel("list nftables tables"))?;
        Ok(tables.iter().any(|table| table.name.as_str() == self.table))
    }

    /// Removes the family's table; says whether there was one.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn remove(&self, family: IpFamily) -> Result<bool, Error> {
        self.connection
            .del_table_if_exists(self.table, family_of(family))
            .await
            .map_err(Error::kernel(format!("delete table {}", self.table)))
    }

    async fn commit(&self, what: &str, transaction: Transaction) -> Result<(), Error> {
        transaction
            .commit(&self.connection)
            .await
            .map_err(Error::kernel(what))?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn add_structure(mut transaction: Transaction, layout: &Layout, part: Part) -> Result<Transaction, Error> {
    let place = Place::of(layout);
    let Place { table, family } = place;
    let table_family = family_of(family);
    if matches!(part, Part::Inner) {
        transaction = transaction.add_table(table, table_family);
        for counter in layout.counters() {
            transaction = transaction.add_object(&Object::counter(table, counter).family(table_family));
        }
        let mut ids = RAW_IDS..;
        for set in layout.sets() {
            transaction = add_set(transaction, place, set, &mut ids);
        }
        for (map, id) in MapName::all().zip(&mut ids) {
            let types = elements::map_types(family, map);
            transaction = transaction.raw(new_map(
                place,
                &map.to_string(),
                types,
                id,
                &set_userdata::of_map(family, map),
            ));
        }
        for (map, id) in layout.number_maps().zip(&mut ids) {
            let types = elements::number_types(family, map);
            transaction = transaction.raw(new_map(
                place,
                &map.to_string(),
                types,
                id,
                &set_userdata::of_numbers(),
            ));
        }
        if layout.number_maps().next().is_some() {
            transaction = transaction.add_set(elements::bindings(place));
        }
        transaction = add_changes(transaction, place, &networks(layout))?;
    }
    let hooks = matches!(part, Part::Hooks);
    let chains = layout.chains();
    let ours = || chains.iter().filter(|chain| chain.base.is_some() == hooks);
    for chain in ours() {
        transaction = transaction.add_chain(rules::chain(place, chain)?);
    }
    for chain in ours() {
        for rule in &chain.rules {
            transaction = transaction.add_rule(rules::lower(place, &chain.name.to_string(), rule)?);
        }
    }
    if hooks {
        transaction = transaction.add_chain(rules::named_chain(place, &layout.marker())?);
    }
    Ok(transaction)
}

/// The elements of the sets of networks.
fn networks(layout: &Layout) -> Vec<Change> {
    let of_set = |(set, nets): (SetName, &[IpNet])| -> Vec<Change> {
        let added = |net: &IpNet| Change::Add(Element::Member(set, Key::Net(*net)));
        nets.iter().map(added).collect()
    };
    layout.networks().into_iter().flat_map(of_set).collect()
}

/// A map's declaration. nlink writes no user data, so the message is made here.
fn new_map(
    place: Place,
    name: &str,
    (key, data): (SetKeyType, SetKeyType),
    id: u32,
    userdata: &[u8],
) -> RawMessage {
    let data = [
        number(SET_DATA_TYPE, data.type_id()),
        number(SET_DATA_LEN, data.len()),
    ];
    new_set(place, name, FLAG_MAP, &key, id, &data.concat(), userdata)
}

fn new_set(
    place: Place,
    name: &str,
    flags: u32,
    key: &SetKeyType,
    id: u32,
    more: &[u8],
    userdata: &[u8],
) -> RawMessage {
    let attributes = [
        text(SET_TABLE, place.table),
        text(SET_NAME, name),
        number(SET_FLAGS, flags),
        number(SET_KEY_TYPE, key.type_id()),
        number(SET_KEY_LEN, key.len()),
        more.to_vec(),
        number(SET_ID, id),
        attribute(SET_USERDATA, userdata),
    ];
    RawMessage::new(NFT_MSG_NEWSET, family_of(place.family))
        .flags(CREATE)
        .attrs(attributes.concat())
}

/// A set's declaration. One whose key is a number of the host's byte order says so in its user data.
fn add_set(
    transaction: Transaction,
    place: Place,
    set: SetName,
    ids: &mut impl Iterator<Item = u32>,
) -> Transaction {
    match (set, ids.next()) {
        (SetName::AffinityTimeout(_), Some(id)) => transaction.raw(new_set(
            place,
            &set.to_string(),
            0,
            &elements::CLASS,
            id,
            &[],
            &set_userdata::of_number_key(),
        )),
        _ => transaction.add_set(elements::set(place, set)),
    }
}

/// Removes all elements: the message that names none.
fn flush_set(place: Place, set: SetName) -> RawMessage {
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
fn messages(changes: &[Change]) -> Vec<Range<usize>> {
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
fn message_bytes(run: &Range<usize>) -> usize {
    2 * (MESSAGE_BYTES + run.len() * ELEMENT_BYTES)
}

/// Parts that fit the budget each, at least one message per part.
fn split(changes: &[Change], budget: usize) -> Vec<Range<usize>> {
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

fn add_changes(mut transaction: Transaction, place: Place, changes: &[Change]) -> Result<Transaction, Error> {
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
    use berth_model::Protocol;
    use berth_proxy_core::Frontend;
    use berth_proxy_core::names::Group;

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
