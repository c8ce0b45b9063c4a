// SPDX-License-Identifier: Apache-2.0
//! Looks at every value in use when the book has changed, and at the API server's IPAddresses now and then, on the replica that
//! leads, and says what is not as it should be.
//!
//! In: the book, IPAddresses. Out: events on Services and IPAddresses, counts. Touches: the API server. `berth_controllers_core::audit` decides what is told.

mod addresses;

use std::time::Duration;

pub(crate) use addresses::AddressAuditor;
use berth_controllers_core::audit::{Audit, Found};
use berth_controllers_core::values::{Finding, Subject, Values};
use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::ObjectReference;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::events::{Events, Note, Reporter};
use crate::handout::Handout;

/// After a change, so that a burst of them is looked at once.
const PAUSE: Duration = Duration::from_secs(1);
/// Services that are looked at in one go: the replica hands out nothing meanwhile.
const PART: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// Clones count into the same place.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditMetrics {
    findings: Family<ReasonLabel, Gauge>,
    looks: Family<ResultLabel, Counter>,
}

impl AuditMetrics {
    /// Registers all of it.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register(
            "berth_allocation_findings",
            "Cluster IPs and node ports in use that are not as they should be, by why; of the replica that leads",
            this.findings.clone(),
        );
        registry.register(
            "berth_address_audits",
            "Comparisons of the API server's IPAddresses with Services, by how they ended",
            this.looks.clone(),
        );
        this
    }

    fn show<F: Found>(&self, audit: &Audit<F>) {
        for (reason, count) in audit.counts() {
            let reason = reason.as_str();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.findings.get_or_create(&ReasonLabel { reason }).set(count);
        }
    }
}

/// Looks and says.
pub(crate) struct Auditor {
    handout: Handout<Values>,
    changes: watch::Receiver<u64>,
    metrics: AuditMetrics,
    audit: Audit<Finding>,
    started: Instant,
}

impl Auditor {
    /// Of this book, whose changes are counted.
    pub(crate) fn new(
        handout: Handout<Values>,
        changes: watch::Receiver<u64>,
        metrics: AuditMetrics,
    ) -> Self {
        Self {
            handout,
            changes,
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
                tokio::time::sleep(PAUSE).await;
                // What changes from here on is looked at again.
                self.changes.borrow_and_update();
                let findings = self.findings().await;
                self.say(findings, &events);
                self.wait().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn findings(&self) -> Vec<Finding> {
        let (mut all, mut last) = (Vec::new(), None::<ServiceKey>);
        loop {
            let behind = last.take();
            let part = self
                .handout
                .look(move |replica, _| replica.book().findings_after(behind.as_ref(), PART));
            let Some((findings, next)) = part.await else {
                return all;
            };
            all.extend(findings);
            if next.is_none() {
                return all;
            }
            last = next;
        }
    }

    fn say(&mut self, findings: Vec<Finding>, events: &Events) {
        let news = self.audit.look(findings, self.started.elapsed());
        say(news, events);
        self.metrics.show(&self.audit);
    }

    /// Until the book changes, or something is due that was found before.
    async fn wait(&mut self) {
        let due = self.audit.due().map(|due| self.started + due);
        let late = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = late => {}
            changed = self.changes.changed() => if changed.is_err() { std::future::pending().await },
        }
    }
}

/// Tells whoever owns what the findings are about.
fn say<F: Found>(news: Vec<F>, events: &Events) {
    for finding in news {
        let (reason, subject) = (finding.reason().as_str(), finding.subject());
        tracing::warn!(about = %subject, reason, "{finding}");
        events.note(Note {
            reporter: Reporter::Audit,
            about: reference(&subject),
            warning: true,
            reason,
            text: finding.to_string(),
        });
    }
}

fn reference(subject: &Subject) -> ObjectReference {
    match subject {
        Subject::Service(key) => ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(key.namespace().to_owned()),
            name: Some(key.name().to_owned()),
            ..ObjectReference::default()
        },
        Subject::IpAddress(address) => ObjectReference {
            api_version: Some("networking.k8s.io/v1".to_owned()),
            kind: Some("IPAddress".to_owned()),
            name: Some(address.to_string()),
            ..ObjectReference::default()
        },
    }
}
