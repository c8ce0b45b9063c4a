// SPDX-License-Identifier: Apache-2.0
//! Random pools and Services: the API server denies what a naive statement of the rules denies and nothing else, and never what
//! the webhook would have given.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use berth_controllers_core::enforcement::Action;
use berth_controllers_core::pools::{Ask, Choice, Item, Pool, Pools, Request, Standing, What};
use berth_crds::{AddressPool, NodePortPool};
use berth_model::{IpFamily, Port};
use berth_testkit::in_sandbox_async;
use berth_testkit::wait::eventually;
use fastrand::Rng;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::ground::{Ground, PATIENCE, labelled};
use crate::prepare;

const ROUNDS: u16 = 5;
const POOLS: usize = 6;
const CREATES: usize = 80;
/// How many values there are of a kind.
const VALUES: u16 = 48;
const NAMESPACES: [(&str, &[(&str, &str)]); 4] =
    [("a", &[]), ("b", &[]), ("x", &[]), ("gold", &[("tier", "gold")])];

/// What a round is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ipv4,
    Ipv6,
    Ports,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Ipv4, Self::Ipv6, Self::Ports];

    /// Of 0 to [`VALUES`], and behind that of sentinels.
    fn text(self, index: u16) -> String {
        match self {
            Self::Ipv4 => format!("10.96.0.{}", 16 + index),
            Self::Ipv6 => format!("fd00:10:96::{:x}", 16 + index),
            Self::Ports => (30_000 + index).to_string(),
        }
    }

    fn item(self, index: u16) -> Result<Item> {
        Ok(match self {
            Self::Ipv4 | Self::Ipv6 => Item::Address(self.text(index).parse::<IpAddr>()?),
            Self::Ports => Item::Port(Port::new(30_000 + index).context("a port")?),
        })
    }

    fn what(self) -> What {
        match self {
            Self::Ipv4 => What::ClusterIp(IpFamily::V4),
            Self::Ipv6 => What::ClusterIp(IpFamily::V6),
            Self::Ports => What::NodePort,
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Ipv4 | Self::Ipv6 => "addresspools",
            Self::Ports => "nodeportpools",
        }
    }

    fn pool(self, ranges: &[(u16, u16)]) -> Value {
        let ranges = ranges.iter().map(|(first, last)| match (first == last, self) {
            (true, _) => self.text(*first),
            (false, _) => format!("{}-{}", self.text(*first), self.text(*last)),
        });
        let ranges: Vec<String> = ranges.collect();
        match self {
            Self::Ipv4 | Self::Ipv6 => json!({"use": "ClusterIP", "addresses": ranges}),
            Self::Ports => json!({"ports": ranges}),
        }
    }

    fn reservation(self, index: u16, namespace: &str) -> Value {
        match self {
            Self::Ipv4 | Self::Ipv6 => {
                json!([{"address": self.text(index), "namespace": namespace, "name": "kept"}])
            }
            Self::Ports => json!([{"port": 30_000 + index, "namespace": namespace, "name": "kept"}]),
        }
    }

    fn service(self, index: u16) -> Value {
        match self {
            Self::Ipv4 => json!({"clusterIP": self.text(index)}),
            Self::Ipv6 => json!({"clusterIP": self.text(index), "ipFamilies": ["IPv6"]}),
            Self::Ports => json!({"type": "NodePort",
                "ports": [{"name": "http", "port": 80, "nodePort": 30_000 + index}]}),
        }
    }
}

fn one_of<T: Clone>(rng: &mut Rng, all: &[T]) -> Result<T> {
    rng.choice(all).cloned().context("nothing to choose of")
}

