// SPDX-License-Identifier: Apache-2.0
//! The Lease that says who hands out values, and who may follow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_controllers_core::holder::{LEASE_DURATION, Record, ReplicaId, WriteFault};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::core::response::reason;

/// Where other replicas find the holder.
const ADDRESS: &str = "berth.dev/address";
/// Who has every hold that anybody was told of, separated by blanks.
const IN_SYNC: &str = "berth.dev/in-sync";
/// How long a request may take before its outcome counts as unknown.
const PATIENCE: Duration = Duration::from_secs(2);

/// One Lease.
#[derive(Clone)]
pub struct LeaseStore {
    api: Api<Lease>,
    namespace: String,
    name: String,
}

impl LeaseStore {
    /// The Lease of this name.
    pub fn new(client: kube::Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// What replicas of one cluster have in common and those of others have not: said when they meet.
    pub(super) fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// What it says; `Some(None)` where it is not there, and nothing where it could not be read.
    pub(super) async fn read(&self) -> Option<Option<Record>> {
        let read = tokio::time::timeout(PATIENCE, self.api.get_opt(&self.name)).await;
        match read {
            Ok(Ok(lease)) => Some(lease.map(record)),
            Ok(Err(error)) => {
                tracing::warn!(lease = self.title(), %error, "cannot be read");
                None
            }
            Err(_) => {
                tracing::warn!(
                    lease = self.title(),
                    "cannot be read: no answer within {PATIENCE:?}"
                );
                None
            }
        }
    }

    /// Writes it, if it is still of the version that the record was read in.
    pub(super) async fn write(&self, record: Record) -> Result<Record, WriteFault> {
        let lease = self.lease(&record);
        let params = PostParams::default();
        let write = async {
            if record.version.is_empty() {
                self.api.create(&params, &lease).await
            } else {
                self.api.replace(&self.name, &params, &lease).await
            }
        };
        let error = match tokio::time::timeout(PATIENCE, write).await {
            Ok(Ok(written)) => return Ok(self::record(written)),
            Ok(Err(kube::Error::Api(status))) => {
                let lost = [reason::CONFLICT, reason::ALREADY_EXISTS, reason::NOT_FOUND];
                if lost.contains(&status.reason.as_str()) {
                    return Err(WriteFault::Conflict);
                }
                status.message
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        tracing::warn!(lease = self.title(), error, "may not have been written");
        Err(WriteFault::Unknown)
    }

    fn lease(&self, record: &Record) -> Lease {
        let in_sync: Vec<&str> = record.in_sync.iter().map(|id| &*id.0).collect();
        let annotations = BTreeMap::from([
            (ADDRESS.to_owned(), record.address.clone()),
            (IN_SYNC.to_owned(), in_sync.join(" ")),
        ]);
        let now = MicroTime(Timestamp::now());
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                annotations: Some(annotations),
                resource_version: Some(record.version.clone()).filter(|version| !version.is_empty()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: record.holder.as_ref().map(ToString::to_string),
                lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
                lease_transitions: Some(i32::try_from(record.term).unwrap_or(i32::MAX)),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// Whatever somebody made of it by hand: a Lease without our annotations names nobody as in sync.
fn record(lease: Lease) -> Record {
    let spec = lease.spec.unwrap_or_default();
    let annotations = lease.metadata.annotations.unwrap_or_default();
    let id = |text: &str| ReplicaId(Arc::from(text));
    let in_sync = annotations.get(IN_SYNC).map(String::as_str).unwrap_or_default();
    Record {
        holder: spec
            .holder_identity
            .as_deref()
            .filter(|name| !name.is_empty())
            .map(id),
        address: annotations.get(ADDRESS).cloned().unwrap_or_default(),
        term: spec
            .lease_transitions
            .and_then(|term| u64::try_from(term).ok())
            .unwrap_or_default(),
        in_sync: in_sync.split_whitespace().map(id).collect(),
        version: lease.metadata.resource_version.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> LeaseStore {
        let config = kube::Config::new(http::Uri::from_static("http://127.0.0.1:1"));
        LeaseStore::new(
            kube::Client::try_from(config).unwrap(),
            "berth-system",
            "berth-values",
        )
    }

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let id = |name: &str| ReplicaId(Arc::from(name));
        for holder in [None, Some(id("a.1"))] {
            let written = Record {
                holder,
                address: "[2001:db8::1]:9444".to_owned(),
                term: 7,
                in_sync: [id("a.1"), id("b.2")].into(),
                version: "40".to_owned(),
            };
            assert_eq!(record(store().lease(&written)), written);
        }
    }

    #[test]
    fn a_lease_that_somebody_emptied_names_nobody() {
        let record = record(Lease::default());
        assert_eq!((record.holder, record.in_sync.len(), record.term), (None, 0, 0));
    }
}
