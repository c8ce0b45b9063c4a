// SPDX-License-Identifier: Apache-2.0
//! Cluster IPs and node ports, from the book that the replicas hand out of, and all of it put together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_allocator::Counts;
use berth_controllers_core::pools::{Item, Pool, PoolRef, Standing, Supply, What};
use berth_controllers_core::values::{
    ALLOCATOR, CidrState, Figures, Finding, Ground, Holder, MANAGED_BY, Shown, Subject, Use, Values,
};
use berth_crds::{AddressPool, AddressPoolSpec, NodePortPool, NodePortPoolSpec, PoolQuota, PoolSelector};
use berth_model::{IpFamily, ServiceKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{
    Conflict, CountReport, Flags, Listed, NamespaceReport, PoolReport, Report, ValueReport, addresses,
};

/// Where no Service has something.
const NO_SERVICE: &str = "-";

/// Says everything about the pools of a cluster.
pub(crate) fn report(listed: &Listed, flags: &Flags) -> Report {
    let book = book(listed, flags);
    let mut uses: BTreeMap<PoolRef, Vec<Use>> = BTreeMap::new();
    let mut pool_of: BTreeMap<Item, String> = BTreeMap::new();
    for one in book.uses() {
        if let Some(pool) = one.pool.clone() {
            pool_of.insert(one.item, pool.name.clone());
            uses.entry(pool).or_default().push(one);
        }
    }
    let figures = book.figures();
    let pools = figures.iter().filter_map(|figures| {
        let uses = uses.get(&figures.pool).map(Vec::as_slice).unwrap_or_default();
        pool_report(listed, figures, uses)
    });
    let (mut all, mut conflicts) = addresses::of_load_balancers(listed, flags);
    let (of_addresses, of_ports): (Vec<_>, Vec<_>) = pools.partition(|pool| pool.used_for == "ClusterIP");
    all.extend(of_addresses);
    all.extend(of_ports);
    let findings = book.findings();
    conflicts.extend(findings.iter().map(|finding| conflict(finding, &pool_of)));
    Report {
        pools: all,
        conflicts,
        remarks: remarks(listed),
    }
}

fn book(listed: &Listed, flags: &Flags) -> Values {
    // Nothing is chosen, so that no randomness is needed and no time passes.
    let now = Duration::ZERO;
    let mut book = Values::new(flags.node_ports, flags.exemptions.clone(), 0);
    for object in listed.service_cidrs.iter().flatten() {
        let name = object.metadata.name.clone().unwrap_or_default();
        let spec = object.spec.as_ref();
        let cidrs = spec.and_then(|spec| spec.cidrs.clone()).unwrap_or_default();
        book.apply_service_cidr(&name, &cidrs, CidrState::of(object));
    }
    for namespace in &listed.namespaces {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let labels = namespace.metadata.labels.clone().unwrap_or_default();
        book.apply_namespace(&name, &labels);
    }
    for pool in listed.address_pools.iter().flatten() {
        book.apply_address_pool(pool);
    }
    for pool in listed.port_pools.iter().flatten() {
        book.apply_port_pool(pool);
    }
    for claim in listed.claims.iter().flatten() {
        book.apply_claim(claim, now);
    }
    for object in listed.ip_addresses.iter().flatten() {
        let meta = &object.metadata;
        let manager = meta.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
        let address = meta.name.as_deref().and_then(|name| name.parse().ok());
        if let Some(address) = address.filter(|_| manager.is_none_or(|manager| manager != ALLOCATOR)) {
            book.apply_foreign_address(address, manager.map(String::as_str), now);
        }
    }
    for service in &listed.services {
        book.apply_service(Shown::of(service), now);
    }
    book
}

/// The object that a pool of the book comes from.
enum Object<'a> {
    Addresses(&'a AddressPool),
    Ports(&'a NodePortPool),
}

impl<'a> Object<'a> {
    fn find(listed: &'a Listed, pool: &PoolRef) -> Option<Self> {
        let named = |name: &Option<String>| name.as_deref() == Some(pool.name.as_str());
        match pool.supply {
            Supply::NodePort => {
                let mut pools = listed.port_pools.iter().flatten();
                pools.find(|pool| named(&pool.metadata.name)).map(Self::Ports)
            }
            Supply::ClusterIp | Supply::LoadBalancer => {
                let mut pools = listed.address_pools.iter().flatten();
                pools.find(|pool| named(&pool.metadata.name)).map(Self::Addresses)
            }
        }
    }

    fn quota(&self) -> Option<&PoolQuota> {
        match self {
            Self::Addresses(pool) => pool.spec.quota.as_ref(),
            Self::Ports(pool) => pool.spec.quota.as_ref(),
        }
    }

    fn faults(&self) -> String {
        let faults = match self {
            Self::Addresses(pool) => pool.spec.validate(),
            Self::Ports(pool) => pool.spec.validate(),
        };
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        faults.join(". ")
    }

    fn reserved(&self) -> Vec<(Item, ServiceKey)> {
        let pool = match self {
            Self::Addresses(pool) => Pool::of_addresses(pool),
            Self::Ports(pool) => Pool::of_ports(pool),
        };
        let reservations = pool.reservations().iter();
        reservations
            .map(|kept| (kept.item, kept.service.clone()))
            .collect()
    }

    /// What its status says is promised, of a family or of the ports.
    fn held(&self, what: What) -> i64 {
        let held = match (self, what) {
            (Self::Addresses(pool), What::ClusterIp(family) | What::LoadBalancer(family)) => {
                let status = pool.status.as_ref();
                let of_family = status.and_then(|status| match family {
                    IpFamily::V4 => status.ipv4.as_ref(),
                    IpFamily::V6 => status.ipv6.as_ref(),
                });
                of_family.map(|of_family| of_family.held)
            }
            (Self::Ports(pool), What::NodePort) => {
                let status = pool.status.as_ref();
                status
                    .and_then(|status| status.ports.as_ref())
                    .map(|ports| ports.held)
            }
            (Self::Addresses(_), What::NodePort)
            | (Self::Ports(_), What::ClusterIp(_) | What::LoadBalancer(_)) => None,
        };
        held.unwrap_or(0)
    }

    /// What its spec says.
    fn report(&self, name: &str) -> PoolReport {
        match self {
            Self::Addresses(pool) => of_address_pool(name, &pool.spec),
            Self::Ports(pool) => of_port_pool(name, &pool.spec),
        }
    }
}

fn pool_report(listed: &Listed, figures: &Figures, uses: &[Use]) -> Option<PoolReport> {
    let object = Object::find(listed, &figures.pool)?;
    let (standing, because) = match &figures.standing {
        Standing::Gives => ("Gives", None),
        Standing::Draining => ("Draining", None),
        Standing::Malformed => ("Malformed", Some(object.faults())),
        Standing::Overlapping(older) => (
            "Overlapping",
            Some(format!("shares part of its ranges with {older}")),
        ),
    };
    let counts = figures.counts.iter().filter(|(_, counts)| counts.capacity > 0);
    let counts = counts.map(|(what, counts)| CountReport {
        held: object.held(*what),
        ..count(of(*what), counts, standing == "Gives")
    });
    let quota = object.quota();
    let whats: Vec<&str> = figures.counts.iter().map(|(what, _)| of(*what)).collect();
    let namespaces = figures.namespaces.iter().map(|(namespace, used)| {
        let used = whats.iter().copied().zip(used.iter().copied());
        NamespaceReport {
            namespace: namespace.clone(),
            used: used.filter(|(_, used)| *used > 0).collect(),
            limit: quota.and_then(|quota| quota.of(namespace)),
        }
    });
    Some(PoolReport {
        standing,
        because,
        counts: counts.collect(),
        namespaces: namespaces.collect(),
        values: values(uses, &object.reserved()),
        ..object.report(&figures.pool.name)
    })
}

/// Everything of a pool of addresses that its spec says.
pub(super) fn of_address_pool(name: &str, spec: &AddressPoolSpec) -> PoolReport {
    PoolReport {
        kind: "AddressPool",
        name: name.to_owned(),
        used_for: spec.r#use.as_str(),
        standing: "Gives",
        because: None,
        priority: spec.priority,
        ranges: spec.addresses.clone(),
        exclude: spec.exclude.clone(),
        selects: selects(spec.selector.as_ref()),
        counts: Vec::new(),
        namespaces: Vec::new(),
        values: Vec::new(),
    }
}

fn of_port_pool(name: &str, spec: &NodePortPoolSpec) -> PoolReport {
    PoolReport {
        kind: "NodePortPool",
        name: name.to_owned(),
        used_for: "NodePort",
        standing: "Gives",
        because: None,
        priority: spec.priority,
        ranges: spec.ports.clone(),
        exclude: spec.exclude.clone(),
        selects: selects(spec.selector.as_ref()),
        counts: Vec::new(),
        namespaces: Vec::new(),
        values: Vec::new(),
    }
}

/// Numbers as the pool's status has them: what does not give has nothing free.
pub(super) fn count(of: &'static str, counts: &Counts, gives: bool) -> CountReport {
    CountReport {
        of,
        capacity: counts.capacity.to_string(),
        allocated: counts.allocated,
        reserved: counts.reserved,
        held: 0,
        withheld: counts.withheld.to_string(),
        free: if gives {
            counts.free.to_string()
        } else {
            "0".to_owned()
        },
    }
}

fn of(what: What) -> &'static str {
    match what {
        What::LoadBalancer(family) | What::ClusterIp(family) => family.as_str(),
        What::NodePort => "ports",
    }
}

/// What is used and kept, and what is reserved beside that.
fn values(uses: &[Use], reserved: &[(Item, ServiceKey)]) -> Vec<ValueReport> {
    let used: BTreeSet<Item> = uses.iter().map(|one| one.item).collect();
    let mut values: Vec<(Item, ValueReport)> = uses.iter().map(|one| (one.item, value(one))).collect();
    for (item, service) in reserved.iter().filter(|(item, _)| !used.contains(item)) {
        let report = ValueReport {
            value: item.to_string(),
            service: service.to_string(),
            ground: "Reserved",
            claim: None,
        };
        values.push((*item, report));
    }
    values.sort_by_key(|(item, _)| *item);
    values.into_iter().map(|(_, report)| report).collect()
}

fn value(one: &Use) -> ValueReport {
    let (ground, claim) = match &one.ground {
        Ground::InUse => ("InUse", None),
        Ground::Claimed(claim) => ("Claimed", Some(claim.clone())),
        Ground::Held(_) => ("Held", None),
        Ground::Foreign => ("ManagedByOthers", None),
    };
    let service = match &one.holder {
        Holder::Service(key) | Holder::Reserved(key) => key.to_string(),
        Holder::Unnamed { namespace, .. } => namespace.to_string(),
        Holder::Foreign => NO_SERVICE.to_owned(),
    };
    ValueReport {
        value: one.item.to_string(),
        service,
        ground,
        claim,
    }
}

fn conflict(finding: &Finding, pool_of: &BTreeMap<Item, String>) -> Conflict {
    let item = finding.item();
    let message = match finding {
        Finding::Encroachment {
            pool,
            service,
            exempt: Some(_),
            ..
        } => format!(
            "{item} of Service {service} is of pool {pool}, and pools do not apply to the Service: exclude the value from the \
             pool, or create the Service anew"
        ),
        Finding::Encroachment { exempt: None, .. }
        | Finding::Duplicate { .. }
        | Finding::OutOfRange { .. }
        | Finding::Terminating { .. }
        | Finding::Astray { .. }
        | Finding::Foreign { .. } => finding.to_string(),
    };
    let service = match finding.subject() {
        Subject::Service(key) => key.to_string(),
        Subject::IpAddress(_) => NO_SERVICE.to_owned(),
    };
    Conflict {
        reason: finding.as_str(),
        value: item.to_string(),
        service,
        pool: pool_of.get(&item).cloned(),
        message,
    }
}

fn selects(selector: Option<&PoolSelector>) -> String {
    let Some(selector) = selector else {
        return "every Service".to_owned();
    };
    let mut namespaces = Vec::new();
    if !selector.namespaces.is_empty() {
        namespaces.push(format!("namespaces {}", selector.namespaces.join(", ")));
    }
    if let Some(labels) = &selector.namespace_selector {
        namespaces.push(format!("namespaces with {}", of_labels(labels)));
    }
    let mut parts = Vec::new();
    if !namespaces.is_empty() {
        parts.push(namespaces.join(" or "));
    }
    if let Some(labels) = &selector.service_selector {
        parts.push(format!("Services with {}", of_labels(labels)));
    }
    if parts.is_empty() {
        return "every Service".to_owned();
    }
    parts.join("; ")
}

/// As `kubectl -l` takes it.
fn of_labels(selector: &LabelSelector) -> String {
    let equal = selector.match_labels.iter().flatten();
    let equal = equal.map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let values = expression.values.clone().unwrap_or_default().join(",");
        let key = expression.key.as_str();
        match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            other => format!("{key} {other} ({values})"),
        }
    });
    let all: Vec<String> = equal.chain(expressions).collect();
    if all.is_empty() {
        "any labels".to_owned()
    } else {
        all.join(",")
    }
}

fn remarks(listed: &Listed) -> Vec<String> {
    let missing = |is_missing: bool, kind: &str, what: &str| {
        is_missing.then(|| format!("{kind} is not installed on this cluster: {what}"))
    };
    let pools = "there can be no pools of addresses; `berth crds` prints what is to be installed";
    let ports = "there can be no pools of node ports; `berth crds` prints what is to be installed";
    let claims = "nothing can be claimed; `berth crds` prints what is to be installed";
    let ranges = "the API server has no ServiceCIDRs to ask, and no cluster IP counts as in its range";
    let remarks = [
        missing(listed.address_pools.is_none(), "AddressPool", pools),
        missing(listed.port_pools.is_none(), "NodePortPool", ports),
        missing(listed.claims.is_none(), "AddressClaim", claims),
        missing(listed.service_cidrs.is_none(), "ServiceCIDR", ranges),
    ];
    remarks.into_iter().flatten().collect()
}
