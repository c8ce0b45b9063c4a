// SPDX-License-Identifier: Apache-2.0
//! Addresses of load balancers, from the book that the leader keeps: what Services' statuses list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use berth_allocator::Standing;
use berth_controllers_core::load_balancer::{LoadBalancers, Settings};
use berth_controllers_core::{Labels, key_of};
use berth_crds::{AddressPool, PoolUse};
use berth_model::{IpFamily, ServiceKey};
use k8s_openapi::api::core::v1::{Namespace, Service};

use super::report::{count, of_address_pool};
use super::{Conflict, Flags, Listed, NamespaceReport, PoolReport, ValueReport};

pub(super) fn of_load_balancers(listed: &Listed, flags: &Flags) -> (Vec<PoolReport>, Vec<Conflict>) {
    let pools: Vec<&AddressPool> = listed
        .address_pools
        .iter()
        .flatten()
        .filter(|pool| pool.spec.r#use == PoolUse::LoadBalancer)
        .collect();
    let mut book = LoadBalancers::new(Settings {
        default_provider: flags.default_provider,
        ..Settings::default()
    });
    book.set_namespaces(&labels(&listed.namespaces));
    book.set_pools(pools.iter().copied());
    let adopted = book.adopt(&listed.services);
    let listing = listing(&listed.services);
    let mut conflicts: Vec<Conflict> = adopted
        .conflicts
        .iter()
        .map(|(address, service, holder)| duplicate(&book, *address, service, holder))
        .collect();
    conflicts.extend(
        book.pools()
            .uncovered()
            .map(|(address, service)| uncovered(address, service)),
    );
    let reports = book.pools().iter().filter_map(|(standing, counted)| {
        let name = counted.name().as_str();
        let pool = pools
            .iter()
            .find(|pool| pool.metadata.name.as_deref() == Some(name))?;
        let mut report = of_address_pool(name, &pool.spec);
        (report.standing, report.because) = match standing {
            Standing::InUse if pool.spec.draining => ("Draining", None),
            Standing::InUse => ("Gives", None),
            Standing::Malformed => ("Malformed", said_of(pool)),
            Standing::Overlapping(_) => ("Overlapping", Some(standing.to_string())),
        };
        let counts = IpFamily::ALL.map(|family| (family, counted.counts(family)));
        let counts = counts.into_iter().filter(|(_, counts)| counts.capacity > 0);
        let counts =
            counts.map(|(family, counts)| count(family.as_str(), &counts, report.standing == "Gives"));
        report.counts = counts.collect();
        let mut used: BTreeMap<String, BTreeMap<&'static str, u64>> = BTreeMap::new();
        for family in IpFamily::ALL {
            for (namespace, count) in counted.use_by_group(family).filter(|(_, count)| *count > 0) {
                let of_namespace = used.entry(namespace.to_owned()).or_default();
                of_namespace.insert(family.as_str(), count);
            }
        }
        let quota = pool.spec.quota.as_ref();
        let namespaces = used.into_iter().map(|(namespace, used)| NamespaceReport {
            limit: quota.and_then(|quota| quota.of(&namespace)),
            namespace,
            used,
        });
        report.namespaces = namespaces.collect();
        report.values = values(&book, pool, &listing);
        Some(report)
    });
    (reports.collect(), conflicts)
}

fn labels(namespaces: &[Namespace]) -> Arc<BTreeMap<String, Labels>> {
    let labels = namespaces.iter().map(|namespace| {
        let metadata = &namespace.metadata;
        (
            metadata.name.clone().unwrap_or_default(),
            metadata.labels.clone().unwrap_or_default(),
        )
    });
    Arc::new(labels.collect())
}

/// Which addresses the status of each Service lists.
fn listing(services: &[Service]) -> BTreeMap<ServiceKey, BTreeSet<IpAddr>> {
    let listed = |service: &Service| {
        let status = service.status.as_ref()?.load_balancer.as_ref()?;
        let addresses = status
            .ingress
            .iter()
            .flatten()
            .filter_map(|entry| entry.ip.as_ref()?.parse().ok());
        Some((key_of(&service.metadata), addresses.collect()))
    };
    services.iter().filter_map(listed).collect()
}

fn values(
    book: &LoadBalancers,
    pool: &AddressPool,
    listing: &BTreeMap<ServiceKey, BTreeSet<IpAddr>>,
) -> Vec<ValueReport> {
    let name = pool.metadata.name.as_deref().unwrap_or_default();
    let mut values: BTreeMap<IpAddr, Vec<(ServiceKey, &'static str)>> = BTreeMap::new();
    for kept in &pool.spec.reservations {
        if let Ok(address) = kept.address.parse() {
            let service = ServiceKey::new(kept.namespace.as_str(), kept.name.as_str());
            values.insert(address, vec![(service, "Reserved")]);
        }
    }
    for service in book.pools().owners() {
        for address in book.pools().held_by(service) {
            if book
                .pools()
                .pool_of(address)
                .is_none_or(|pool| pool.as_str() != name)
            {
                continue;
            }
            let ground = |service: &ServiceKey| {
                let listed = listing.get(service);
                // What somebody asks for and nobody has is set aside for it.
                if listed.is_some_and(|listed| listed.contains(&address)) {
                    "InUse"
                } else {
                    "Requested"
                }
            };
            let occupants = book.occupants(address);
            values.insert(
                address,
                occupants
                    .map(|occupant| (occupant.clone(), ground(occupant)))
                    .collect(),
            );
        }
    }
    let values = values
        .into_iter()
        .flat_map(|(address, occupants)| occupants.into_iter().map(move |occupant| (address, occupant)))
        .map(|(address, (service, ground))| ValueReport {
            value: address.to_string(),
            service: service.to_string(),
            ground,
            claim: None,
        });
    values.collect()
}

fn duplicate(book: &LoadBalancers, address: IpAddr, service: &ServiceKey, holder: &ServiceKey) -> Conflict {
    Conflict {
        reason: "Duplicate",
        value: address.to_string(),
        service: service.to_string(),
        pool: book.pools().pool_of(address).map(|pool| pool.as_str().to_owned()),
        message: format!(
            "{address} is listed in the status of Service {service}, and is Service {holder}'s: whoever wrote that status has to \
             take it out"
        ),
    }
}

fn uncovered(address: IpAddr, service: &ServiceKey) -> Conflict {
    Conflict {
        reason: "OutOfRange",
        value: address.to_string(),
        service: service.to_string(),
        pool: None,
        message: format!(
            "{address} of Service {service} is in no pool any more: the Service keeps it; add it to a pool, or create the \
             Service anew"
        ),
    }
}

/// What the controllers say is wrong, else what is wrong with the spec by itself.
fn said_of(pool: &AddressPool) -> Option<String> {
    let conditions = pool.status.iter().flat_map(|status| &status.conditions);
    let mut unready =
        conditions.filter(|condition| condition.type_ == "Ready" && condition.status == "False");
    let said = unready.next().map(|condition| condition.message.clone());
    let faults = || {
        let faults: Vec<String> = pool.spec.validate().iter().map(ToString::to_string).collect();
        (!faults.is_empty()).then(|| faults.join(". "))
    };
    said.or_else(faults)
}
