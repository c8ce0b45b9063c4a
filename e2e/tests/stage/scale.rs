// SPDX-License-Identifier: Apache-2.0
//! What is large, or being deleted, costs no more writes than it must: counted at the API server.
//!
//! Sizes are moderate; `BERTH_TEST_SCALE=full` makes them those that `make soak` is for.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use berth_e2e::cluster::{PATIENCE, Request};
use berth_e2e::stage::{self, Contender, Launch, Stage};
use berth_testkit::builders::mk_namespace;
use berth_testkit::in_sandbox_async;
use berth_testkit::process::Process;
use berth_testkit::wait::eventually;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::objects::{Kind, create, nodes, ready_pod, service};

const NAMESPACE: &str = "large";

/// Requests under way at once while objects are made.
const AT_ONCE: usize = 16;

/// A size for every run, and the one for a soak.
fn size(moderate: usize, full: usize) -> usize {
    if std::env::var_os("BERTH_TEST_SCALE").is_some_and(|value| value == "full") {
        full
    } else {
        moderate
    }
}

#[test]
fn one_pod_that_a_thousand_services_select_costs_two_writes_a_service_and_flip() {
    super::prepare();
    in_sandbox_async!(async {
        let count = size(150, 1000);
        let services = (0..count).map(|index| service(&format!("s-{index}"), "one", json!({})));
        let pods = [(Kind::Pod, labelled_pod("one", 0))];
        let scene = Scene::set("scale-services", services.chain(pods).collect()).await?;
        scene.converges_to(count, count).await?;
        let creations = scene.writes_since(scene.started)?;
        ensure!(
            creations == Tally::of(&[("create endpoints", count), ("create endpointslices", count)]),
            "{creations}"
        );

        for ready in [false, true] {
            let before = scene.turns().await?;
            let flipped = Timestamp::now();
            flip(&scene.stage.client(), "one-0", ready).await?;
            scene.awaits_writes(flipped, 2 * count).await?;
            let writes = scene.writes_since(flipped)?;
            ensure!(
                writes == Tally::of(&[("update endpoints", count), ("update endpointslices", count)]),
                "{writes}"
            );
            // A second turn where the watch shows an own write before its answer is there.
            for (controller, turns) in scene.turns().await? {
                let turns = turns - before[controller];
                ensure!(
                    turns <= 2 * count,
                    "{controller}: {turns} turns for {count} Services"
                );
            }
        }
        scene.ends().await
    });
}

#[test]
fn a_service_with_a_hundred_ports_costs_one_write_of_each_kind_for_a_flip() {
    super::prepare();
    in_sandbox_async!(async {
        let pods = size(40, 100);
        let ports: Vec<Value> = (0..100)
            .map(|port| json!({"name": format!("p{port}"), "port": 1000 + port, "targetPort": format!("t{port}")}))
            .collect();
        let targets: Vec<Value> = (0..100)
            .map(|port| json!({"name": format!("t{port}"), "containerPort": 2000 + port}))
            .collect();
        let mut objects = vec![service("wide", "wide", json!({"ports": ports}))];
        for index in 0..pods {
            let mut pod = labelled_pod("wide", index);
            pod["spec"]["containers"][0]["ports"] = json!(targets);
            objects.push((Kind::Pod, pod));
        }
        let scene = Scene::set("scale-ports", objects).await?;
        scene.converges_to(1, 1).await?;
        let creations = scene.writes_since(scene.started)?;
        ensure!(
            creations == Tally::of(&[("create endpoints", 1), ("create endpointslices", 1)]),
            "{creations}"
        );
        let slices: Api<EndpointSlice> = Api::namespaced(scene.stage.client(), NAMESPACE);
        for slice in slices.list(&ListParams::default()).await? {
            let ports = slice.ports.map_or(0, |ports| ports.len());
            ensure!(ports == 100, "{ports} ports");
        }
        let flipped = Timestamp::now();
        flip(&scene.stage.client(), "wide-0", false).await?;
        scene.awaits_writes(flipped, 2).await?;
        let writes = scene.writes_since(flipped)?;
        ensure!(
            writes == Tally::of(&[("update endpoints", 1), ("update endpointslices", 1)]),
            "{writes}"
        );
        scene.ends().await
    });
}

