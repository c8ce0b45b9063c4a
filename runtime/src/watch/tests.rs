// SPDX-License-Identifier: Apache-2.0

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::runtime::watcher::Event;

use super::*;

fn service(name: &str) -> Service {
    Service {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("shop".to_owned()),
            managed_fields: Some(vec![ManagedFieldsEntry::default()]),
            ..ObjectMeta::default()
        },
        ..Service::default()
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey {
        namespace: Some("shop".into()),
        name: name.into(),
    }
}

/// What a consumer sees of a run of kube's events, in short.
fn seen(events: Vec<Event<Service>>) -> Vec<String> {
    let mut normaliser = Normaliser::default();
    events
        .into_iter()
        .filter_map(|event| normaliser.accept(event))
        .map(|event| match event {
            WatchEvent::Applied(object) => {
                assert_eq!(object.metadata.managed_fields, None);
                format!("+{}", ObjectKey::of(&object))
            }
            WatchEvent::Deleted(key) => format!("-{key}"),
            WatchEvent::Listed(keys) => {
                let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
                format!("={}", keys.join(","))
            }
        })
        .collect()
}

#[test]
fn a_list_is_its_objects_and_then_their_keys() {
    assert_eq!(
        seen(vec![
            Event::Init,
            Event::InitApply(service("b")),
            Event::InitApply(service("a")),
            Event::InitDone,
            Event::Apply(service("c")),
            Event::Delete(service("a")),
        ]),
        ["+shop/b", "+shop/a", "=shop/a,shop/b", "+shop/c", "-shop/a"]
    );
}

#[test]
fn an_empty_list_is_a_list() {
    assert_eq!(seen(vec![Event::Init, Event::InitDone]), ["="]);
}

#[test]
fn a_list_that_broke_off_leaves_no_key_in_the_next() {
    assert_eq!(
        seen(vec![
            Event::Init,
            Event::InitApply(service("gone")),
            Event::Init,
            Event::InitApply(service("a")),
            Event::InitDone,
        ]),
        ["+shop/gone", "+shop/a", "=shop/a"]
    );
}

#[test]
fn a_relist_names_only_what_it_saw_itself() {
    assert_eq!(
        seen(vec![
            Event::Init,
            Event::InitApply(service("a")),
            Event::InitDone,
            Event::Apply(service("b")),
            Event::Init,
            Event::InitApply(service("b")),
            Event::InitDone,
        ]),
        ["+shop/a", "=shop/a", "+shop/b", "+shop/b", "=shop/b"]
    );
}

#[test]
fn cluster_scoped_keys_print_without_a_namespace() {
    let node = ObjectKey {
        namespace: None,
        name: "node-1".into(),
    };
    assert_eq!(node.to_string(), "node-1");
    assert_eq!(key("web").to_string(), "shop/web");
}

#[test]
fn a_failure_is_news_once_per_reason_and_again_after_recovery() {
    let (mut health, now) = (Health::default(), Instant::now());
    let second = Duration::from_secs(1);
    assert_eq!(
        health.failed(Fault::Unreachable, now),
        (Duration::from_millis(200), true)
    );
    assert_eq!(
        health.failed(Fault::Unreachable, now + second),
        (Duration::from_millis(400), false)
    );
    assert_eq!(
        health.failed(Fault::Forbidden, now + 2 * second),
        (Duration::from_millis(800), true)
    );
    assert_eq!(health.recovered(), Some(Fault::Forbidden));
    assert_eq!(health.recovered(), None);
    let (delay, news) = health.failed(Fault::Forbidden, now + 3 * second);
    assert!(news);
    assert_eq!(
        delay,
        Duration::from_millis(1600),
        "a server that flaps is not hammered"
    );
    let (delay, _) = health.failed(Fault::Forbidden, now + 60 * second);
    assert_eq!(
        delay,
        Duration::from_millis(200),
        "after a calm spell the back-off starts anew"
    );
}
