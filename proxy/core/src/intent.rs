// SPDX-License-Identifier: Apache-2.0
//! What should happen to packets, independent of the firewall backend.

use std::cmp::Ordering;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use berth_model::{
    EndpointPort, IpFamily, IpMode, Port, Service, ServiceKey, ServicePort, ServicePortName, SessionAffinity,
    View,
};

use self::decided::Decided;
use crate::health_check::health_check_port;
use crate::{
    Conflict, Frontend, FrontendIntent, Role, Settings, Shortfall, ShortfallKind, Usable, categorize,
};

mod decided;
mod ranges;

#[cfg(test)]
mod tests;

/// Rank of a claim: oldest creation, then uid, then name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    created: i64,
    uid: Arc<str>,
    port: ServicePortName,
}

impl Claim {
    fn of(service: &Service, port: &ServicePort) -> Self {
        Self {
            created: service.created,
            uid: service.uid.as_str().into(),
            port: ServicePortName {
                service: service.key.clone(),
                port: port.name.clone(),
                protocol: port.protocol,
            },
        }
    }
}

impl Ord for Claim {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.created, &self.uid, &self.port).cmp(&(other.created, &other.uid, &other.port))
    }
}

impl PartialOrd for Claim {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What one Service contributes, kept to take it back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Contribution {
    claims: Vec<(Frontend, Claim)>,
    cluster_ips: Vec<IpAddr>,
    local_endpoints: BTreeSet<IpAddr>,
    shortfalls: BTreeSet<ShortfallKind>,
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
}

impl Touched {
    /// Adds what another update looked at.
    pub fn merge(&mut self, other: Touched) {
        self.frontends.extend(other.frontends);
        self.cluster_ips.extend(other.cluster_ips);
        self.local_endpoints.extend(other.local_endpoints);
    }

    /// Whether nothing was looked at.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.cluster_ips.is_empty() && self.local_endpoints.is_empty()
    }
}

/// The intent for one node: every frontend with its outcome. Kept up to date Service by Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    settings: Settings,
    claims: BTreeMap<Frontend, BTreeMap<Claim, FrontendIntent>>,
    services: BTreeMap<ServiceKey, Contribution>,
    cluster_ips: BTreeMap<IpAddr, usize>,
    local_endpoints: BTreeMap<IpAddr, usize>,
    health_ports: BTreeMap<ServiceKey, HealthPort>,
}

impl Intent {
    /// The intent of a cluster without Services.
    pub fn empty(settings: Settings) -> Self {
        Self {
            settings,
            claims: BTreeMap::new(),
            services: BTreeMap::new(),
            cluster_ips: BTreeMap::new(),
            local_endpoints: BTreeMap::new(),
            health_ports: BTreeMap::new(),
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
            self.withdraw(key, &mut touched);
            if let Some(service) = view.services.get(key) {
                self.contribute(service, view, &mut touched);
            }
        }
        touched
    }

    fn withdraw(&mut self, key: &ServiceKey, touched: &mut Touched) {
        self.health_ports.remove(key);
        let Some(old) = self.services.remove(key) else {
            return;
        };
        for (frontend, claim) in old.claims {
            touched.frontends.insert(frontend);
            if let Entry::Occupied(mut claims) = self.claims.entry(frontend) {
                claims.get_mut().remove(&claim);
                if claims.get().is_empty() {
                    claims.remove();
                }
            }
        }
        old.cluster_ips
            .iter()
            .for_each(|ip| release(&mut self.cluster_ips, *ip));
        old.local_endpoints
            .iter()
            .for_each(|ip| release(&mut self.local_endpoints, *ip));
        touched.cluster_ips.extend(old.cluster_ips);
        touched.local_endpoints.extend(old.local_endpoints);
    }

    fn contribute(&mut self, service: &Service, view: &View, touched: &mut Touched) {
        let mut contribution = Contribution {
            shortfalls: shortfalls(service),
            ..Contribution::default()
        };
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
                    let claims = self.claims.entry(frontend).or_default();
                    claims
                        .entry(claim.clone())
                        .or_insert_with(|| decided.frontend(&self.settings, &claim.port, role, &frontend));
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
        self.services.insert(service.key.clone(), contribution);
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
        self.claims
            .get(frontend)?
            .first_key_value()
            .map(|(_, intent)| intent)
    }

    /// Every frontend, ordered.
    pub fn frontends(&self) -> impl Iterator<Item = (&Frontend, &FrontendIntent)> {
        self.claims
            .iter()
            .filter_map(|(frontend, claims)| Some((frontend, claims.first_key_value()?.1)))
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

    /// Whether the address is some Service's ClusterIP.
    pub fn is_cluster_ip(&self, ip: IpAddr) -> bool {
        self.cluster_ips.contains_key(&ip)
    }

    /// Whether the address is that of a usable endpoint on this node.
    pub fn is_local_endpoint(&self, ip: IpAddr) -> bool {
        self.local_endpoints.contains_key(&ip)
    }

    /// Frontends that several Services claim.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for (frontend, claims) in &self.claims {
            let mut ranked = claims.keys();
            let Some(winner) = ranked.next() else {
                continue;
            };
            conflicts.extend(ranked.map(|loser| Conflict {
                frontend: *frontend,
                winner: winner.port.clone(),
                loser: loser.port.clone(),
            }));
        }
        conflicts
    }

    /// Wishes that are not fulfilled.
    pub fn shortfalls(&self) -> Vec<Shortfall> {
        self.services
            .iter()
            .flat_map(|(service, contribution)| {
                contribution.shortfalls.iter().map(|kind| Shortfall {
                    service: service.clone(),
                    kind: *kind,
                })
            })
            .collect()
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

fn shortfalls(service: &Service) -> BTreeSet<ShortfallKind> {
    let wished = service.affinity != SessionAffinity::None;
    wished
        .then_some(ShortfallKind::SessionAffinity)
        .into_iter()
        .collect()
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (frontend, intent) in self.frontends() {
            writeln!(f, "{frontend} [{} of {}]: {intent}", intent.role, intent.owner)?;
        }
        for conflict in self.conflicts() {
            writeln!(f, "{conflict}")?;
        }
        for shortfall in self.shortfalls() {
            writeln!(f, "{shortfall}")?;
        }
        Ok(())
    }
}
