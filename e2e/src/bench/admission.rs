// SPDX-License-Identifier: Apache-2.0
//! `make bench BENCH=admission`: how much longer a Service takes to be made where a pool gives it its values.
//!
//! One API server, three replicas behind one address. Services are made in turn in a namespace that pools select and in one
//! that is exempt, which the API server does not ask about: that is the peer. How long the replicas themselves take, from
//! the head of a review to its answer, is what their histogram says: the bound of the bucket, so at most this.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_testkit::sandbox;
use berth_testkit::wait::eventually;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use super::endpoints::{profile_of, runs_in_words};
use super::row::{Goal, Row, Setting};
use super::stats::{Spread, percentile};
use super::usage::load_average;
use crate::cluster::repository;
use crate::controlplane::{ControlPlane, ControlPlaneConfig};
use crate::metrics::{Page, http_get};
use crate::replicas::Replicas;
use crate::stage;

/// Issue 6: of the replicas' own time, in milliseconds.
const OWN_TIME: Goal = Goal::AtMost(5.0);
const POOLED: &str = "pooled";
const BARE: &str = "bare";
const REPLICAS: usize = 3;
/// Clients at once, where there are several.
const CLIENTS: usize = 16;
/// Services that are made on one side before the other has its turn.
const TURN: usize = 50;
const PATIENCE: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Clone, Debug)]
pub struct AdmissionOptions {
    /// The build of Berth.
    pub berth: PathBuf,
    /// Runs, each on a control plane of its own.
    pub runs: u32,
    /// Services made on each side, in each case of a run; a multiple of 50.
    pub creates: usize,
}

impl AdmissionOptions {
    /// Services on each side that are enough for a 99th percentile.
    pub const CREATES: usize = 1_000;
}

/// What is made, and by how many at once.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    is_node_port: bool,
    clients: usize,
}

const CASES: [Case; 3] = [
    Case {
        name: "ClusterIP, one client",
        is_node_port: false,
        clients: 1,
    },
    Case {
        name: "NodePort, one client",
        is_node_port: true,
        clients: 1,
    },
    Case {
        name: "ClusterIP, 16 clients",
        is_node_port: false,
        clients: CLIENTS,
    },
];

/// Milliseconds of each run, of each side.
#[derive(Debug, Default)]
struct Seen {
    p50: [Vec<f64>; 2],
    p99: [Vec<f64>; 2],
    own_p50: Vec<f64>,
    own_p99: Vec<f64>,
}

/// Measures everything; also a log.
pub(super) async fn measure(options: &AdmissionOptions, say: &impl Fn(&str)) -> Result<(Vec<Row>, String)> {
    ensure!(
        options.runs > 0 && options.creates.is_multiple_of(TURN) && options.creates > 0,
        "nothing to measure: {options:?}"
    );
    let setting = setting(options)?;
    let mut seen: Vec<Seen> = CASES.iter().map(|_| Seen::default()).collect();
    let mut log = String::new();
    for run in 1..=options.runs {
        let ground = Ground::prepare(options, run).await?;
        for (case, seen) in CASES.iter().zip(&mut seen) {
            say(&format!("run {run}, {}", case.name));
            ground.measure(case, options.creates, seen).await?;
            log.push_str(&format!("run {run}, {}: {seen:?}\n", case.name));
        }
    }
    let mut rows = Vec::new();
    for (case, seen) in CASES.iter().zip(&seen) {
        rows.extend(rows_of(case, seen, &setting)?);
    }
    Ok((rows, log))
}

fn rows_of(case: &Case, seen: &Seen, setting: &Setting) -> Result<Vec<Row>> {
    let spread = |values: &[f64]| Spread::of(values).context("nothing was measured");
    let row = |what: &str, goal: Goal, berth: &[f64], peer: Option<&Vec<f64>>| {
        let peer = peer.and_then(|peer| Spread::of(peer));
        let figure = format!("{}: {what}", case.name);
        anyhow::Ok(Row::new(figure, "ms", goal, spread(berth)?, peer, setting))
    };
    Ok(vec![
        row("create p50", Goal::None, &seen.p50[0], Some(&seen.p50[1]))?,
        row("create p99", Goal::None, &seen.p99[0], Some(&seen.p99[1]))?,
        row("a replica's own time, p50", Goal::None, &seen.own_p50, None)?,
        row("a replica's own time, p99", OWN_TIME, &seen.own_p99, None)?,
    ])
}

