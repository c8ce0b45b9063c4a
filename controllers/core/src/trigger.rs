// SPDX-License-Identifier: Apache-2.0
//! The trigger time: when did the change happen that a write carries to the nodes?

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use berth_model::ServiceKey;
use berth_snapshot::pod::Pod;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;

/// What was seen of one Service.
#[derive(Clone, Debug, Default)]
struct Seen {
    created: Option<Timestamp>,
    /// When the Ready condition of each Pod last changed, by a hash of the Pod's name: names would be
    /// the largest part of it.
    ready_since: Box<[(u64, Timestamp)]>,
}

impl Seen {
    fn ready_since(&self, pod: u64) -> Option<Timestamp> {
        let found = self.ready_since.binary_search_by_key(&pod, |(pod, _)| *pod);
        Some(self.ready_since.get(found.ok()?)?.1)
    }
}

/// What one turn saw. It counts once the turn's writes are made.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    time: Option<Timestamp>,
    seen: Seen,
}

impl Sight {
    /// The trigger time of this turn; none means that the annotation is to be removed.
    pub fn time(&self) -> Option<Timestamp> {
        self.time
    }
}

/// Remembers what was seen, per Service. Each controller keeps its own.
#[derive(Clone, Debug, Default)]
pub struct TriggerTimes {
    services: BTreeMap<ServiceKey, Seen>,
}

impl TriggerTimes {
    /// The trigger time of a turn: the earliest change since the last one that was committed.
    ///
    /// On the first sight of a Service its creation. Later the earliest of the readiness changes that
    /// are newer than what was remembered, and of the creation if that is newer (a re-created
    /// Service). Pods that disappeared give no time.
    pub fn look(&self, key: &ServiceKey, service: &Service, pods: &[Arc<Pod>]) -> Sight {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let before = self.services.get(key);
        let mut ready_since = Vec::with_capacity(pods.len());
        let mut earliest: Option<Timestamp> = None;
        let mut note = |time: Timestamp| earliest = Some(earliest.map_or(time, |least| least.min(time)));
        for pod in pods {
            let Some(since) = pod.ready_since() else {
                continue;
            };
            let name = hash(pod.name());
            let remembered = before.and_then(|seen| seen.ready_since(name));
            if remembered.is_none_or(|remembered| since > remembered) {
                note(since);
            }
            ready_since.push((name, since));
        }
        if let Some(created) = created
            && before
                .and_then(|seen| seen.created)
                .is_none_or(|remembered| created > remembered)
        {
            note(created);
        }
        ready_since.sort_unstable();
        Sight {
            time: if before.is_some() { earliest } else { created },
            seen: Seen {
                created,
                ready_since: ready_since.into(),
            },
        }
    }

    /// Remembers what a turn saw: to be called once its writes are made, or if it had none. A turn
    /// whose writes failed is not remembered, so that the next one carries the same time.
    pub fn commit(&mut self, key: &ServiceKey, sight: Sight) {
        self.services.insert(key.clone(), sight.seen);
    }

    /// Forgets a Service that is gone.
    pub fn forget(&mut self, key: &ServiceKey) {
        self.services.remove(key);
    }
}

/// Two Pods of one Service with one hash would at worst share a time.
fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_snapshot::pod::{PodCondition, PodManifest, PodStatus};
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
        let manifest = PodManifest {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            status: PodStatus {
                conditions: vec![condition],
                ..PodStatus::default()
            },
            ..PodManifest::default()
        };
        Arc::new(manifest.into())
    }

    /// Creation of the Service, Pods with the time of their readiness, expected trigger time.
    type Turn<'a> = (i64, &'a [(&'a str, Option<i64>)], Option<i64>);

    /// Turns over one Service.
    fn check(turns: &[Turn<'_>]) {
        let key = ServiceKey::new("shop", "web");
        let mut times = TriggerTimes::default();
        for (turn, (created, pods, expected)) in turns.iter().enumerate() {
            let pods: Vec<Arc<Pod>> = pods.iter().map(|(name, since)| mk_pod(name, *since)).collect();
            let sight = times.look(&key, &mk_service(*created), &pods);
            assert_eq!(sight.time(), expected.map(at), "turn {turn}");
            times.commit(&key, sight);
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
        times.commit(&key, times.look(&key, &mk_service(100), &[]));
        times.forget(&key);
        assert_eq!(times.look(&key, &mk_service(100), &[]).time(), Some(at(100)));
    }

    #[test]
    fn a_turn_whose_writes_failed_leaves_its_time_to_the_next() {
        let key = ServiceKey::new("shop", "web");
        let mut times = TriggerTimes::default();
        let turn =
            |times: &TriggerTimes, since| times.look(&key, &mk_service(100), &[mk_pod("a", Some(since))]);
        assert_eq!(turn(&times, 110).time(), Some(at(100)), "not written");
        let first = turn(&times, 110);
        assert_eq!(first.time(), Some(at(100)));
        times.commit(&key, first);
        assert_eq!(turn(&times, 120).time(), Some(at(120)), "not written");
        assert_eq!(turn(&times, 120).time(), Some(at(120)));
    }
}
