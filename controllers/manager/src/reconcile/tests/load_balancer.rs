// SPDX-License-Identifier: Apache-2.0

use berth_controllers_core::load_balancer::Settings;
use berth_crds::{AddressPool, AddressPoolSpec, PoolUse};
use k8s_openapi::api::core::v1::{
    LoadBalancerIngress, LoadBalancerStatus, Service, ServiceSpec, ServiceStatus,
};

use super::*;
use crate::reconcile::load_balancer::{missed, take_over};

const ADDRESS: &str = "10.0.0.1";

fn mk_service(uid: &str, version: u32) -> Service {
    let mut service = Service {
        metadata: mk_meta("web", version),
        spec: Some(ServiceSpec {
            type_: Some("LoadBalancer".to_owned()),
            load_balancer_class: Some(Settings::default().class),
            ip_families: Some(vec!["IPv4".to_owned()]),
            ..ServiceSpec::default()
        }),
        status: Some(ServiceStatus {
            load_balancer: Some(LoadBalancerStatus {
                ingress: Some(vec![LoadBalancerIngress {
                    ip: Some(ADDRESS.to_owned()),
                    ip_mode: Some("VIP".to_owned()),
                    ..LoadBalancerIngress::default()
                }]),
            }),
            ..ServiceStatus::default()
        }),
    };
    service.metadata.uid = Some(uid.to_owned());
    service
}

/// A leader that took over a Service which its watch has not shown yet: it has shown what `seen` says.
fn mk_successor(listed: Service, seen: Option<Service>) -> Context {
    let (context, _) = mk_silent();
    let spec = AddressPoolSpec {
        r#use: PoolUse::LoadBalancer,
        addresses: vec!["10.0.0.0/29".to_owned()],
        ..AddressPoolSpec::default()
    };
    context.cache().apply_pool(AddressPool::new("lan", spec));
    if let Some(seen) = seen {
        context.cache().apply_service(seen);
    }
    take_over(&context, &[listed]);
    context
}

fn holder(context: &Context) -> Option<ServiceKey> {
    context.book().pools().holder(ADDRESS.parse().unwrap()).cloned()
}

/// The turn of the Service, for which the API server says whether it exists if the watch has not shown it.
async fn turn_of_web(context: &Context, exists: bool) -> Turn {
    let web = key("web");
    if context.cache().awaits_adopted(&web)
        && let Some(turn) = missed(context, &web, exists)
    {
        return turn;
    }
    turn(context, &Task::LoadBalancer(web), 0).await.unwrap()
}

#[tokio::test]
async fn an_adopted_service_keeps_its_address_until_the_watch_has_shown_it() {
    let context = mk_successor(mk_service("uid-1", 7), None);
    assert_eq!(holder(&context), Some(key("web")));
    assert!(matches!(turn_of_web(&context, true).await, Turn::Behind(_)));
    assert_eq!(holder(&context), Some(key("web")));

    let dirty = context.cache().apply_service(mk_service("uid-1", 7));
    context.route(dirty);
    context.cache().delete_service(&key("web"));
    assert_eq!(
        turn_of_web(&context, true).await,
        Turn::Done,
        "seen, then seen deleted"
    );
    assert_eq!(holder(&context), None);
}

#[tokio::test]
async fn an_adopted_service_that_was_deleted_unseen_gives_its_address_back() {
    let context = mk_successor(mk_service("uid-1", 7), None);
    assert_eq!(turn_of_web(&context, false).await, Turn::Done);
    assert_eq!(holder(&context), None);
}

#[tokio::test]
async fn the_deletion_of_an_earlier_service_of_the_name_releases_nothing() {
    let earlier = mk_service("uid-0", 3);
    let context = mk_successor(mk_service("uid-1", 7), Some(earlier));
    context.cache().delete_service(&key("web"));
    assert!(matches!(turn_of_web(&context, true).await, Turn::Behind(_)));
    assert_eq!(holder(&context), Some(key("web")));
}

#[tokio::test]
async fn an_address_listed_for_another_controller_stays_set_apart_while_the_cache_is_older() {
    let of_another = |version| {
        let mut service = mk_service("uid-1", version);
        service.spec.as_mut().unwrap().load_balancer_class = Some("example.com/other".to_owned());
        service
    };
    let mut earlier = of_another(3);
    earlier.status = None;
    let context = mk_successor(of_another(7), Some(earlier.clone()));
    assert_eq!(turn_of_web(&context, true).await, Turn::Done);
    assert_eq!(holder(&context), Some(key("web")));

    earlier.metadata.resource_version = Some("8".to_owned());
    context.cache().apply_service(earlier);
    assert_eq!(turn_of_web(&context, true).await, Turn::Done);
    assert_eq!(holder(&context), None, "no longer listed");
}
