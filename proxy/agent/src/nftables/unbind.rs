// SPDX-License-Identifier: Apache-2.0
//! Frees clients of endpoints that session affinity bound them to and that have left.

use berth_model::IpFamily;
use berth_proxy_core::Touched;
use berth_proxy_core::nft::Wishes;
use berth_proxy_core::nft::bindings::stale;

use super::Nftables;
use crate::Error;
use crate::apply::nft::Nft;

/// How often bindings are listed again because one of them expired between that and its removal.
const UNBIND_ATTEMPTS: u32 = 5;

impl Nftables {
    /// Removes bindings to endpoints that have left: as soon as no new client is bound to them, and once more after the
    /// retire delay, since a packet that was on its way through the rules may have bound its client meanwhile. At
    /// `start` nobody knows what happened before.
    pub(super) async fn unbind(
        &mut self,
        intent: &impl Wishes,
        touched: &Touched,
        start: bool,
    ) -> Result<usize, Error> {
        if self
            .tables
            .iter()
            .all(|table| table.layout.number_maps().next().is_none())
        {
            return Ok(0);
        }
        let now = self.started.elapsed();
        let left = start || !touched.left.is_empty();
        let due = self.unbind_at.is_some_and(|at| at <= now);
        if !left && !due {
            return Ok(0);
        }
        let mut unbound = 0;
        for family in IpFamily::ALL {
            unbound += unbind_family(&self.nft, family, intent).await?;
        }
        // Only what a packet could still be on its way to.
        self.unbind_at = left.then(|| now + self.retire_delay);
        Ok(unbound)
    }
}

async fn unbind_family(nft: &Nft, family: IpFamily, intent: &impl Wishes) -> Result<usize, Error> {
    let mut attempt = 1;
    loop {
        let gone = stale(nft.bindings(family).await?, intent);
        if gone.is_empty() {
            return Ok(0);
        }
        match nft.unbind(family, &gone).await {
            Ok(()) => {
                tracing::debug!(%family, bindings = gone.len(), "clients are free of endpoints that left");
                return Ok(gone.len());
            }
            // One of them has expired since it was listed.
            Err(error) if attempt == UNBIND_ATTEMPTS => return Err(error),
            Err(_) => attempt += 1,
        }
    }
}
