// SPDX-License-Identifier: Apache-2.0
//! From an admission review to its answer.
//!
//! **When nobody can say which values to give**, the answer is still one, not a failure of the webhook: a failure would be
//! counted and logged by the API server alone, and the user would not be told. Under [`UnavailablePolicy::Admit`], which goes
//! with failure policy Ignore, the Service is let through without a patch and with a warning that kubectl shows: the API server
//! picks by itself, as Ignore promises for a webhook that is down. Under [`UnavailablePolicy::Refuse`], which goes with
//! Fail, it is refused with 503, reason ServiceUnavailable and a time to wait, so that client-go tries again by itself;
//! a failed call would be a 500, after which no client does.

mod review;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use berth_controllers_core::admission::{
    Decision, Exemptions, Needs, Patch, Request, decide, over, patch, unclaimed, without,
};
use berth_controllers_core::pools::Item;
use k8s_openapi::api::core::v1::Service;
use tokio::time::Instant;

use super::chooser::{Ask, Choice, Chooser, Operation, Refusal, Unavailable};
use super::metrics::{AdmissionMetrics, Outcome};
use super::{RefusalKind, UnavailablePolicy};
pub(crate) use review::Malformed;
use review::{Answer, Review};

/// After how long a client is told to try again when nobody can say: a new holder of the pools is there sooner.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// What is left of the API server's patience for the way back, at the least.
const SHORTEST_MARGIN: Duration = Duration::from_millis(100);

/// How reviews are answered.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What pools do not apply to: more than what is registered, as long as an old registration stands.
    pub exemptions: Exemptions,
    /// What is answered when nobody can say.
    pub unavailable: UnavailablePolicy,
    /// How long API servers wait that do not say so.
    pub timeout: Duration,
}

/// Answers reviews with what a [`Chooser`] says. Clones share all of it.
pub struct Webhook<C> {
    shared: Arc<Shared<C>>,
}

impl<C> Clone for Webhook<C> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

struct Shared<C> {
    chooser: Arc<C>,
    settings: Settings,
    metrics: AdmissionMetrics,
}

impl<C: Chooser> Webhook<C> {
    /// Asks `chooser`.
    pub fn new(chooser: Arc<C>, settings: Settings, metrics: AdmissionMetrics) -> Self {
        Self {
            shared: Arc::new(Shared {
                chooser,
                settings,
                metrics,
            }),
        }
    }

    /// Whether reviews can be answered with values.
    pub fn is_ready(&self) -> bool {
        self.shared.chooser.cluster().is_some()
    }

    /// When an answer has to be ready: `timeout` is what the API server says in the query, as `5s`.
    pub(crate) fn deadline(&self, since: Instant, timeout: Option<&str>) -> Instant {
        let said = timeout.and_then(|text| berth_runtime::duration::parse(text).ok());
        let limit = said.unwrap_or(self.shared.settings.timeout);
        since + limit.saturating_sub((limit / 10).max(SHORTEST_MARGIN))
    }

    /// The answer to the body of a review's request, in JSON.
    pub(crate) async fn answer(
        &self,
        body: &[u8],
        since: Instant,
        deadline: Instant,
    ) -> Result<String, Malformed> {
        let review = Review::read(body).inspect_err(|_| self.malformed(since))?;
        let (outcome, answer) = self.review(&review, deadline).await;
        self.shared.metrics.answered(outcome, since.elapsed());
        Ok(answer.to_json(&review.uid))
    }

    /// Notes a request that holds no review.
    pub(crate) fn malformed(&self, since: Instant) {
        self.shared.metrics.answered(Outcome::Malformed, since.elapsed());
    }

    async fn review(&self, review: &Review, deadline: Instant) -> (Outcome, Answer) {
        let Some((operation, service)) = review.service() else {
            return (Outcome::Foreign, Answer::allow());
        };
        let Some(cluster) = self.shared.chooser.cluster() else {
            // Its exemptions hold before anything is known of the cluster.
            let name = service.metadata.name.as_deref().unwrap_or_default();
            if self
                .shared
                .settings
                .exemptions
                .of(&review.namespace, name)
                .is_some()
            {
                return (Outcome::Exempt, Answer::allow());
            }
            return self.unavailable(Unavailable {
                reason: "ServiceRangesUnknown",
                message: "the cluster's Service ranges are not known yet".to_owned(),
            });
        };
        let had = self.had(review, service, deadline).await;
        let bare = without(service, &had);
        let request = Request {
            namespace: &review.namespace,
            service: &bare,
            old: review.old.as_ref(),
        };
        match decide(&request, cluster, &self.shared.settings.exemptions) {
            Decision::Exempt(_) => (Outcome::Exempt, Answer::allow()),
            Decision::LeaveToServer(invalid) => {
                tracing::debug!(namespace = review.namespace, reason = %invalid, "left to the API server");
                let patch = over(service, &bare, Patch::default());
                (Outcome::LeftToServer, Answer::with(&patch))
            }
            Decision::Nothing(_) => {
                let patch = over(service, &bare, Patch::default());
                let outcome = if patch.is_empty() {
                    Outcome::Nothing
                } else {
                    Outcome::Patched
                };
                (outcome, Answer::with(&patch))
            }
            Decision::Serve(needs) => {
                let reviewed = Reviewed {
                    service,
                    bare: &bare,
                    had: &had,
                };
                self.serve(review, operation, &reviewed, &needs, deadline).await
            }
        }
    }

