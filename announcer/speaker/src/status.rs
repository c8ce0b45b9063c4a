// SPDX-License-Identifier: Apache-2.0
//! The `NodeAnnouncement` of this node, written by this process only: when it changes, and from time to time in
//! case it was deleted.

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
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{Cluster, Report};

/// Who writes, for server-side apply.
const FIELD_MANAGER: &str = "berth-announcer";
/// A burst of take-overs becomes one write.
const GATHER: Duration = Duration::from_millis(100);
/// An object that somebody has deleted is back after this time; the same writes again change nothing in the API.
const REAPPLY: Duration = Duration::from_secs(300);
/// The last write must not hold up the end of the process.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Writes the reports of one announcer.
pub(crate) struct StatusWriter {
    api: Api<NodeAnnouncement>,
    identity: Identity,
    cluster: watch::Receiver<Option<Cluster>>,
    written: Option<NodeAnnouncementStatus>,
    created: bool,
    /// The Node that owns what was created.
    owner: Option<String>,
}

impl StatusWriter {
    pub(crate) fn new(client: Client, identity: Identity, cluster: watch::Receiver<Option<Cluster>>) -> Self {
        Self {
            api: Api::all(client),
            identity,
            cluster,
            written: None,
            created: false,
            owner: None,
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
        let mut retry = Instant::now();
        let mut reapply = tokio::time::interval_at(Instant::now() + REAPPLY, REAPPLY);
        loop {
            tokio::select! {
                next = reports.changed() => if next.is_err() { break },
                () = tokio::time::sleep_until(retry), if failures > 0 => {}
                Ok(()) = self.cluster.changed() => {
                    if !self.has_new_node() {
                        continue;
                    }
                }
                _ = reapply.tick() => self.created = false,
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
                    retry = Instant::now() + Backoff::CONNECT.delay(failures + 1);
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
        if self.has_new_node() {
            // What belonged to the Node's predecessor goes with that, now or later.
            self.written = None;
            self.created = false;
        }
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
        if self.created && self.written.as_ref() == Some(&status) {
            return Ok(());
        }
        if !self.created {
            let uid = self.uid();
            if uid.is_none() && self.owner.is_some() {
                // Its Node is gone, and it with the Node: made anew it would belong to nobody and stay.
                return Ok(());
            }
            self.create(uid).await?;
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

    /// The UID of the Node, if the cluster has it.
    fn uid(&self) -> Option<String> {
        let cluster = self.cluster.borrow();
        let uid = cluster.as_ref()?.uids.get(&self.identity.node)?;
        Some(uid.clone()).filter(|uid| !uid.is_empty())
    }

    /// Whether what was created belongs to a Node of the past, or to none while there is one.
    fn has_new_node(&self) -> bool {
        let uid = self.uid();
        uid.is_some() && uid != self.owner
    }

    /// Makes the object, owned by the Node, so that it goes with it.
    async fn create(&mut self, uid: Option<String>) -> Result<(), kube::Error> {
        let owners: Vec<_> = uid
            .as_ref()
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
        self.owner = uid;
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
    use http::{Request, Response};
    use kube::client::Body;
    use tokio::sync::mpsc;

    use super::*;

    /// An API server that says yes to everything, and what is asked of it: the subresource, or the owner's UID.
    fn api_server() -> (Client, mpsc::UnboundedReceiver<String>) {
        let (sender, calls) = mpsc::unbounded_channel();
        let service = tower::service_fn(move |request: Request<Body>| {
            let sender = sender.clone();
            async move {
                let status = request.uri().path().ends_with("/status");
                let body = request.into_body().collect_bytes().await?;
                let sent: serde_json::Value = serde_json::from_slice(&body)?;
                let owner = sent["metadata"]["ownerReferences"][0]["uid"].as_str();
                let call = if status {
                    "status"
                } else {
                    owner.unwrap_or("nobody")
                };
                sender.send(call.to_owned())?;
                let stored = json!({"metadata": {"name": "node-1"}, "spec": {}});
                Ok::<_, tower::BoxError>(Response::new(Body::from(stored.to_string().into_bytes())))
            }
        });
        (Client::new(service, "default"), calls)
    }

    fn node_with_uid(uid: &str) -> Option<Cluster> {
        Some(Cluster {
            uids: [(NodeName::new("node-1"), uid.to_owned())].into(),
            ..Cluster::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_comes_back_after_a_deletion_and_for_a_new_node_but_not_without_one() {
        let (client, mut calls) = api_server();
        let (cluster, observed) = watch::channel(node_with_uid("first"));
        let (reports, reported) = watch::channel(None);
        let writer = StatusWriter::new(client, identity(), observed);
        tokio::spawn(writer.run(reported, CancellationToken::new()));
        let mut expect = async |owner: &str| {
            assert_eq!(calls.recv().await.as_deref(), Some(owner));
            assert_eq!(calls.recv().await.as_deref(), Some("status"));
            Instant::now()
        };
        reports.send_replace(Some(report()));
        let first = expect("first").await;
        let again = expect("first").await;
        assert!(again - first > REAPPLY / 2, "not without need");
        cluster.send_replace(node_with_uid("second"));
        let new = expect("second").await;
        assert!(new - again < REAPPLY / 2, "at once");
        cluster.send_replace(Some(Cluster::default()));
        let silence = tokio::time::timeout(REAPPLY * 3, calls.recv()).await;
        assert!(silence.is_err(), "{silence:?}");
    }

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

    fn identity() -> Identity {
        Identity {
            node: NodeName::new("node-1"),
            instance: 0xab,
            incarnation: 1,
        }
    }

    fn status(report: &Report, conditions: Vec<Condition>, now: i64) -> NodeAnnouncementStatus {
        status_of(report, &identity(), conditions, at(now))
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
