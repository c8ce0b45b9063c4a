// SPDX-License-Identifier: Apache-2.0
//! What is decided once for a Service port and a family, and how each of its frontends takes it.

use std::sync::Arc;

use berth_model::{Protocol, Service, ServicePort, ServicePortName, SessionAffinity, TrafficPolicy};

use super::ranges;
use crate::{
    DropReason, Frontend, FrontendIntent, Masquerade, Outcome, RejectReason, Role, Settings, Target, Usable,
};

/// The lists of a Service port in one family, shared by its frontends.
pub(super) struct Decided<'a> {
    service: &'a Service,
    cluster: Outcome,
    local: Outcome,
    affinity: SessionAffinity,
    serving: Arc<[Target]>,
}

impl<'a> Decided<'a> {
    pub(super) fn of(service: &'a Service, port: &ServicePort, usable: Usable) -> Self {
        let outcome = |targets: Vec<Target>| match (targets.is_empty(), usable.has_any) {
            (false, _) => Outcome::Endpoints(targets.into()),
            (true, true) => Outcome::Drop(DropReason::NoLocalEndpoints),
            (true, false) => Outcome::Reject(RejectReason::NoEndpoints),
        };
        Self {
            service,
            cluster: outcome(usable.cluster),
            local: outcome(usable.local),
            affinity: service.affinity,
            serving: match port.protocol {
                Protocol::Udp => usable.serving.into(),
                Protocol::Tcp | Protocol::Sctp => Arc::new([]),
            },
        }
    }

    /// What becomes of connections to one of the port's frontends.
    ///
    /// * A ClusterIP follows the internal policy, whoever comes. Those who are not Pods are masqueraded, if Pods
    ///   can be told.
    /// * Everything else follows the external policy. Under Cluster everybody is masqueraded: the endpoint may be on
    ///   another node, and its answer must come back here. Under Local those from outside get a local endpoint
    ///   or nothing and keep their address; Pods and this host are of the cluster and get any endpoint, Pods
    ///   with their own address, this host with the node's.
    /// * With no endpoint anywhere everybody is refused.
    pub(super) fn frontend(
        &self,
        settings: &Settings,
        owner: &ServicePortName,
        role: Role,
        frontend: &Frontend,
    ) -> FrontendIntent {
        let (outcome, outside, masquerade) = if role == Role::ClusterIp {
            self.internal(settings, frontend)
        } else {
            self.external()
        };
        FrontendIntent {
            owner: owner.clone(),
            role,
            outcome,
            here_only: role == Role::ClusterIp && self.service.internal_policy == TrafficPolicy::Local,
            outside,
            masquerade,
            affinity: self.affinity,
            source_ranges: match (role, frontend) {
                (Role::LoadBalancer, Frontend::Vip { ip, .. }) => {
                    ranges::of(self.service, *ip, &settings.node_ips)
                }
                (Role::LoadBalancer, Frontend::NodePort { .. })
                | (Role::ClusterIp | Role::ExternalIp | Role::NodePort, _) => None,
            },
            serving: Arc::clone(&self.serving),
        }
    }

    fn internal(&self, settings: &Settings, frontend: &Frontend) -> (Outcome, Option<Outcome>, Masquerade) {
        let outcome = match self.service.internal_policy {
            TrafficPolicy::Cluster => self.cluster.clone(),
            TrafficPolicy::Local => self.local.clone(),
        };
        let masquerade = if settings.masquerade_all {
            Masquerade::Always
        } else if settings.knows_pods(frontend.family()) {
            Masquerade::NotPods
        } else {
            Masquerade::Never
        };
        (outcome, None, masquerade)
    }

    fn external(&self) -> (Outcome, Option<Outcome>, Masquerade) {
        match (self.service.external_policy, &self.cluster) {
            (TrafficPolicy::Cluster, _) | (TrafficPolicy::Local, Outcome::Reject(_)) => {
                (self.cluster.clone(), None, Masquerade::Always)
            }
            (TrafficPolicy::Local, Outcome::Endpoints(_) | Outcome::Drop(_)) => {
                (self.cluster.clone(), Some(self.local.clone()), Masquerade::Host)
            }
        }
    }
}
