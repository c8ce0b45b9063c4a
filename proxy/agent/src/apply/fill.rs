// SPDX-License-Identifier: Apache-2.0
//! Changes in a table that no packet is led to yet: the kernel takes them in beside whoever plans the next ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nlink::netlink::nftables::Transaction;
use nlink::netlink::{Connection, Nftables};
use tokio::task::JoinHandle;

use crate::Error;

/// Transactions on their way to the kernel, one after the other. Whoever drops it does not know how they end.
#[must_use]
#[derive(Debug)]
pub struct Filling(JoinHandle<Result<(), Error>>);

impl Filling {
    /// Sets out.
    pub(super) fn start(
        connection: Arc<Connection<Nftables>>,
        commits: Arc<AtomicU32>,
        transactions: Vec<Transaction>,
    ) -> Self {
        Self(tokio::spawn(async move {
            for transaction in transactions {
                let committed = transaction.commit(&connection).await;
                committed.map_err(Error::kernel("fill the table"))?;
                commits.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }))
    }

    /// Waits until the kernel has taken all of them.
    ///
    /// # Errors
    /// The kernel refused; transactions before the refused one hold.
    pub async fn done(self) -> Result<(), Error> {
        match self.0.await {
            Ok(outcome) => outcome,
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            // Nobody aborts it but the runtime, at its end.
            Err(_) => std::future::pending().await,
        }
    }
}
