// SPDX-License-Identifier: Apache-2.0
//! Whether somebody else changed our tables, at a cost that does not depend on what is in them.
//!
//! The ruleset's generation tells that somebody wrote, not what: a kube-proxy beside us writes with every change of a
//! Service. So after a foreign transaction the tables are looked at from outside (whether they are the same objects, with
//! as many rules in the same chains) and a few elements are looked up, others each time. What that does not see (a rule
//! replaced by another one, an element that is not among those) is found when the tables are read as a whole, which
//! [`Backend::audit`](crate::backend::Backend::audit) has done after any foreign transaction.

use super::Nftables;
use crate::Error;

/// Of how many lists of a table some elements are looked up after a foreign transaction.
const LISTS: usize = 4;

impl Nftables {
    /// Whether a table is not known.
    pub(super) fn is_unknown(&self) -> bool {
        self.tables.iter().any(|table| table.installed.is_none())
    }

    /// Whether the next turn has something to look up that it knew.
    pub(crate) async fn look_at_generation(&mut self) -> Result<bool, Error> {
        if self.is_unknown() {
            return Ok(false);
        }
        let generation = self.nft.generation().await?;
        if self.generation != Some(generation) {
            self.generation = Some(generation);
            self.foreign = true;
            self.look_closer().await?;
        }
        Ok(self.tables.iter().any(|table| table.suspect))
    }

    async fn look_closer(&mut self) -> Result<(), Error> {
        for table in self.tables.iter_mut().filter(|table| !table.suspect) {
            let Some(installed) = &table.installed else {
                continue;
            };
            let family = table.layout.family();
            let (elements, next) = installed.sample(table.sampled, LISTS);
            table.sampled = next;
            let same = table.shape == Some(self.nft.shape(&table.layout).await?);
            if !same || !self.nft.has(family, &elements).await? {
                tracing::info!(%family, "somebody else changed the table");
                table.suspect = true;
            }
        }
        Ok(())
    }

    /// Notes what the tables look like after a turn, where rules changed.
    pub(super) async fn look_from_outside(&mut self) -> Result<(), Error> {
        for table in self.tables.iter_mut().filter(|table| table.shape.is_none()) {
            let shape = self.nft.shape(&table.layout).await?;
            // Gone already.
            table.suspect |= !shape.is_whole();
            table.shape = Some(shape);
        }
        Ok(())
    }
}
