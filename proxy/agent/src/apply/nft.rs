// SPDX-License-Identifier: Apache-2.0
//! Transactions on our tables.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use berth_model::IpFamily;
use berth_proxy_core::names::{BINDINGS, SetName, TABLE, UNREMEMBERED, UNTRANSLATED};
use berth_proxy_core::nft::bindings::Binding;
use berth_proxy_core::nft::{Chain, Change, Element, Key, Layout};
use ipnet::IpNet;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nlink::netlink::nftables::{Object, ObjectState, SetElement, Transaction};
use nlink::netlink::{Connection, Nftables};

use super::batch::{
    CHANGE_BYTES, ELEMENTS_PER_MESSAGE, MESSAGE_BYTES, add_changes, flush_set, message_bytes, messages, split,
};
use super::fill::Filling;
use super::probe::{Owned, Probe, Shape};
use super::{Place, declare, elements, family_of, rules};
use crate::Error;

/// Room that a transaction must leave in the socket's buffer for its frame.
const MARGIN: usize = 8 * 1024;
/// A batch is one send, so it must fit the socket's buffer: half a million elements do.
const SEND_BUFFER: usize = 64 << 20;
/// So much at a time where a table is filled that no packet reaches yet: what is being sent exists several times.
const FIRST_FILL: usize = 2 << 20;
/// Upper bound on the wire of one rule.
const RULE_BYTES: usize = 900;

/// A netlink socket in the current network namespace.
pub struct Nft {
    pub(super) connection: Arc<Connection<Nftables>>,
    probe: Probe,
    /// The table, of this name in both families.
    pub(super) table: &'static str,
    /// How many bytes one transaction may have.
    budget: usize,
    /// Transactions committed here.
    commits: Arc<AtomicU32>,
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
            connection: Arc::new(connection),
            probe: Probe::open()?,
            table,
            budget: granted.saturating_sub(MARGIN),
            commits: Arc::default(),
        })
    }

    /// Another socket for the same table.
    ///
    /// # Errors
    /// As for [`Nft::open_for`].
    pub(crate) fn another(&self) -> Result<Self, Error> {
        Self::open_for(self.table)
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
        let budget = if present { self.budget } else { self.first_budget() };
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
        self.hook_in(layout).await
    }

    /// Where there is nothing that packets could miss meanwhile, memory counts.
    fn first_budget(&self) -> usize {
        self.budget.min(FIRST_FILL)
    }

    /// How many elements one transaction has on a table that no packet reaches yet. A new table with more of them is
    /// never made in one, and need not be known as a whole: [`Nft::begin`], [`Nft::fill`] as often as it takes,
    /// [`Nft::hook_in`].
    pub fn fill_size(&self) -> usize {
        self.first_budget() / CHANGE_BYTES
    }

    /// Makes the family's table, which is not there, but for what leads packets to it.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn begin(&self, layout: &Layout) -> Result<(), Error> {
        let transaction = add_structure(self.connection.transaction(), layout, Part::Inner)?;
        self.commit("make the table", transaction).await
    }

    /// Changes as transactions that each fit a table which no packet is led to yet.
    ///
    /// # Errors
    /// A change that cannot be put into a message.
    pub fn transactions(&self, family: IpFamily, changes: &[Change]) -> Result<Vec<Transaction>, Error> {
        let parts = split(changes, self.first_budget()).into_iter();
        parts
            .map(|part| self.transaction(family, changes.get(part).unwrap_or_default()))
            .collect()
    }

    /// Begins to carry them out.
    pub fn fill(&self, transactions: Vec<Transaction>) -> Filling {
        let connection = Arc::clone(&self.connection);
        Filling::start(connection, Arc::clone(&self.commits), transactions)
    }

    /// Leads packets to the table, and marks it as complete.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn hook_in(&self, layout: &Layout) -> Result<(), Error> {
        let hooks = add_structure(self.connection.transaction(), layout, Part::Hooks)?;
        self.commit("hook the table in", hooks).await
    }

    /// Adds the sets, rules and chains that `larger` has beyond `layout`, in one transaction.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn grow(&self, layout: &Layout, larger: &Layout) -> Result<(), Error> {
        let family = layout.family();
        let mut transaction = self.connection.transaction();
        transaction = declare::add_sets(transaction, self.place(family), layout.missing_sets(larger));
        for (chain, rule) in layout.missing_rules(larger) {
            let rule = rules::lower(self.place(family), &chain.to_string(), &rule)?;
            transaction = transaction.add_rule(rule);
        }
        transaction = add_chains(transaction, self.place(family), &layout.missing_chains(larger))?;
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
            let transaction = self.transaction(family, changes.get(part).unwrap_or_default())?;
            self.commit("change elements", transaction).await?;
        }
        Ok(())
    }

    fn transaction(&self, family: IpFamily, changes: &[Change]) -> Result<Transaction, Error> {
        add_changes(self.connection.transaction(), self.place(family), changes)
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

    /// What the family's table looks like from outside: its handle, and of each chain that the layout has the handle and
    /// how many rules and jumps there are. Elements do not show.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub(crate) async fn shape(&self, layout: &Layout) -> Result<Shape, Error> {
        let chains = layout.chains().into_iter().map(|chain| chain.name.to_string());
        let chains = chains.chain([layout.marker()]);
        self.probe
            .shape(layout.family(), self.table, Owned::Whole, chains)
            .await
    }

    /// Whether the family's table has all of these elements, but for those of sets of networks.
    ///
    /// # Errors
    /// They cannot be looked for.
    pub(crate) async fn has(&self, family: IpFamily, elements: &[Element]) -> Result<bool, Error> {
        self.probe.has(self.place(family), elements).await
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
        Ok(self.flags(family).await?.is_some())
    }

    /// The flags of the family's table, if there is one.
    pub(super) async fn flags(&self, family: IpFamily) -> Result<Option<u32>, Error> {
        let tables = self
            .connection
            .list_tables_in(family_of(family))
            .await
            .map_err(Error::kernel("list nftables tables"))?;
        let ours = tables.iter().find(|table| table.name.as_str() == self.table);
        Ok(ours.map(|table| table.flags))
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
        transaction = declare::add_sets_and_maps(transaction, layout);
        transaction = add_changes(transaction, place, &networks(layout))?;
    }
    let hooks = matches!(part, Part::Hooks);
    let mut chains = layout.chains();
    chains.retain(|chain| chain.base.is_some() == hooks);
    transaction = add_chains(transaction, place, &chains)?;
    if hooks {
        transaction = transaction.add_chain(rules::named_chain(place, &layout.marker())?);
    }
    Ok(transaction)
}

fn add_chains(mut transaction: Transaction, place: Place, chains: &[Chain]) -> Result<Transaction, Error> {
    for chain in chains {
        transaction = transaction.add_chain(rules::chain(place, chain)?);
    }
    for chain in chains {
        for rule in &chain.rules {
            transaction = transaction.add_rule(rules::lower(place, &chain.name.to_string(), rule)?);
        }
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
