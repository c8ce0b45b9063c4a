// SPDX-License-Identifier: Apache-2.0
//! The nftables backend: two tables, written by netlink in the stages that the core plans. Owns what is known of them.

mod early;
mod glance;
mod isolate;
mod make;
mod unbind;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use berth_model::{IpFamily, ServiceKey};
use berth_proxy_core::conntrack::StaleFlows;
use berth_proxy_core::nft::{Entry, Installed, Layout, Plan, Scope, Wishes, diff};
use berth_proxy_core::{Intent, Settings, Touched};

use crate::Error;
use crate::apply::Observed;
use crate::apply::nft::{Counters, Nft};
use crate::apply::probe::Shape;
use crate::backend::{Backend, Turned};
use early::{Early, Reading, look_up};
use isolate::{Refused, is_about_elements};

/// One family's table.
#[derive(Debug)]
struct Table {
    layout: Layout,
    /// What the kernel holds; `None` when that is not known: at start and after an error.
    installed: Option<Installed>,
    /// Whether somebody else may have changed it since, so that it must be looked up.
    suspect: bool,
    /// What it looks like from outside; `None` when it was not looked at since we changed its rules.
    shape: Option<Shape>,
    /// Behind which list the next sample begins.
    sampled: Option<Entry>,
}

impl Table {
    /// Adds the rules that a larger layout has.
    async fn grow(&mut self, nft: &Nft, larger: Layout) -> Result<(), Error> {
        if larger != self.layout {
            let family = self.layout.family();
            tracing::info!(%family, limit = larger.limit(), "rules for more endpoints, or for another timeout");
            nft.grow(&self.layout, &larger).await?;
            self.layout = larger;
            self.shape = None;
        }
        Ok(())
    }
}

/// Keeps a table of each family, `berth-proxy` or that of the user-space backend, as the intent wants it.
#[derive(Debug)]
pub struct Nftables {
    nft: Nft,
    tables: [Table; 2],
    retire_delay: Duration,
    started: Instant,
    /// The ruleset's generation when it was last looked at, our own transactions since included; `None` while the
    /// tables are not known.
    generation: Option<u32>,
    /// Whether somebody else wrote anything since the tables were looked up as a whole.
    foreign: bool,
    /// When to look for bindings that do not count any more.
    unbind_at: Option<Duration>,
    /// Services that the kernel refused, by table.
    refused: BTreeMap<(IpFamily, ServiceKey), Refused>,
    /// What is being read for the first turn.
    reading: Option<Reading>,
}

impl Nftables {
    /// A backend that knows nothing of the kernel yet. What no new connection uses any more is left for
    /// `retire_delay`.
    pub fn new(nft: Nft, settings: &Settings, retire_delay: Duration) -> Self {
        Self::with_layouts(nft, |family| Layout::new(family, settings), retire_delay)
    }

    /// The same for tables with these layouts.
    pub(crate) fn with_layouts(
        nft: Nft,
        layout: impl Fn(IpFamily) -> Layout,
        retire_delay: Duration,
    ) -> Self {
        let table = |family| Table {
            layout: layout(family),
            installed: None,
            suspect: true,
            shape: None,
            sampled: None,
        };
        Self {
            nft,
            tables: IpFamily::ALL.map(table),
            retire_delay,
            started: Instant::now(),
            generation: None,
            foreign: false,
            unbind_at: None,
            refused: BTreeMap::new(),
            reading: None,
        }
    }

    /// The netlink side.
    pub fn nft(&self) -> &Nft {
        &self.nft
    }

    /// The plans that the next turn would carry out, without the kernel: for families looked up already.
    pub fn plans(&self, intent: &Intent) -> Vec<Plan> {
        let now = self.started.elapsed();
        let known = |table: &Table| {
            let installed = table.installed.as_ref()?;
            let family = table.layout.family();
            Some(diff(
                family,
                installed,
                intent,
                Scope::All,
                now,
                self.retire_delay,
            ))
        };
        self.tables.iter().filter_map(known).collect()
    }

