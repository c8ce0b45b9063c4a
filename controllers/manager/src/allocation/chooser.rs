// SPDX-License-Identifier: Apache-2.0
//! From what the webhook asks for to a question for the replicas' book, and back.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_controllers_core::Labels;
use berth_controllers_core::admission::ClusterFamilies;
use berth_controllers_core::holder::Outcome;
use berth_controllers_core::pools::Item;
use berth_controllers_core::values::{NamespaceLabels, Reason, Refused, Values, Wish};
use berth_model::{IpFamily, ServiceKey};
use berth_runtime::client::explain;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, PartialObjectMeta};
use kube::{Client, Error};
use tokio::sync::watch;
use tokio::time::Instant;

use super::book::Ground;
use crate::admission::{Ask, Choice, Chooser, Operation, Refusal, RefusalKind, Unavailable};
use crate::handout::Handout;

/// After how long it is known what became of values that are on their way: API servers answer within milliseconds, mostly.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Hands out what the replicas' book gives.
pub(crate) struct PoolChooser {
    handout: Handout<Values>,
    families: watch::Receiver<Option<ClusterFamilies>>,
    goes_by_labels: watch::Receiver<bool>,
    namespaces: Api<Namespace>,
}

impl PoolChooser {
    pub(super) fn new(client: Client, handout: Handout<Values>, ground: &Ground) -> Self {
        Self {
            handout,
            families: ground.families.subscribe(),
            goes_by_labels: ground.goes_by_labels.subscribe(),
            namespaces: Api::all(client),
        }
    }

    /// The labels of a namespace, where a pool goes by them. One that no watch has shown yet was made a moment ago, mostly
    /// together with the Service: the API server is asked.
    async fn labels_of(&self, namespace: &str) -> Result<Option<Labels>, Unavailable> {
        if !*self.goes_by_labels.borrow() {
            return Ok(None);
        }
        let name = namespace.to_owned();
        let known = self
            .handout
            .look(move |replica, _| replica.book().namespace_labels(&name));
        match known.await {
            None | Some(NamespaceLabels::NotAskedFor) => Ok(None),
            Some(NamespaceLabels::Known(labels)) => Ok(Some(labels)),
            Some(NamespaceLabels::Unknown) => self.asked_for(namespace).await.map(Some),
        }
    }

    async fn asked_for(&self, namespace: &str) -> Result<Labels, Unavailable> {
        match self.namespaces.get_metadata(namespace).await {
            Ok(PartialObjectMeta { metadata, .. }) => Ok(metadata.labels.unwrap_or_default()),
            // Gone again, and the Service with it.
            Err(Error::Api(status)) if status.code == 404 => Ok(Labels::new()),
            Err(error) => {
                let (fault, error) = explain(&error);
                Err(Unavailable {
                    reason: "NamespaceUnknown",
                    message: format!(
                        "pools go by the labels of namespaces, and those of {namespace} can't be read: {fault}: {error}"
                    ),
                })
            }
        }
    }

    /// What would be given. On a dry run the API server checks an address against one of its allocators only, and refuses one
    /// that is another's: so addresses are left out where there are several.
    async fn foresee(&self, wish: Wish) -> Choice {
        let seen = self.handout.look(move |replica, now| {
            let book = replica.book_mut();
            let several = |family: IpFamily| book.service_cidrs_of(family) > 1;
            let left_out = IpFamily::ALL.map(|family| (family, several(family)));
            book.peek(&wish, now).map(|grant| (grant.chosen(), left_out))
        });
        match seen.await {
            Some(Ok((mut chosen, left_out))) => {
                for (family, _) in left_out.into_iter().filter(|(_, several)| *several) {
                    chosen.cluster_ips.remove(&family);
                }
                Choice::Chosen(chosen)
            }
            Some(Err(refused)) => Choice::Refused(refusal(refused)),
            None => nobody(),
        }
    }
}

impl Chooser for PoolChooser {
    fn cluster(&self) -> Option<ClusterFamilies> {
        *self.families.borrow()
    }

    async fn chosen_before(
        &self,
        namespace: &str,
        name: Option<&str>,
        among: BTreeSet<Item>,
    ) -> BTreeSet<Item> {
        let (namespace, name) = (namespace.to_owned(), name.map(ToOwned::to_owned));
        let seen = self
            .handout
            .look(move |replica, _| replica.book().chosen_before(&namespace, name.as_deref(), &among));
        seen.await.unwrap_or_default()
    }

    async fn choose(&self, ask: Ask<'_>) -> Choice {
        let namespace_labels = match self.labels_of(ask.namespace).await {
            Ok(labels) => labels,
            Err(unavailable) => return Choice::Unavailable(unavailable),
        };
        let wish = Wish {
            namespace_labels,
            had: ask.had.clone(),
            ..wish(&ask)
        };
        if ask.dry_run {
            return self.foresee(wish).await;
        }
        let within = ask.deadline.saturating_duration_since(Instant::now());
        match self.handout.ask(wish, within).await {
            Outcome::Granted(grant) => Choice::Chosen(grant.chosen()),
            Outcome::Refused(refused) => Choice::Refused(refusal(refused)),
            Outcome::Unavailable => nobody(),
        }
    }
}

fn wish(ask: &Ask<'_>) -> Wish {
    let named = |name: &String| (!name.is_empty()).then(|| name.clone());
    let ports: Vec<Option<String>> = ask.ports.iter().map(named).collect();
    let stored = match ask.operation {
        Operation::Create => None,
        Operation::Update => ask.name.map(|name| ServiceKey::new(ask.namespace, name)),
    };
    Wish::new(
        ask.namespace,
        ask.name,
        ask.labels,
        ask.needs,
        &ports,
        stored.as_ref(),
    )
}

fn refusal(refused: Refused) -> Refusal {
    Refusal {
        reason: refused.as_str(),
        kind: kind(&refused),
        message: refused.message,
        field: Some(refused.field),
    }
}

fn kind(refused: &Refused) -> RefusalKind {
    match refused.reason {
        Reason::WishBeingGiven => RefusalKind::Conflict,
        Reason::PoolExhausted | Reason::RangeExhausted | Reason::QuotaReached if refused.passing => {
            RefusalKind::Exhausted(RETRY_AFTER)
        }
        Reason::PoolExhausted
        | Reason::RangeExhausted
        | Reason::QuotaReached
        | Reason::PoolsAtRest
        | Reason::WishOutside
        | Reason::WishInPool
        | Reason::WishExcluded
        | Reason::WishReserved
        | Reason::WishClaimed
        | Reason::WishTaken
        | Reason::NoPool
        | Reason::NoSuchPool
        | Reason::NoServiceCidr
        | Reason::OutsideNodePortRange => RefusalKind::Forbidden,
    }
}

fn nobody() -> Choice {
    Choice::Unavailable(Unavailable {
        reason: "NoHolder",
        message: "no replica hands out values at the moment; another takes over within seconds".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: Reason, passing: bool) -> Refused {
        Refused {
            reason,
            field: "spec.clusterIPs".to_owned(),
            passing,
            message: "no".to_owned(),
        }
    }

    #[test]
    fn only_what_may_pass_by_itself_is_to_be_tried_again() {
        let of = |reason, passing| kind(&refused(reason, passing)).code();
        assert_eq!(of(Reason::PoolExhausted, true), 429);
        assert_eq!(of(Reason::PoolExhausted, false), 403);
        assert_eq!(of(Reason::QuotaReached, true), 429);
        assert_eq!(of(Reason::WishBeingGiven, false), 409);
        assert_eq!(of(Reason::WishReserved, true), 403);
    }
}
