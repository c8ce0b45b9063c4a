// SPDX-License-Identifier: Apache-2.0
//! The iptables backend: kube-proxy's chains, written by `iptables-restore`.
//!
//! What the kernel holds is read when it is not known: at start, after a failure, and when somebody else may have changed
//! it. After that each turn writes what changed, without reading.

mod counts;
mod halving;
mod isolate;
mod program;
mod remove;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_model::{IpFamily, Protocol, ServiceKey};
use berth_proxy_core::conntrack::StaleFlows;
use berth_proxy_core::iptables::{Choices, Installed, Plan, Wanted};
use berth_proxy_core::{Intent, Settings, Touched};

pub use counts::Counts;
pub use program::{Programs, Variant};
pub use remove::{Whose, remove};
pub(crate) use watch::sizes;

use crate::Error;
use crate::apply::nft::Counters;
use crate::backend::{Backend, Turned};
use crate::refusals::Refusals;
use counts::COUNTED;
use watch::{Look, Watch};

/// Not 0 where conntrack takes packets out of a TCP window for good.
const BE_LIBERAL: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";
/// There where the kernel has IPv6.
const IPV6: &str = "/proc/net/if_inet6";
/// How many clients xt_recent remembers in a list, and there is one list per endpoint.
const CLIENTS: &str = "/sys/module/xt_recent/parameters/ip_list_tot";

/// One family's tables.
#[derive(Debug)]
struct Tables {
    programs: Programs,
    /// What the kernel holds; `None` when that is not known.
    wanted: Option<Wanted>,
    /// What that looks like from outside; `None` when it was not looked at since we wrote.
    look: Option<Look>,
    /// Whether somebody else may have written since it was read.
    foreign: bool,
    /// Services whose rules were refused.
    refused: Refusals,
    /// Those of them that were found by themselves, while there are others that were not.
    blamed: BTreeSet<ServiceKey>,
    counts: Counts,
}

/// Keeps kube-proxy's chains in both families.
#[derive(Debug)]
pub struct Iptables {
    families: Vec<Tables>,
    /// Known from the first turn on.
    watch: Option<Watch>,
    /// nf_tables' generation when it was last looked at.
    generation: Option<u32>,
    limit_said: bool,
}

impl Iptables {
    /// With the programs found in `path`, a value of PATH. A kernel without IPv6 has no such rules.
    ///
    /// # Errors
    /// A program is missing.
    pub fn open(path: &OsStr, variant: Variant) -> Result<Self, Error> {
        let families = families().map(|family| {
            let programs = Programs::find(path, variant, family)?;
            Ok(Tables {
                programs,
                wanted: None,
                look: None,
                foreign: false,
                refused: Refusals::default(),
                blamed: BTreeSet::new(),
                counts: Counts::default(),
            })
        });
        Ok(Self {
            families: families.collect::<Result<_, Error>>()?,
            watch: None,
            generation: None,
            limit_said: false,
        })
    }

    /// Whether the kernel can be read, which takes the privileges that writing takes.
    ///
    /// # Errors
    /// It cannot.
    pub async fn check(&self) -> Result<(), Error> {
        for tables in &self.families {
            tables.programs.save().await?;
        }
        Ok(())
    }

    /// What is counted of each family's rules.
    pub fn counts(&self) -> impl Iterator<Item = (IpFamily, Counts)> {
        self.families.iter().map(|tables| {
            let rules = tables.wanted.as_ref().map(|wanted| {
                let rules = COUNTED.map(|table| (table, wanted.rules(table)));
                BTreeMap::from(rules)
            });
            let counts = Counts {
                rules: rules.unwrap_or_default(),
                ..tables.counts.clone()
            };
            (tables.programs.family(), counts)
        })
    }

    fn is_unknown(&self) -> bool {
        self.families.iter().any(|tables| tables.wanted.is_none())
    }

    /// Looks at all families from outside. What looks different from before is not known any more.
    async fn look(&mut self) -> Result<(), Error> {
        if self.watch.is_none()
            && let Some(tables) = self.families.first()
        {
            self.watch = Some(Watch::open(&tables.programs).await?);
        }
        let Some(watch) = &self.watch else {
            return Ok(());
        };
        self.generation = watch.generation().await?;
        for tables in &mut self.families {
            let family = tables.programs.family();
            let look = watch.look(family).await?;
            if tables.look.as_ref().is_some_and(|before| *before != look) {
                tracing::info!(%family, "somebody else changed the rules");
                tables.wanted = None;
            }
            tables.look = Some(look);
        }
        Ok(())
    }

