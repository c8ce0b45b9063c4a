// SPDX-License-Identifier: Apache-2.0
//! When what became due is worked on.

use std::sync::Arc;

use berth_controllers_core::names;
use berth_model::ServiceKey;
use berth_runtime::lease::Leadership;
use berth_runtime::queue::Again;
use berth_snapshot::pod::{Pod, PodManifest, PodSpec, PodStatus};
use clap::Parser;
use k8s_openapi::api::core::v1::Service;
use kube::{Client, Config};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::*;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    controllers: ControllersArgs,
}

/// A context that sends nothing.
fn mk_context(flags: &[&str]) -> Context {
    let flags = Flags::parse_from(std::iter::once("controllers").chain(flags.iter().copied()));
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let metrics = Metrics::default();
    let (events, _) = Events::unpublished(metrics.clone());
    let writer = Writer::new(client, Leadership::always(), metrics.clone());
    Context::new(flags.controllers, writer, events, metrics)
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

fn batched(task: Task) -> Dirty {
    Dirty {
        batched: BTreeSet::from([task]),
        ..Dirty::default()
    }
}

fn now(task: Task) -> Dirty {
    Dirty {
        now: BTreeSet::from([task]),
        ..Dirty::default()
    }
}

/// The next task of a controller, done at once, and the seconds until it came.
async fn next(context: &Context, controller: Controller) -> Option<(Task, u64)> {
    let start = Instant::now();
    let queue = context.queue(controller).unwrap();
    let taken = timeout(Duration::from_secs(600), queue.next()).await.ok()??;
    let task = taken.key().clone();
    taken.done();
    Some((task, start.elapsed().as_secs()))
}

#[tokio::test(start_paused = true)]
async fn changes_are_gathered_from_the_first_one_on_for_their_controllers_batch_period() {
    let context = mk_context(&[
        "--endpointslice-updates-batch-period=5s",
        "--mirroring-endpointslice-updates-batch-period=9s",
    ]);
    let slices = Task::Slices(key("web"));
    context.route(batched(slices.clone()));
    context.route(batched(Task::Mirror(key("web"))));
    context.route(batched(Task::Endpoints(key("web"))));
    let endpoints = next(&context, Controller::Endpoints).await;
    assert_eq!(
        endpoints,
        Some((Task::Endpoints(key("web")), 0)),
        "no period by default"
    );
    tokio::time::advance(Duration::from_secs(3)).await;
    context.route(batched(slices.clone()));
    assert_eq!(
        next(&context, Controller::EndpointSlices).await,
        Some((slices, 2))
    );
    assert_eq!(
        next(&context, Controller::Mirroring).await,
        Some((Task::Mirror(key("web")), 4))
    );
    assert_eq!(
        next(&context, Controller::EndpointSlices).await,
        None,
        "one turn for both"
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_service_waits_for_no_batch_and_takes_the_gathered_ones_along() {
    let context = mk_context(&["--endpointslice-updates-batch-period=5s"]);
    let slices = Task::Slices(key("web"));
    context.route(batched(slices.clone()));
    context.route(now(slices.clone()));
    assert_eq!(
        next(&context, Controller::EndpointSlices).await,
        Some((slices, 0))
    );
    assert_eq!(next(&context, Controller::EndpointSlices).await, None);
}

#[tokio::test(start_paused = true)]
async fn first_delays_after_a_failure_are_upstreams() {
    let context = mk_context(&[]);
    for (controller, task, first) in [
        (Controller::Endpoints, Task::Endpoints(key("web")), 5),
        (Controller::EndpointSlices, Task::Slices(key("web")), 1000),
        (Controller::Mirroring, Task::Mirror(key("web")), 1000),
    ] {
        let queue = context.queue(controller).unwrap();
        queue.add(task);
        for failures in 0..3 {
            let start = Instant::now();
            let taken = queue.next().await.unwrap();
            let delay = if failures == 0 { 0 } else { first << (failures - 1) };
            assert_eq!(
                start.elapsed().as_millis(),
                delay,
                "{controller} after {failures}"
            );
            taken.retry(Again::Refused);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_fails_forever_is_taken_again_every_minute_at_least() {
    assert_eq!(longest_delay(Controller::Endpoints).await, LONGEST);
    assert_eq!(longest_delay(Controller::EndpointSlices).await, LONGEST);
}

#[tokio::test(start_paused = true)]
async fn mirroring_that_fails_forever_is_taken_again_every_hundred_seconds() {
    let longest = longest_delay(Controller::Mirroring).await;
    assert_eq!(longest, Duration::from_secs(100));
}

/// The longest time between two of forty turns that all fail.
async fn longest_delay(controller: Controller) -> Duration {
    let context = mk_context(&[]);
    let queue = context.queue(controller).unwrap();
    queue.add(Task::Slices(key("web")));
    let mut longest = Duration::ZERO;
    for _ in 0..40 {
        let start = Instant::now();
        let taken = queue.next().await.unwrap();
        longest = longest.max(start.elapsed());
        taken.retry(Again::Failed(Duration::ZERO));
    }
    longest
}

fn mk_service(name: &str) -> Service {
    let manifest = json!({
        "metadata": {"namespace": "shop", "name": name, "resourceVersion": "1"},
        "spec": {"selector": {"app": name}},
    });
    serde_json::from_value(manifest).unwrap()
}

fn mk_pod(name: &str, app: &str) -> Pod {
    let manifest = PodManifest {
        metadata: serde_json::from_value(json!({
            "namespace": "shop", "name": name, "labels": {"app": app},
        }))
        .unwrap(),
        spec: PodSpec::default(),
        status: PodStatus::default(),
    };
    manifest.into()
}

#[tokio::test(start_paused = true)]
async fn pod_events_within_the_batch_period_make_one_turn() {
    let context = mk_context(&[
        "--endpoint-updates-batch-period=3s",
        "--endpointslice-updates-batch-period=5s",
    ]);
    context.cache().apply_service(mk_service("web"));
    for name in ["web-0", "web-1", "web-2"] {
        let dirty = context.cache().apply_pod(mk_pod(name, "web"));
        context.route(dirty);
    }
    for (controller, task, seconds) in [
        (Controller::Endpoints, Task::Endpoints(key("web")), 3),
        // Time has passed meanwhile.
        (Controller::EndpointSlices, Task::Slices(key("web")), 0),
    ] {
        assert_eq!(next(&context, controller).await, Some((task, seconds)));
        assert_eq!(
            next(&context, controller).await,
            None,
            "{controller}: one turn for all"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_foreign_edit_of_a_slice_is_worked_on_at_once_unless_changes_are_gathered() {
    for (flags, seconds) in [
        (&[][..], 0),
        (&["--endpointslice-updates-batch-period=5s"][..], 5),
    ] {
        let context = mk_context(flags);
        context.cache().apply_service(mk_service("web"));
        let foreign = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "web-a", "uid": "1", "generation": 1, "labels": {
                names::SERVICE_NAME: "web", names::SLICE_MANAGED_BY: names::SLICE_CONTROLLER,
            }},
            "addressType": "IPv4",
            "endpoints": [],
        }));
        let dirty = context.cache().apply_slice(foreign.unwrap());
        context.route(dirty);
        let due = next(&context, Controller::EndpointSlices).await;
        assert_eq!(due, Some((Task::Slices(key("web")), seconds)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_namespace_does_not_keep_another_waiting() {
    let context = Arc::new(mk_context(&[]));
    let busy = |n: u32| Task::Slices(ServiceKey::new("busy", format!("web-{n}")));
    (0..1000).for_each(|n| context.route(batched(busy(n))));
    context.route(batched(Task::Slices(key("quiet"))));
    let mut turns = 0;
    loop {
        let (task, _) = next(&context, Controller::EndpointSlices).await.unwrap();
        if task == Task::Slices(key("quiet")) {
            break;
        }
        turns += 1;
        // Whatever was served is changed again at once.
        context.route(batched(task));
    }
    assert_eq!(turns, 1000, "each of the others once");
}
