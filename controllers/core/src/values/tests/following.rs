// SPDX-License-Identifier: Apache-2.0
//! Books that follow, whom pools are for, and ranges that nobody could count through.

use super::*;

#[test]
fn a_book_that_follows_tells_which_holds_a_watch_settles_and_goes_on_with_the_others() {
    let pool = mk_addresses(
        "p",
        0,
        &json!({"addresses": ["10.0.0.4-10.0.0.6"], "strategy": "LowestFirst"}),
    );
    let (mut holder, mut follower) = (cluster(), cluster());
    holder.apply_address_pool(&pool);
    follower.apply_address_pool(&pool);
    let mut holds: BTreeMap<AskId, Hold<Grant>> = BTreeMap::new();
    for (number, name) in ["one", "two"].into_iter().enumerate() {
        let asked = ask(number as u64);
        let hold = Hold {
            grant: holder.grant(&asked, &plain("a", name), at(0)).unwrap(),
            until: at(0) + HOLD,
            stands: true,
        };
        follower.note(&asked, &hold);
        holds.insert(asked, hold);
    }
    let service = mk_service(&key("a/one"), 1, &[address("10.0.0.4")].into());
    assert_eq!(follower.apply_service(Shown::of(&service), at(1)), [ask(0)]);
    holds.remove(&ask(0));
    follower.adopt(&holds);
    assert_eq!(given(&mut follower, 2, &plain("a", "three"), 1), "10.0.0.6");
    assert!(given(&mut follower, 3, &plain("a", "four"), 1).starts_with("PoolExhausted"));
    assert_eq!(
        given(&mut follower, 4, &plain("a", "two"), 1),
        "10.0.0.5",
        "asked again of the next holder"
    );
}

#[test]
fn what_does_not_stand_is_kept_from_others_and_answers_nobody() {
    let mut values = cluster();
    values.apply_address_pool(&mk_addresses(
        "p",
        0,
        &json!({"addresses": ["10.0.0.4-10.0.0.5"], "strategy": "LowestFirst"}),
    ));
    let grant = values.grant(&ask(0), &plain("a", "one"), at(0)).unwrap();
    let hold = Hold {
        grant,
        until: at(0) + HOLD,
        stands: false,
    };
    values.adopt(&[(ask(0), hold)].into());
    assert_eq!(given(&mut values, 1, &plain("a", "one"), 1), "10.0.0.5");
    assert!(given(&mut values, 2, &plain("a", "two"), 1).starts_with("PoolExhausted"));
}

#[test]
fn pools_are_for_namespaces_by_label_and_for_no_system_namespace() {
    let mut values = cluster();
    values.apply_address_pool(&mk_addresses(
        "p",
        0,
        &json!({"addresses": ["10.0.0.4"],
        "selector": {"namespaceSelector": {"matchLabels": {"team": "a"}}}}),
    ));
    let team = Labels::from([("team".to_owned(), "a".to_owned())]);
    values.apply_namespace("shop", &team);
    assert_eq!(
        values.peek(&plain("shop", "web"), at(0)).unwrap().items(),
        [address("10.0.0.4")].into()
    );
    values.remove_namespace("shop");
    assert_ne!(
        values.peek(&plain("shop", "web"), at(0)).unwrap().items(),
        [address("10.0.0.4")].into()
    );
    values.apply_namespace("kube-system", &team);
    let mut exempt = plain("shop", "dns");
    exempt.namespace = "kube-system".to_owned();
    assert_eq!(given(&mut values, 0, &exempt, 0), "");
}

#[test]
fn ranges_that_nobody_could_count_through_are_as_any_other() {
    let mut values = cluster();
    let cidrs = ["10.64.0.0/10".to_owned(), "fd00::/64".to_owned()];
    values.apply_service_cidr("wide", &cidrs, CidrState::Gives);
    values.apply_address_pool(&mk_addresses(
        "p",
        0,
        &json!({"addresses": ["fd00::1:0:0:0/80", "10.96.0.0/12"],
        "selector": {"namespaces": ["a"]}, "quota": {"perNamespace": 100}}),
    ));
    let both = |namespace: &str, name: &str| {
        let mut wish = plain(namespace, name);
        wish.asks.push(Asked {
            slot: Slot::ClusterIp(berth_model::IpFamily::V6),
            wish: None,
            port_name: None,
        });
        wish
    };
    let mut seen = BTreeSet::new();
    for number in 0..200u64 {
        let namespace = if number % 2 == 0 { "a" } else { "b" };
        let grant = values
            .grant(&ask(number), &both(namespace, &format!("s{number}")), at(0))
            .unwrap();
        assert_eq!(grant.cluster_ips.len(), 2);
        seen.extend(grant.cluster_ips);
    }
    assert_eq!(seen.len(), 400);
    let late = values.grant(&ask(200), &both("a", "late"), at(0)).unwrap_err();
    assert_eq!(late.reason, Reason::QuotaReached);
    let counts = values.figures()[0].counts[1].1;
    assert_eq!(
        (counts.capacity, counts.held),
        ((1 << 48) - 1, 100),
        "all but the network address"
    );
}
