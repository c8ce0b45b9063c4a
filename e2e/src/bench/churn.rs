// SPDX-License-Identifier: Apache-2.0
//! Readiness flips: how long until a Service's objects say what a Pod's status says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::Client;
use serde_json::json;
use tokio::task::JoinSet;

use super::dataset::DataSet;
use super::observe::{Kind, Observer, ServiceKey, Sighting};

/// How long after the last flip the last object may come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether it has come.
const LOOK: Duration = Duration::from_millis(20);

/// What is flipped how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Churn {
    /// How many Pods, each of another Service: flips within one Service would measure batching.
    pub(crate) flips: u32,
    /// Flips a second, whether earlier ones are through or not.
    pub(crate) per_second: u32,
}

/// Milliseconds from the moment at which the write of a Pod's status is sent until the watch shows the object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Latencies {
    pub(crate) endpoints: Vec<f64>,
    pub(crate) slices: Vec<f64>,
}

impl Churn {
    /// Flips one Pod each of some Services from ready to not ready and waits for the objects.
    pub(crate) async fn run(self, client: &Client, data: &DataSet, observer: &Observer) -> Result<Latencies> {
        observer.clear();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / self.per_second);
        let mut writes = JoinSet::new();
        let mut sent = BTreeMap::new();
        for flip in 0..self.flips {
            ticks.tick().await;
            let service = self.service(flip, data);
            let request = not_ready(data, service)?;
            let client = client.clone();
            sent.insert(data.service_key(service), Instant::now());
            writes.spawn(async move { client.request_text(request).await });
        }
        while let Some(written) = writes.join_next().await {
            written?.context("write of a Pod's status")?;
        }
        let pods_each = usize::try_from(data.pods_each)?;
        let started = Instant::now();
        loop {
            let latencies = latencies(&sent, &observer.sightings(), pods_each);
            if latencies.endpoints.len() == sent.len() && latencies.slices.len() == sent.len() {
                return Ok(latencies);
            }
            if started.elapsed() > PATIENCE {
                bail!(
                    "of {} flips, {} were seen in Endpoints and {} in slices",
                    sent.len(),
                    latencies.endpoints.len(),
                    latencies.slices.len()
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Evenly over all Services, and with them over the namespaces: the step has no common factor with ten.
    fn service(self, flip: u32, data: &DataSet) -> u32 {
        let step = (data.services / self.flips).max(1);
        let offset = flip * step;
        (offset + flip / 10 % step) % data.services
    }
}

/// A kubelet's write: the two conditions that change, merged into the rest.
fn not_ready(data: &DataSet, service: u32) -> Result<http::Request<Vec<u8>>> {
    let (namespace, name) = data.pod_key(service, 0);
    let condition = |kind: &str| {
        json!({"type": kind, "status": "False", "reason": "ContainersNotReady",
            "message": "containers with unready status: [server]",
            "lastTransitionTime": "2026-01-01T01:00:00Z"})
    };
    let patch = json!({"status": {"conditions": [condition("Ready"), condition("ContainersReady")]}});
    let uri = format!("/api/v1/namespaces/{namespace}/pods/{name}/status?fieldManager=kubelet");
    Ok(http::Request::patch(uri)
        .header("content-type", "application/strategic-merge-patch+json")
        .body(serde_json::to_vec(&patch)?)?)
}

/// The first sighting of each flip. Pure.
fn latencies(sent: &BTreeMap<ServiceKey, Instant>, sightings: &[Sighting], pods_each: usize) -> Latencies {
    let mut first: BTreeMap<(Kind, &ServiceKey), f64> = BTreeMap::new();
    for sighting in sightings {
        let Some(at) = sent.get(&sighting.service) else {
            continue;
        };
        if sighting.counts.ready + 1 == pods_each && sighting.counts.not_ready == 1 {
            let milliseconds = sighting.at.saturating_duration_since(*at).as_secs_f64() * 1_000.0;
            first
                .entry((sighting.kind, &sighting.service))
                .or_insert(milliseconds);
        }
    }
    let of = |kind| {
        let matching = first.iter().filter(|((seen, _), _)| *seen == kind);
        matching.map(|(_, milliseconds)| *milliseconds).collect()
    };
    Latencies {
        endpoints: of(Kind::Endpoints),
        slices: of(Kind::Slices),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::observe::Counts;
    use super::*;

    #[test]
    fn flips_hit_each_service_once_and_every_namespace() {
        let churn = Churn {
            flips: 500,
            per_second: 50,
        };
        for services in [2_000, 5_000] {
            let data = DataSet::of(services, 10);
            let hit: BTreeSet<u32> = (0..500).map(|flip| churn.service(flip, &data)).collect();
            assert_eq!(hit.len(), 500, "{services}");
            let namespaces: BTreeSet<String> =
                hit.iter().map(|service| data.service_key(*service).0).collect();
            assert_eq!(namespaces.len(), 10, "{services}");
        }
    }

    #[test]
    fn a_flip_is_timed_to_its_first_sighting_and_never_to_another_change() {
        let start = Instant::now();
        let key = |name: &str| ("bench-0".to_owned(), name.to_owned());
        let sighting = |kind, name, ready, not_ready, after| Sighting {
            kind,
            service: key(name),
            counts: Counts { ready, not_ready },
            at: start + Duration::from_millis(after),
        };
        let sent = BTreeMap::from([(key("a"), start), (key("b"), start)]);
        let sightings = [
            sighting(Kind::Slices, "a", 10, 0, 1),
            sighting(Kind::Slices, "a", 9, 1, 4),
            sighting(Kind::Slices, "a", 9, 1, 7),
            sighting(Kind::Endpoints, "b", 9, 1, 5),
            sighting(Kind::Slices, "unasked", 9, 1, 9),
        ];
        let found = latencies(&sent, &sightings, 10);
        assert_eq!(found.slices, [4.0]);
        assert_eq!(found.endpoints, [5.0]);
    }
}
