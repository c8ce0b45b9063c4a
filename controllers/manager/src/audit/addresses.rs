// SPDX-License-Identifier: Apache-2.0
//! Compares the API server's IPAddresses with the Services of the book, every few minutes while there is a pool.
//!
//! In: the book, IPAddresses page by page. Out: events, counts. Touches: the API server.
//! `berth_controllers_core::audit::addresses` says what is wrong.
//!
//! They are listed and not watched: there are as many as cluster IPs, and only what is wrong with one is kept.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use berth_controllers_core::audit::Audit;
use berth_controllers_core::audit::addresses::{Finding, Listed, Look};
use berth_controllers_core::values::{ALLOCATOR, MANAGED_BY, Values};
use berth_runtime::backoff::jitter;
use berth_runtime::client::explain;
use k8s_openapi::api::networking::v1::IPAddress;
use kube::Client;
use kube::api::{Api, ListParams};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{AuditMetrics, ResultLabel, say};
use crate::events::Events;
use crate::handout::Handout;

/// IPAddresses in one answer: some 300 KiB.
const PAGE: u32 = 500;
/// Addresses that are read off the book in one go: the replica hands out nothing meanwhile.
const PART: usize = 1_000;
/// Between two comparisons, whatever the flag says.
const AT_LEAST: Duration = Duration::from_secs(1);

/// Compares and says.
pub(crate) struct AddressAuditor {
    api: Api<IPAddress>,
    handout: Handout<Values>,
    /// None until everything was listed.
    has_pools: watch::Receiver<Option<bool>>,
    period: Duration,
    metrics: AuditMetrics,
    audit: Audit<Finding>,
    started: Instant,
}

impl AddressAuditor {
    /// Of this book, once it is known whether there are pools.
    pub(crate) fn new(
        client: Client,
        handout: Handout<Values>,
        has_pools: watch::Receiver<Option<bool>>,
        period: Duration,
        metrics: AuditMetrics,
    ) -> Self {
        Self {
            api: Api::all(client),
            handout,
            has_pools,
            period: period.max(AT_LEAST),
            metrics,
            audit: Audit::default(),
            started: Instant::now(),
        }
    }

    /// Goes on from when `leads` ends until `stop` is cancelled.
    pub(crate) async fn run(
        mut self,
        events: Events,
        leads: impl Future<Output = ()>,
        stop: CancellationToken,
    ) {
        let work = async {
            leads.await;
            loop {
                if *self.has_pools.borrow_and_update() == Some(true) {
                    self.round(&events).await;
                    tokio::time::sleep(jitter(self.period, fastrand::u32(..))).await;
                } else {
                    // Nobody asks, and nothing is said.
                    self.say(Vec::new(), &events);
                    if self.has_pools.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn round(&mut self, events: &Events) {
        let result = match self.compare().await {
            Ok(Some(findings)) => {
                self.say(findings, events);
                "complete"
            }
            // The replica has ended, and the process with it.
            Ok(None) => return,
            Err(error) => {
                let (fault, error) = explain(&error);
                tracing::warn!(%fault, error, "IPAddresses can't be listed, and are compared with Services later");
                "failed"
            }
        };
        self.metrics.looks.get_or_create(&ResultLabel { result }).inc();
    }

    fn say(&mut self, findings: Vec<Finding>, events: &Events) {
        let news = self.audit.look(findings, self.started.elapsed());
        say(news, events);
        self.metrics.show(&self.audit);
    }

    async fn compare(&self) -> Result<Option<Vec<Finding>>, kube::Error> {
        let Some(used) = self.used().await else {
            return Ok(None);
        };
        let mut look = Look::new(used);
        let selector = format!("{MANAGED_BY}={ALLOCATOR}");
        let first = ListParams::default().labels(&selector).limit(PAGE);
        let mut params = first.clone();
        loop {
            let list = self.api.list(&params).await?;
            let next = list.metadata.continue_.filter(|token| !token.is_empty());
            let page: Vec<Listed> = list.items.iter().filter_map(Listed::of).collect();
            let taken = self.handout.look(move |replica, _| {
                look.page(&page, replica.book(), now());
                look
            });
            let Some(taken) = taken.await else {
                return Ok(None);
            };
            look = taken;
            match next {
                Some(token) => params = first.clone().continue_token(&token),
                None => break,
            }
        }
        let ended = self
            .handout
            .look(move |replica, _| look.end(replica.book(), now()));
        Ok(ended.await)
    }

    /// The addresses that Services have.
    async fn used(&self) -> Option<BTreeSet<IpAddr>> {
        let (mut all, mut last) = (BTreeSet::new(), None);
        loop {
            let part = self
                .handout
                .look(move |replica, _| replica.book().used_after(last, PART));
            let (part, next) = part.await?;
            all.extend(part);
            last = next;
            if last.is_none() {
                return Some(all);
            }
        }
    }
}

/// In seconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
