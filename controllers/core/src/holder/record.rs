// SPDX-License-Identifier: Apache-2.0
//! What the Lease says.

use std::collections::BTreeSet;

use super::ReplicaId;

/// The Lease's contents that matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who hands out values; `None` where it was given back.
    pub holder: Option<ReplicaId>,
    /// Where other replicas find it.
    pub address: String,
    /// One more with each holder (`leaseTransitions`).
    pub term: u64,
    /// Who has every hold that anybody was told of, the holder included.
    pub in_sync: BTreeSet<ReplicaId>,
    /// The resource version that this was read in; empty for a Lease that is not there yet.
    pub version: String,
}

impl Record {
    /// The record by which a replica takes over from this one.
    pub(super) fn claimed_by(&self, id: &ReplicaId, address: &str) -> Self {
        Self {
            holder: Some(id.clone()),
            address: address.to_owned(),
            term: self.term + 1,
            in_sync: BTreeSet::from([id.clone()]),
            version: self.version.clone(),
        }
    }

    /// The record of a Lease that is not there.
    pub(super) fn absent() -> Self {
        Self {
            holder: None,
            address: String::new(),
            term: 0,
            in_sync: BTreeSet::new(),
            version: String::new(),
        }
    }
}

/// Why a Lease was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFault {
    /// It is of another version by now.
    Conflict,
    /// Nobody knows whether it was: there was no answer.
    Unknown,
}
