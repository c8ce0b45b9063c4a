// SPDX-License-Identifier: Apache-2.0
//! What a table is made from: the intent itself, or what another backend makes of it.

use std::net::IpAddr;

use berth_model::{IpFamily, ServiceKey};

use crate::{Affinity, AffinityNumber, Frontend, FrontendIntent, Intent};

/// What should happen to packets, as far as a table has to know.
pub trait Wishes {
    /// What is wished for the frontend; `None` if nobody claims it.
    fn get(&self, frontend: &Frontend) -> Option<&FrontendIntent>;
    /// Every frontend, ordered.
    fn frontends(&self) -> impl Iterator<Item = (&Frontend, &FrontendIntent)>;
    /// Whether there is this Service, with or without a frontend.
    fn has_service(&self, service: &ServiceKey) -> bool;
    /// The ClusterIPs of one family.
    fn cluster_ips(&self, family: IpFamily) -> impl Iterator<Item = IpAddr>;
    /// The endpoints' addresses of one family whose connections may come back to themselves.
    fn local_endpoints(&self, family: IpFamily) -> impl Iterator<Item = IpAddr>;
    /// Whether the address is among the ClusterIPs.
    fn is_cluster_ip(&self, ip: IpAddr) -> bool;
    /// Whether the address is among the local endpoints.
    fn is_local_endpoint(&self, ip: IpAddr) -> bool;
    /// The number of the list that a frontend picks from, if the table has to remember its clients: everybody's list, or
    /// that of connections from `outside`.
    fn affinity_of(&self, frontend: &Frontend, outside: bool) -> Option<AffinityNumber>;
    /// A list whose clients the table has to remember.
    fn affinity(&self, number: AffinityNumber) -> Option<&Affinity>;
    /// Every list whose clients the table has to remember.
    fn affinities(&self) -> impl Iterator<Item = (AffinityNumber, &Affinity)>;
}

impl Wishes for Intent {
    fn get(&self, frontend: &Frontend) -> Option<&FrontendIntent> {
        Intent::get(self, frontend)
    }

    fn frontends(&self) -> impl Iterator<Item = (&Frontend, &FrontendIntent)> {
        Intent::frontends(self)
    }

    fn has_service(&self, service: &ServiceKey) -> bool {
        Intent::has_service(self, service)
    }

    fn cluster_ips(&self, family: IpFamily) -> impl Iterator<Item = IpAddr> {
        Intent::cluster_ips(self, family)
    }

    fn local_endpoints(&self, family: IpFamily) -> impl Iterator<Item = IpAddr> {
        Intent::local_endpoints(self, family)
    }

    fn is_cluster_ip(&self, ip: IpAddr) -> bool {
        Intent::is_cluster_ip(self, ip)
    }

    fn is_local_endpoint(&self, ip: IpAddr) -> bool {
        Intent::is_local_endpoint(self, ip)
    }

    fn affinity_of(&self, frontend: &Frontend, outside: bool) -> Option<AffinityNumber> {
        Intent::affinity_of(self, frontend, outside)
    }

    fn affinity(&self, number: AffinityNumber) -> Option<&Affinity> {
        Intent::affinity(self, number)
    }

    fn affinities(&self) -> impl Iterator<Item = (AffinityNumber, &Affinity)> {
        Intent::affinities(self)
    }
}
