// SPDX-License-Identifier: Apache-2.0
//! From the view to the kernel, one turn at a time. Owns what is known of the kernel.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use berth_model::{IpFamily, ServiceKey, View};
use berth_proxy_core::conntrack::{Flows, StaleFlows};
use berth_proxy_core::nft::{Installed, Layout, Plan, Scope, diff};
use berth_proxy_core::{Intent, Settings, Touched};

use crate::Error;
use crate::apply::Observed;
use crate::apply::conntrack::{Conntrack, Pass};
use crate::apply::nft::Nft;

/// What a turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Tables written as a whole.
    pub rebuilt: usize,
    /// Tables whose sets of networks were written.
    pub networks: usize,
    /// Elements added, replaced, removed.
    pub changes: usize,
    /// UDP flows forgotten.
    pub forgotten: usize,
}

impl Done {
    /// Whether the kernel was left alone.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// One family's table.
#[derive(Debug)]
struct Table {
    layout: Layout,
    /// What the kernel holds; `None` when that is not known: at start and after an error.
    installed: Option<Installed>,
    /// Whether somebody else may have changed it since, so that it must be looked up.
    suspect: bool,
}

/// Keeps the tables as the view wants them.
#[derive(Debug)]
pub struct Syncer {
    nft: Nft,
    conntrack: Conntrack,
    intent: Intent,
    tables: [Table; 2],
    /// What the intent's updates touched and no turn has carried out yet.
    pending: Touched,
    flows: Flows,
    stale: StaleFlows,
    retire_delay: Duration,
    started: Instant,
    /// The ruleset's generation if nobody but us changed anything since we looked the tables up;
    /// `None` if that is not known.
    generation: Option<u32>,
}

impl Syncer {
    /// A syncer that knows nothing of the kernel yet.
    pub fn new(nft: Nft, settings: Settings, retire_delay: Duration) -> Self {
        let table = |family| Table {
            layout: Layout::new(family, &settings),
            installed: None,
            suspect: true,
        };
        Self {
            nft,
            conntrack: Conntrack::default(),
            tables: IpFamily::ALL.map(table),
            intent: Intent::empty(settings),
            pending: Touched::default(),
            flows: Flows::default(),
            stale: StaleFlows::default(),
            retire_delay,
            started: Instant::now(),
            generation: None,
        }
    }

    /// What is wanted, as of the last [`Syncer::take`].
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// The netlink side.
    pub fn nft(&self) -> &Nft {
        &self.nft
    }

    /// What clean-ups of conntrack did since the last call.
    pub fn take_passes(&mut self) -> Vec<Pass> {
        self.conntrack.take_passes()
    }

    /// Elements in the kernel, as far as known.
    pub fn elements(&self) -> impl Iterator<Item = (IpFamily, usize)> {
        self.tables.iter().filter_map(|table| {
            let installed = table.installed.as_ref()?;
            Some((table.layout.family(), installed.len()))
        })
    }

    /// Takes in what changed of the view. Writes nothing.
    pub fn take(&mut self, view: &View, dirty: &BTreeSet<ServiceKey>) {
        let touched = self.intent.update(view, dirty);
        self.stale.merge(self.flows.changed(&touched, &self.intent));
        self.pending.merge(touched);
    }

    /// Takes in what changed of the settings: zone, node addresses, node-port addresses, Pod networks and the rest.
    /// Writes nothing. What differs of the tables' rules has them replaced in the next turn, each in one
    /// transaction; other networks are replaced in place.
    pub fn reconfigure(&mut self, settings: Settings, view: &View) {
        for table in &mut self.tables {
            let family = table.layout.family();
            let layout = Layout::new(family, &settings).with_limit_for(table.layout.limit());
            if layout != table.layout {
                table.layout = layout;
                table.suspect = true;
            }
        }
        let touched = self.intent.reconfigure(settings, view);
        self.stale.merge(self.flows.changed(&touched, &self.intent));
        self.pending.merge(touched);
    }

    /// How long until something is left to retire; `None` if nothing is.
    pub fn next_retirement(&self) -> Option<Duration> {
        let due = self
            .tables
            .iter()
            .filter_map(|table| table.installed.as_ref()?.next_retirement(self.retire_delay))
            .min()?;
        Some(due.saturating_sub(self.started.elapsed()))
    }

    /// The plans that the next turn would carry out, without the kernel: for families looked up already.
    pub fn plans(&self) -> Vec<Plan> {
        let now = self.started.elapsed();
        self.tables
            .iter()
            .filter_map(|table| {
                let installed = table.installed.as_ref()?;
                let family = table.layout.family();
                Some(diff(
                    family,
                    installed,
                    &self.intent,
                    Scope::All,
                    now,
                    self.retire_delay,
                ))
            })
            .collect()
    }

    /// Has the next turn look the kernel up anew if anybody else changed the ruleset since we last did:
    /// it may have been our tables.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub async fn audit(&mut self) -> Result<(), Error> {
        let generation = self.nft.generation().await?;
        if self.generation != Some(generation) {
            self.suspect_since(generation);
        }
        Ok(())
    }

    /// The generation is that before the tables are looked up: what comes later counts as not seen.
    fn suspect_since(&mut self, generation: u32) {
        self.generation = Some(generation);
        for table in &mut self.tables {
            table.suspect = true;
        }
    }

