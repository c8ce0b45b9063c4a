// SPDX-License-Identifier: Apache-2.0
//! Who is woken, and what a plan looks like.

use super::*;

#[test]
fn one_release_wakes_the_one_that_waited_longest_and_can_use_it() {
    let mut book = book(&[
        mk_pool("lan", 1, &["10.0.0.0", "10.0.0.1"]),
        mk_pool("six", 2, &["fd00::1"]),
    ]);
    let names = ["a", "b", "needs-both", "w2", "w1"];
    let mut services: Vec<Service> = names.iter().map(|name| mk_service(name, V4)).collect();
    services[2] = mk_service("needs-both", DUAL).policy("RequireDualStack");
    let mut six = mk_service("six", &["IPv6"]);
    settle(&mut book, &mut six);
    for service in &mut services {
        let plan = settle(&mut book, service);
        assert_eq!(plan.wake, None);
    }
    let key = |name: &str| ServiceKey::new("shop", name);
    let gone = |book: &mut LoadBalancers, name: &str| book.reconcile(&key(name), None, &at(1)).wake;
    assert_eq!(
        gone(&mut book, "a"),
        Some(key("w2")),
        "first come; both at once cannot be had"
    );
    let plan = turn(&mut book, &mut services[3]);
    assert_eq!(
        (plan.taken.len(), plan.wake),
        (1, None),
        "one release, one waiter"
    );
    assert_eq!(
        gone(&mut book, "six"),
        None,
        "half of what is needed helps nobody"
    );
    assert_eq!(gone(&mut book, "b"), Some(key("needs-both")));
    assert_eq!(
        gone(&mut book, "needs-both"),
        Some(key("w1")),
        "what one woken leaves goes to the next"
    );
}

#[test]
fn who_asked_for_a_certain_address_is_woken_by_that_address_alone() {
    let mut book = book(&lan());
    let mut holder = mk_service("holder", V4).annotated("berth.dev/load-balancer-ips", "10.0.0.5");
    settle(&mut book, &mut holder);
    let mut other = mk_service("other", V4);
    settle(&mut book, &mut other);
    let mut waiter = mk_service("waiter", V4).annotated("berth.dev/load-balancer-ips", "10.0.0.5");
    settle(&mut book, &mut waiter);
    let gone = |book: &mut LoadBalancers, name: &str| {
        book.reconcile(&ServiceKey::new("shop", name), None, &at(1)).wake
    };
    assert_eq!(gone(&mut book, "other"), None);
    assert_eq!(gone(&mut book, "holder"), Some(key_of(&waiter.metadata)));
}

#[test]
fn a_patch_names_the_version_it_was_planned_on_and_keeps_other_conditions() {
    let mut service = mk_service("web", V4);
    service.metadata.resource_version = Some("41".to_owned());
    service.status.get_or_insert_default().conditions = Some(vec![Condition {
        type_: "example.com/Other".to_owned(),
        status: "True".to_owned(),
        reason: "Fine".to_owned(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: at(1),
    }]);
    let plan = turn(&mut book(&lan()), &mut service);
    let patch = plan.write.unwrap().merge_patch();
    assert_eq!(patch["metadata"]["resourceVersion"], "41");
    assert_eq!(
        patch["status"]["loadBalancer"]["ingress"],
        serde_json::json!([{ "ip": "10.0.0.0", "ipMode": "VIP" }])
    );
    let types: Vec<_> = patch["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|condition| condition["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(types, ["example.com/Other", CONDITION_ALLOCATED]);
}

#[test]
fn a_plan_prints_what_it_does() {
    let plan = turn(&mut book(&lan()), &mut mk_service("web", DUAL));
    assert_eq!(
        plan.to_string(),
        "shop/web: Allocated; takes 10.0.0.0 from lan; takes fd00:: from lan; \
         status.loadBalancer.ingress = [10.0.0.0, fd00::]; Normal Allocated: Has the addresses: 10.0.0.0, fd00::"
    );
}
