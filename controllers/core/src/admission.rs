// SPDX-License-Identifier: Apache-2.0
//! What a write of a Service needs from the pools, and the patch that gives it.
//!
//! In: the Service as mutating admission sees it (statically defaulted, families and addresses not), the stored one on
//! an update, the families of the cluster. Out: a [`Decision`], and with the values that were chosen a [`Patch`].
//! Touches: nothing.
//!
//! The API server goes on after us: it copies what an update omits, infers families and policy, allocates what is
//! missing and validates. So all of that is foreseen here, to know what is missing, and none of it is done: a patch
//! holds the values that were chosen and nothing that the API server would set to the same value by itself. A write
//! that it will refuse is left alone, because its message is the one that the user should see.
//!
//! ```text
//!   Service, stored Service --> Draft --> copy --> families --> addresses, ports, health check --> Needs
//!                                 \---------\----------\------------\--> Invalid        Needs + Chosen --> Patch
//! ```
//!
//! A Service that another webhook has changed after this one is reviewed once more: [`unclaimed`] says which of its values may
//! be from the review before, and the Service [`without`] them is the one that is looked at.

mod addresses;
mod copy;
mod draft;
mod earlier;
mod exempt;
mod families;
mod invalid;
mod needs;
mod patch;
mod ports;

#[cfg(test)]
mod tests;

use std::fmt;

use berth_model::{IpFamily, IpRange};
use k8s_openapi::api::core::v1::Service;

use draft::Draft;
pub use draft::FamilyPolicy;
pub use earlier::{over, unclaimed, without};
pub use exempt::{Exempt, Exemptions};
pub use invalid::Invalid;
pub use needs::{AddressNeed, ClusterIp, ClusterIps, Need, Needs, PortNeed, Released, Slot};
pub use patch::{Chosen, Operation, Patch, patch};

/// The families in which the cluster has Service addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterFamilies {
    /// That of the first Service range: what a Service gets that asks for none.
    pub primary: IpFamily,
    /// Whether there are addresses of the other family too.
    pub dual_stack: bool,
}

impl ClusterFamilies {
    /// Of the ranges that the API server was started with, as its own ServiceCIDR has them; none where they can't be read.
    pub fn of_ranges(ranges: &[IpRange]) -> Option<Self> {
        let primary = IpFamily::of(ranges.first()?.first());
        let dual_stack = ranges.iter().any(|range| IpFamily::of(range.first()) != primary);
        Some(Self { primary, dual_stack })
    }

    fn has(self, family: IpFamily) -> bool {
        self.dual_stack || family == self.primary
    }
}

/// A write of a Service, as mutating admission sees it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Of the request: what the object says of it need not be there yet.
    pub namespace: &'a str,
    /// What is to be stored.
    pub service: &'a Service,
    /// What is stored, on an update. A PUT of a name that does not exist is a create.
    pub old: Option<&'a Service>,
}

/// What is to be done about a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing, whatever it asks for: pools do not apply to it.
    Exempt(Exempt),
    /// Nothing: the API server will refuse it, and says it best.
    LeaveToServer(Invalid),
    /// Nothing is missing and nothing is asked for; what the Service has, keeps and gives back stands in the needs.
    Nothing(Needs),
    /// There is something to be chosen, or a wish to be checked against the pools.
    Serve(Needs),
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exempt(exempt) => write!(f, "exempt: {exempt}"),
            Self::LeaveToServer(invalid) => write!(f, "left to the API server: {invalid}"),
            Self::Nothing(needs) => write!(f, "nothing to do: {needs}"),
            Self::Serve(needs) => write!(f, "serve: {needs}"),
        }
    }
}

/// Says what a write needs.
pub fn decide(request: &Request<'_>, cluster: ClusterFamilies, exemptions: &Exemptions) -> Decision {
    let name = request.service.metadata.name.as_deref().unwrap_or_default();
    if let Some(exempt) = exemptions.of(request.namespace, name) {
        return Decision::Exempt(exempt);
    }
    match needs(request, cluster) {
        Err(invalid) => Decision::LeaveToServer(invalid),
        Ok(needs) if needs.slots().is_empty() => Decision::Nothing(needs),
        Ok(needs) => Decision::Serve(needs),
    }
}

/// The steps of the API server, in its order: each sees what the one before it has filled in.
fn needs(request: &Request<'_>, cluster: ClusterFamilies) -> Result<Needs, Invalid> {
    let old = request
        .old
        .map(|stored| Draft::stored(stored, cluster.primary))
        .transpose()?;
    let old = old.as_ref();
    let mut new = Draft::read(request.service)?;
    if let Some(old) = old {
        copy::omitted(&mut new, old);
    }
    copy::align_plural(&mut new, old);
    families::infer(&mut new, old, cluster)?;
    let cluster_ips = addresses::needs(&new, old)?;
    let node_ports = ports::needs(&new, old)?;
    let health_check = ports::health_check(&new, old, &node_ports)?;
    let external_name = new.is_external_name();
    Ok(Needs {
        policy: new.policy.filter(|_| !external_name),
        families: if external_name { Vec::new() } else { new.families },
        released: needs::released(old, &cluster_ips, &node_ports, health_check),
        cluster_ips,
        node_ports,
        health_check,
    })
}
