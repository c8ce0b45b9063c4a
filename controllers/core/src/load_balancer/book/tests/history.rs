// SPDX-License-Identifier: Apache-2.0
//! Random histories against a small API server: events lag behind, writes on stale versions are refused,
//! the controller is killed at any point.

use std::collections::VecDeque;

use berth_crds::PoolSelector;
use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proptest::prelude::*;

use super::*;

const SERVICES: u8 = 7;
/// A history that has not come to rest after so many turns never will.
const PATIENCE: usize = 2_000;

#[derive(Clone, Debug)]
enum Step {
    Apply {
        service: u8,
        shape: Shape,
    },
    Delete(u8),
    Wipe(u8),
    Overwrite(u8),
    Pools(Vec<(u8, u8, u8, bool, For)>),
    /// The namespace of all gets or loses the label.
    Namespace(bool),
    Deliver(u8),
    Turn,
    /// The successor lists the Services anew; what it watches may lag behind that list.
    Kill {
        lagging: bool,
    },
    Rest,
}

/// Whom a pool is for, and its priority.
type For = (u8, i64);

/// What a user writes.
#[derive(Clone, Debug)]
struct Shape {
    gold: bool,
    /// Key and port.
    sharing: Option<(u8, u8)>,
    load_balancer: bool,
    ours: bool,
    families: u8,
    policy: u8,
    address: Option<u8>,
    pool: Option<u8>,
}