#[test]
fn a_service_with_twenty_thousand_pods_is_written_once_and_a_flip_writes_one_slice() {
    super::prepare();
    in_sandbox_async!(async {
        let pods = size(450, 20_000);
        let mut objects = vec![service("big", "big", json!({}))];
        objects.extend((0..pods).map(|index| (Kind::Pod, labelled_pod("big", index))));
        let scene = Scene::set("scale-pods", objects).await?;
        let slices = pods.div_ceil(100);
        scene.converges_to(1, slices).await?;
        let creations = scene.writes_since(scene.started)?;
        ensure!(
            creations == Tally::of(&[("create endpoints", 1), ("create endpointslices", slices)]),
            "{creations}"
        );
        let flipped = Timestamp::now();
        // The first in the order of addresses: Endpoints that are truncated have it too.
        flip(&scene.stage.client(), "big-0", false).await?;
        scene.awaits_writes(flipped, 2).await?;
        let writes = scene.writes_since(flipped)?;
        ensure!(
            writes == Tally::of(&[("update endpoints", 1), ("update endpointslices", 1)]),
            "{writes}"
        );
        scene.ends().await
    });
}

#[test]
fn a_namespace_goes_with_everything_in_it_and_nobody_fights_for_it() {
    super::prepare();
    in_sandbox_async!(async {
        let count = size(60, 1000);
        let mut objects = Vec::new();
        for index in 0..count {
            let app = format!("a-{index}");
            objects.push(service(&app, &app, json!({"ipFamilyPolicy": "PreferDualStack"})));
            objects.extend((0..3).map(|pod| (Kind::Pod, labelled_pod(&app, 3 * index + pod))));
            objects.push(service(&format!("m-{index}"), "", json!({})));
            let subsets = json!([{"addresses": [{"ip": "198.51.100.7"}], "ports": [{"port": 80}]}]);
            objects.push((
                Kind::Endpoints,
                json!({"metadata": {"name": format!("m-{index}")}, "subsets": subsets}),
            ));
        }
        let mut scene = Scene::set("scale-namespace", objects).await?;
        // Two slices of each Service with a selector, one mirrored of the others.
        scene.converges_to(2 * count, 3 * count).await?;
        let launch = Launch {
            admin_port: Some(10_258),
            ..Launch::named("collectors")
        };
        let _collectors = scene.stage.launch_collectors(&launch).await?;
        let namespaces: Api<Namespace> = Api::all(scene.stage.client());
        let deleted = Timestamp::now();
        namespaces.delete(NAMESPACE, &DeleteParams::default()).await?;
        // The namespace controller deletes 11 objects for each of `count`, one after the other.
        let patience = PATIENCE * (2 + u32::try_from(count / 100)?);
        eventually("the namespace is gone", patience, || async {
            let left = namespaces.get_opt(NAMESPACE).await?;
            ensure!(left.is_none(), "{:?}", left.and_then(|left| left.status));
            Ok(())
        })
        .await?;
        scene.stage.wait_idle(Contender::Berth, &scene.launch).await?;
        scene.process.terminate(PATIENCE)?;
        let failed = scene
            .requests_since(deleted)?
            .into_iter()
            .filter(|request| request.is_write() && request.code().is_none_or(|code| code >= 400));
        let failed: Vec<String> = failed.map(|request| request.to_string()).collect();
        // What goes before its Service is missed once, and its replacement refused: two slices and the Endpoints of each
        // Service with a selector, the mirrored slice of each other one, which Berth may want to delete besides.
        let most = 5 * count;
        ensure!(failed.len() <= most, "{} failed writes, not {most}", failed.len());
        for request in failed {
            let refused = request.starts_with("create ") && request.contains(" 403 ");
            // Mirrored slices go with their Endpoints: Berth and the namespace controller delete them side by side.
            let gone_already = request.starts_with("delete ") && request.contains(" 404 ");
            ensure!(refused || gone_already, "{request}");
        }
        Ok::<(), anyhow::Error>(())
    });
}

/// A Pod without grace, so that nothing has to end it, with an address of its own.
fn labelled_pod(app: &str, index: usize) -> Value {
    let address = format!(
        "10.{}.{}.{}",
        128 + index / 62_500,
        index / 250 % 250,
        index % 250 + 1
    );
    let mut pod = ready_pod(
        &format!("{app}-{index}"),
        &json!({"app": app}),
        "node-a",
        &[&address],
    );
    pod["spec"]["terminationGracePeriodSeconds"] = 0.into();
    pod
}

