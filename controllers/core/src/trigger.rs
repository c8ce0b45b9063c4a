// SPDX-License-Identifier: Apache-2.0
//! The trigger time: when did the change happen that a write carries to the nodes?

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::ServiceKey;
use berth_snapshot::pod::Pod;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;

/// What was seen of one Service.
#[derive(Clone, Debug, Default)]
struct Seen {
    created: Option<Timestamp>,
    /// By Pod name: when its Ready condition last changed.
    ready_since: BTreeMap<Box<str>, Timestamp>,
}

/// Remembers what was seen, per Service. Each controller keeps its own.
#[derive(Clone, Debug, Default)]
pub struct TriggerTimes {
    services: BTreeMap<ServiceKey, Seen>,
}

impl TriggerTimes {
    /// The trigger time of this turn: the earliest change since the last one.
    ///
    /// On the first sight of a Service its creation. Later the earliest of the readiness changes that
    /// are newer than what was remembered, and of the creation if that is newer (a re-created
    /// Service). None means that the annotation is to be removed. Pods that disappeared give no time.
    /// To be called on every turn, also on those that end in no write.
    pub fn observe(&mut self, key: &ServiceKey, service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let before = self.services.remove(key);
        let mut now = Seen {
            created,
            ready_since: BTreeMap::new(),
        };
        let mut earliest: Option<Timestamp> = None;
        let mut note = |time: Timestamp| earliest = Some(earliest.map_or(time, |least| least.min(time)));
        for pod in pods {
            let since = pod
                .ready_condition()
                .and_then(|ready| ready.last_transition_time.as_ref());
            let (Some(since), Some(name)) = (since, pod.metadata.name.as_deref()) else {
                continue;
            };
            let remembered = before.as_ref().and_then(|seen| seen.ready_since.get(name));
            if remembered.is_none_or(|remembered| since.0 > *remembered) {
                note(since.0);
            }
            now.ready_since.insert(name.into(), since.0);
        }
        let known = before.is_some();
        if let Some(created) = created
            && before
                .and_then(|seen| seen.created)
                .is_none_or(|remembered| created > remembered)
        {
            note(created);
        }
        self.services.insert(key.clone(), now);
        if known { earliest } else { created }
    }

    /// Forgets a Service that is gone.
    pub fn forget(&mut self, key: &ServiceKey) {
        self.services.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_snapshot::pod::{PodCondition, PodStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn mk_service(created: i64) -> Service {
        Service {
            metadata: ObjectMeta {
                creation_timestamp: Some(Time(at(created))),
                ..ObjectMeta::default()
            },
            ..Service::default()
        }
    }

    fn mk_pod(name: &str, ready_since: Option<i64>) -> Arc<Pod> {
        let condition = PodCondition {
            type_: "Ready".to_owned(),
            status: "True".to_owned(),
            last_transition_time: ready_since.map(|second| Time(at(second))),
        };
        Arc::new(Pod {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            status: PodStatus {
                conditions: vec![condition],
                ..PodStatus::default()
            },
            ..Pod::default()
        })
    }

    /// Creation of the Service, Pods with the time of their readiness, expected trigger time.
    type Turn<'a> = (i64, &'a [(&'a str, Option<i64>)], Option<i64>);

    /// Turns over one Service.
    fn check(turns: &[Turn<'_>]) {
        let key = ServiceKey::new("shop", "web");
        let mut times = TriggerTimes::default();
        for (turn, (created, pods, expected)) in turns.iter().enumerate() {
            let pods: Vec<Arc<Pod>> = pods.iter().map(|(name, since)| mk_pod(name, *since)).collect();
            let got = times.observe(&key, &mk_service(*created), &pods);
            assert_eq!(got, expected.map(at), "turn {turn}");
        }
    }

    #[test]
    fn the_first_sight_of_a_service_gives_its_creation_time() {
        check(&[(100, &[("a", Some(50)), ("b", Some(170))], Some(100))]);
    }

    #[test]
    fn later_the_earliest_newer_readiness_change_counts() {
        check(&[
            (100, &[("a", Some(110)), ("b", Some(110))], Some(100)),
            (
                100,
                &[("a", Some(150)), ("b", Some(130)), ("c", Some(140))],
                Some(130),
            ),
        ]);
    }

    #[test]
    fn without_anything_newer_there_is_no_trigger_time() {
        check(&[
            (100, &[("a", Some(110))], Some(100)),
            (100, &[("a", Some(110))], None),
            (100, &[("a", Some(105))], None),
        ]);
    }

    #[test]
    fn a_vanished_pod_gives_no_time_and_is_new_when_it_comes_back() {
        check(&[
            (100, &[("a", Some(110))], Some(100)),
            (100, &[], None),
            (100, &[("a", Some(110))], Some(110)),
        ]);
    }

    #[test]
    fn a_pod_without_a_ready_condition_gives_no_time() {
        check(&[(100, &[("a", None)], Some(100)), (100, &[("a", None)], None)]);
    }

    #[test]
    fn a_recreated_service_counts_by_its_newer_creation() {
        check(&[
            (100, &[("a", Some(110))], Some(100)),
            (200, &[("a", Some(220))], Some(200)),
            (200, &[("a", Some(220))], None),
        ]);
    }

    #[test]
    fn a_forgotten_service_is_seen_for_the_first_time_again() {
        let key = ServiceKey::new("shop", "web");
        let mut times = TriggerTimes::default();
        times.observe(&key, &mk_service(100), &[]);
        times.forget(&key);
        assert_eq!(times.observe(&key, &mk_service(100), &[]), Some(at(100)));
    }
}
