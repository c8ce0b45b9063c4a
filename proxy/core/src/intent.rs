// SPDX-License-Identifier: Apache-2.0
//! What should happen to packets, independent of the firewall backend.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::{fmt, iter};

use berth_model::{
    EndpointPort, IpFamily, IpMode, Port, Service, ServiceKey, ServicePort, SessionAffinity, View,
};

use self::affinity::{AffineList, Affinities};
pub use self::affinity::{Affinity, AffinityNumber};
use self::claims::{Claim, Claimed};
use self::decided::Decided;
use crate::health_check::health_check_port;
use crate::{Conflict, Frontend, FrontendIntent, Outcome, Role, Settings, Usable, categorize};

mod affinity;
mod claims;
mod decided;
mod ranges;

#[cfg(test)]
mod tests;

/// What one Service contributes, kept to take it back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Contribution {
    claims: Vec<(Frontend, Claim)>,
    cluster_ips: Vec<IpAddr>,
    local_endpoints: BTreeSet<IpAddr>,
    affine: BTreeSet<AffineList>,
}

/// `spec.healthCheckNodePort`, and in which families.
type HealthPort = (Port, Vec<IpFamily>);

/// What an update looked at: all that may differ from before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Frontends.
    pub frontends: BTreeSet<Frontend>,
    /// ClusterIPs.
    pub cluster_ips: BTreeSet<IpAddr>,
    /// Addresses of endpoints on this node.
    pub local_endpoints: BTreeSet<IpAddr>,
    /// Lists that remember their clients.
    pub affinities: BTreeSet<AffinityNumber>,
    /// Those of them that an endpoint left, or that are gone: bindings of theirs have to be forgotten.
    pub left: BTreeSet<AffinityNumber>,
}

impl Touched {
    /// Adds what another update looked at.
    pub fn merge(&mut self, other: Touched) {
        self.frontends.extend(other.frontends);
        self.cluster_ips.extend(other.cluster_ips);
        self.local_endpoints.extend(other.local_endpoints);
        self.affinities.extend(other.affinities);
        self.left.extend(other.left);
    }

    /// Whether nothing was looked at.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty()
            && self.cluster_ips.is_empty()
            && self.local_endpoints.is_empty()
            && self.affinities.is_empty()
            && self.left.is_empty()
    }
}

/// The intent for one node: every frontend with its outcome. Kept up to date Service by Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    settings: Settings,
    claims: Claimed,
    services: BTreeMap<ServiceKey, Contribution>,
    cluster_ips: BTreeMap<IpAddr, usize>,
    local_endpoints: BTreeMap<IpAddr, usize>,
    health_ports: BTreeMap<ServiceKey, HealthPort>,
    affinities: Affinities,
}

impl Intent {
    /// The intent of a cluster without Services.
    pub fn empty(settings: Settings) -> Self {
        Self {
            settings,
            claims: Claimed::default(),
            services: BTreeMap::new(),
            cluster_ips: BTreeMap::new(),
            local_endpoints: BTreeMap::new(),
            health_ports: BTreeMap::new(),
            affinities: Affinities::default(),
        }
    }

    /// The intent for everything in the view.
    pub fn of(view: &View, settings: Settings) -> Self {
        let mut intent = Self::empty(settings);
        let keys: BTreeSet<ServiceKey> = view.services.keys().cloned().collect();
        intent.update(view, &keys);
        intent
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Looks at everything anew under other settings. Returns all whose intent may have changed.
    pub fn reconfigure(&mut self, settings: Settings, view: &View) -> Touched {
        // No frontend depends on them.
        self.settings.service_cidrs.clone_from(&settings.service_cidrs);
        if settings == self.settings {
            return Touched::default();
        }
        self.settings = settings;
        let known = self.services.keys().chain(view.services.keys());
        let keys: BTreeSet<ServiceKey> = known.cloned().collect();
        self.update(view, &keys)
    }

    /// Looks at the given Services anew. Returns all whose intent may have changed.
    pub fn update<'a>(&mut self, view: &View, keys: impl IntoIterator<Item = &'a ServiceKey>) -> Touched {
        let mut touched = Touched::default();
        for key in keys {
            let before = self.withdraw(key, &mut touched);
            if let Some(service) = view.services.get(key) {
                self.contribute(service, view, &mut touched);
            }
            for (number, affinity) in before {
                let now = self.affinities.get(number);
                let stays = |target| now.is_some_and(|now| now.targets.contains(target));
                if !affinity.targets.iter().all(stays) {
                    touched.left.insert(number);
                }
            }
        }
        touched
    }

