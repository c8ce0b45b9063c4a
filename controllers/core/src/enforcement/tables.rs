// SPDX-License-Identifier: Apache-2.0
//! The pools as the tables that the expressions look things up in.
//!
//! A value is looked up by the blocks around it, one of each size that there is, so that an evaluation does not depend on how many
//! pools and ranges there are; and so are pools by the name of the namespace.

use std::collections::{BTreeMap, BTreeSet};

use berth_crds::{AddressPool, NodePortPool, PoolSelector};
use berth_model::{IpFamily, ServiceKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Serialize;

use super::blocks::{address_blocks, port_blocks};
use super::{LeftOut, LeftOutReason, Observed};
use crate::pools::{Pool, Pools, Standing};

/// How many characters a table may have: API servers take expressions of 100,000 (cel-go's limit for what it parses),
/// and objects of 1.5 MB (etcd's for a request), which all tables together do not reach.
pub const TABLE: usize = 90_000;

/// A label that is asked for, as CEL can hold it beside others: every part a list of texts.
pub(super) type Requirement = BTreeMap<&'static str, Vec<String>>;
type By<T> = BTreeMap<String, T>;
/// How many of them can grow long.
const TABLES: usize = 11;

/// All tables of a policy.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    /// Those that are enforced.
    pub(super) enforced: Vec<String>,
    /// Which pools have a block of IPv4 addresses, or of node ports.
    pub(super) blocks: By<Vec<String>>,
    /// The same of IPv6.
    pub(super) ipv6_blocks: By<Vec<String>>,
    /// How large blocks are: the lengths of prefixes, or numbers of node ports.
    pub(super) sizes: BTreeSet<u32>,
    /// The same of IPv6.
    pub(super) ipv6_sizes: BTreeSet<u32>,
    /// Those that have IPv4 addresses, or node ports.
    pub(super) names: Vec<String>,
    /// Those that have IPv6 addresses.
    pub(super) ipv6_names: Vec<String>,
    /// By namespace: which pools select it by its name.
    pub(super) by_namespace: By<Vec<String>>,
    /// Those that select namespaces by labels, or all of them.
    pub(super) broad: Vec<String>,
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
        Self::of(ranked, |name, row| {
            if let Some(pool) = observed.address_pools.get(name) {
                row.add_addresses(name, pool);
            }
            if let Some(namespaces) = observed.claims.get(name) {
                row.claims.insert(name.to_owned(), namespaces.clone());
            }
        })
    }

    pub(super) fn of_ports(ranked: &Pools, observed: &Observed) -> Self {
        Self::of(ranked, |name, row| {
            if let Some(pool) = observed.port_pools.get(name) {
                row.add_ports(name, pool);
            }
        })
    }

    /// One pool after the other, as long as each table stays as short as it has to.
    fn of(ranked: &Pools, row_of: impl Fn(&str, &mut Self)) -> Self {
        let mut tables = Self::default();
        let mut lengths = [0; TABLES];
        for (pool, standing) in ranked.iter() {
            let name = pool.name().name.as_str();
            let mut row = Self::default();
            row_of(name, &mut row);
            row.add_reservations(name, pool);
            if matches!(standing, Standing::Gives | Standing::Draining) {
                row.enforced.push(name.to_owned());
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
        for (_, range) in pool.spec.ranges() {
            let (blocks, sizes) = match range.family() {
                IpFamily::V4 => (&mut self.blocks, &mut self.sizes),
                IpFamily::V6 => (&mut self.ipv6_blocks, &mut self.ipv6_sizes),
            };
            for block in address_blocks(range) {
                sizes.insert(block.size);
                blocks.insert(block.text, vec![name.to_owned()]);
            }
        }
        for (blocks, names) in [
            (&self.blocks, &mut self.names),
            (&self.ipv6_blocks, &mut self.ipv6_names),
        ] {
            if !blocks.is_empty() {
                names.push(name.to_owned());
            }
        }
        self.add_selector(name, pool.spec.selector.as_ref());
    }

    fn add_ports(&mut self, name: &str, pool: &NodePortPool) {
        for (_, range) in pool.spec.ranges() {
            for block in port_blocks(range) {
                self.sizes.insert(block.size);
                self.blocks.insert(block.text, vec![name.to_owned()]);
            }
        }
        self.names.push(name.to_owned());
        self.add_selector(name, pool.spec.selector.as_ref());
    }

    fn add_reservations(&mut self, name: &str, pool: &Pool) {
        for kept in pool.reservations() {
            let of_pool = self.reserved.entry(name.to_owned()).or_default();
            of_pool.insert(kept.item.to_string(), owner(&kept.service));
        }
    }

    fn add_selector(&mut self, name: &str, selector: Option<&PoolSelector>) {
        let selector = selector.cloned().unwrap_or_default();
        if selector.namespaces.is_empty() || selector.namespace_selector.is_some() {
            self.broad.push(name.to_owned());
        }
        for namespace in selector.namespaces {
            self.by_namespace.insert(namespace, vec![name.to_owned()]);
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
        self.enforced.extend(row.enforced);
        self.names.extend(row.names);
        self.ipv6_names.extend(row.ipv6_names);
        self.broad.extend(row.broad);
        self.sizes.extend(row.sizes);
        self.ipv6_sizes.extend(row.ipv6_sizes);
        join(&mut self.blocks, row.blocks);
        join(&mut self.ipv6_blocks, row.ipv6_blocks);
        join(&mut self.by_namespace, row.by_namespace);
        self.namespace_labels.extend(row.namespace_labels);
        self.service_labels.extend(row.service_labels);
        self.reserved.extend(row.reserved);
        self.claims.extend(row.claims);
    }

    fn lengths(&self) -> [usize; TABLES] {
        [
            literal(&self.enforced).len(),
            literal(&self.names).len(),
            literal(&self.ipv6_names).len(),
            literal(&self.broad).len(),
            literal(&self.blocks).len(),
            literal(&self.ipv6_blocks).len(),
            literal(&self.by_namespace).len(),
            literal(&self.namespace_labels).len(),
            literal(&self.service_labels).len(),
            literal(&self.reserved).len(),
            literal(&self.claims).len(),
        ]
    }
}

/// Two pools may have the same block, or select the same namespace.
fn join(tables: &mut By<Vec<String>>, row: By<Vec<String>>) {
    for (key, names) in row {
        tables.entry(key).or_default().extend(names);
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