fn selector(rng: &mut Rng) -> Result<Value> {
    let mut selector = json!({});
    if rng.u8(..10) < 7 {
        let count = rng.usize(1..3);
        let names: BTreeSet<&str> = NAMESPACES.iter().map(|(name, _)| *name).collect();
        let names: Vec<&str> = names.into_iter().collect();
        selector["namespaces"] = json!(rng.choose_multiple(names.iter(), count));
    }
    if rng.u8(..10) < 3 {
        selector["namespaceSelector"] = json!({"matchLabels": {"tier": "gold"}});
    }
    let services = [
        json!(null),
        json!(null),
        json!({"matchLabels": {"web": "yes"}}),
        json!({"matchExpressions": [{"key": "web", "operator": "In", "values": ["yes", "maybe"]}]}),
        json!({"matchExpressions": [{"key": "web", "operator": "NotIn", "values": ["yes"]}]}),
        json!({"matchExpressions": [{"key": "web", "operator": "DoesNotExist"}]}),
    ];
    let services = one_of(rng, &services)?;
    if !services.is_null() {
        selector["serviceSelector"] = services;
    }
    Ok(selector)
}

async fn make_pools(ground: &Ground, rng: &mut Rng, kind: Kind, round: u16) -> Result<()> {
    for index in 0..POOLS {
        let ranges = (0..rng.u16(1..3)).map(|part| {
            // Of one pool they never touch.
            let first = part * (VALUES / 2) + rng.u16(..VALUES / 2 - 8);
            (first, first + rng.u16(..8))
        });
        let ranges: Vec<(u16, u16)> = ranges.collect();
        let mut spec = kind.pool(&ranges);
        spec["selector"] = selector(rng)?;
        spec["draining"] = json!(rng.u8(..6) == 0);
        spec["priority"] = json!(rng.i8(-1..2));
        let (first, last) = one_of(rng, &ranges)?;
        let (namespace, _) = one_of(rng, &NAMESPACES)?;
        match rng.u8(..8) {
            0..3 => spec["reservations"] = kind.reservation(rng.u16(first..=last), namespace),
            // Of no pool: that is a fault.
            3 => spec["reservations"] = kind.reservation(VALUES + 5, namespace),
            _ => {}
        }
        let name = format!("r{round}-p{index}");
        ground.pool(kind.plural(), &name, &spec).await?;
    }
    let mut sentinel = kind.pool(&[(sentinel(round), sentinel(round))]);
    sentinel["selector"] = json!({"namespaces": ["nobody"]});
    ground
        .pool(kind.plural(), &format!("r{round}-sentinel"), &sentinel)
        .await
}

fn sentinel(round: u16) -> u16 {
    VALUES + 10 + round
}

/// Until what is enforced is of this round.
async fn taken_up(ground: &Ground, kind: Kind, round: u16) -> Result<()> {
    let name = format!("sentinel-{round}");
    let service = labelled(&kind.service(sentinel(round)), &[]);
    let denied = || async {
        let answer = ground.create("c", &name, &service).await?;
        if answer.status == 201 {
            ground.delete("c", &name).await?;
        }
        ensure!(answer.status == 403, "{answer:?}");
        anyhow::Ok(())
    };
    Ok(eventually("the sentinel's value is denied", PATIENCE, denied).await?)
}

async fn stored(ground: &Ground, kind: Kind) -> Result<Vec<Pool>> {
    let everything = ListParams::default();
    Ok(match kind {
        Kind::Ipv4 | Kind::Ipv6 => {
            let api: Api<AddressPool> = Api::all(ground.client.clone());
            api.list(&everything)
                .await?
                .iter()
                .map(Pool::of_addresses)
                .collect()
        }
        Kind::Ports => {
            let api: Api<NodePortPool> = Api::all(ground.client.clone());
            api.list(&everything).await?.iter().map(Pool::of_ports).collect()
        }
    })
}

async fn drop_pools(ground: &Ground) -> Result<()> {
    let (delete, everything) = (DeleteParams::default(), ListParams::default());
    let addresses: Api<AddressPool> = Api::all(ground.client.clone());
    addresses.delete_collection(&delete, &everything).await?;
    let ports: Api<NodePortPool> = Api::all(ground.client.clone());
    ports.delete_collection(&delete, &everything).await?;
    Ok(())
}

