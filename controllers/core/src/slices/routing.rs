// SPDX-License-Identifier: Apache-2.0
//! What a Service says about where its traffic should go.

use std::fmt;

use k8s_openapi::api::core::v1::Service;

use crate::names;

/// `spec.trafficDistribution`, as far as it is known (KEP-4444, KEP-3015).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrafficDistribution {
    /// The older name of [`TrafficDistribution::PreferSameZone`].
    PreferClose,
    /// Endpoints of the client's zone first.
    PreferSameZone,
    /// Endpoints of the client's node first, then of its zone.
    PreferSameNode,
}

impl TrafficDistribution {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::PreferClose, Self::PreferSameZone, Self::PreferSameNode];

    /// The spelling of the Kubernetes API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PreferClose => "PreferClose",
            Self::PreferSameZone => "PreferSameZone",
            Self::PreferSameNode => "PreferSameNode",
        }
    }
}

impl fmt::Display for TrafficDistribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What decides the hints of a Service's endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// Nothing: hints found are removed.
    #[default]
    Anywhere,
    /// Its traffic distribution.
    Distribution(TrafficDistribution),
    /// Topology mode.
    Topology,
}

impl Routing {
    /// What the Service asks for. Topology mode, where enabled, beats `trafficDistribution`; values
    /// that are not known count as none.
    pub fn of(service: &Service) -> Self {
        if topology_mode(service) {
            return Self::Topology;
        }
        let spec = service.spec.as_ref();
        let asked = spec.and_then(|spec| spec.traffic_distribution.as_deref());
        let mut known = TrafficDistribution::ALL.into_iter();
        known
            .find(|value| Some(value.as_str()) == asked)
            .map_or(Self::Anywhere, Self::Distribution)
    }

    /// The traffic distribution in effect.
    pub fn distribution(self) -> Option<TrafficDistribution> {
        match self {
            Self::Distribution(value) => Some(value),
            Self::Anywhere | Self::Topology => None,
        }
    }

    /// The label `topology` of upstream's metrics.
    pub fn topology_label(self) -> &'static str {
        match self {
            Self::Topology => "Auto",
            Self::Anywhere | Self::Distribution(_) => "Disabled",
        }
    }

    /// The label `traffic_distribution` of upstream's metrics.
    pub fn distribution_label(self) -> &'static str {
        self.distribution().map_or("", TrafficDistribution::as_str)
    }
}

/// Whether the Service asks for topology mode; the older annotation wins where both are set.
fn topology_mode(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let value = annotations.and_then(|annotations| {
        annotations
            .get(names::TOPOLOGY_HINTS)
            .or_else(|| annotations.get(names::TOPOLOGY_MODE))
    });
    matches!(value.map(String::as_str), Some("Auto" | "auto"))
}
