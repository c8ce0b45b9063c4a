// SPDX-License-Identifier: Apache-2.0
//! Compaction of the slices of Services that have been quiet for a while, within a number of writes a
//! minute. It is part of a Service's ordinary turn, so that nothing else writes its slices meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_controllers_core::plan::Plan;
use berth_controllers_core::slices::compaction::{CompactionRule, WriteBudget, plan_compaction};
use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::time::Instant;

/// The fewest writes that free a slice which holds something: one slice grows, one goes.
const STEP: u32 = 2;

/// What to do about a Service whose slices are as they should be.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// There is nothing to gain.
    Leave,
    /// Look again after this time.
    Wait(Duration),
    /// Make these writes.
    Write(Plan<EndpointSlice>),
}

/// Which Services are quiet, and how many writes are left.
#[derive(Debug)]
pub(crate) struct Compactor {
    rule: CompactionRule,
    quiet: Duration,
    origin: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    budget: WriteBudget,
    /// When the slices of a Service were last written, or first looked at.
    written: BTreeMap<ServiceKey, Instant>,
}

impl Compactor {
    pub(crate) fn new(max_endpoints: usize, quiet: Duration, writes_per_minute: u32) -> Self {
        Self {
            rule: CompactionRule::of(max_endpoints),
            quiet,
            origin: Instant::now(),
            state: Mutex::new(State {
                budget: WriteBudget::per_minute(writes_per_minute),
                written: BTreeMap::new(),
            }),
        }
    }

    /// Notes that slices of a Service were written; yields when to look at it again.
    pub(super) fn written(&self, key: &ServiceKey) -> Duration {
        self.state().written.insert(key.clone(), Instant::now());
        self.quiet
    }

    /// Forgets a Service that is gone.
    pub(super) fn forget(&self, key: &ServiceKey) {
        self.state().written.remove(key);
    }

    /// Decides, and takes the writes from the budget.
    pub(super) fn decide(
        &self,
        key: &ServiceKey,
        service: &Service,
        existing: &[Arc<EndpointSlice>],
    ) -> Decision {
        // One slice has nowhere to go.
        if existing.len() < 2 {
            return Decision::Leave;
        }
        let now = Instant::now();
        let mut state = self.state();
        let since = *state.written.entry(key.clone()).or_insert(now);
        let left = self.quiet.saturating_sub(now.saturating_duration_since(since));
        if !left.is_zero() {
            return Decision::Wait(left);
        }
        let plan = |most| plan_compaction(service, existing, self.rule, most);
        if plan(usize::MAX).is_empty() {
            return Decision::Leave;
        }
        let elapsed = now.saturating_duration_since(self.origin);
        let available = state.budget.available(elapsed);
        let plan = plan(usize::try_from(available).unwrap_or(usize::MAX));
        let writes = u32::try_from(plan.len()).unwrap_or(u32::MAX);
        if plan.is_empty() || !state.budget.take(elapsed, writes) {
            let more = (available + 1).max(STEP);
            return state
                .budget
                .wait(elapsed, more)
                .map_or(Decision::Leave, Decision::Wait);
        }
        Decision::Write(plan)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use berth_controllers_core::names;
    use k8s_openapi::api::core::v1::ServiceSpec;
    use k8s_openapi::api::discovery::v1::Endpoint;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

    use super::*;

    const QUIET: Duration = Duration::from_secs(300);

    fn key() -> ServiceKey {
        ServiceKey::new("shop", "web")
    }

    fn mk_service() -> Service {
        Service {
            metadata: ObjectMeta {
                namespace: Some("shop".to_owned()),
                name: Some("web".to_owned()),
                uid: Some("uid-web".to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(ServiceSpec {
                selector: Some(BTreeMap::from([("app".to_owned(), "web".to_owned())])),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        }
    }

    /// Slices with so many endpoints each.
    fn mk_slices(sizes: &[u8]) -> Vec<Arc<EndpointSlice>> {
        let slice = |(n, size): (usize, &u8)| EndpointSlice {
            metadata: ObjectMeta {
                namespace: Some("shop".to_owned()),
                name: Some(format!("web-{n}")),
                uid: Some(format!("uid-{n}")),
                labels: Some(BTreeMap::from([
                    (names::SERVICE_NAME.to_owned(), "web".to_owned()),
                    (
                        names::SLICE_MANAGED_BY.to_owned(),
                        names::SLICE_CONTROLLER.to_owned(),
                    ),
                ])),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Service".to_owned(),
                    name: "web".to_owned(),
                    uid: "uid-web".to_owned(),
                    controller: Some(true),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            address_type: "IPv4".to_owned(),
            endpoints: Some(
                (0..*size)
                    .map(|host| Endpoint {
                        addresses: vec![format!("10.0.{n}.{host}")],
                        ..Endpoint::default()
                    })
                    .collect(),
            ),
            ports: None,
        };
        sizes.iter().enumerate().map(slice).map(Arc::new).collect()
    }

    fn mk_compactor(writes_per_minute: u32) -> Compactor {
        Compactor::new(100, QUIET, writes_per_minute)
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_is_compacted_once_it_has_been_quiet() {
        let compactor = mk_compactor(10);
        let (service, slices) = (mk_service(), mk_slices(&[40, 20]));
        let decide = || compactor.decide(&key(), &service, &slices);
        assert_eq!(decide(), Decision::Wait(QUIET), "not known to be quiet yet");
        tokio::time::advance(QUIET / 2).await;
        assert_eq!(compactor.written(&key()), QUIET);
        tokio::time::advance(QUIET / 2).await;
        assert_eq!(decide(), Decision::Wait(QUIET / 2), "written meanwhile");
        tokio::time::advance(QUIET / 2).await;
        let Decision::Write(plan) = decide() else {
            panic!("quiet and worth it");
        };
        assert_eq!((plan.update.len(), plan.delete.len()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_better_is_left_alone() {
        let compactor = mk_compactor(10);
        for sizes in [&[100, 100][..], &[3], &[]] {
            compactor.written(&key());
            tokio::time::advance(QUIET).await;
            let decision = compactor.decide(&key(), &mk_service(), &mk_slices(sizes));
            assert_eq!(decision, Decision::Leave, "{sizes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn writes_keep_to_the_budget() {
        let compactor = mk_compactor(4);
        let (service, slices) = (mk_service(), mk_slices(&[40, 20]));
        compactor.written(&key());
        tokio::time::advance(QUIET).await;
        assert!(matches!(
            compactor.decide(&key(), &service, &slices),
            Decision::Write(_)
        ));
        let Decision::Wait(wait) = compactor.decide(&key(), &service, &slices) else {
            panic!("two of four writes a minute come at once, and two were taken");
        };
        assert!(!wait.is_zero() && wait <= Duration::from_secs(60));
        tokio::time::advance(wait).await;
        assert!(matches!(
            compactor.decide(&key(), &service, &slices),
            Decision::Write(_)
        ));
        let none = mk_compactor(0);
        none.written(&key());
        tokio::time::advance(QUIET).await;
        assert_eq!(none.decide(&key(), &service, &slices), Decision::Leave);
    }
}
