// SPDX-License-Identifier: Apache-2.0
//! The `NodeAnnouncement` of this node, written by this process only and only when it changes.

use std::time::Duration;

use berth_announcer_core::membership::Identity;
use berth_announcer_core::wire::heartbeat::Phase;
use berth_crds::{
    AnnouncedAddress, ConditionStatus, NodeAnnouncement, NodeAnnouncementStatus, set_condition,
};
use berth_runtime::backoff::Backoff;
use berth_runtime::client::explain;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Cluster, Report};

/// Who writes, for server-side apply.
const FIELD_MANAGER: &str = "berth-announcer";
/// A burst of take-overs becomes one write.
const GATHER: Duration = Duration::from_millis(100);
/// The last write must not hold up the end of the process.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Writes the reports of one announcer.
pub(crate) struct StatusWriter {
    api: Api<NodeAnnouncement>,
    identity: Identity,
    cluster: watch::Receiver<Option<Cluster>>,
    written: Option<NodeAnnouncementStatus>,
    created: bool,
}

impl StatusWriter {
    pub(crate) fn new(client: Client, identity: Identity, cluster: watch::Receiver<Option<Cluster>>) -> Self {
        Self {
            api: Api::all(client),
            identity,
            cluster,
            written: None,
            created: false,
        }
    }

    /// Writes each report until their sender is gone, the one of the farewell included; not for long after `stop`.
    pub(crate) async fn run(self, reports: watch::Receiver<Option<Report>>, stop: CancellationToken) {
        let too_late = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_WRITE).await;
        };
        tokio::select! {
            () = self.follow(reports) => {}
            () = too_late => tracing::warn!("no time to write the NodeAnnouncement for the last time"),
        }
    }

    async fn follow(mut self, mut reports: watch::Receiver<Option<Report>>) {
        let mut failures = 0;
        loop {
            let next = if failures == 0 {
                reports.changed().await
            } else {
                let pause = Backoff::CONNECT.delay(failures);
                tokio::time::timeout(pause, reports.changed())
                    .await
                    .unwrap_or(Ok(()))
            };
            if next.is_err() {
                break;
            }
            tokio::time::sleep(GATHER).await;
            let report = reports.borrow_and_update().clone();
            failures = match self.write(report).await {
                Ok(()) => 0,
                Err(error) => {
                    let (fault, error) = explain(&error);
                    if failures == 0 {
                        tracing::warn!(%fault, error, "NodeAnnouncement not written; trying again");
                    }
                    failures + 1
                }
            };
        }
        let last = reports
            .borrow()
            .clone()
            .filter(|report| report.phase == Phase::Leaving);
        if let Err(error) = self.write(last).await {
            tracing::warn!(
                error = explain(&error).1,
                "NodeAnnouncement not written for the last time"
            );
        }
    }

    async fn write(&mut self, report: Option<Report>) -> Result<(), kube::Error> {
        // A second announcer of this name must learn of it before it overwrites the status of the first.
        let Some(report) = report.filter(|report| report.phase != Phase::Joining || self.written.is_some())
        else {
            return Ok(());
        };
        let conditions = self.written.as_ref().map(|status| status.conditions.clone());
        let status = status_of(
            &report,
            &self.identity,
            conditions.unwrap_or_default(),
            Timestamp::now(),
        );
        if self.written.as_ref() == Some(&status) {
            return Ok(());
        }
        if !self.created {
            self.create().await?;
        }
        let patch = json!({
            "apiVersion": NodeAnnouncement::api_version(&()),
            "kind": NodeAnnouncement::kind(&()),
            "status": status,
        });
        match self
            .api
            .patch_status(self.name(), &params(), &Patch::Apply(patch))
            .await
        {
            Ok(_) => {
                self.written = Some(status);
                Ok(())
            }
            Err(error) => {
                // Deleted by somebody, or never there: make it anew next time.
                self.created = false;
                Err(error)
            }
        }
    }

    fn name(&self) -> &str {
        self.identity.node.as_str()
    }

    /// Makes the object, owned by the Node, so that it goes with it.
    async fn create(&mut self) -> Result<(), kube::Error> {
        let uid = self
            .cluster
            .borrow()
            .as_ref()
            .and_then(|cluster| cluster.uids.get(&self.identity.node).cloned());
        let owners: Vec<_> = uid
            .filter(|uid| !uid.is_empty())
            .map(|uid| json!({"apiVersion": "v1", "kind": "Node", "name": self.name(), "uid": uid}))
            .into_iter()
            .collect();
        let object = json!({
            "apiVersion": NodeAnnouncement::api_version(&()),
            "kind": NodeAnnouncement::kind(&()),
            "metadata": {"name": self.name(), "ownerReferences": owners},
            "spec": {},
        });
        self.api
            .patch(self.name(), &params(), &Patch::Apply(object))
            .await?;
        self.created = true;
        Ok(())
    }
}