async fn flip(client: &Client, pod: &str, ready: bool) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let status = if ready { "True" } else { "False" };
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
    pods.patch_status(pod, &PatchParams::default(), &Patch::Strategic(patch))
        .await?;
    Ok(())
}

/// How many writes of each verb and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally(BTreeMap<String, usize>);

impl Tally {
    fn of(entries: &[(&str, usize)]) -> Self {
        Self(
            entries
                .iter()
                .map(|(what, count)| ((*what).to_owned(), *count))
                .collect(),
        )
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "writes: {:?}", self.0)
    }
}

/// A stage with objects, and Berth that was started once they were all there.
struct Scene {
    process: Process,
    launch: Launch,
    started: Timestamp,
    stage: Stage,
}

impl Scene {
    async fn set(name: &str, objects: Vec<(Kind, Value)>) -> Result<Self> {
        let stage = Stage::start_audited(&stage::folder(name)?, Vec::new()).await?;
        let client = stage.client();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces
            .create(&PostParams::default(), &mk_namespace(NAMESPACE))
            .await?;
        stream::iter(nodes().into_iter().chain(objects))
            .map(|(kind, object)| {
                let client = client.clone();
                async move { create(&client, NAMESPACE, kind, &object).await }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        let launch = Launch::named("berth");
        let started = Timestamp::now();
        let mut process = stage.launch(Contender::Berth, &launch).await?;
        stage.wait_ready(Contender::Berth, &launch, &mut process).await?;
        Ok(Self {
            process,
            launch,
            started,
            stage,
        })
    }

    /// Waits until there are so many Endpoints and slices, and nothing waits to be looked at.
    async fn converges_to(&self, endpoints: usize, slices: usize) -> Result<()> {
        let client = self.stage.client();
        let of_endpoints: Api<Endpoints> = Api::namespaced(client.clone(), NAMESPACE);
        let of_slices: Api<EndpointSlice> = Api::namespaced(client, NAMESPACE);
        let all = ListParams::default();
        eventually("Endpoints and slices", 2 * PATIENCE, || async {
            let found = of_endpoints.list_metadata(&all).await?.items.len();
            ensure!(found == endpoints, "{found} of {endpoints} Endpoints");
            let found = of_slices.list_metadata(&all).await?.items.len();
            ensure!(found == slices, "{found} of {slices} slices");
            Ok(())
        })
        .await?;
        self.stage.wait_idle(Contender::Berth, &self.launch).await
    }

    /// Waits until at least so many writes have been answered and nothing waits to be looked at.
    async fn awaits_writes(&self, since: Timestamp, count: usize) -> Result<()> {
        eventually(format!("{count} writes"), PATIENCE, || async {
            let writes = self.writes_since(since)?;
            ensure!(writes.0.values().sum::<usize>() >= count, "{writes}");
            Ok(())
        })
        .await?;
        self.stage.wait_idle(Contender::Berth, &self.launch).await
    }

    /// What Berth asked for from then on.
    fn requests_since(&self, since: Timestamp) -> Result<Vec<Request>> {
        let mut requests = self.stage.audit()?.requests()?;
        let user = Contender::Berth.user();
        requests.retain(|request| request.received.0 >= since && request.user() == user);
        Ok(requests)
    }

    /// Berth's writes from then on, Events aside.
    fn writes_since(&self, since: Timestamp) -> Result<Tally> {
        let mut tally = Tally::default();
        for request in self.requests_since(since)? {
            if request.is_write() && request.resource() != "events" {
                let what = format!("{} {}", request.verb, request.resource());
                *tally.0.entry(what).or_default() += 1;
            }
        }
        Ok(tally)
    }

    /// Turns taken so far, by controller.
    async fn turns(&self) -> Result<BTreeMap<&'static str, usize>> {
        let page = self.stage.metrics(Contender::Berth, &self.launch).await?;
        let turns = |controller: &'static str| {
            let label = format!("controller=\"{controller}\"");
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a small counter"
            )]
            let turns = page.sum_of_known("berth_controller_syncs_total", &label)? as usize;
            Ok((controller, turns))
        };
        ["endpoints", "endpointslices", "mirroring"]
            .into_iter()
            .map(turns)
            .collect()
    }

    async fn ends(mut self) -> Result<()> {
        self.process.terminate(PATIENCE)?;
        self.stage.nothing_was_forbidden()
    }
}
