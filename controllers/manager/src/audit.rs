// SPDX-License-Identifier: Apache-2.0
//! Looks at every value in use when the book has changed, on the replica that leads, and says what is not as it should be.
//!
//! In: the book. Out: events on Services, counts. Touches: nothing. `berth_controllers_core::audit` decides what is told.

use std::time::Duration;

use berth_controllers_core::audit::{Audit, Reason};
use berth_controllers_core::values::{Finding, Values};
use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::ObjectReference;
use prometheus_client::encoding::EncodeLabelSet;
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

/// Clones count into the same place.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditMetrics {
    findings: Family<ReasonLabel, Gauge>,
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
        this
    }

    fn show(&self, audit: &Audit) {
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
    audit: Audit,
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
        for finding in self.audit.look(findings, self.started.elapsed()) {
            let (reason, service) = (Reason::of(&finding).as_str(), finding.service());
            tracing::warn!(%service, value = %finding.item(), reason, "{finding}");
            events.note(Note {
                reporter: Reporter::Audit,
                about: ObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Service".to_owned()),
                    namespace: Some(service.namespace().to_owned()),
                    name: Some(service.name().to_owned()),
                    ..ObjectReference::default()
                },
                warning: true,
                reason,
                text: finding.to_string(),
            });
        }
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
