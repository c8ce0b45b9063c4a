// SPDX-License-Identifier: Apache-2.0
//! What a Service asks for, read from its spec and annotations.

use std::net::IpAddr;

use berth_allocator::PoolName;
use berth_model::IpFamily;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};

use super::Settings;
use super::reason::{Asked, NotOurs, Reason};

/// The condition on a Service that says whether it has the addresses that it asks for.
pub const CONDITION_ALLOCATED: &str = "berth.dev/AddressAllocated";

/// Annotations that ask for certain addresses (a comma list, at most one of each family). The first one
/// present counts. MetalLB's, current and deprecated, are read so that a migration edits no Service.
pub const LOAD_BALANCER_IPS_ANNOTATIONS: [&str; 3] = [
    "berth.dev/load-balancer-ips",
    "metallb.io/loadBalancerIPs",
    "metallb.universe.tf/loadBalancerIPs",
];

/// Annotations that ask for addresses of a certain pool. The first one present counts.
pub const ADDRESS_POOL_ANNOTATIONS: [&str; 3] = [
    "berth.dev/address-pool",
    "metallb.io/address-pool",
    "metallb.universe.tf/address-pool",
];

/// Annotations that name a sharing key: Services with one key may have one address. The first one present counts.
pub const SHARING_KEY_ANNOTATIONS: [&str; 3] = [
    "berth.dev/sharing-key",
    "metallb.io/allow-shared-ip",
    "metallb.universe.tf/allow-shared-ip",
];

/// The `spec.ipFamilyPolicy` under which one address without the other is none.
pub const DUAL_STACK_REQUIRED: &str = "RequireDualStack";

const SPEC_IP: &str = "spec.loadBalancerIP";

/// What a Service that is ours asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// Primary family first.
    pub(super) families: Vec<IpFamily>,
    /// One address without the other is none.
    pub(super) both_or_nothing: bool,
    /// Certain addresses, or why they cannot be read.
    pub(super) requested: Result<Vec<(IpAddr, Asked)>, Reason>,
    /// A certain pool.
    pub(super) pool: Option<(PoolName, Asked)>,
    /// Whether it may have an address together with others.
    pub(super) shares: bool,
}

impl Wish {
    pub(super) fn pool_name(&self) -> Option<&PoolName> {
        self.pool.as_ref().map(|(name, _)| name)
    }

    pub(super) fn requested(&self, family: IpFamily) -> Option<&(IpAddr, Asked)> {
        let requested = self.requested.as_ref().ok()?;
        requested
            .iter()
            .find(|(address, _)| IpFamily::of(*address) == family)
    }
}

/// What the Service asks for, or why it is none of ours.
pub(super) fn read(service: &Service, settings: &Settings) -> Result<Wish, NotOurs> {
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.type_.as_deref()) != Some("LoadBalancer") {
        return Err(NotOurs::NotALoadBalancer);
    }
    match spec.and_then(|spec| spec.load_balancer_class.as_deref()) {
        Some(class) if class == settings.class => {}
        Some(class) => return Err(NotOurs::OtherClass(class.to_owned())),
        None if settings.default_provider => {}
        None => return Err(NotOurs::NoClass),
    }
    let families = families(service);
    let requested = requested(service).and_then(|requested| fitting(requested, &families));
    Ok(Wish {
        both_or_nothing: policy(service) == Some(DUAL_STACK_REQUIRED),
        requested,
        pool: annotation(service, &ADDRESS_POOL_ANNOTATIONS)
            .map(|asked| (PoolName::new(asked.value.trim()), asked)),
        shares: annotation(service, &SHARING_KEY_ANNOTATIONS).is_some(),
        families,
    })
}

/// What a status lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// Addresses, in order.
    pub(super) addresses: Vec<IpAddr>,
    /// Host names and unreadable addresses, which Berth never writes.
    pub(super) others: Vec<String>,
}

/// What the Service's status lists.
pub(super) fn listed(service: &Service) -> Listed {
    let mut listed = Listed::default();
    for entry in ingress(service) {
        match (entry.ip.as_deref().map(str::parse::<IpAddr>), &entry.hostname) {
            (Some(Ok(address)), _) => listed.addresses.push(address),
            (Some(Err(_)), _) => listed.others.push(entry.ip.clone().unwrap_or_default()),
            (None, hostname) => listed.others.push(hostname.clone().unwrap_or_default()),
        }
    }
    listed
}