/// A control plane and replicas that serve.
struct Ground {
    control_plane: ControlPlane,
    replicas: Replicas,
}

impl Ground {
    async fn prepare(options: &AdmissionOptions, run: u32) -> Result<Self> {
        let name = format!("bench-admission-{run}");
        let folder = stage::folder(&name)?;
        let config = ControlPlaneConfig {
            logs: Some(folder.clone()),
            apiserver_flags: vec!["--service-cluster-ip-range=10.96.0.0/12".to_owned()],
            ..ControlPlaneConfig::loopback(Path::new(sandbox::SCRATCH).join(&name))
        };
        let control_plane = ControlPlane::start(config).await?;
        let manifests = repository().join("manifests");
        control_plane.install_kinds().await?;
        for file in ["base/namespace.yaml", "base/controllers-rbac.yaml"] {
            control_plane.apply(&manifests.join(file)).await?;
        }
        control_plane.settle_rbac().await?;
        let namespaces: Api<Namespace> = Api::all(control_plane.client());
        for name in [POOLED, BARE] {
            let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
            namespaces.create(&PostParams::default(), &namespace).await?;
        }
        for pool in pools() {
            let kubectl = control_plane.kubectl_runner();
            kubectl
                .run_with_input(["apply", "-f", "-"], &pool.to_string())
                .await?;
        }
        let exempt = format!("--admission-exempt-namespaces={BARE}");
        let flags = ["--admission-failure-policy=Fail", exempt.as_str()];
        let replicas = Replicas::of(options.berth.clone(), &control_plane, &folder, REPLICAS, &flags).await?;
        let ground = Self {
            control_plane,
            replicas,
        };
        ground.served().await?;
        Ok(ground)
    }

    /// Until values come out of the pool.
    async fn served(&self) -> Result<()> {
        let services: Api<Service> = Api::namespaced(self.control_plane.client(), POOLED);
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let probe = service("probe", false)?;
        eventually("the pool is served", PATIENCE, || async {
            let made = services.create(&params, &probe).await?;
            let address = made.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default();
            ensure!(address.starts_with("10.100."), "{address}");
            anyhow::Ok(())
        })
        .await?;
        Ok(())
    }

    async fn measure(&self, case: &Case, creates: usize, seen: &mut Seen) -> Result<()> {
        let client = self.control_plane.client();
        // Each side's first connection and caches are not what is measured.
        for namespace in [POOLED, BARE] {
            turn(&client, namespace, case, "warm", TURN).await?;
        }
        let before = self.own_times()?;
        let mut took = [Vec::new(), Vec::new()];
        for number in 0..creates / TURN {
            for (namespace, took) in [POOLED, BARE].into_iter().zip(&mut took) {
                took.extend(turn(&client, namespace, case, &number.to_string(), TURN).await?);
            }
        }
        let after = self.own_times()?;
        for (side, took) in took.iter().enumerate() {
            seen.p50[side].push(percentile(took, 50).context("no time")?);
            seen.p99[side].push(percentile(took, 99).context("no time")?);
        }
        let own: Vec<(f64, f64)> = after
            .iter()
            .zip(&before)
            .map(|((bound, after), (_, before))| (*bound, after - before))
            .collect();
        seen.own_p50.push(within(&own, 0.50)? * 1_000.0);
        seen.own_p99.push(within(&own, 0.99)? * 1_000.0);
        for namespace in [POOLED, BARE] {
            let services: Api<Service> = Api::namespaced(client.clone(), namespace);
            services
                .delete_collection(&DeleteParams::default(), &ListParams::default())
                .await?;
        }
        Ok(())
    }

    /// How many reviews took at most so many seconds, of all replicas, by bound.
    fn own_times(&self) -> Result<Vec<(f64, f64)>> {
        let mut sums: Vec<(f64, f64)> = Vec::new();
        for url in self.replicas.metric_pages() {
            let page = Page::new(http_get(&url)?);
            for (index, (bound, count)) in buckets(&page).into_iter().enumerate() {
                match sums.get_mut(index) {
                    Some((_, sum)) => *sum += count,
                    None => sums.push((bound, count)),
                }
            }
        }
        ensure!(!sums.is_empty(), "no replica says how long reviews took");
        Ok(sums)
    }
}

