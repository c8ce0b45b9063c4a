// SPDX-License-Identifier: Apache-2.0
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_model::SessionAffinity;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    clients: 3,
    rest: Duration::from_secs(10),
};

fn mk_target(n: u8) -> Target {
    Target {
        ip: [10, 244, 0, n].into(),
        port: 8080.try_into().unwrap(),
    }
}

fn mk_client(n: u8) -> IpAddr {
    [203, 0, 113, n].into()
}

fn mk_wish(endpoints: &[u8], timeout: Option<u32>) -> RelayIntent {
    let targets: BTreeSet<Target> = endpoints.iter().map(|n| mk_target(*n)).collect();
    RelayIntent {
        targets: targets.into_iter().collect(),
        serving: Arc::new([]),
        affinity: match timeout {
            None => SessionAffinity::None,
            Some(timeout_seconds) => SessionAffinity::ClientIp { timeout_seconds },
        },
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn mk_balancer(endpoints: &[u8], timeout: Option<u32>) -> Balancer {
    let mut balancer = Balancer::new(LIMITS);
    balancer.update(&mk_wish(endpoints, timeout), at(0));
    balancer
}

fn picks(balancer: &mut Balancer, times: usize) -> Vec<Option<Target>> {
    (0..times).map(|_| balancer.pick(mk_client(1), at(0))).collect()
}

fn targets(numbers: &[u8]) -> Vec<Option<Target>> {
    numbers.iter().map(|n| Some(mk_target(*n))).collect()
}

#[test]
fn round_robin_goes_on_where_it_was_when_endpoints_come_and_go() {
    let mut balancer = mk_balancer(&[1, 3, 5], None);
    assert_eq!(picks(&mut balancer, 4), targets(&[1, 3, 5, 1]));
    balancer.update(&mk_wish(&[1, 2, 3, 5], None), at(0));
    assert_eq!(picks(&mut balancer, 2), targets(&[2, 3]));
    balancer.update(&mk_wish(&[1, 2, 5], None), at(0));
    assert_eq!(picks(&mut balancer, 4), targets(&[5, 1, 2, 5]));
    balancer.update(&mk_wish(&[], None), at(0));
    assert_eq!(picks(&mut balancer, 1), [None]);
}

#[test]
fn a_retry_takes_the_next_endpoint_whatever_the_affinity_and_binds_the_client_to_it() {
    let mut balancer = mk_balancer(&[1, 2, 3], Some(60));
    let client = mk_client(7);
    assert_eq!(balancer.pick(client, at(0)), Some(mk_target(1)));
    assert_eq!(balancer.pick(client, at(1)), Some(mk_target(1)));
    let tried = BTreeSet::from([mk_target(1)]);
    assert_eq!(balancer.retry(client, &tried, at(2)), Some(mk_target(2)));
    assert_eq!(balancer.pick(client, at(3)), Some(mk_target(2)));
    let all = [1, 2, 3].map(mk_target).into();
    assert_eq!(balancer.retry(client, &all, at(4)), None);
}

#[test]
fn clients_are_forgotten_after_the_timeout_which_slides() {
    let mut balancer = mk_balancer(&[1, 2], Some(10));
    for (time, endpoint) in [(0, 1), (9, 1), (18, 1), (28, 2), (37, 2)] {
        assert_eq!(
            balancer.pick(mk_client(1), at(time)),
            Some(mk_target(endpoint)),
            "{time} s"
        );
    }
    assert_eq!(balancer.pick(mk_client(2), at(60)), Some(mk_target(1)));
    assert_eq!(balancer.clients(), 1, "the first client was swept");
}

#[test]
fn an_endpoint_that_refuses_rests_but_never_the_last_one() {
    let mut balancer = mk_balancer(&[1, 2, 3], Some(60));
    let client = mk_client(1);
    assert_eq!(balancer.pick(client, at(0)), Some(mk_target(1)));
    balancer.refused(mk_target(1), at(0));
    balancer.refused(mk_target(2), at(1));
    balancer.refused(mk_target(3), at(2));
    assert_eq!(balancer.resting(), 2);
    assert_eq!(
        balancer.pick(client, at(3)),
        Some(mk_target(3)),
        "even from its own endpoint a client goes"
    );
    assert_eq!(
        balancer.choices(mk_client(2), at(10)),
        [1, 3].map(mk_target).into()
    );
    balancer.update(&mk_wish(&[2], Some(60)), at(4));
    assert_eq!((balancer.resting(), balancer.clients()), (0, 0));
    assert_eq!(balancer.pick(client, at(4)), Some(mk_target(2)));
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u8),
    Update(Vec<u8>, Option<u32>),
    Pick(u8),
    Retry(u8, Vec<u8>),
    Refused(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let endpoints = || proptest::sample::subsequence(vec![1u8, 2, 3, 4], 0..=4);
    prop_oneof![
        2 => (0u8..9).prop_map(Step::Wait),
        1 => (endpoints(), proptest::option::weighted(0.7, 5u32..20))
            .prop_map(|(endpoints, timeout)| Step::Update(endpoints, timeout)),
        6 => (0u8..6).prop_map(Step::Pick),
        1 => ((0u8..6), endpoints()).prop_map(|(client, tried)| Step::Retry(client, tried)),
        1 => (1u8..5).prop_map(Step::Refused),
    ]
}

/// Lists and searches, no indices.
#[derive(Default)]
struct Naive {
    endpoints: Vec<Target>,
    timeout: Option<Duration>,
    last: Option<Target>,
    /// In the order of their last use.
    clients: Vec<(IpAddr, Target, Duration)>,
    resting: BTreeMap<Target, Duration>,
}

impl Naive {
    fn is_fresh(&self, target: &Target, now: Duration) -> bool {
        self.resting.get(target).is_none_or(|until| *until <= now)
    }

    fn forget(&mut self, now: Duration) {
        self.resting.retain(|_, until| *until > now);
        if let Some(timeout) = self.timeout {
            self.clients.retain(|(_, _, used)| now < *used + timeout);
        }
    }

    fn update(&mut self, wish: &RelayIntent, now: Duration) {
        self.forget(now);
        self.endpoints = wish.targets.to_vec();
        self.timeout = match wish.affinity {
            SessionAffinity::None => None,
            SessionAffinity::ClientIp { timeout_seconds } => Some(at(timeout_seconds.into())),
        };
        if self.timeout.is_none() {
            self.clients.clear();
        }
        let here = self.endpoints.clone();
        self.clients.retain(|(_, target, _)| here.contains(target));
        self.resting.retain(|target, _| here.contains(target));
        if here.iter().all(|target| !self.is_fresh(target, now)) {
            self.resting.clear();
        }
    }

    fn bind(&mut self, client: IpAddr, target: Target, now: Duration) {
        if self.timeout.is_some() {
            self.clients.retain(|(known, ..)| *known != client);
            self.clients.push((client, target, now));
            self.clients.sort_by_key(|(client, _, used)| (*used, *client));
            if self.clients.len() > LIMITS.clients {
                let newcomer = self.clients.iter().position(|(known, ..)| *known != client);
                self.clients.remove(newcomer.unwrap());
            }
        }
    }

    fn pick(&mut self, client: IpAddr, tried: Option<&[Target]>, now: Duration) -> Option<Target> {
        self.forget(now);
        let known = self.clients.iter().find(|(known, ..)| *known == client);
        let known = known
            .map(|(_, target, _)| *target)
            .filter(|target| self.is_fresh(target, now));
        if let (None, Some(target)) = (tried, known) {
            self.bind(client, target, now);
            return Some(target);
        }
        let tried = tried.unwrap_or_default();
        let open: Vec<Target> = self
            .endpoints
            .iter()
            .copied()
            .filter(|target| !tried.contains(target))
            .collect();
        let fresh: Vec<Target> = open
            .iter()
            .copied()
            .filter(|target| self.is_fresh(target, now))
            .collect();
        let list = if fresh.is_empty() { open } else { fresh };
        let behind = list.iter().copied().find(|target| Some(*target) > self.last);
        let target = behind.or(list.first().copied())?;
        self.last = Some(target);
        self.bind(client, target, now);
        Some(target)
    }

    fn refused(&mut self, target: Target, now: Duration) {
        self.forget(now);
        let mut others = self.endpoints.iter().filter(|other| **other != target);
        if self.endpoints.contains(&target) && others.any(|other| self.is_fresh(other, now)) {
            self.resting.insert(target, now + LIMITS.rest);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn the_balancer_is_its_naive_model(steps in proptest::collection::vec(step(), 0..60)) {
        let (mut balancer, mut naive) = (Balancer::new(LIMITS), Naive::default());
        let mut now = at(0);
        for step in steps {
            match step {
                Step::Wait(seconds) => now += at(seconds.into()),
                Step::Update(endpoints, timeout) => {
                    let wish = mk_wish(&endpoints, timeout);
                    balancer.update(&wish, now);
                    naive.update(&wish, now);
                }
                Step::Pick(client) => {
                    let choices = balancer.choices(mk_client(client), now);
                    let picked = balancer.pick(mk_client(client), now);
                    prop_assert_eq!(picked, naive.pick(mk_client(client), None, now));
                    prop_assert!(picked.is_none_or(|target| choices.contains(&target)));
                    prop_assert_eq!(picked.is_none(), choices.is_empty());
                }
                Step::Retry(client, tried) => {
                    let tried: Vec<Target> = tried.into_iter().map(mk_target).collect();
                    let set = tried.iter().copied().collect();
                    let picked = balancer.retry(mk_client(client), &set, now);
                    prop_assert_eq!(picked, naive.pick(mk_client(client), Some(&tried), now));
                }
                Step::Refused(endpoint) => {
                    balancer.refused(mk_target(endpoint), now);
                    naive.refused(mk_target(endpoint), now);
                }
            }
            prop_assert!(balancer.clients() <= LIMITS.clients);
            prop_assert!(balancer.endpoints.is_empty() || balancer.resting() < balancer.endpoints.len());
        }
    }

    #[test]
    fn who_stays_is_served_once_between_two_turns_of_anybody(
        rounds in proptest::collection::vec((proptest::collection::btree_set(0u8..9, 1..9), 0usize..6), 1..20),
    ) {
        let mut balancer = Balancer::new(LIMITS);
        let mut given: Vec<(u8, BTreeSet<u8>)> = Vec::new();
        for (endpoints, times) in rounds {
            let list: Vec<u8> = endpoints.iter().copied().collect();
            balancer.update(&mk_wish(&list, None), at(0));
            for _ in 0..times {
                let target = balancer.pick(mk_client(1), at(0)).unwrap();
                let number = *list.iter().find(|n| mk_target(**n) == target).unwrap();
                given.push((number, endpoints.clone()));
            }
        }
        for (first, (endpoint, _)) in given.iter().enumerate() {
            let Some(length) = given[first + 1..].iter().position(|(next, _)| next == endpoint) else {
                continue;
            };
            let turn = &given[first + 1..first + 1 + length + 1];
            let stayed = turn.iter().map(|(_, there)| there.clone()).reduce(|a, b| &a & &b).unwrap();
            if !stayed.contains(endpoint) {
                continue;
            }
            for other in stayed.iter().filter(|other| *other != endpoint) {
                let served = turn.iter().filter(|(number, _)| number == other).count();
                prop_assert_eq!(served, 1, "{} between two turns of {}", other, endpoint);
            }
        }
    }
}
