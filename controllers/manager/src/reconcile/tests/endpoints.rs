// SPDX-License-Identifier: Apache-2.0

use std::collections::{BTreeMap, BTreeSet};

use berth_controllers_core::names;
use k8s_openapi::api::core::v1::{Endpoints, Service};

use super::*;
use crate::Controller;

const PATH: &str = "/api/v1/namespaces/shop/endpoints/web";

/// A Service without a selector: its Endpoints are written by hand.
fn mk_service(version: u32) -> Service {
    Service {
        metadata: mk_meta("web", version),
        ..Service::default()
    }
}

fn hand_written(version: u32) -> Endpoints {
    Endpoints {
        metadata: mk_meta("web", version),
        ..Endpoints::default()
    }
}

fn ours(version: u32) -> Endpoints {
    let mut endpoints = hand_written(version);
    endpoints.metadata.labels = Some(BTreeMap::from([(
        names::ENDPOINTS_MANAGED_BY.to_owned(),
        names::ENDPOINTS_CONTROLLER.to_owned(),
    )]));
    endpoints
}

/// A cluster whose API server has these Services, and whose watch has shown none of them.
async fn mk_cluster(services: Vec<Service>) -> (Server, Arc<Context>) {
    let server = Server::start(services).await;
    let context = Arc::new(mk_context(&server));
    (server, context)
}

#[tokio::test]
async fn hand_written_endpoints_wait_for_their_service() {
    let (server, context) = mk_cluster(Vec::new()).await;
    let dirty = context.cache().apply_endpoints(hand_written(1));
    context.route(dirty);
    work(&context, Controller::Endpoints).await;
    // Whatever made the key due meanwhile.
    context.enqueue(Task::Endpoints(key("web")), std::time::Duration::ZERO);
    assert_eq!(work(&context, Controller::Endpoints).await, [Turn::Done]);
    assert_eq!(server.deleted(), [""; 0]);
    let dirty = context.cache().apply_service(mk_service(1));
    context.route(dirty);
    assert_eq!(work(&context, Controller::Endpoints).await, [Turn::Done]);
    assert_eq!(server.deleted(), [""; 0]);
}

#[tokio::test]
async fn endpoints_go_with_their_service_whoever_wrote_them() {
    for endpoints in [hand_written(1), ours(1)] {
        let (server, context) = mk_cluster(Vec::new()).await;
        let dirty = {
            let mut cache = context.cache();
            cache.apply_service(mk_service(1));
            cache.apply_endpoints(endpoints);
            cache.retain_services(&BTreeSet::new())
        };
        context.route(dirty);
        assert_eq!(work(&context, Controller::Endpoints).await, [Turn::Done]);
        assert_eq!(server.deleted(), [PATH]);
    }
}

#[tokio::test]
async fn endpoints_written_after_the_service_was_deleted_stay() {
    let (server, context) = mk_cluster(Vec::new()).await;
    let dirty = {
        let mut cache = context.cache();
        cache.apply_service(mk_service(1));
        cache.apply_endpoints(hand_written(1));
        cache.delete_service(&key("web"))
    };
    context.route(dirty);
    let mut later = hand_written(2);
    later.metadata.uid = Some("uid-later".to_owned());
    // The turn of the deletion is late: a replica without the lead takes none.
    context.cache().apply_endpoints(later);
    assert_eq!(work(&context, Controller::Endpoints).await, [Turn::Done]);
    assert_eq!(server.deleted(), [""; 0]);
}

#[tokio::test]
async fn our_endpoints_without_a_service_go_once_the_api_server_knows_of_none() {
    let (server, context) = mk_cluster(vec![mk_service(1)]).await;
    let dirty = context.cache().apply_endpoints(ours(1));
    context.route(dirty);
    let ended = work(&context, Controller::Endpoints).await;
    assert!(
        matches!(&ended[..], [Turn::Behind(_)]),
        "the watch lags: {ended:?}"
    );
    assert_eq!(server.deleted(), [""; 0]);

    server.set_services(Vec::new());
    context.enqueue(Task::Endpoints(key("web")), std::time::Duration::ZERO);
    assert_eq!(work(&context, Controller::Endpoints).await, [Turn::Done]);
    assert_eq!(server.deleted(), [PATH]);
}