    /// What an earlier review of the same write put there, if another webhook has changed the Service since.
    async fn had(&self, review: &Review, service: &Service, deadline: Instant) -> BTreeSet<Item> {
        let may_be = unclaimed(service, review.old.as_ref());
        if may_be.is_empty() || review.dry_run {
            return BTreeSet::new();
        }
        let chosen = self
            .shared
            .chooser
            .chosen_before(&review.namespace, name_of(service), may_be);
        let chosen = tokio::time::timeout_at(deadline, chosen).await;
        chosen.unwrap_or_default()
    }

    async fn serve(
        &self,
        review: &Review,
        operation: Operation,
        reviewed: &Reviewed<'_>,
        needs: &Needs,
        deadline: Instant,
    ) -> (Outcome, Answer) {
        let Reviewed { service, bare, had } = *reviewed;
        let metadata = &service.metadata;
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let ports: Vec<String> = ports.map(|port| port.name.clone().unwrap_or_default()).collect();
        let ask = Ask {
            operation,
            namespace: &review.namespace,
            name: name_of(service),
            labels: &metadata.labels.clone().unwrap_or_default(),
            annotations: &metadata.annotations.clone().unwrap_or_default(),
            needs,
            ports: &ports,
            old_uid: review.old.as_ref().and_then(|old| old.metadata.uid.as_deref()),
            had,
            dry_run: review.dry_run,
            deadline,
        };
        let choice = tokio::time::timeout_at(deadline, self.shared.chooser.choose(ask)).await;
        match choice {
            Ok(Choice::Chosen(chosen)) => {
                let patch = over(service, bare, patch(bare, needs, &chosen));
                let outcome = if patch.is_empty() {
                    Outcome::Allowed
                } else {
                    Outcome::Patched
                };
                (outcome, Answer::with(&patch))
            }
            Ok(Choice::Refused(refusal)) => (Outcome::Refused, refused(&refusal, metadata.name.as_deref())),
            Ok(Choice::Unavailable(why)) => self.unavailable(why),
            Err(_) => self.unavailable(Unavailable {
                reason: "DeadlineExceeded",
                message: "no value was chosen in time".to_owned(),
            }),
        }
    }

    fn unavailable(&self, why: Unavailable) -> (Outcome, Answer) {
        let Unavailable { reason, message } = why;
        tracing::warn!(reason, message, "a Service is not served");
        match self.shared.settings.unavailable {
            UnavailablePolicy::Admit => {
                let warning =
                    format!("berth: values may be outside their pool, the API server picks them ({reason})");
                (Outcome::AdmittedUnserved, Answer::allow().with_warning(&warning))
            }
            UnavailablePolicy::Refuse => {
                let message = format!("berth can't choose values now: {message}; try again ({reason})");
                let answer = Answer::refuse(503, "ServiceUnavailable", message).retry_after(RETRY_AFTER);
                (Outcome::RefusedUnserved, answer)
            }
        }
    }
}

/// A Service, and what it is without what an earlier review put there.
struct Reviewed<'a> {
    service: &'a Service,
    bare: &'a Service,
    had: &'a BTreeSet<Item>,
}

/// None where the API server makes it up later.
fn name_of(service: &Service) -> Option<&str> {
    let name = service.metadata.name.as_deref();
    name.filter(|name| !name.is_empty())
}

fn refused(refusal: &Refusal, name: Option<&str>) -> Answer {
    let Refusal {
        reason,
        kind,
        message,
        field,
    } = refusal;
    let answer = Answer::refuse(kind.code(), reason, message.clone()).about(name, field.as_deref());
    match kind {
        RefusalKind::Exhausted(after) => answer.retry_after(*after),
        RefusalKind::Forbidden | RefusalKind::Conflict | RefusalKind::Invalid => answer,
    }
}