    /// The generation is that before the tables are looked up: what comes later counts as not seen.
    fn suspect_since(&mut self, generation: u32) {
        self.generation = Some(generation);
        self.foreign = false;
        for table in &mut self.tables {
            table.suspect = true;
        }
    }

    /// What the kernel holds of each family, as far as known.
    pub(crate) fn installed(&self) -> impl Iterator<Item = &Installed> {
        self.tables.iter().filter_map(|table| table.installed.as_ref())
    }

    /// A turn of [`Backend`], for whatever the tables are made from.
    pub(crate) async fn follow(&mut self, wishes: &impl Wishes, touched: &Touched) -> Result<Turned, Error> {
        let turned = self.tables(wishes, touched).await;
        if turned.is_err() {
            // Whatever broke one table, such as a flush of the ruleset, may have met the other one as well.
            for table in &mut self.tables {
                table.installed = None;
                table.suspect = true;
                table.shape = None;
            }
            self.generation = None;
        }
        turned
    }

    async fn tables(&mut self, intent: &impl Wishes, touched: &Touched) -> Result<Turned, Error> {
        let unknown = self.is_unknown();
        let mut early = self.read_early().await;
        if unknown {
            let generation = self.nft.generation().await?;
            self.suspect_since(generation);
        } else {
            self.look_at_generation().await?;
        }
        let before = self.nft.commits();
        let mut turned = Turned::default();
        let scope = if self.forgive(intent, touched) {
            Scope::All
        } else {
            Scope::Touched(touched)
        };
        for index in 0..self.tables.len() {
            self.family(index, intent, scope, &mut early, &mut turned).await?;
        }
        // Who is gone is refused nothing.
        self.refused.retain(|(_, service), _| intent.has_service(service));
        let refused = self.refused.iter();
        turned.refused = refused
            .map(|((_, service), refused)| (service.clone(), refused.why.clone()))
            .collect();
        turned.done.unbound = self.unbind(intent, touched, unknown).await?;
        let commits = self.nft.commits().wrapping_sub(before);
        self.generation = self.generation.map(|known| later(known, commits));
        self.look_from_outside().await?;
        Ok(turned)
    }

