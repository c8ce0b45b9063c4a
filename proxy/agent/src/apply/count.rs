// SPDX-License-Identifier: Apache-2.0
//! A table of its own that counts new connections by frontend and touches none. The kernel removes it with the socket that
//! made it (`NFT_TABLE_F_OWNER`, Linux 5.12): whatever becomes of this process, nothing is left.
//!
//! A connection is counted before our table, or anybody's in kube-proxy's places, could refuse or translate it, and
//! once more behind what refuses in our table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use berth_model::IpFamily;
use berth_proxy_core::Frontend;
use berth_proxy_core::counting::Tally;
use berth_proxy_core::names::{COUNT_PREFIX, Kind, RELAY_TABLE, TABLE};
use berth_proxy_core::nft::{BaseChain, Hook, Match};
use nlink::netlink::nftables::{
    Chain, LookupExpr, NFT_TABLE_F_OWNER, Policy, Register, Rule, Set, SetElement, SetKeyType, Transaction,
};
use nlink::netlink::{Connection, Nftables};

use super::batch::ELEMENTS_PER_MESSAGE;
use super::{elements, family_of, rules};
use crate::Error;

/// Refusals of our table are at -110 and translation at -100, for kube-proxy as for us. All three are of type nat, which
/// the first packet of a connection meets, in the order of priorities.
const STAGES: [(Stage, i32); 2] = [(Stage::Asked, -115), (Stage::LetThrough, -105)];
const KINDS: [Kind; 2] = [Kind::Vip, Kind::NodePort];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Asked,
    LetThrough,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "asked",
            Self::LetThrough => "let-through",
        })
    }
}

/// Counting that is under way. It ends when this is dropped.
pub struct Counting {
    connection: Connection<Nftables>,
    table: String,
    frontends: BTreeSet<Frontend>,
}

impl fmt::Debug for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counting")
            .field("table", &self.table)
            .field("frontends", &self.frontends)
            .finish_non_exhaustive()
    }
}

impl Counting {
    /// Starts to count.
    ///
    /// # Errors
    /// The kernel refused: missing privileges, no nf_tables.
    pub async fn start(frontends: BTreeSet<Frontend>) -> Result<Self, Error> {
        let connection = Connection::<Nftables>::new().map_err(Error::kernel("open a netlink socket"))?;
        let counting = Self {
            connection,
            table: format!("{COUNT_PREFIX}{}", std::process::id()),
            frontends,
        };
        let mut transaction = counting.connection.transaction();
        for family in IpFamily::ALL {
            transaction = counting.add_table(transaction, family)?;
        }
        let committed = transaction.commit(&counting.connection).await;
        committed.map_err(Error::kernel("make the table that counts"))?;
        Ok(counting)
    }

    /// What was counted so far.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn read(&self) -> Result<BTreeMap<Frontend, Tally>, Error> {
        let mut tallies = BTreeMap::new();
        for family in IpFamily::ALL {
            let known = self.refuses(family).await?;
            for kind in KINDS {
                let asked = self.counts(family, Stage::Asked, kind).await?;
                let passed = self.counts(family, Stage::LetThrough, kind).await?;
                for frontend in self.of(family, kind) {
                    let key = elements::frontend(frontend);
                    let count =
                        |counts: &BTreeMap<Vec<u8>, u64>| counts.get(key.key()).copied().unwrap_or_default();
                    let tally = Tally {
                        asked: count(&asked),
                        let_through: known.then(|| count(&passed)),
                    };
                    tallies.insert(*frontend, tally);
                }
            }
        }
        Ok(tallies)
    }

    fn of(&self, family: IpFamily, kind: Kind) -> impl Iterator<Item = &Frontend> {
        let ours = self.frontends.iter();
        ours.filter(move |frontend| frontend.family() == family && frontend.kind() == kind)
    }

    /// Whether a table of ours refuses in this family, where both stages are looking.
    async fn refuses(&self, family: IpFamily) -> Result<bool, Error> {
        let tables = self.connection.list_tables_in(family_of(family)).await;
        let tables = tables.map_err(Error::kernel("list nftables tables"))?;
        Ok(tables
            .iter()
            .any(|table| [TABLE, RELAY_TABLE].contains(&table.name.as_str())))
    }

    async fn counts(
        &self,
        family: IpFamily,
        stage: Stage,
        kind: Kind,
    ) -> Result<BTreeMap<Vec<u8>, u64>, Error> {
        let name = set_name(stage, kind);
        let listed = self
            .connection
            .list_set_elements(&self.table, &name, family_of(family))
            .await
            .map_err(Error::kernel(format!("list set {name}")))?;
        let counted = |element: &SetElement| Some((element.key().to_vec(), element.counter()?.0));
        Ok(listed.iter().filter_map(counted).collect())
    }

    fn add_table(&self, mut transaction: Transaction, family: IpFamily) -> Result<Transaction, Error> {
        let (table, of) = (&self.table, family_of(family));
        transaction = transaction.add_table_with_flags(table, of, NFT_TABLE_F_OWNER);
        for (stage, _) in STAGES {
            for kind in KINDS {
                let key = SetKeyType::Concat(elements::field_types(family, kind.fields()));
                let set = Set::new(table, &set_name(stage, kind))
                    .family(of)
                    .key_type(key)
                    .counter();
                let frontends: Vec<SetElement> = self.of(family, kind).map(elements::frontend).collect();
                transaction = transaction.add_set(set.clone());
                for part in frontends.chunks(ELEMENTS_PER_MESSAGE) {
                    transaction = transaction.add_set_elements(&set, part);
                }
            }
        }
        for (stage, priority) in STAGES {
            for (hook, word) in [(Hook::Prerouting, "prerouting"), (Hook::Output, "output")] {
                let name = format!("{stage}-{word}");
                let base = rules::base_chain(BaseChain {
                    nat: true,
                    hook,
                    priority,
                });
                let chain = Chain::new(table.as_str(), name.as_str())
                    .map(|chain| chain.family(of).base(base.policy(Policy::Accept)))
                    .map_err(Error::kernel(format!("chain {name}")))?;
                transaction = transaction.add_chain(chain);
                for kind in KINDS {
                    transaction = transaction.add_rule(self.rule(family, &name, stage, kind));
                }
            }
        }
        Ok(transaction)
    }

    /// A node port is counted at any address of this node but loopback ones. That the connection is new goes without saying
    /// here, but asking has Linux track connections where nobody else had it do so.
    fn rule(&self, family: IpFamily, chain: &str, stage: Stage, kind: Kind) -> Rule {
        let conditions: &[Match] = match kind {
            Kind::Vip => &[Match::NewConnection],
            Kind::NodePort => &[Match::NewConnection, Match::NotLoopback, Match::LocalDestination],
        };
        let mut expressions: Vec<_> = conditions
            .iter()
            .flat_map(|condition| rules::matches(family, condition))
            .collect();
        rules::load(family, kind.fields(), &mut expressions);
        expressions.push(LookupExpr::new(set_name(stage, kind), Register::R0).into());
        let rule = Rule::new(&self.table, chain).family(family_of(family));
        expressions.into_iter().fold(rule, Rule::expr)
    }
}

fn set_name(stage: Stage, kind: Kind) -> String {
    match kind {
        Kind::Vip => format!("{stage}-vips"),
        Kind::NodePort => format!("{stage}-nodeports"),
    }
}
