// SPDX-License-Identifier: Apache-2.0
//! Writes what `berth_controllers_core::upkeep` decides, on the replica that leads: statuses of pools and claims, and the
//! ServiceCIDRs that pools want.
//!
//! In: the book of values, ServiceCIDRs. Out: those writes, and what claims ask for. Touches: the API server. Each round says what is to be
//! from what is, so that whatever failed is done in the next.

use std::sync::Arc;
use std::time::Duration;

use berth_controllers_core::holder::Outcome;
use berth_controllers_core::upkeep::claims::{self, ClaimWrite, Question, Step};
use berth_controllers_core::upkeep::merge::merge_patch;
use berth_controllers_core::upkeep::pools::{self, Encroached, StatusWrite};
use berth_controllers_core::upkeep::service_cidrs;
use berth_controllers_core::values::{ClaimId, Values};
use berth_crds::{AddressClaim, AddressPool, NodePortPool};
use berth_runtime::client::explain;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::handout::Handout;
use crate::write::WriteError;

/// After a change, so that the counts of a burst are written once.
const PAUSE: Duration = Duration::from_millis(250);
/// Without any change: claims expire and holds lapse by themselves, and what failed is tried again.
const AT_LEAST: Duration = Duration::from_secs(10);
/// Between two looks at ServiceCIDRs.
const CIDRS: Duration = Duration::from_secs(2);
/// How long a claim waits for its answer: the replica that hands out values is found within that, or in the next round.
const WITHIN: Duration = Duration::from_secs(2);
/// Services and claims that are looked at in one go: the replica hands out nothing meanwhile.
const PART: usize = 100;

/// Keeps everything as it should be.
pub(crate) struct Upkeep {
    handout: Handout<Values>,
    changes: watch::Receiver<u64>,
    /// When ServiceCIDRs were looked at, and whether any was ours or wanted.
    cidrs: Option<(Instant, bool)>,
}

impl Upkeep {
    /// Of this book, whose changes are counted.
    pub(crate) fn new(handout: Handout<Values>, changes: watch::Receiver<u64>) -> Self {
        Self {
            handout,
            changes,
            cidrs: None,
        }
    }