/// The entries of `status.loadBalancer.ingress`.
pub(super) fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|status| status.ingress.as_deref())
        .unwrap_or_default()
}

fn policy(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.ip_family_policy.as_deref()
}

/// The API server fills `spec.ipFamilies` in; a file that was never applied may lack it.
fn families(service: &Service) -> Vec<IpFamily> {
    let spec = service.spec.as_ref();
    let written: Vec<IpFamily> = spec
        .and_then(|spec| spec.ip_families.as_deref())
        .unwrap_or_default()
        .iter()
        .filter_map(|name| IpFamily::ALL.into_iter().find(|family| family.as_str() == name))
        .collect();
    if !written.is_empty() {
        return written;
    }
    let of_cluster_ips: Vec<IpFamily> = spec
        .and_then(|spec| spec.cluster_ips.as_deref())
        .unwrap_or_default()
        .iter()
        .filter_map(|ip| ip.parse().ok().map(IpFamily::of))
        .collect();
    if !of_cluster_ips.is_empty() {
        return of_cluster_ips;
    }
    match policy(service) {
        Some("PreferDualStack" | DUAL_STACK_REQUIRED) => IpFamily::ALL.to_vec(),
        Some(_) | None => vec![IpFamily::V4],
    }
}

/// The first of these annotations that is present and says something.
pub(super) fn annotation(service: &Service, names: &[&str]) -> Option<Asked> {
    let annotations = service.metadata.annotations.as_ref()?;
    names.iter().find_map(|name| {
        let value = annotations.get(*name).filter(|value| !value.trim().is_empty())?;
        Some(Asked {
            field: format!("metadata.annotations[{name}]"),
            value: value.clone(),
        })
    })
}

fn requested(service: &Service) -> Result<Vec<(IpAddr, Asked)>, Reason> {
    let by_annotation = annotation(service, &LOAD_BALANCER_IPS_ANNOTATIONS);
    let by_spec = service
        .spec
        .as_ref()
        .and_then(|spec| spec.load_balancer_ip.as_deref())
        .filter(|value| !value.trim().is_empty())
        .map(|value| Asked {
            field: SPEC_IP.to_owned(),
            value: value.to_owned(),
        });
    let from_spec = by_spec.as_ref().map_or(Ok(Vec::new()), addresses)?;
    let Some(by_annotation) = by_annotation else {
        return Ok(from_spec);
    };
    let from_annotation = addresses(&by_annotation)?;
    match by_spec {
        Some(by_spec)
            if !from_spec
                .iter()
                .all(|(ip, _)| from_annotation.iter().any(|(other, _)| ip == other)) =>
        {
            Err(Reason::ConflictingRequests {
                asked: by_spec,
                other: by_annotation,
            })
        }
        Some(_) | None => Ok(from_annotation),
    }
}

fn addresses(asked: &Asked) -> Result<Vec<(IpAddr, Asked)>, Reason> {
    let mut addresses: Vec<(IpAddr, Asked)> = Vec::new();
    for text in asked.value.split(',') {
        let address: IpAddr = text
            .trim()
            .parse()
            .map_err(|_| Reason::MalformedAddress { asked: asked.clone() })?;
        let family = IpFamily::of(address);
        if addresses.iter().any(|(other, _)| IpFamily::of(*other) == family) {
            return Err(Reason::TwoOfOneFamily {
                asked: asked.clone(),
                family,
            });
        }
        addresses.push((address, asked.clone()));
    }
    Ok(addresses)
}

/// Refuses requests for a family that the Service does not have.
fn fitting(requested: Vec<(IpAddr, Asked)>, families: &[IpFamily]) -> Result<Vec<(IpAddr, Asked)>, Reason> {
    match requested
        .iter()
        .find(|(address, _)| !families.contains(&IpFamily::of(*address)))
    {
        Some((address, asked)) => Err(Reason::FamilyNotInService {
            asked: asked.clone(),
            family: IpFamily::of(*address),
        }),
        None => Ok(requested),
    }
}
