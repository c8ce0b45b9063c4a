// SPDX-License-Identifier: Apache-2.0
//! Why the API server will refuse a write.

use std::fmt;

/// What is wrong with a Service, as far as it bears on what the Service needs. The API server looks at much more, and
/// its message is the one that the user sees; this one is for logs and metrics. The text form is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invalid {
    /// `type` is none that is known.
    UnknownType,
    /// An entry of `ipFamilies` is none that is known.
    UnknownFamily,
    /// `ipFamilyPolicy` is none that is known.
    UnknownPolicy,
    /// `ipFamilies` names a family twice.
    FamilyTwice,
    /// `clusterIPs` without `clusterIP`.
    PluralWithoutSingular,
    /// The first of `clusterIPs` is not `clusterIP`.
    PluralDiffersFromSingular,
    /// An entry of `clusterIPs` is no address in its strict spelling.
    MalformedClusterIp,
    /// `None` beside another value.
    NoneBesideAddress,
    /// More than two addresses.
    TooManyClusterIps,
    /// Two addresses of one family.
    ClusterIpsOfOneFamily,
    /// An address is not of the family that `ipFamilies` has at its place.
    ClusterIpOfOtherFamily,
    /// Two addresses or families with policy `SingleStack`.
    SingleStackWithTwo,
    /// An update drops the second address or family without policy `SingleStack`.
    DowngradeWithoutPolicy,
    /// The cluster has no addresses of a family that is asked for.
    FamilyNotConfigured,
    /// Both families are required, and the cluster has one.
    DualStackNotConfigured,
    /// A headless Service of a type that needs an address.
    HeadlessWithNodePorts,
    /// An address or `None` on a Service of type `ExternalName`, or families or a policy.
    ExternalNameWithAddresses,
    /// An update changes an address, or makes a Service headless or no longer so.
    ClusterIpChanged,
    /// An update changes a family.
    FamilyChanged,
    /// A node port is no port number.
    PortOutOfBounds,
    /// A node port on a Service of type `ClusterIP`.
    NodePortWithoutType,
    /// The Service asks twice for one node port, in a way that the API server does not take.
    NodePortTwice,
    /// Two ports with one number and protocol.
    PortTwice,
    /// The health-check node port is one that the Service has for something else.
    HealthCheckNodePortTwice,
    /// An update changes the health-check node port.
    HealthCheckNodePortChanged,
    /// A health-check node port on a Service that has none.
    HealthCheckNodePortWithoutNeed,
}

impl Invalid {
    /// The stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownType => "UnknownType",
            Self::UnknownFamily => "UnknownFamily",
            Self::UnknownPolicy => "UnknownPolicy",
            Self::FamilyTwice => "FamilyTwice",
            Self::PluralWithoutSingular => "PluralWithoutSingular",
            Self::PluralDiffersFromSingular => "PluralDiffersFromSingular",
            Self::MalformedClusterIp => "MalformedClusterIp",
            Self::NoneBesideAddress => "NoneBesideAddress",
            Self::TooManyClusterIps => "TooManyClusterIps",
            Self::ClusterIpsOfOneFamily => "ClusterIpsOfOneFamily",
            Self::ClusterIpOfOtherFamily => "ClusterIpOfOtherFamily",
            Self::SingleStackWithTwo => "SingleStackWithTwo",
            Self::DowngradeWithoutPolicy => "DowngradeWithoutPolicy",
            Self::FamilyNotConfigured => "FamilyNotConfigured",
            Self::DualStackNotConfigured => "DualStackNotConfigured",
            Self::HeadlessWithNodePorts => "HeadlessWithNodePorts",
            Self::ExternalNameWithAddresses => "ExternalNameWithAddresses",
            Self::ClusterIpChanged => "ClusterIpChanged",
            Self::FamilyChanged => "FamilyChanged",
            Self::PortOutOfBounds => "PortOutOfBounds",
            Self::NodePortWithoutType => "NodePortWithoutType",
            Self::NodePortTwice => "NodePortTwice",
            Self::PortTwice => "PortTwice",
            Self::HealthCheckNodePortTwice => "HealthCheckNodePortTwice",
            Self::HealthCheckNodePortChanged => "HealthCheckNodePortChanged",
            Self::HealthCheckNodePortWithoutNeed => "HealthCheckNodePortWithoutNeed",
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