    /// Goes on from when `leads` ends until `stop` is cancelled.
    pub(crate) async fn run(
        mut self,
        context: Arc<Context>,
        leads: impl Future<Output = ()>,
        stop: CancellationToken,
    ) {
        let work = async {
            leads.await;
            loop {
                // What changes from here on is looked at again.
                self.changes.borrow_and_update();
                self.round(&context).await;
                let late = tokio::time::timeout(AT_LEAST, self.changes.changed()).await;
                if matches!(late, Ok(Err(_))) {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn round(&mut self, context: &Context) {
        self.service_cidrs(context).await;
        self.claims(context).await;
        self.pools(context).await;
    }

    async fn pools(&self, context: &Context) {
        let Some(encroached) = self.encroached().await else {
            return;
        };
        let planned = self.handout.look(move |replica, now| {
            replica.book_mut().lapse(now);
            pools::plan(replica.book(), &encroached, &wall_clock())
        });
        for write in planned.await.unwrap_or_default() {
            match write {
                StatusWrite::Addresses { pool, status } => {
                    let before = pool.status.clone().unwrap_or_default();
                    write_status::<AddressPool>(context, "AddressPool", &pool.metadata, &before, &status)
                        .await;
                }
                StatusWrite::Ports { pool, status } => {
                    let before = pool.status.clone().unwrap_or_default();
                    write_status::<NodePortPool>(context, "NodePortPool", &pool.metadata, &before, &status)
                        .await;
                }
            }
        }
    }

    async fn encroached(&self) -> Option<Encroached> {
        let (mut encroached, mut last) = (Encroached::default(), None);
        loop {
            let after = last.take();
            let part = self
                .handout
                .look(move |replica, _| replica.book().findings_after(after.as_ref(), PART));
            let (findings, next) = part.await?;
            encroached.count(&findings);
            if next.is_none() {
                return Some(encroached);
            }
            last = next;
        }
    }

    async fn claims(&self, context: &Context) {
        let mut last: Option<ClaimId> = None;
        loop {
            let after = last.take();
            let part = self.handout.look(move |replica, now| {
                let book = replica.book_mut();
                book.lapse(now);
                let ids = book.claims_after(after.as_ref(), PART);
                let steps = ids
                    .iter()
                    .map(|id| claims::plan(book, id, &wall_clock()))
                    .collect();
                (ids, steps)
            });
            let Some((ids, steps)): Option<(Vec<ClaimId>, Vec<Step>)> = part.await else {
                return;
            };
            for step in steps {
                match step {
                    Step::Nothing => {}
                    Step::Write(write) => write_claim(context, &write).await,
                    Step::Ask(question) => self.ask(context, *question).await,
                }
            }
            if ids.len() < PART {
                return;
            }
            last = ids.last().cloned();
        }
    }

    /// Asks for what a claim is missing, and writes down the answer while it is held.
    async fn ask(&self, context: &Context, question: Question) {
        let answer = match self.handout.ask(question.wish.clone(), WITHIN).await {
            Outcome::Granted(grant) => Ok(grant),
            Outcome::Refused(refused) => Err(refused),
            // In the next round.
            Outcome::Unavailable => return,
        };
        let write = self.handout.look(move |replica, _| {
            claims::answered(replica.book(), &question, answer.as_ref(), &wall_clock())
        });
        if let Some(Some(write)) = write.await {
            write_claim(context, &write).await;
        }
    }

    async fn service_cidrs(&mut self, context: &Context) {
        let wants = self.handout.look(|replica, _| {
            let mut pools = replica.book().address_pools();
            pools.any(|pool| pool.spec.create_service_cidr)
        });
        let wants = wants.await.unwrap_or_default();
        let is_due = match self.cidrs {
            None => true,
            Some((at, any)) => (wants || any) && at.elapsed() >= CIDRS,
        };
        if !is_due {
            return;
        }
        let api: Api<ServiceCIDR> = Api::all(context.writer.client());
        let listed = match api.list(&ListParams::default()).await {
            Ok(listed) => listed.items,
            Err(error) => return said("ServiceCIDRs", "list", &error),
        };
        let ours = listed.iter().any(service_cidrs::is_ours);
        self.cidrs = Some((Instant::now(), wants || ours));
        let planned = self
            .handout
            .look(move |replica, _| service_cidrs::plan(replica.book(), &listed));
        let Some(plan) = planned.await else { return };
        for cidr in &plan.create {
            let name = cidr.metadata.name.as_deref().unwrap_or_default();
            match api.create(&PostParams::default(), cidr).await {
                Ok(_) => tracing::info!(name, "ServiceCIDR made for a pool"),
                Err(error) => said(name, "create ServiceCIDR", &error),
            }
        }
        for cidr in &plan.delete {
            let name = cidr.metadata.name.as_deref().unwrap_or_default();
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: cidr.metadata.uid.clone(),
                    resource_version: cidr.metadata.resource_version.clone(),
                }),
                ..DeleteParams::default()
            };
            match api.delete(name, &params).await {
                Ok(_) => tracing::info!(name, "ServiceCIDR deleted: no pool wants it"),
                Err(error) => said(name, "delete ServiceCIDR", &error),
            }
        }
    }
}

/// What did not come about is tried again in the next round.
fn said(name: &str, what: &str, error: &kube::Error) {
    let (fault, error) = explain(error);
    tracing::warn!(name, what, %fault, error, "pools are not kept up");
}

fn wall_clock() -> Time {
    Time(jiff::Timestamp::now())
}

async fn write_claim(context: &Context, write: &ClaimWrite) {
    let ClaimWrite { claim, status } = write;
    let before = claim.status.clone().unwrap_or_default();
    write_status::<AddressClaim>(context, "AddressClaim", &claim.metadata, &before, status).await;
}

/// Makes the one status of the other, if the object is still of the version that it was read in.
async fn write_status<K: Resource<DynamicType = ()>>(
    context: &Context,
    kind: &'static str,
    meta: &ObjectMeta,
    before: &impl Serialize,
    after: &impl Serialize,
) {
    let Some(status) = merge_patch(before, after) else {
        return;
    };
    let patch = json!({"metadata": {"resourceVersion": meta.resource_version}, "status": status});
    let name = meta.name.as_deref().unwrap_or_default();
    let namespace = meta.namespace.as_deref();
    match context
        .writer
        .patch_status::<K>(kind, namespace, name, &patch)
        .await
    {
        Ok(_) | Err(WriteError::Missing(_)) => {}
        Err(error) if error.is_news() => tracing::warn!(kind, name, namespace, %error, "status not written"),
        Err(error) => tracing::debug!(kind, name, namespace, %error, "status not written"),
    }
}
