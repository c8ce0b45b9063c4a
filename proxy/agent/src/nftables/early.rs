// SPDX-License-Identifier: Apache-2.0
//! Reading the tables beside the lists that are still coming from the API server: after a restart that is a good part of
//! what the first turn would have to wait for.

use std::time::Duration;

use berth_proxy_core::nft::Layout;
use tokio::task::JoinHandle;

use super::Nftables;
use crate::Error;
use crate::apply::Observed;
use crate::apply::nft::Nft;

/// What is being read, a table behind the other.
pub(super) type Reading = JoinHandle<Result<Vec<Early>, Error>>;

/// What was read of a table before anybody wanted anything of it.
#[derive(Debug)]
pub(super) struct Early {
    /// The ruleset's generation before it was read.
    generation: u32,
    /// The layout that was looked for.
    layout: Layout,
    observed: Observed,
}

async fn read(nft: Nft, layouts: Vec<Layout>, now: Duration) -> Result<Vec<Early>, Error> {
    let mut all = Vec::new();
    for layout in layouts {
        let generation = nft.generation().await?;
        let observed = nft.observe(&layout, now).await?;
        all.push(Early {
            generation,
            layout,
            observed,
        });
    }
    Ok(all)
}

impl Nftables {
    /// Whether the tables are still being read ahead of the first turn.
    pub fn is_reading(&self) -> bool {
        self.reading
            .as_ref()
            .is_some_and(|reading| !reading.is_finished())
    }

    /// Begins to read the tables, with a socket of its own, and does not wait.
    pub(super) fn begin_to_read(&mut self) -> Result<(), Error> {
        let layouts = self.tables.iter().map(|table| table.layout.clone()).collect();
        let reading = read(self.nft.another()?, layouts, self.started.elapsed());
        self.reading = Some(tokio::spawn(reading));
        Ok(())
    }

    /// What was read early, if anything.
    pub(super) async fn read_early(&mut self) -> Vec<Early> {
        let Some(reading) = self.reading.take() else {
            return Vec::new();
        };
        match reading.await {
            Ok(Ok(early)) => early,
            Ok(Err(error)) => {
                tracing::debug!(%error, "not read ahead of time");
                Vec::new()
            }
            Err(error) => {
                tracing::debug!(%error, "not read ahead of time");
                Vec::new()
            }
        }
    }
}

/// What the kernel holds of a table: what was read early, if nobody has written anything since and the same is wanted.
pub(super) async fn look_up(
    nft: &Nft,
    layout: &Layout,
    early: &mut Vec<Early>,
    generation: Option<u32>,
    now: Duration,
) -> Result<Observed, Error> {
    let fits = |early: &Early| Some(early.generation) == generation && early.layout == *layout;
    match early.iter().position(fits) {
        Some(place) => Ok(early.swap_remove(place).observed),
        None => nft.observe(layout, now).await,
    }
}