fn params() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

/// Whether this announcer can do its work, and if not, why: status, reason and message of `Ready`.
fn readiness(report: &Report) -> (ConditionStatus, &'static str, &'static str) {
    match report.phase {
        Phase::Joining => (
            ConditionStatus::False,
            "Joining",
            "Listening to the other announcers before owning addresses.",
        ),
        Phase::Leaving => (ConditionStatus::False, "Stopped", "The announcer was stopped."),
        Phase::Established if !report.listed => (
            ConditionStatus::False,
            "NodeNotFound",
            "The cluster has no Node of this name.",
        ),
        Phase::Established if report.interfaces.is_empty() => (
            ConditionStatus::False,
            "NoInterface",
            "No interface can carry announcements: each is down, without carrier, excluded or not selected by --interface.",
        ),
        Phase::Established => (
            ConditionStatus::True,
            "Announcing",
            "The announcer takes part in the election.",
        ),
    }
}

fn status_of(
    report: &Report,
    identity: &Identity,
    mut conditions: Vec<Condition>,
    now: Timestamp,
) -> NodeAnnouncementStatus {
    let (status, reason, message) = readiness(report);
    set_condition(
        &mut conditions,
        "Ready",
        status,
        reason,
        message,
        None,
        &Time(now),
    );
    let announced = report
        .announced
        .iter()
        .map(|(address, interface, since)| AnnouncedAddress {
            address: address.to_string(),
            interface: interface.clone(),
            // Times of the API have whole seconds: what is written must equal what is read.
            since: Time(Timestamp::from_second(since.as_second()).unwrap_or(*since)),
        });
    let farewell = report.phase == Phase::Leaving;
    NodeAnnouncementStatus {
        instance: Some(format!("{:016x}", identity.instance)),
        interfaces: report.interfaces.clone(),
        announced: announced.filter(|_| !farewell).collect(),
        conditions,
    }
}

#[cfg(test)]
mod tests {
    use berth_model::NodeName;

    use super::*;

    fn report() -> Report {
        Report {
            phase: Phase::Established,
            listed: true,
            interfaces: vec!["eth0".to_owned()],
            announced: vec![("10.77.0.200".parse().unwrap(), "eth0".to_owned(), at(7))],
            peers: vec![NodeName::new("node-2")],
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn status(report: &Report, conditions: Vec<Condition>, now: i64) -> NodeAnnouncementStatus {
        let identity = Identity {
            node: NodeName::new("node-1"),
            instance: 0xab,
            incarnation: 1,
        };
        status_of(report, &identity, conditions, at(now))
    }

    #[test]
    fn an_unchanged_report_makes_an_equal_status_at_any_time() {
        let first = status(&report(), vec![], 100);
        let later = status(&report(), first.conditions.clone(), 200);
        assert_eq!(first, later);
        assert_eq!(first.instance.as_deref(), Some("00000000000000ab"));
        assert_eq!(first.announced[0].address, "10.77.0.200");
    }

    #[test]
    fn ready_says_why_not() {
        let rows = [
            (report(), "True", "Announcing"),
            (
                Report {
                    phase: Phase::Joining,
                    ..report()
                },
                "False",
                "Joining",
            ),
            (
                Report {
                    phase: Phase::Leaving,
                    ..report()
                },
                "False",
                "Stopped",
            ),
            (
                Report {
                    listed: false,
                    ..report()
                },
                "False",
                "NodeNotFound",
            ),
            (
                Report {
                    interfaces: vec![],
                    ..report()
                },
                "False",
                "NoInterface",
            ),
        ];
        for (report, value, reason) in rows {
            let status = status(&report, vec![], 1);
            let ready = &status.conditions[0];
            assert_eq!((ready.status.as_str(), ready.reason.as_str()), (value, reason));
            assert_eq!(status.announced.is_empty(), report.phase == Phase::Leaving);
        }
    }
}