    async fn family(
        &mut self,
        index: usize,
        intent: &impl Wishes,
        mut scope: Scope<'_>,
        early: &mut Vec<Early>,
        turned: &mut Turned,
    ) -> Result<(), Error> {
        let Some(table) = self.tables.get_mut(index) else {
            return Ok(());
        };
        let family = table.layout.family();
        if table.suspect {
            let now = self.started.elapsed();
            match look_up(&self.nft, &table.layout, early, self.generation, now).await {
                Ok(Observed::Ours {
                    layout,
                    installed,
                    networks,
                }) => {
                    tracing::debug!(%family, elements = installed.len(), "table found");
                    turned.stale.merge(StaleFlows::unclaimed(&installed, intent));
                    if !networks {
                        self.nft.replace_networks(&layout).await?;
                        turned.done.networks += 1;
                    }
                    table.layout = layout;
                    table.installed = Some(match &table.installed {
                        Some(earlier) => installed.as_old_as(earlier),
                        None => *installed,
                    });
                    table.suspect = false;
                    table.shape = None;
                    scope = Scope::All;
                }
                Ok(other @ (Observed::Absent | Observed::Foreign { .. })) => {
                    return self.rebuild(index, intent, &other, &mut turned.done).await;
                }
                // Updates must not wait for whoever writes that much.
                Err(error @ Error::Unstable { .. }) if table.installed.is_some() => {
                    tracing::warn!(%family, %error, "going on with what is known of the table");
                    table.suspect = false;
                    table.shape = None;
                    self.foreign = true;
                }
                Err(error) => return Err(error),
            }
        }
        let Some(installed) = table.installed.as_ref() else {
            return Ok(());
        };
        let now = self.started.elapsed();
        let plan = diff(family, installed, intent, scope, now, self.retire_delay);
        let plan = plan.without(&self.left_out(family, intent));
        match self.carry_out(index, &plan).await {
            Ok(changes) => turned.done.changes += changes,
            Err(error) if is_about_elements(&error) => {
                turned.done.changes += self.isolate(index, intent, error).await?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Carries a plan out; yields how many changes it had.
    async fn carry_out(&mut self, index: usize, plan: &Plan) -> Result<usize, Error> {
        let Some(table) = self.tables.get_mut(index) else {
            return Ok(0);
        };
        let family = table.layout.family();
        let larger = table.layout.grown_for(plan);
        table.grow(&self.nft, larger).await?;
        for stage in &plan.stages {
            self.nft.change(family, &stage.changes).await?;
            if let Some(installed) = &mut table.installed {
                installed.apply(stage, self.started.elapsed());
            }
        }
        let larger = table.layout.grown_ahead_of(plan);
        if let Err(error) = table.grow(&self.nft, larger).await {
            // What was asked for is there. Who needs these rules first asks for them again.
            tracing::warn!(%family, %error, "rules ahead of need are not made");
        }
        Ok(plan.stages.iter().map(|stage| stage.changes.len()).sum())
    }

    /// Services that are to be tried again: because it is time, or because something about them is new.
    fn forgive(&mut self, intent: &impl Wishes, touched: &Touched) -> bool {
        let before = self.refused.len();
        let now = self.started.elapsed();
        self.refused.retain(|_, refused| refused.again_at > now);
        let due = self.refused.len() < before;
        for frontend in &touched.frontends {
            if let Some(intent) = intent.get(frontend) {
                let family = frontend.family();
                self.refused.remove(&(family, intent.owner.service.clone()));
            }
        }
        due
    }
}

impl Backend for Nftables {
    /// What differs of the tables' rules has them replaced in the next turn, each in one transaction; other networks
    /// are replaced in place.
    fn reconfigure(&mut self, settings: &Settings) {
        for table in &mut self.tables {
            let layout = table.layout.under(settings);
            if layout != table.layout {
                table.layout = layout;
                table.suspect = true;
            }
        }
    }

    async fn prepare(&mut self) -> Result<(), Error> {
        self.begin_to_read()
    }

    async fn turn(&mut self, intent: &Intent, touched: &Touched) -> Result<Turned, Error> {
        self.follow(intent, touched).await
    }

    async fn glance(&mut self) -> Result<bool, Error> {
        self.look_at_generation().await
    }

    /// Our tables may have been among what somebody else changed of the ruleset.
    async fn audit(&mut self) -> Result<(), Error> {
        self.look_at_generation().await?;
        if self.foreign
            && let Some(generation) = self.generation
        {
            self.suspect_since(generation);
        }
        Ok(())
    }

    fn next_wake(&self) -> Option<Duration> {
        let due = self
            .tables
            .iter()
            .filter_map(|table| table.installed.as_ref()?.next_retirement(self.retire_delay))
            .chain(self.unbind_at)
            .chain(self.refused.values().map(|refused| refused.again_at))
            .min()?;
        Some(due.saturating_sub(self.started.elapsed()))
    }

    fn elements(&self) -> Vec<(IpFamily, usize)> {
        let known = |table: &Table| Some((table.layout.family(), table.installed.as_ref()?.len()));
        self.tables.iter().filter_map(known).collect()
    }

    async fn counters(&self, family: IpFamily) -> Result<Option<Counters>, Error> {
        self.nft.counters(family).await.map(Some)
    }
}

/// The generation after so many transactions. It is never 0 (`nf_tables_commit` in Linux's
/// net/netfilter/nf_tables_api.c).
fn later(generation: u32, commits: u32) -> u32 {
    let (sum, wrapped) = generation.overflowing_add(commits);
    sum + u32::from(wrapped)
}
