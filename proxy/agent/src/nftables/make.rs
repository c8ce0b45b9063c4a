// SPDX-License-Identifier: Apache-2.0
//! Tables that are not there, or not ours, are made anew.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_proxy_core::Frontend;
use berth_proxy_core::nft::{Change, Installed, Layout, Plan, Scope, Wishes, diff, least_elements, pieces};

use super::Nftables;
use super::isolate::is_about_elements;
use crate::Error;
use crate::apply::{Filling, Observed};
use crate::backend::Done;

impl Nftables {
    /// Makes the table anew.
    pub(super) async fn rebuild(
        &mut self,
        index: usize,
        intent: &impl Wishes,
        observed: &Observed,
        done: &mut Done,
    ) -> Result<(), Error> {
        let Some(family) = self.tables.get(index).map(|table| table.layout.family()) else {
            return Ok(());
        };
        let left_out = self.left_out(family, intent);
        if let Observed::Foreign { why } = observed {
            tracing::warn!(%family, %why, "the table is not of this layout and is replaced");
        }
        let present = *observed != Observed::Absent;
        let written = if !present && least_elements(family, intent) > self.nft.fill_size() {
            self.fill(index, intent, &left_out).await
        } else {
            self.replace(index, intent, present, &left_out).await
        };
        let Some(table) = self.tables.get_mut(index) else {
            return Ok(());
        };
        table.suspect = false;
        table.shape = None;
        done.rebuilt += 1;
        match written {
            Ok(installed) => {
                tracing::info!(%family, elements = installed.len(), "table written");
                done.changes += installed.len();
                table.installed = Some(installed);
            }
            Err(error) if is_about_elements(&error) => {
                let present = self.nft.has_table(family).await?;
                self.nft.rebuild(&table.layout, present, &[]).await?;
                table.installed = Some(Installed::default());
                done.changes += self.isolate(index, intent, error).await?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Makes a table as a whole; yields what it holds.
    async fn replace(
        &mut self,
        index: usize,
        intent: &impl Wishes,
        present: bool,
        left_out: &BTreeSet<Frontend>,
    ) -> Result<Installed, Error> {
        let mut installed = Installed::default();
        let Some(table) = self.tables.get_mut(index) else {
            return Ok(installed);
        };
        let plan = from_nothing(&table.layout, &installed, intent, Scope::All).without(left_out);
        table.layout = table.layout.grown_for(&plan);
        let changes: Vec<Change> = plan.changes().copied().collect();
        self.nft.rebuild(&table.layout, present, &changes).await?;
        for stage in &plan.stages {
            installed.apply(stage, Duration::ZERO);
        }
        Ok(installed)
    }

    /// Makes a table that is not there and too large for one transaction, without ever having all of its plan; yields
    /// what it holds. A piece is a transaction: it leaves some room for what no element accounts for.
    async fn fill(
        &mut self,
        index: usize,
        intent: &impl Wishes,
        left_out: &BTreeSet<Frontend>,
    ) -> Result<Installed, Error> {
        let mut installed = Installed::default();
        let Some(table) = self.tables.get_mut(index) else {
            return Ok(installed);
        };
        table.layout = table.layout.grown_to_serve(intent);
        let family = table.layout.family();
        self.nft.begin(&table.layout).await?;
        let size = self.nft.fill_size() * 7 / 8;
        let mut under_way: Option<Filling> = None;
        for piece in pieces(family, intent, size) {
            let plan = from_nothing(&table.layout, &installed, intent, Scope::Touched(&piece));
            let plan = plan.without(left_out);
            let changes: Vec<Change> = plan.changes().copied().collect();
            let next = self.nft.transactions(family, &changes);
            if let Some(filling) = under_way.take() {
                filling.done().await?;
            }
            under_way = Some(self.nft.fill(next?));
            // Should the kernel refuse it, nothing of all this is kept.
            for stage in &plan.stages {
                installed.apply(stage, Duration::ZERO);
            }
        }
        if let Some(filling) = under_way {
            filling.done().await?;
        }
        self.nft.hook_in(&table.layout).await?;
        Ok(installed)
    }
}

/// The plan for a table that no packet has ever seen: nothing waits for anything.
fn from_nothing(layout: &Layout, installed: &Installed, intent: &impl Wishes, scope: Scope<'_>) -> Plan {
    diff(
        layout.family(),
        installed,
        intent,
        scope,
        Duration::ZERO,
        Duration::ZERO,
    )
}