/// The cumulative buckets of the replicas' histogram, in seconds.
fn buckets(page: &Page) -> Vec<(f64, f64)> {
    let lines = page.text().lines();
    let of_duration = lines.filter_map(|line| {
        let rest = line.strip_prefix("berth_admission_duration_seconds_bucket{le=\"")?;
        let (bound, count) = rest.split_once("\"} ")?;
        let bound = if bound == "+Inf" {
            f64::INFINITY
        } else {
            bound.parse().ok()?
        };
        Some((bound, count.trim().parse().ok()?))
    });
    of_duration.collect()
}

/// The least bound that this share of the reviews stays within.
fn within(buckets: &[(f64, f64)], share: f64) -> Result<f64> {
    let all = buckets.last().map(|(_, count)| *count).context("no bucket")?;
    ensure!(all > 0.0, "no review was answered");
    let found = buckets.iter().find(|(_, count)| *count >= all * share);
    found.map(|(bound, _)| *bound).context("no bucket holds enough")
}

/// Makes some Services; says how many milliseconds each took.
async fn turn(client: &Client, namespace: &str, case: &Case, turn: &str, count: usize) -> Result<Vec<f64>> {
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let kind = if case.is_node_port { "p" } else { "c" };
    let each = stream::iter(0..count).map(|index| {
        let (services, name) = (services.clone(), format!("{kind}{}-{turn}-{index}", case.clients));
        async move {
            let service = service(&name, case.is_node_port)?;
            let began = Instant::now();
            services.create(&PostParams::default(), &service).await?;
            anyhow::Ok(began.elapsed().as_secs_f64() * 1_000.0)
        }
    });
    let took: Vec<Result<f64>> = each.buffer_unordered(case.clients).collect().await;
    took.into_iter().collect()
}

fn service(name: &str, is_node_port: bool) -> Result<Service> {
    let kind = if is_node_port { "NodePort" } else { "ClusterIP" };
    let spec = json!({"type": kind, "selector": {"app": "a"}, "ports": [{"name": "http", "port": 80}]});
    Ok(serde_json::from_value(
        json!({"metadata": {"name": name}, "spec": spec}),
    )?)
}

fn pools() -> [Value; 2] {
    let selector = json!({"namespaces": [POOLED]});
    let of = |kind: &str, spec: Value| json!({"apiVersion": "berth.dev/v1alpha1", "kind": kind, "metadata": {"name": POOLED}, "spec": spec});
    [
        of(
            "AddressPool",
            json!({"use": "ClusterIP", "addresses": ["10.100.0.0/16"], "selector": selector}),
        ),
        of(
            "NodePortPool",
            json!({"ports": ["30086-31500"], "selector": selector}),
        ),
    ]
}

fn setting(options: &AdmissionOptions) -> Result<Setting> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(Setting {
        conditions: format!(
            "Linux {}, {} cores, load average {:.1} before the first run; {REPLICAS} replicas, pools of a /16 and 1,415 node \
             ports; {} Services on each side in each case, in turns of {TURN}; Berth ({} build); {}",
            kernel.trim(),
            std::thread::available_parallelism()?,
            load_average(),
            options.creates,
            profile_of(&options.berth),
            runs_in_words(options.runs),
        ),
        peer_name: "the same API server, for a namespace that it does not ask about".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_reviews_is_within_the_bound_of_a_bucket() {
        let page = Page::new(
            "berth_admission_duration_seconds_bucket{le=\"0.1\"} 90\n\
             berth_admission_duration_seconds_bucket{le=\"0.2\"} 99\n\
             berth_admission_duration_seconds_bucket{le=\"+Inf\"} 100\n\
             berth_admission_duration_seconds_count 100\n",
        );
        let buckets = buckets(&page);
        assert_eq!(buckets.len(), 3);
        assert_eq!(within(&buckets, 0.5).unwrap(), 0.1);
        assert_eq!(within(&buckets, 0.99).unwrap(), 0.2);
        assert_eq!(within(&buckets, 1.0).unwrap(), f64::INFINITY);
        assert!(within(&[(0.1, 0.0)], 0.5).is_err());
        assert!(within(&[], 0.5).is_err());
    }
}