/// The rules, looked at pool by pool.
fn denies(pools: &Pools, request: &Request<'_>, item: Item, selects: &BTreeMap<String, bool>) -> bool {
    let is_enforced = |standing: &Standing| matches!(standing, Standing::Gives | Standing::Draining);
    let selects = |pool: &Pool| selects.get(&pool.name().name).copied().unwrap_or_default();
    let gives = |pool: &Pool| match pool.reservations().iter().find(|kept| kept.item == item) {
        Some(kept) => {
            kept.service.namespace() == request.namespace && Some(kept.service.name()) == request.name
        }
        None => selects(pool),
    };
    let encroaches = pools
        .iter()
        .any(|(pool, standing)| is_enforced(standing) && pool.contains(item) && !gives(pool));
    let has_pool = pools
        .iter()
        .any(|(pool, standing)| is_enforced(standing) && selects(pool));
    let is_served = pools.iter().any(|(pool, _)| pool.contains(item) && gives(pool));
    encroaches || (has_pool && !is_served)
}

#[derive(Default)]
struct Tally {
    denied: usize,
    made: usize,
    given: usize,
}

async fn round(ground: &Ground, rng: &mut Rng, kind: Kind, round: u16, tally: &mut Tally) -> Result<()> {
    make_pools(ground, rng, kind, round).await?;
    ground.observe(&[]).await?;
    taken_up(ground, kind, round).await?;
    let pools = Pools::new(stored(ground, kind).await?);
    for number in 0..CREATES {
        let (namespace, namespace_labels) = one_of(rng, &NAMESPACES)?;
        let labels: &[(&str, &str)] = one_of(rng, &[&[][..], &[("web", "yes")][..], &[("web", "no")][..]])?;
        let name = if rng.bool() {
            "kept".to_owned()
        } else {
            format!("s{round}-{number}")
        };
        let index = rng.u16(..VALUES);
        let owned = |labels: &[(&str, &str)]| -> BTreeMap<String, String> {
            let labels = labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            labels.collect()
        };
        let (of_namespace, of_service) = (owned(namespace_labels), owned(labels));
        let request = Request {
            namespace,
            namespace_labels: &of_namespace,
            name: Some(&name),
            labels: &of_service,
        };
        let item = kind.item(index)?;
        let ask = Ask {
            what: kind.what(),
            wish: Some(item),
            port_name: None,
            taken: &BTreeSet::new(),
        };
        let selection = pools.select(&request, &ask, &[]);
        let selects = selection.considered.iter();
        let selects = selects.map(|considered| (considered.pool.name.clone(), considered.outcome.selects()));
        let denied = denies(&pools, &request, item, &selects.collect());
        let given = matches!(selection.choice, Choice::Wished { .. });
        ensure!(
            !(given && denied),
            "{kind:?} {namespace}/{name} {item}: {selection}"
        );
        let answer = ground
            .create(namespace, &name, &labelled(&kind.service(index), labels))
            .await?;
        let expected = if denied { 403 } else { 201 };
        ensure!(
            answer.status == expected,
            "round {round}: {kind:?} {namespace}/{name} {labels:?} {item}, {selection}\n{answer:?}"
        );
        if answer.status == 201 {
            ground.delete(namespace, &name).await?;
        }
        tally.denied += usize::from(denied);
        tally.made += usize::from(!denied);
        tally.given += usize::from(given);
    }
    drop_pools(ground).await
}

#[test]
fn random_services_are_denied_exactly_where_the_rules_say_so() {
    prepare();
    in_sandbox_async!(async {
        let mut ground = Ground::start("enforcement-random").await?;
        ground.lead(Action::Deny).await?;
        let mut rng = Rng::with_seed(6);
        let mut tally = Tally::default();
        for number in 0..ROUNDS * 3 {
            let kind = one_of(&mut rng, &Kind::ALL)?;
            round(&ground, &mut rng, kind, number, &mut tally).await?;
        }
        let Tally { denied, made, given } = tally;
        println!("{denied} denied, {made} made, {given} of which the webhook would have given");
        ensure!(
            denied > 200 && made > 200 && given > 100,
            "too little happened: {denied} {made} {given}"
        );
        anyhow::Ok(())
    });
}
