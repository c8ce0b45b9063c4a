// SPDX-License-Identifier: Apache-2.0
//! The pools as the tables that the expressions look things up in, each by the pool's name.

use std::collections::{BTreeMap, BTreeSet};

use berth_crds::{AddressPool, NodePortPool, PoolSelector};
use berth_model::{IpFamily, ServiceKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Serialize;

use super::blocks::blocks;
use super::{LeftOut, LeftOutReason, Observed};
use crate::pools::{Pool, Pools, Standing};

/// How many characters a table may have: API servers take expressions of 100,000 (cel-go's limit for what it parses),
/// and objects of 1.5 MB (etcd's for a request), which all tables together do not reach.
pub const TABLE: usize = 90_000;

/// A label that is asked for, as CEL can hold it beside others: every part a list of texts.
pub(super) type Requirement = BTreeMap<&'static str, Vec<String>>;
type By<T> = BTreeMap<String, T>;

/// All tables of a policy.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    /// Those that are asked first first, with those that are not enforced.
    pub(super) names: Vec<String>,
    /// Of those that are enforced.
    pub(super) generations: By<i64>,
    pub(super) ipv4: By<Vec<String>>,
    pub(super) ipv6: By<Vec<String>>,
    pub(super) ports: By<Vec<[u16; 2]>>,
    pub(super) namespaces: By<Vec<String>>,
    pub(super) namespace_labels: By<Vec<Requirement>>,
    pub(super) service_labels: By<Vec<Requirement>>,
    /// For which Service a value is kept.
    pub(super) reserved: By<By<String>>,
    /// The namespaces with a claim.
    pub(super) claims: By<BTreeSet<String>>,
    /// Those that are in no table.
    pub(super) too_large: Vec<LeftOut>,
}

impl Tables {
    pub(super) fn of_addresses(ranked: &Pools, observed: &Observed) -> Self {
        let of = |name: &str, row: &mut Self| {
            let pool = observed.address_pools.get(name)?;
            row.add_addresses(name, pool);
            if let Some(namespaces) = observed.claims.get(name) {
                row.claims.insert(name.to_owned(), namespaces.clone());
            }
            pool.metadata.generation
        };
        Self::of(ranked, of)
    }

    pub(super) fn of_ports(ranked: &Pools, observed: &Observed) -> Self {
        Self::of(ranked, |name, row| {
            let pool = observed.port_pools.get(name)?;
            row.add_ports(name, pool);
            pool.metadata.generation
        })
    }

    /// One row after the other, as long as each table stays as short as it has to.
    fn of(ranked: &Pools, row_of: impl Fn(&str, &mut Self) -> Option<i64>) -> Self {
        let mut tables = Self::default();
        let mut lengths = [0; 10];
        for (pool, standing) in ranked.iter() {
            let name = pool.name().name.as_str();
            let mut row = Self::default();
            let generation = row_of(name, &mut row);
            row.add_pool(name, pool);
            let enforced = matches!(standing, Standing::Gives | Standing::Draining);
            if let Some(generation) = generation.filter(|_| enforced) {
                row.generations.insert(name.to_owned(), generation);
            }
            let longer: Vec<usize> = lengths.iter().zip(row.lengths()).map(|(a, b)| a + b).collect();
            if longer.iter().any(|length| *length > TABLE) {
                let pool = pool.name().clone();
                let reason = LeftOutReason::TooLarge;
                tables.too_large.push(LeftOut { pool, reason });
                continue;
            }
            lengths
                .iter_mut()
                .zip(longer)
                .for_each(|(to, length)| *to = length);
            tables.append(row);
        }
        tables
    }

    fn add_addresses(&mut self, name: &str, pool: &AddressPool) {
        let spec = &pool.spec;
        for (family, table) in [(IpFamily::V4, &mut self.ipv4), (IpFamily::V6, &mut self.ipv6)] {
            let ranges = spec.ranges().into_iter().map(|(_, range)| range);
            let ranges = ranges.filter(|range| range.family() == family);
            let cidrs: Vec<String> = ranges.flat_map(blocks).collect();
            if !cidrs.is_empty() {
                table.insert(name.to_owned(), cidrs);
            }
        }
        self.add_selector(name, spec.selector.as_ref());
    }

    fn add_ports(&mut self, name: &str, pool: &NodePortPool) {
        let ranges = pool.spec.ranges().into_iter();
        let ranges = ranges.map(|(_, range)| [range.first().get(), range.last().get()]);
        self.ports.insert(name.to_owned(), ranges.collect());
        self.add_selector(name, pool.spec.selector.as_ref());
    }

    fn add_pool(&mut self, name: &str, pool: &Pool) {
        self.names.push(name.to_owned());
        for kept in pool.reservations() {
            let of_pool = self.reserved.entry(name.to_owned()).or_default();
            of_pool.insert(kept.item.to_string(), owner(&kept.service));
        }
    }

    fn add_selector(&mut self, name: &str, selector: Option<&PoolSelector>) {
        let Some(selector) = selector else {
            return;
        };
        if !selector.namespaces.is_empty() {
            let namespaces = selector.namespaces.clone();
            self.namespaces.insert(name.to_owned(), namespaces);
        }
        for (labels, table) in [
            (&selector.namespace_selector, &mut self.namespace_labels),
            (&selector.service_selector, &mut self.service_labels),
        ] {
            if let Some(labels) = labels {
                table.insert(name.to_owned(), requirements(labels));
            }
        }
    }

    fn append(&mut self, row: Self) {
        self.names.extend(row.names);
        self.generations.extend(row.generations);
        self.ipv4.extend(row.ipv4);
        self.ipv6.extend(row.ipv6);
        self.ports.extend(row.ports);
        self.namespaces.extend(row.namespaces);
        self.namespace_labels.extend(row.namespace_labels);
        self.service_labels.extend(row.service_labels);
        self.reserved.extend(row.reserved);
        self.claims.extend(row.claims);
    }

    fn lengths(&self) -> [usize; 10] {
        [
            literal(&self.names).len(),
            literal(&self.generations).len(),
            literal(&self.ipv4).len(),
            literal(&self.ipv6).len(),
            literal(&self.ports).len(),
            literal(&self.namespaces).len(),
            literal(&self.namespace_labels).len(),
            literal(&self.service_labels).len(),
            literal(&self.reserved).len(),
            literal(&self.claims).len(),
        ]
    }
}

/// As the expressions name the Service that is written.
fn owner(service: &ServiceKey) -> String {
    format!("{}/{}", service.namespace(), service.name())
}

fn requirements(selector: &LabelSelector) -> Vec<Requirement> {
    let requirement = |key: &str, operator: &str, values: Vec<String>| {
        Requirement::from([
            ("key", vec![key.to_owned()]),
            ("operator", vec![operator.to_owned()]),
            ("values", values),
        ])
    };
    let equal = selector.match_labels.iter().flatten();
    let equal = equal.map(|(key, value)| requirement(key, "In", vec![value.clone()]));
    let expressions = selector.match_expressions.iter().flatten();
    let expressions = expressions.map(|expression| {
        let values = expression.values.clone().unwrap_or_default();
        requirement(&expression.key, &expression.operator, values)
    });
    equal.chain(expressions).collect()
}

/// Texts, numbers, lists and maps are written in CEL as in JSON.
pub(super) fn literal(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