fn shape() -> impl Strategy<Value = Shape> {
    (
        any::<bool>(),
        prop::option::weighted(0.5, (0u8..2, 0u8..3)),
        prop::bool::weighted(0.85),
        prop::bool::weighted(0.9),
        0u8..4,
        0u8..3,
        prop::option::weighted(0.3, 0u8..24),
        prop::option::weighted(0.2, 0u8..4),
    )
        .prop_map(
            |(gold, sharing, load_balancer, ours, families, policy, address, pool)| Shape {
                gold,
                sharing,
                load_balancer,
                ours,
                families,
                policy,
                address,
                pool,
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    let service = 0..SERVICES;
    prop_oneof![
        6 => (service.clone(), shape()).prop_map(|(service, shape)| Step::Apply { service, shape }),
        2 => service.clone().prop_map(Step::Delete),
        1 => service.clone().prop_map(Step::Wipe),
        1 => service.clone().prop_map(Step::Overwrite),
        1 => prop::collection::vec(
            (0u8..4, 0u8..16, 0u8..8, prop::bool::weighted(0.9), (0u8..5, 0i64..3)), 1..4).prop_map(Step::Pools),
        1 => any::<bool>().prop_map(Step::Namespace),
        8 => service.prop_map(Step::Deliver),
        8 => Just(Step::Turn),
        2 => any::<bool>().prop_map(|lagging| Step::Kill { lagging }),
        2 => Just(Step::Rest),
    ]
}

/// The API server, the watch and the controller's queue.
struct World {
    pools: Vec<AddressPool>,
    namespaces: Arc<BTreeMap<String, Labels>>,
    stored: BTreeMap<ServiceKey, Service>,
    version: u64,
    /// Events on their way, per Service.
    events: BTreeMap<ServiceKey, VecDeque<Option<Service>>>,
    /// What the controller has seen.
    seen: BTreeMap<ServiceKey, Service>,
    queue: VecDeque<ServiceKey>,
    book: LoadBalancers,
    now: i64,
    has_shared: BTreeSet<ServiceKey>,
}

impl World {
    fn new() -> Self {
        let pools = vec![mk_pool("a", 1, &["10.0.0.0-10.0.0.4", "fd00::-fd00::3"])];
        let mut world = Self {
            pools: Vec::new(),
            namespaces: Arc::default(),
            stored: BTreeMap::new(),
            version: 0,
            events: BTreeMap::new(),
            seen: BTreeMap::new(),
            queue: VecDeque::new(),
            book: LoadBalancers::new(Settings {
                cool_down: Duration::from_secs(20),
                ..Settings::default()
            }),
            now: 1_000,
            has_shared: BTreeSet::new(),
        };
        world.set_pools(pools);
        world
    }

    fn set_pools(&mut self, pools: Vec<AddressPool>) {
        self.pools = pools;
        for key in self.book.set_pools(&self.pools).wake {
            self.enqueue(key);
        }
    }

    fn label_namespace(&mut self, gold: bool) {
        self.namespaces = Arc::new([("shop".to_owned(), tier(gold))].into());
        for key in self.book.set_namespaces(&self.namespaces) {
            self.enqueue(key);
        }
    }

    fn enqueue(&mut self, key: ServiceKey) {
        if !self.queue.contains(&key) {
            self.queue.push_back(key);
        }
    }

    /// Stores an object as the API server would and sends the event.
    fn store(&mut self, key: &ServiceKey, mut service: Service) {
        let is_load_balancer = service.spec.as_ref().unwrap().type_.as_deref() == Some("LoadBalancer");
        let class = |service: &Service| service.spec.as_ref().unwrap().load_balancer_class.clone();
        let class_changed = self
            .stored
            .get(key)
            .is_some_and(|old| class(old) != class(&service));
        // A class is immutable while the type stays: the type was changed there and back.
        if !is_load_balancer || class_changed {
            service = service.listing(&[]);
        }
        self.version += 1;
        service.metadata.resource_version = Some(self.version.to_string());
        self.stored.insert(key.clone(), service.clone());
        self.events
            .entry(key.clone())
            .or_default()
            .push_back(Some(service));
    }

    fn apply_shape(&mut self, key: &ServiceKey, shape: &Shape) {
        if shape.sharing.is_some() {
            self.has_shared.insert(key.clone());
        }
        let families: &[&str] =
            [&["IPv4"][..], &["IPv6"], &["IPv4", "IPv6"], &["IPv6", "IPv4"]][usize::from(shape.families)];
        let policy = match (families.len(), shape.policy) {
            (1, _) => "SingleStack",
            (_, 0) => "RequireDualStack",
            _ => "PreferDualStack",
        };
        let mut service = mk_service(key.name(), families).policy(policy).spec(|spec| {
            if !shape.load_balancer {
                spec.type_ = Some("ClusterIP".to_owned());
            }
            if !shape.load_balancer || !shape.ours {
                spec.load_balancer_class = shape.load_balancer.then(|| "example.com/lb".to_owned());
            }
        });
        service.metadata.labels = Some(tier(shape.gold));
        if let Some(address) = shape.address {
            let address = if address % 3 == 0 {
                format!("fd00::{:x}", address / 3)
            } else {
                format!("10.0.0.{address}")
            };
            service = service.annotated("berth.dev/load-balancer-ips", &address);
        }
        if let Some((key, port)) = shape.sharing {
            service = service
                .annotated(KEY, &format!("key-{key}"))
                .spec(|spec| spec.ports = Some(vec![mk_port(port)]));
        }
        if let Some(pool) = shape.pool {
            service = service.annotated("berth.dev/address-pool", &pool_letter(pool));
        }
        if let Some(old) = self.stored.get(key) {
            service.status = old.status.clone();
            service.metadata.creation_timestamp = old.metadata.creation_timestamp.clone();
        } else {
            service.metadata.creation_timestamp = Some(at(self.now));
        }
        self.store(key, service);
    }

    /// The watch hands one event on.
    fn deliver(&mut self, key: &ServiceKey) {
        let Some(event) = self.events.get_mut(key).and_then(VecDeque::pop_front) else {
            return;
        };
        match event {
            Some(service) => self.seen.insert(key.clone(), service),
            None => self.seen.remove(key),
        };
        self.enqueue(key.clone());
    }

    fn turn(&mut self) -> Option<LbPlan> {
        let key = self.queue.pop_front()?;
        let plan = self.book.reconcile(&key, self.seen.get(&key), &at(self.now));
        for allocation in &plan.taken {
            assert!(self.may_have(&key, allocation.pool.as_ref()), "{plan}");
        }
        if let Some(write) = &plan.write {
            let current = self.stored.get(&key);
            let version = current.and_then(|service| service.metadata.resource_version.clone());
            if let Some(current) = current.filter(|_| version == write.resource_version) {
                let mut service = current.clone();
                apply(&mut service, write);
                self.store(&key, service);
            }
        }
        if let Some(woken) = plan.wake.clone() {
            self.enqueue(woken);
        }
        Some(plan)
    }

    /// Whether the pool is for the Service, as far as the controller has seen.
    fn may_have(&self, key: &ServiceKey, pool: Option<&PoolName>) -> bool {
        let name = pool.map(PoolName::as_str);
        let named = |pool: &&AddressPool| pool.metadata.name.as_deref() == name;
        let selector = self.pools.iter().find(named).unwrap().spec.selector.clone();
        let selector = selector.unwrap_or_default();
        let of_service = self.seen[key].metadata.labels.clone().unwrap();
        let of_namespace = self.namespaces.get("shop").cloned().unwrap_or_default();
        let gold = |labels: Labels| labels == tier(true);
        (selector.service_selector.is_none() || gold(of_service))
            && (selector.namespace_selector.is_none() || gold(of_namespace))
    }

    fn kill(&mut self, lagging: bool) {
        self.queue.clear();
        if !lagging {
            self.events.clear();
            self.seen = self.stored.clone();
        }
        let mut book = LoadBalancers::new(Settings {
            cool_down: Duration::from_secs(20),
            ..Settings::default()
        });
        book.set_namespaces(&self.namespaces);
        book.set_pools(&self.pools);
        let adopted = book.adopt(self.stored.values());
        self.book = book;
        self.queue.extend(adopted.order);
        for key in self.seen.keys().cloned().collect::<Vec<_>>() {
            self.enqueue(key);
        }
    }

    /// Everything is delivered and every turn taken until nothing moves.
    fn rest(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..PATIENCE {
            let on_their_way: Vec<ServiceKey> = self
                .events
                .iter()
                .filter(|(_, events)| !events.is_empty())
                .map(|(key, _)| key.clone())
                .collect();
            for key in &on_their_way {
                self.deliver(key);
            }
            self.check()?;
            if self.turn().is_none() && on_their_way.is_empty() {
                return Ok(());
            }
        }
        Err(TestCaseError::fail("does not come to rest"))
    }

    fn statuses(&self) -> BTreeMap<ServiceKey, Vec<String>> {
        self.stored
            .iter()
            .map(|(key, service)| (key.clone(), listed(service)))
            .collect()
    }

    /// At every moment: no address in two statuses, but of those that share or once did.
    fn check(&self) -> Result<(), TestCaseError> {
        self.of_two(|one, other| self.has_shared.contains(one) && self.has_shared.contains(other))
    }

    /// At rest: of those that have an address together all but those that say that they should not share it.
    fn check_shared(&self) -> Result<(), TestCaseError> {
        let says_so = |key: &ServiceKey| {
            let (_, _, message) = condition(&self.stored[key]);
            message.contains("(to be left)")
        };
        self.of_two(|one, other| {
            let (terms, others) = (terms(&self.stored[one]), terms(&self.stored[other]));
            let alike = terms.is_some() && terms.map(|terms| terms.0) == others.map(|terms| terms.0);
            (alike && terms.map(|terms| terms.1) != others.map(|terms| terms.1))
                || says_so(one)
                || says_so(other)
        })
    }

    /// Whether it may be of any two Services that list one address.
    fn of_two(&self, may: impl Fn(&ServiceKey, &ServiceKey) -> bool) -> Result<(), TestCaseError> {
        let mut by_address: BTreeMap<String, Vec<&ServiceKey>> = BTreeMap::new();
        for (key, service) in &self.stored {
            for address in listed(service).into_iter().filter(|address| *address != STRANGER) {
                let others = by_address.entry(address.clone()).or_default();
                if let Some(other) = others.iter().find(|other| !may(key, other)) {
                    return Err(TestCaseError::fail(format!("{address}: {other} and {key}")));
                }
                others.push(key);
            }
        }
        Ok(())
    }

    /// At rest: what is held is listed, nobody waits for what is free, another round writes nothing.
    fn check_rest(&mut self) -> Result<(), TestCaseError> {
        for (key, service) in &self.stored {
            let held = self.book.ledger.held_by(key);
            let held: BTreeSet<String> = held.iter().map(ToString::to_string).collect();
            let listed: BTreeSet<String> = listed(service)
                .into_iter()
                .filter(|address| *address != STRANGER)
                .collect();
            prop_assert_eq!(held, listed, "{}", key);
        }
        for owner in self.book.ledger.owners() {
            prop_assert!(self.stored.contains_key(owner), "{} is gone but holds", owner);
        }
        prop_assert_eq!(self.book.waiting.first_helped(&self.book.ledger), None);
        self.check_shared()?;
        for (key, service) in &self.stored.clone() {
            let plan = self.book.reconcile(key, Some(service), &at(self.now));
            prop_assert!(plan.taken.is_empty() && plan.released.is_empty(), "{}", plan);
            self.only_says_why(&plan)?;
        }
        Ok(())
    }

    /// The plan writes nothing, but that one who waits may learn of another reason: nobody is woken for that.
    fn only_says_why(&self, plan: &LbPlan) -> Result<(), TestCaseError> {
        if let Some(write) = &plan.write {
            prop_assert!(
                write.ingress.is_none() && self.book.is_waiting(&plan.key),
                "{}",
                plan
            );
        }
        Ok(())
    }
}

/// What another writer puts into a status.
const STRANGER: &str = "203.0.113.9";

fn tier(gold: bool) -> Labels {
    [("tier".to_owned(), if gold { "gold" } else { "tin" }.to_owned())].into()
}

/// All, or those of the tier, or all of namespaces of the tier.
fn selector(selects: u8) -> Option<PoolSelector> {
    let gold = || {
        Some(LabelSelector {
            match_labels: Some(tier(true)),
            ..LabelSelector::default()
        })
    };
    match selects {
        0 => Some(PoolSelector {
            service_selector: gold(),
            ..PoolSelector::default()
        }),
        1 => Some(PoolSelector {
            namespace_selector: gold(),
            ..PoolSelector::default()
        }),
        _ => None,
    }
}

const KEY: &str = "berth.dev/sharing-key";

fn mk_port(number: u8) -> ServicePort {
    ServicePort {
        port: i32::from(number) + 1,
        ..ServicePort::default()
    }
}

/// Key and port.
fn terms(service: &Service) -> Option<(&str, i32)> {
    let key = service.metadata.annotations.as_ref()?.get(KEY)?;
    let port = service.spec.as_ref()?.ports.as_ref()?.first()?.port;
    Some((key, port))
}

fn pool_letter(index: u8) -> String {
    char::from(b'a' + index).to_string()
}

fn key(index: u8) -> ServiceKey {
    ServiceKey::new("shop", format!("s{index}"))
}

fn play(world: &mut World, step: Step) -> Result<(), TestCaseError> {
    world.now += 3;
    match step {
        Step::Apply { service, shape } => world.apply_shape(&key(service), &shape),
        Step::Delete(service) => {
            if world.stored.remove(&key(service)).is_some() {
                world.events.entry(key(service)).or_default().push_back(None);
            }
        }
        Step::Wipe(service) => {
            if let Some(stored) = world.stored.get(&key(service)).cloned() {
                world.store(&key(service), stored.listing(&[]));
            }
        }
        Step::Overwrite(service) => {
            if let Some(stored) = world.stored.get(&key(service)).cloned() {
                world.store(&key(service), stored.listing(&[STRANGER]));
            }
        }
        Step::Pools(list) => {
            let pools = list
                .into_iter()
                .map(|(name, from, length, good, (selects, priority))| {
                    let v4 = format!("10.0.0.{from}-10.0.0.{}", from + length);
                    let v6 = format!("fd00::{:x}-fd00::{:x}", from / 2, (from + length) / 2);
                    let addresses = [v4.as_str(), &v6, "nonsense"];
                    let used = if good { &addresses[..2] } else { &addresses };
                    let mut pool = mk_pool(&pool_letter(name), i64::from(name), used);
                    pool.spec.selector = selector(selects);
                    pool.spec.priority = priority;
                    (name, pool)
                })
                .collect::<BTreeMap<_, _>>();
            world.set_pools(pools.into_values().collect());
        }
        Step::Namespace(gold) => world.label_namespace(gold),
        Step::Deliver(service) => world.deliver(&key(service)),
        Step::Turn => {
            world.turn();
        }
        Step::Kill { lagging } => world.kill(lagging),
        Step::Rest => {
            world.rest()?;
            world.check_rest()?;
            let before = world.statuses();
            world.kill(false);
            while let Some(plan) = world.turn() {
                world.only_says_why(&plan)?;
            }
            prop_assert_eq!(world.statuses(), before);
        }
    }
    world.check()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn no_address_has_two_services_and_all_comes_to_rest(steps in prop::collection::vec(step(), 0..70)) {
        let mut world = World::new();
        for step in steps {
            play(&mut world, step)?;
        }
        play(&mut world, Step::Rest)?;
    }
}

/// Of a Service of ours: key and port, families, the address and the pool that it asks for.
fn applied(
    service: u8,
    sharing: Option<(u8, u8)>,
    families: u8,
    (address, pool): (Option<u8>, Option<u8>),
) -> Step {
    let shape = Shape {
        gold: false,
        sharing,
        load_balancer: true,
        ours: true,
        families,
        policy: 0,
        address,
        pool,
    };
    Step::Apply { service, shape }
}

fn replay(steps: Vec<Step>) {
    let mut world = World::new();
    for step in steps {
        play(&mut world, step).unwrap();
    }
}

#[test]
fn of_two_that_changed_their_minds_the_later_one_leaves_after_a_restart_too() {
    replay(vec![
        applied(0, Some((1, 0)), 2, (None, None)),
        applied(5, Some((1, 1)), 2, (None, None)),
        Step::Rest,
        applied(0, None, 0, (None, None)),
        applied(0, None, 2, (None, None)),
        applied(5, None, 0, (None, Some(1))),
        Step::Rest,
    ]);
}

#[test]
fn one_that_leaves_moves_to_what_it_took_when_its_first_write_was_refused() {
    replay(vec![
        applied(5, Some((1, 1)), 1, (Some(3), None)),
        applied(1, None, 1, (Some(0), None)),
        Step::Rest,
        applied(5, None, 1, (Some(7), None)),
        applied(2, Some((1, 0)), 1, (None, None)),
        Step::Rest,
        applied(5, None, 1, (None, None)),
        applied(0, None, 1, (None, None)),
        applied(5, None, 1, (None, None)),
        Step::Kill { lagging: true },
        Step::Turn,
        Step::Rest,
    ]);
}

#[test]
fn who_leaves_one_address_and_stays_at_another_does_so_after_a_restart_too() {
    replay(vec![
        applied(0, Some((1, 0)), 2, (None, None)),
        applied(6, Some((0, 2)), 1, (None, None)),
        applied(4, Some((1, 1)), 2, (None, None)),
        Step::Rest,
        applied(6, None, 1, (None, Some(1))),
        applied(4, Some((0, 0)), 2, (Some(5), None)),
        Step::Rest,
    ]);
}
