// SPDX-License-Identifier: Apache-2.0
//! Random pools and requests, beside a statement that is as plain as can be.

use proptest::prelude::*;

use super::*;

/// A pool of node ports 1 to 12.
#[derive(Clone, Debug)]
struct Naive {
    name: String,
    created: i64,
    priority: i64,
    ports: BTreeSet<u16>,
    excluded: BTreeSet<u16>,
    namespaces: BTreeSet<String>,
    reserved: Option<(u16, String)>,
    draining: bool,
}

impl Naive {
    fn pool(&self) -> Pool {
        let texts = |ports: &BTreeSet<u16>| ports.iter().map(ToString::to_string).collect::<Vec<_>>();
        let reserved = self.reserved.iter();
        let reserved: Vec<Value> = reserved
            .map(|(port, name)| json!({"port": port, "namespace": "a", "name": name}))
            .collect();
        let spec = json!({"ports": texts(&self.ports), "exclude": texts(&self.excluded), "priority": self.priority,
            "selector": {"namespaces": self.namespaces}, "reservations": reserved, "draining": self.draining});
        mk_ports(&self.name, self.created, &spec)
    }

    fn is_well_formed(&self) -> bool {
        let reserved = self.reserved.iter().map(|(port, _)| port);
        let gives = self.ports.difference(&self.excluded).next().is_some();
        gives
            && reserved
                .into_iter()
                .all(|port| self.ports.contains(port) && !self.excluded.contains(port))
    }

    fn is_older(&self, other: &Self) -> bool {
        (self.created, &self.name) < (other.created, &other.name)
    }

    fn selects(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }
}

/// Those that overlap no older pool that itself overlaps none.
fn in_nobodys_way(pools: &[Naive]) -> Vec<&Naive> {
    let mut by_age: Vec<&Naive> = pools.iter().collect();
    by_age.sort_by(|one, other| {
        if one.is_older(other) {
            std::cmp::Ordering::Less
        } else {
            std::cmp::Ordering::Greater
        }
    });
    let mut kept: Vec<&Naive> = Vec::new();
    for pool in by_age {
        if kept.iter().all(|older| older.ports.is_disjoint(&pool.ports)) {
            kept.push(pool);
        }
    }
    kept
}

/// The pools that a value may come from, or the one value; `Err` where it is refused.
#[derive(Debug, PartialEq, Eq)]
enum Plain {
    Value(u16),
    AnyOf(Vec<String>),
    Outside,
    Refused,
}

fn plainly(pools: &[Naive], namespace: &str, name: &str, wish: Option<u16>) -> Plain {
    let sound = in_nobodys_way(pools);
    let gives = |pool: &Naive| {
        pool.is_well_formed() && !pool.draining && sound.iter().any(|other| other.name == pool.name)
    };
    let mut giving: Vec<&Naive> = pools.iter().filter(|pool| gives(pool)).collect();
    giving.sort_by_key(|pool| (-pool.priority, pool.created, pool.name.clone()));
    let mine = |pool: &Naive| {
        pool.reserved
            .clone()
            .filter(|(_, of)| namespace == "a" && of == name)
    };
    let anybody_selects = pools.iter().any(|pool| pool.selects(namespace));
    if let Some(wish) = wish {
        let Some(owner) = sound.iter().find(|pool| pool.ports.contains(&wish)) else {
            let overlapping = pools.iter().any(|pool| pool.ports.contains(&wish));
            return if overlapping || anybody_selects {
                Plain::Refused
            } else {
                Plain::Value(wish)
            };
        };
        let reserved = owner.reserved.as_ref().is_some_and(|(port, _)| *port == wish);
        let for_it = mine(owner).is_some_and(|(port, _)| port == wish);
        let free = owner.selects(namespace) && !reserved && !owner.excluded.contains(&wish);
        return if gives(owner) && (for_it || free) {
            Plain::Value(wish)
        } else {
            Plain::Refused
        };
    }
    if let Some((port, _)) = giving.iter().find_map(|pool| mine(pool)) {
        return Plain::Value(port);
    }
    let serving: Vec<String> = giving
        .iter()
        .filter(|pool| pool.selects(namespace))
        .map(|pool| pool.name.clone())
        .collect();
    match (serving.is_empty(), anybody_selects) {
        (false, _) => Plain::AnyOf(serving),
        (true, true) => Plain::Refused,
        (true, false) => Plain::Outside,
    }
}

fn some_ports() -> impl Strategy<Value = BTreeSet<u16>> {
    proptest::collection::btree_set(1u16..13, 1..4)
}

fn any_pool() -> impl Strategy<Value = Naive> {
    let namespaces = proptest::collection::btree_set(
        proptest::sample::select(vec!["a".to_owned(), "b".to_owned()]),
        0..2,
    );
    let name = proptest::sample::select(vec!["web".to_owned(), "db".to_owned()]);
    let reserved = proptest::option::weighted(0.4, (1u16..13, name));
    (
        0i64..3,
        -1i64..2,
        some_ports(),
        proptest::collection::btree_set(1u16..13, 0..2),
        namespaces,
        reserved,
        0u8..5,
    )
        .prop_map(
            |(created, priority, ports, excluded, namespaces, reserved, draining)| Naive {
                name: String::new(),
                created,
                priority,
                ports,
                excluded,
                namespaces,
                reserved,
                draining: draining == 0,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_choice_is_the_one_that_the_plain_statement_makes(
        pools in proptest::collection::vec(any_pool(), 0..5),
        namespace in proptest::sample::select(vec!["a", "b"]),
        name in proptest::sample::select(vec!["web", "db", "new"]),
        wish in proptest::option::of(1u16..13),
    ) {
        let naive: Vec<Naive> = pools
            .into_iter()
            .enumerate()
            .map(|(index, pool)| Naive { name: format!("p{index}"), ..pool })
            .collect();
        let pools = Pools::new(naive.iter().map(Naive::pool));
        let none = Labels::new();
        let request = Request { namespace, namespace_labels: &none, name: Some(name), labels: &none };
        let ask = Ask { what: What::NodePort, wish: wish.map(port), port_name: None, taken: &BTreeSet::new() };
        let selection = pools.select(&request, &ask, &[]);
        let found = match &selection.choice {
            Choice::Wished { item: Item::Port(port), .. } | Choice::Reserved { item: Item::Port(port), .. } => {
                Plain::Value(port.get())
            }
            Choice::AnyOf(pools) => Plain::AnyOf(pools.iter().map(|pool| pool.name.clone()).collect()),
            Choice::OutsideEveryPool => Plain::Outside,
            Choice::Refused(_) => Plain::Refused,
            Choice::Wished { .. } | Choice::Reserved { .. } | Choice::Claimed { .. } => {
                return Err(TestCaseError::fail(selection.to_string()));
            }
        };
        prop_assert_eq!(found, plainly(&naive, namespace, name, wish), "{}", selection);
        prop_assert_eq!(selection.considered.len(), naive.len());
    }
}
