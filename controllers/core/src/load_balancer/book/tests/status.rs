// SPDX-License-Identifier: Apache-2.0
//! The status of pools.

use super::*;

#[test]
fn a_pool_says_its_counts_and_why_it_rests() {
    let pools = [
        mk_pool("bad", 1, &["10.9.0.0/33", "10.9.0.0/30"]),
        mk_pool("full", 2, &["10.1.0.0"]),
        mk_pool("lan", 3, &["10.0.0.0/29", "fd00::/64"]),
        mk_pool("late", 4, &["10.0.0.4/30"]),
    ];
    let mut book = book(&pools);
    settle(&mut book, &mut mk_service("web", DUAL));
    let said: Vec<(String, String, Vec<String>)> = pools
        .iter()
        .map(|pool| {
            let status = book.plan_pool_status(pool, &at(50)).unwrap();
            let ready = &status.conditions[0];
            let exhausted = &status.conditions[1];
            let uses = [&status.ipv4, &status.ipv6].map(|of| {
                of.as_ref().map_or("-".to_owned(), |of| {
                    format!("{}/{}/{}", of.allocated, of.free, of.capacity)
                })
            });
            (
                format!("{} {} {}", ready.status, ready.reason, exhausted.status),
                ready.message.clone(),
                uses.to_vec(),
            )
        })
        .collect();
    assert_eq!(said[0].0, "False Malformed False");
    assert!(
        said[0].1.contains("spec.addresses[0]: \"10.9.0.0/33\""),
        "{}",
        said[0].1
    );
    assert_eq!(said[1].0, "True InUse True");
    assert_eq!(said[1].2, ["1/0/1", "-"]);
    assert_eq!(said[2].0, "True InUse False");
    assert_eq!(
        said[2].2,
        ["0/8/8", "1/18446744073709551615/18446744073709551616"]
    );
    assert_eq!(said[3].0, "False Overlapping False");
    assert!(
        said[3].1.contains("pool lan has 10.0.0.4-10.0.0.7 already"),
        "{}",
        said[3].1
    );
    assert_eq!(said[3].2, ["0/0/4", "-"]);
}

#[test]
fn an_unchanged_pool_writes_nothing_and_a_condition_keeps_its_time() {
    let mut book = book(&[mk_pool("lan", 3, &["10.0.0.0"])]);
    let mut pool = mk_pool("lan", 3, &["10.0.0.0"]);
    pool.status = book.plan_pool_status(&pool, &at(50));
    assert_eq!(book.plan_pool_status(&pool, &at(60)), None);
    assert_eq!(book.take_changed_pools().len(), 1);
    settle(&mut book, &mut mk_service("web", V4));
    assert_eq!(book.take_changed_pools(), BTreeSet::from([PoolName::new("lan")]));
    let status = book.plan_pool_status(&pool, &at(70)).unwrap();
    assert_eq!(status.conditions[0].last_transition_time, at(50));
    assert_eq!(status.conditions[1].last_transition_time, at(70), "now exhausted");
    assert!(book.take_changed_pools().is_empty());
}

#[test]
fn a_pool_that_is_drained_says_so_and_when_it_is_empty() {
    let mut pool = mk_pool("lan", 1, &["10.0.0.0/30"]);
    let mut book = book(std::slice::from_ref(&pool));
    let mut web = mk_service("web", V4);
    settle(&mut book, &mut web);
    pool.spec.draining = true;
    book.set_pools(std::slice::from_ref(&pool));
    let said = |book: &LoadBalancers| {
        let status = book.plan_pool_status(&pool, &at(50)).unwrap();
        let draining = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Draining")
            .unwrap();
        let uses = status.ipv4.unwrap();
        (draining.reason.clone(), uses.allocated, uses.free)
    };
    assert_eq!(said(&book), ("Draining".to_owned(), 1, "0".to_owned()));
    let mut late = mk_service("late", V4);
    settle(&mut book, &mut late);
    assert!(listed(&late).is_empty(), "nothing new");
    settle(&mut book, &mut web);
    assert_eq!(listed(&web), ["10.0.0.0"], "what is given stays");
    book.reconcile(&key_of(&web.metadata), None, &at(60));
    assert_eq!(said(&book), ("Drained".to_owned(), 0, "0".to_owned()));
}

#[test]
fn a_pool_of_cluster_ips_is_for_others_to_describe() {
    let mut cluster_ips = mk_pool("cluster-ips", 1, &["10.96.0.0/24"]);
    cluster_ips.spec.r#use = PoolUse::ClusterIp;
    let mut book = book(std::slice::from_ref(&cluster_ips));
    assert_eq!(book.take_changed_pools(), BTreeSet::new());
    assert_eq!(book.plan_pool_status(&cluster_ips, &at(50)), None);
    let mut service = mk_service("web", V4);
    settle(&mut book, &mut service);
    assert!(listed(&service).is_empty());
}
