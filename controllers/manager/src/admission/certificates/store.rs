// SPDX-License-Identifier: Apache-2.0
//! The Secret, read and written by compare-and-swap.

use std::time::Duration;

use berth_controllers_core::certificates::{Change, Plan, Rules, plan};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error};

use super::document::{Document, Held};
use super::{AdmissionMetrics, CertificateError, SECRET};

const FIELD_MANAGER: &str = "berth-controllers";
/// Two replicas that start at once need two rounds; only somebody who writes all the time makes more.
const ROUNDS: u32 = 10;

/// The Secret with the authorities.
pub(crate) struct Store {
    api: Api<Secret>,
    namespace: String,
    rules: Rules,
    metrics: AdmissionMetrics,
}

impl Store {
    pub(crate) fn new(client: Client, namespace: &str, rules: Rules, metrics: AdmissionMetrics) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            rules,
            metrics,
        }
    }

    /// Brings the Secret to where it should be; says what it holds then, and when something will be due.
    pub(crate) async fn settle(
        &self,
        remembered: &Document,
        now: impl Fn() -> Duration,
    ) -> Result<(Document, Option<Duration>), CertificateError> {
        for _ in 0..ROUNDS {
            let found = self.api.get_opt(SECRET).await;
            let found = found.map_err(|error| self.failed("read", error))?;
            let read = found.as_ref().map(|secret| {
                let data = secret.data.clone().unwrap_or_default();
                Document::read(&data, &self.rules)
            });
            let (document, stored) = read.map_or_else(
                || (Document::default(), None),
                |(document, stored)| (document, Some(stored)),
            );
            let plan = plan(stored.as_ref(), &remembered.row(), now(), &self.rules);
            if plan.is_empty() {
                return Ok((document, plan.again));
            }
            for (entry, fault) in stored.iter().flat_map(|stored| &stored.faults) {
                tracing::warn!(secret = SECRET, entry, %fault, "an entry of the Secret is put right");
            }
            let document = carry_out(&plan, document, remembered)?;
            if self.write(found, &document).await? {
                self.note(&plan);
                return Ok((document, Some(now())));
            }
        }
        Err(CertificateError::Contended {
            namespace: self.namespace.clone(),
            name: SECRET.to_owned(),
        })
    }

    /// Whether it was written: not, if it is no longer what was read.
    async fn write(&self, found: Option<Secret>, document: &Document) -> Result<bool, CertificateError> {
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let is_new = found.is_none();
        let mut secret = found.unwrap_or_else(|| Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            ..Secret::default()
        });
        document.write(secret.data.get_or_insert_default());
        let (action, written) = if is_new {
            ("created", self.api.create(&params, &secret).await)
        } else {
            ("updated", self.api.replace(SECRET, &params, &secret).await)
        };
        match written {
            Ok(_) => Ok(true),
            // Somebody was faster.
            Err(Error::Api(status)) if status.code == 409 => Ok(false),
            // Somebody deleted it. A create that finds nothing misses its namespace.
            Err(Error::Api(status)) if status.code == 404 && !is_new => Ok(false),
            Err(error) => Err(self.failed(action, error)),
        }
    }

    fn note(&self, plan: &Plan) {
        for change in plan.changes.iter().copied() {
            let why = change.as_str();
            match change {
                Change::Created | Change::Restored | Change::Repaired => {
                    tracing::warn!(secret = SECRET, change = why, "certificate authority");
                }
                Change::RotationBegun | Change::OldDropped | Change::ExpiredDropped => {
                    tracing::info!(secret = SECRET, change = why, "certificate authority");
                }
            }
            self.metrics.authority_changed(why);
        }
    }

    fn failed(&self, action: &'static str, error: Error) -> CertificateError {
        CertificateError::Api {
            namespace: self.namespace.clone(),
            name: SECRET.to_owned(),
            action,
            source: Box::new(error),
        }
    }
}

/// What the Secret shall hold by a plan.
fn carry_out(plan: &Plan, stored: Document, remembered: &Document) -> Result<Document, CertificateError> {
    let mut document = stored.only(&plan.keep);
    for number in &plan.restore {
        if let Some(held) = remembered.get(*number) {
            document.add(held.clone());
        }
    }
    if let Some(new) = &plan.new {
        document.add(Held::make(new)?);
    }
    Ok(document)
}