    /// One turn: carries out what there is to do in both families.
    ///
    /// # Errors
    /// The kernel refused or could not be read. What was committed holds; the next turn looks the
    /// kernel up and goes on from there.
    pub async fn turn(&mut self) -> Result<Done, Error> {
        let mut done = Done::default();
        let touched = std::mem::take(&mut self.pending);
        if let Err(error) = self.tables(&touched, &mut done).await {
            // Left for the next turn, which looks at everything: whatever broke one table, such as a
            // flush of the ruleset, may have met the other one as well.
            for table in &mut self.tables {
                table.installed = None;
                table.suspect = true;
            }
            self.generation = None;
            self.pending = touched;
            return Err(error);
        }
        if !self.stale.is_empty() {
            match self.conntrack.forget(&self.stale).await {
                Ok(forgotten) => {
                    done.forgotten = forgotten;
                    self.stale = StaleFlows::default();
                }
                // The rules are written, which is what matters; the next turn tries again.
                Err(error) => tracing::warn!(%error, "stale UDP flows not deleted"),
            }
        }
        Ok(done)
    }

    async fn tables(&mut self, touched: &Touched, done: &mut Done) -> Result<(), Error> {
        let unknown = self.tables.iter().any(|table| table.installed.is_none());
        // Not known although the tables are: they could not be read, which the next audit tries again.
        if unknown || self.generation.is_some() {
            let generation = self.nft.generation().await?;
            if self.generation != Some(generation) {
                self.suspect_since(generation);
            }
        }
        let before = self.nft.commits();
        for index in 0..self.tables.len() {
            self.family(index, touched, done).await?;
        }
        let commits = self.nft.commits().wrapping_sub(before);
        self.generation = self.generation.map(|known| later(known, commits));
        Ok(())
    }

    async fn family(&mut self, index: usize, touched: &Touched, done: &mut Done) -> Result<(), Error> {
        let Some(table) = self.tables.get_mut(index) else {
            return Ok(());
        };
        let family = table.layout.family();
        let mut scope = Scope::Touched(touched);
        if table.suspect {
            let now = self.started.elapsed();
            match self.nft.observe(&table.layout, now).await {
                Ok(Observed::Ours {
                    layout,
                    installed,
                    networks,
                }) => {
                    tracing::debug!(%family, elements = installed.len(), "table found");
                    self.stale.merge(StaleFlows::unclaimed(&installed, &self.intent));
                    if !networks {
                        self.nft.replace_networks(&layout).await?;
                        done.networks += 1;
                    }
                    table.layout = layout;
                    table.installed = Some(match &table.installed {
                        Some(earlier) => installed.as_old_as(earlier),
                        None => installed,
                    });
                    table.suspect = false;
                    scope = Scope::All;
                }
                Ok(other @ (Observed::Absent | Observed::Foreign { .. })) => {
                    return rebuild(&self.nft, table, &self.intent, &other, done).await;
                }
                // Updates must not wait for whoever writes that much.
                Err(error @ Error::Unstable { .. }) if table.installed.is_some() => {
                    tracing::warn!(%family, %error, "going on with what is known of the table");
                    table.suspect = false;
                    self.generation = None;
                }
                Err(error) => return Err(error),
            }
        }
        let Some(installed) = table.installed.as_mut() else {
            return Ok(());
        };
        let now = self.started.elapsed();
        let plan = diff(family, installed, &self.intent, scope, now, self.retire_delay);
        let larger = table.layout.with_limit_for(plan.largest_count());
        if larger != table.layout {
            tracing::info!(%family, limit = larger.limit(), "rules for more endpoints");
            self.nft.grow(&table.layout, &larger).await?;
            table.layout = larger;
        }
        for stage in &plan.stages {
            self.nft.change(family, &stage.changes).await?;
            installed.apply(stage, self.started.elapsed());
            done.changes += stage.changes.len();
        }
        Ok(())
    }
}

/// The generation after so many transactions. It is never 0 (`nf_tables_commit` in Linux's
/// net/netfilter/nf_tables_api.c).
fn later(generation: u32, commits: u32) -> u32 {
    let (sum, wrapped) = generation.overflowing_add(commits);
    sum + u32::from(wrapped)
}

async fn rebuild(
    nft: &Nft,
    table: &mut Table,
    intent: &Intent,
    observed: &Observed,
    done: &mut Done,
) -> Result<(), Error> {
    let family = table.layout.family();
    if let Observed::Foreign { why } = observed {
        tracing::warn!(%family, %why, "the table is not of this layout and is replaced");
    }
    let mut installed = Installed::default();
    let plan = diff(
        family,
        &installed,
        intent,
        Scope::All,
        Duration::ZERO,
        Duration::ZERO,
    );
    let layout = table.layout.with_limit_for(plan.largest_count());
    let changes: Vec<_> = plan
        .stages
        .iter()
        .flat_map(|stage| stage.changes.iter().copied())
        .collect();
    let present = *observed != Observed::Absent;
    nft.rebuild(&layout, present, &changes).await?;
    plan.stages
        .iter()
        .for_each(|stage| installed.apply(stage, Duration::ZERO));
    tracing::info!(%family, elements = installed.len(), "table written");
    table.layout = layout;
    table.installed = Some(installed);
    table.suspect = false;
    done.rebuilt += 1;
    done.changes += changes.len();
    Ok(())
}
