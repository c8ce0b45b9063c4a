// SPDX-License-Identifier: Apache-2.0
//! Turns that have nothing to write, and so send nothing.

use berth_controllers_core::names;
use berth_controllers_core::slices::{SliceInput, plan_slices};
use berth_snapshot::pod::{Pod, PodCondition, PodManifest, PodSpec, PodStatus};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;

/// Ready since then, but without an address: nothing of it is published.
fn mk_pod(ready_since: i64) -> Pod {
    let mut metadata = mk_meta("web-0", 1);
    metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
    let since = Timestamp::from_second(ready_since).unwrap();
    let condition = PodCondition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(since)),
    };
    let manifest = PodManifest {
        metadata,
        spec: PodSpec::default(),
        status: PodStatus {
            conditions: vec![condition],
            ..PodStatus::default()
        },
    };
    manifest.into()
}

fn mk_service() -> Service {
    let spec = json!({"clusterIP": "10.96.0.7", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
                      "ports": [{"port": 80}]});
    Service {
        metadata: mk_meta("web", 1),
        spec: serde_json::from_value(spec).unwrap(),
        ..Service::default()
    }
}

/// A Service whose one Pod is not published, with Endpoints and slice as they should be.
fn settle(context: &Context) {
    let service = mk_service();
    let mut cache = context.cache();
    let placeholder = plan_slices(&SliceInput {
        service: &service,
        pods: &[],
        nodes: &cache.nodes,
        existing: &[],
        trigger_time: None,
        options: context.args.slice_options(),
        shares: &cache.shares,
        hints: &cache.topology.get(&key("web")),
    });
    for mut slice in placeholder.writes.create {
        slice.metadata.uid = Some("uid-slice".to_owned());
        slice.metadata.name = Some("web-a".to_owned());
        slice.metadata.resource_version = Some("1".to_owned());
        cache.apply_slice(slice);
    }
    let mut endpoints = Endpoints {
        metadata: mk_meta("web", 1),
        ..Endpoints::default()
    };
    let ours = (names::ENDPOINTS_MANAGED_BY, names::ENDPOINTS_CONTROLLER);
    endpoints.metadata.labels = Some([(ours.0.to_owned(), ours.1.to_owned())].into());
    cache.apply_endpoints(endpoints);
    cache.apply_service(service);
    cache.apply_pod(mk_pod(100));
}

#[tokio::test]
async fn a_turn_without_a_write_uses_up_the_trigger_time() {
    let (context, _notes) = mk_silent();
    settle(&context);
    let times = || {
        let cache = context.cache();
        let service = cache.service(&key("web")).unwrap();
        let pods: Vec<_> = cache.pods.iter().cloned().collect();
        let of_endpoints = cache.endpoints_triggers.look(&key("web"), &service, &pods);
        let of_slices = cache.slice_triggers.look(&key("web"), &service, &pods);
        [of_endpoints, of_slices].map(|sight| sight.time().map(Timestamp::as_second))
    };
    let turns = [Task::Endpoints(key("web")), Task::Slices(key("web"))];
    for since in [100, 200] {
        context.cache().apply_pod(mk_pod(since));
        if since > 100 {
            assert_eq!(
                times(),
                [Some(since), Some(since)],
                "a change that no turn has seen"
            );
        }
        for task in &turns {
            // It could not be written: there is no API server.
            assert_eq!(turn(&context, task, 0).await.unwrap(), Turn::Done, "{task:?}");
        }
        assert_eq!(times(), [None, None], "ready since {since}");
    }
}

#[tokio::test]
async fn an_address_that_is_none_is_told_to_whom_wrote_it() {
    let (context, mut notes) = mk_silent();
    let mut service = mk_service();
    service.spec.as_mut().unwrap().selector = None;
    context.cache().apply_service(service);
    // The API server stores none of these today; older ones did.
    let subsets = json!([{"addresses": [{"ip": "example.com"}], "ports": [{"port": 80}]}]);
    context.cache().apply_endpoints(Endpoints {
        metadata: mk_meta("web", 1),
        subsets: serde_json::from_value(subsets).unwrap(),
    });
    let ended = turn(&context, &Task::Mirror(key("web")), 0).await.unwrap();
    assert_eq!(ended, Turn::Done);
    let note = notes.try_recv().unwrap();
    assert_eq!((note.reason, note.warning), ("InvalidIPAddress", true));
    assert_eq!(note.about.name.as_deref(), Some("web"));
    assert!(note.text.contains("example.com"), "{}", note.text);
    assert!(notes.try_recv().is_err());
}
