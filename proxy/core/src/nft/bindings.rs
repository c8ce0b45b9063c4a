// SPDX-License-Identifier: Apache-2.0
//! Which client is bound to which endpoint. Packets write these elements, not plans; but what binds a client to an
//! endpoint that its list no longer has must go, or the client would be sent there.

use std::fmt;
use std::net::IpAddr;

use berth_model::Protocol;

use super::Wishes;
use crate::{AffinityNumber, Target};

/// One client's binding to an endpoint of a list that remembers its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// The client.
    pub source: IpAddr,
    /// The protocol of its connections.
    pub protocol: Protocol,
    /// The list.
    pub number: AffinityNumber,
    /// The endpoint.
    pub target: Target,
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            protocol,
            number,
            target,
        } = self;
        write!(f, "{source}/{protocol} at {number} to {target}")
    }
}

/// The bindings to endpoints that their lists do not have.
pub fn stale(bindings: impl IntoIterator<Item = Binding>, intent: &impl Wishes) -> Vec<Binding> {
    let holds = |binding: &Binding| {
        let affinity = intent.affinity(binding.number);
        affinity.is_some_and(|affinity| affinity.targets.contains(&binding.target))
    };
    bindings.into_iter().filter(|binding| !holds(binding)).collect()
}