    /// Yields the Service's lists that remembered their clients.
    fn withdraw(&mut self, key: &ServiceKey, touched: &mut Touched) -> Vec<(AffinityNumber, Affinity)> {
        self.health_ports.remove(key);
        let Some(old) = self.services.remove(key) else {
            return Vec::new();
        };
        for (frontend, claim) in old.claims {
            touched.frontends.insert(frontend);
            self.claims.remove(frontend, &claim);
        }
        old.cluster_ips
            .iter()
            .for_each(|ip| release(&mut self.cluster_ips, *ip));
        old.local_endpoints
            .iter()
            .for_each(|ip| release(&mut self.local_endpoints, *ip));
        touched.cluster_ips.extend(old.cluster_ips);
        touched.local_endpoints.extend(old.local_endpoints);
        let affine = old.affine.iter().filter_map(|list| self.affinities.remove(list));
        let affine: Vec<(AffinityNumber, Affinity)> = affine.collect();
        touched
            .affinities
            .extend(affine.iter().map(|(number, _)| *number));
        affine
    }

    fn contribute(&mut self, service: &Service, view: &View, touched: &mut Touched) {
        let mut contribution = Contribution::default();
        for family in IpFamily::ALL {
            let Some(cluster_ip) = service.cluster_ip(family) else {
                continue;
            };
            contribution.cluster_ips.push(cluster_ip);
            for port in &service.ports {
                let usable = self.usable(service, port, family, view);
                contribution
                    .local_endpoints
                    .extend(usable.here.iter().map(|target| target.ip));
                let claim = Claim::of(service, port);
                let decided = Decided::of(service, port, usable);
                for (frontend, role) in frontends(service, port, family, cluster_ip) {
                    let intent = decided.frontend(&self.settings, &claim.port, role, &frontend);
                    contribution
                        .affine
                        .extend(self.remember(&intent, family, touched));
                    self.claims.insert(frontend, claim.clone(), intent);
                    contribution.claims.push((frontend, claim.clone()));
                    touched.frontends.insert(frontend);
                }
            }
        }
        touched
            .cluster_ips
            .extend(contribution.cluster_ips.iter().copied());
        touched
            .local_endpoints
            .extend(contribution.local_endpoints.iter().copied());
        contribution
            .cluster_ips
            .iter()
            .for_each(|ip| *self.cluster_ips.entry(*ip).or_default() += 1);
        contribution
            .local_endpoints
            .iter()
            .for_each(|ip| *self.local_endpoints.entry(*ip).or_default() += 1);
        if let Some(port) = health_check_port(service) {
            let families = contribution.cluster_ips.iter().map(|ip| IpFamily::of(*ip));
            self.health_ports
                .insert(service.key.clone(), (port, families.collect()));
        }
        contribution.claims.shrink_to_fit();
        self.services.insert(service.key.clone(), contribution);
    }

    /// Takes in the lists of a frontend that remember their clients.
    fn remember(
        &mut self,
        intent: &FrontendIntent,
        family: IpFamily,
        touched: &mut Touched,
    ) -> Vec<AffineList> {
        let SessionAffinity::ClientIp { timeout_seconds } = intent.affinity else {
            return Vec::new();
        };
        let main = (&intent.outcome, intent.here_only);
        let outside = intent.outside.as_ref().map(|outside| (outside, true));
        let mut lists = Vec::new();
        for (outcome, here_only) in iter::once(main).chain(outside) {
            let Outcome::Endpoints(targets) = outcome else {
                continue;
            };
            let list = AffineList {
                owner: intent.owner.clone(),
                family,
                here_only,
            };
            let affinity = Affinity {
                family,
                timeout_seconds,
                targets: Arc::clone(targets),
            };
            touched
                .affinities
                .insert(self.affinities.insert(list.clone(), affinity));
            lists.push(list);
        }
        lists
    }

    fn usable(&self, service: &Service, port: &ServicePort, family: IpFamily, view: &View) -> Usable {
        let join = EndpointPort {
            name: port.name.clone(),
            protocol: port.protocol,
        };
        categorize(view.endpoints_of(&service.key, &join), family, &self.settings)
    }

    /// The intent of one frontend; `None` if no Service claims it.
    pub fn get(&self, frontend: &Frontend) -> Option<&FrontendIntent> {
        self.claims.first(frontend)
    }