    /// xt_recent's limit is no secret, and nobody notices when it is met.
    fn say_limit(&mut self, intent: &Intent, touched: &Touched) {
        let mut new = touched
            .frontends
            .iter()
            .filter_map(|frontend| intent.get(frontend));
        let wished = new.any(|found| found.affinity != berth_model::SessionAffinity::None);
        if self.limit_said || !wished {
            return;
        }
        self.limit_said = true;
        let clients = fs::read_to_string(CLIENTS).unwrap_or_default();
        tracing::info!(
            clients_per_endpoint = clients.trim(),
            "session affinity: an endpoint remembers this many clients, and forgets the oldest for a new one; \
             the parameter ip_list_tot of the module xt_recent raises it"
        );
    }
}

impl Backend for Iptables {
    fn reconfigure(&mut self, _settings: &Settings) {
        for tables in &mut self.families {
            tables.wanted = None;
        }
    }

    async fn turn(&mut self, intent: &Intent, touched: &Touched) -> Result<Turned, Error> {
        self.say_limit(intent, touched);
        let mut turned = Turned::default();
        let mut failed = None;
        // What goes wrong in one family is no reason to keep the other one waiting.
        for tables in &mut self.families {
            if let Err(error) = tables.turn(intent, touched, &mut turned).await {
                tables.wanted = None;
                match &failed {
                    None => failed = Some(error),
                    Some(_) => tracing::warn!(%error, "the other family's rules are not written either"),
                }
            }
        }
        if self.families.iter().any(|tables| tables.look.is_none()) {
            self.look().await?;
        }
        for tables in &self.families {
            turned.refused.extend(tables.refused.reasons());
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(turned),
        }
    }

    async fn glance(&mut self) -> Result<bool, Error> {
        let Some(watch) = &self.watch else {
            return Ok(false);
        };
        let generation = watch.generation().await?;
        if generation.is_none() || generation != self.generation {
            self.look().await?;
            let known = generation.is_some();
            self.families
                .iter_mut()
                .for_each(|tables| tables.foreign |= known);
        }
        Ok(self.is_unknown())
    }

    /// The legacy variant does not tell whether anybody wrote.
    async fn audit(&mut self) -> Result<(), Error> {
        self.glance().await?;
        let untold = self.generation.is_none();
        for tables in &mut self.families {
            if tables.foreign || untold {
                tables.wanted = None;
            }
        }
        Ok(())
    }

    fn next_wake(&self) -> Option<Duration> {
        let families = self.families.iter();
        families.filter_map(|tables| tables.refused.next_wake()).min()
    }

    fn elements(&self) -> Vec<(IpFamily, usize)> {
        let known = |tables: &Tables| Some((tables.programs.family(), tables.wanted.as_ref()?.len()));
        self.families.iter().filter_map(known).collect()
    }

    async fn counters(&self, _family: IpFamily) -> Result<Option<Counters>, Error> {
        Ok(None)
    }
}

impl Tables {
    async fn turn(&mut self, intent: &Intent, touched: &Touched, turned: &mut Turned) -> Result<(), Error> {
        if self.refused.forgive(intent, touched) {
            self.wanted = None;
        }
        let Some(wanted) = &mut self.wanted else {
            return self.read_and_write(intent, turned).await;
        };
        let plan = wanted.update(intent, touched);
        if plan.is_empty() {
            return Ok(());
        }
        self.look = None;
        if let Err(error) = self.programs.restore(&plan).await {
            self.counts.refused += 1;
            self.counts.refused_changes += 1;
            return Err(error);
        }
        self.counts.wrote(&plan);
        turned.done.changes += plan.lines();
        Ok(())
    }
}

fn compared(family: IpFamily, installed: &Installed, plan: &Plan) {
    let (found, lines) = (installed.len(), plan.lines());
    if lines > 0 {
        tracing::info!(%family, found, lines, "rules compared");
    } else {
        tracing::debug!(%family, found, lines, "rules compared");
    }
}

/// Those that the kernel has: without IPv6 there is nothing to write, nor anything that was left.
fn families() -> impl Iterator<Item = IpFamily> {
    let with = |family: &IpFamily| *family == IpFamily::V4 || Path::new(IPV6).exists();
    IpFamily::ALL.into_iter().filter(with)
}

fn choices() -> Choices {
    let liberal = fs::read_to_string(BE_LIBERAL).is_ok_and(|text| text.trim() != "0");
    Choices {
        drop_invalid: !liberal,
        ..Choices::default()
    }
}

/// UDP frontends of Services that went while nobody watched.
fn unclaimed(installed: &Installed, intent: &Intent) -> StaleFlows {
    let frontends = installed.frontends().into_iter();
    let unclaimed =
        frontends.filter(|frontend| frontend.protocol() == Protocol::Udp && intent.get(frontend).is_none());
    StaleFlows {
        allowed: unclaimed.map(|frontend| (frontend, Arc::from([]))).collect(),
        ..StaleFlows::default()
    }
}