    /// Every frontend, ordered.
    pub fn frontends(&self) -> impl Iterator<Item = (&Frontend, &FrontendIntent)> {
        self.claims.iter()
    }

    /// The ClusterIPs of one family.
    pub fn cluster_ips(&self, family: IpFamily) -> impl Iterator<Item = IpAddr> {
        of_family(&self.cluster_ips, family)
    }

    /// The addresses of usable endpoints on this node, one family.
    pub fn local_endpoints(&self, family: IpFamily) -> impl Iterator<Item = IpAddr> {
        of_family(&self.local_endpoints, family)
    }

    /// The health-check node ports of one family, which this node itself answers on.
    pub fn health_ports(&self, family: IpFamily) -> impl Iterator<Item = (&ServiceKey, Port)> {
        let of_family = move |(_, (_, families)): &(&ServiceKey, &HealthPort)| families.contains(&family);
        let ports = self.health_ports.iter().filter(of_family);
        ports.map(|(service, (port, _))| (service, *port))
    }

    /// Whether there is this Service, with or without a frontend.
    pub fn has_service(&self, service: &ServiceKey) -> bool {
        self.services.contains_key(service)
    }

    /// Whether the address is some Service's ClusterIP.
    pub fn is_cluster_ip(&self, ip: IpAddr) -> bool {
        self.cluster_ips.contains_key(&ip)
    }

    /// Whether the address is that of a usable endpoint on this node.
    pub fn is_local_endpoint(&self, ip: IpAddr) -> bool {
        self.local_endpoints.contains_key(&ip)
    }

    /// The number of the list that a frontend picks from, if it remembers its clients: everybody's list, or that of
    /// connections from `outside`.
    pub fn affinity_of(&self, frontend: &Frontend, outside: bool) -> Option<AffinityNumber> {
        let intent = self.get(frontend)?;
        self.affinities.number(&AffineList {
            owner: intent.owner.clone(),
            family: frontend.family(),
            here_only: outside || intent.here_only,
        })
    }

    /// A list that remembers its clients.
    pub fn affinity(&self, number: AffinityNumber) -> Option<&Affinity> {
        self.affinities.get(number)
    }

    /// Every list that remembers its clients.
    pub fn affinities(&self) -> impl Iterator<Item = (AffinityNumber, &Affinity)> {
        self.affinities.iter()
    }

    /// Frontends that several Services claim.
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.claims.conflicts()
    }
}

fn release(counted: &mut BTreeMap<IpAddr, usize>, ip: IpAddr) {
    if let Entry::Occupied(mut uses) = counted.entry(ip) {
        *uses.get_mut() -= 1;
        if *uses.get() == 0 {
            uses.remove();
        }
    }
}

fn of_family(counted: &BTreeMap<IpAddr, usize>, family: IpFamily) -> impl Iterator<Item = IpAddr> {
    counted
        .keys()
        .copied()
        .filter(move |ip| IpFamily::of(*ip) == family)
}

/// Every frontend of one port of a Service in one family. The first role of an address counts: a LoadBalancer
/// address that is an external IP besides keeps its source ranges.
fn frontends(
    service: &Service,
    port: &ServicePort,
    family: IpFamily,
    cluster_ip: IpAddr,
) -> Vec<(Frontend, Role)> {
    let vip = |ip| Frontend::Vip {
        ip,
        protocol: port.protocol,
        port: port.port,
    };
    let mut found = vec![(vip(cluster_ip), Role::ClusterIp)];
    let served = service
        .load_balancer
        .iter()
        .filter(|ingress| ingress.mode == IpMode::Vip && IpFamily::of(ingress.ip) == family);
    found.extend(served.map(|ingress| (vip(ingress.ip), Role::LoadBalancer)));
    let external = service
        .external_ips
        .iter()
        .filter(|ip| IpFamily::of(**ip) == family);
    found.extend(external.map(|ip| (vip(*ip), Role::ExternalIp)));
    if let Some(node_port) = port.node_port {
        let frontend = Frontend::NodePort {
            family,
            protocol: port.protocol,
            port: node_port,
        };
        found.push((frontend, Role::NodePort));
    }
    found
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (frontend, intent) in self.frontends() {
            writeln!(f, "{frontend} [{} of {}]: {intent}", intent.role, intent.owner)?;
        }
        for conflict in self.conflicts() {
            writeln!(f, "{conflict}")?;
        }
        Ok(())
    }
}
