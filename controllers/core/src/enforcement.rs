// SPDX-License-Identifier: Apache-2.0
//! The rules by which API servers themselves refuse a value that is of the wrong pool.
//!
//! In: the pools and claims, the exempt namespaces, and what is to become of a breach. Out: a [`Plan`], which is a
//! ValidatingAdmissionPolicy with its binding for the cluster IPs and one for the node ports, and which pools no rule
//! is made of, and why. Touches: nothing.
//!
//! The webhook chooses before the API server allocates. These policies look after it has, at the values that will be
//! stored, and run in the API server's own process. Two things are held, of every value that a write brings anew:
//!
//! - **Encroachment**: what lies in a pool is for a Service that the pool selects, or has a reservation for, or whose
//!   namespace has an AddressClaim in the pool. What is reserved is for that Service only.
//! - **Straying**: a Service that pools with addresses of the family select has a value of one of them, or one that is
//!   kept for it elsewhere.
//!
//! **No write is refused by mistake of ours.** Values that the stored object has pass, so that an edit of a pool never breaks an
//! update of a working Service. Dry runs pass: they show an address that nobody will get. The policies' own
//! failurePolicy is Ignore whatever the webhook's is: an expression that fails, a missing CRD or a policy that can't be
//! compiled stops nothing. A namespace that is exempt does not come under them at all, nor does `default/kubernetes`.
//!
//! **A pool is the parameter**, the oldest: when it is gone, or its CRD is, nothing is held any more, at once and without
//! Berth, until the leader has written the policy anew. All pools could be parameters, and the policy be evaluated for each: that
//! was tried, and a create took 100 ms longer with a hundred pools of sixteen ranges, where it now takes no longer that would show. So what
//! pools say stands in the policy, in tables: a value is looked up by the CIDR around it (`cidr(...).masked()`), once for each length of a prefix that there is.
//! Ranges such as `10.0.0.5-10.0.0.9` are written as CIDRs. And which of two overlapping pools an address
//! belongs to is no property of one pool, so that the leader has to say it in any case.
//!
//! **What the policies do not carry**, so that the audit reports it instead: pools whose spec has faults or that overlap
//! an older one ([`LeftOut`]); claims address by address (their namespaces are trusted with the claim's pool); addresses that a
//! pool excludes; pools beyond [`TABLE`] characters of a table, and then straying is not held at all, because it needs all
//! of them. And they follow the pools by some two seconds (the leader's write, and API servers that take up policies once a second): for that
//! long, a Service that had a pool is refused a value of another one that was made or widened just now.

mod blocks;
mod expressions;
mod objects;
mod tables;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use berth_crds::{AddressPool, NodePortPool, PoolUse};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};

use crate::admission::Exemptions;
use crate::pools::{self, PoolRef, Standing};
pub use tables::TABLE;
use tables::Tables;

/// What is made of pools: rules for cluster IPs, or for node ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Cluster IPs.
    ClusterIps,
    /// Node ports, those for health checks too.
    NodePorts,
}

impl Subject {
    /// Both.
    pub const ALL: [Self; 2] = [Self::ClusterIps, Self::NodePorts];

    /// The name of the policy and of its binding; the shipped RBAC names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterIps => "berth-cluster-ips",
            Self::NodePorts => "berth-node-ports",
        }
    }

    /// The kind of the pools.
    pub fn pool_kind(self) -> &'static str {
        match self {
            Self::ClusterIps => "AddressPool",
            Self::NodePorts => "NodePortPool",
        }
    }
}

/// What becomes of a breach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The write is refused: where a Service is made with values of its pool, or not at all.
    Deny,
    /// The client is warned and the audit log has it: where a Service is made in any case.
    Report,
}

impl Action {
    /// The stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "Deny",
            Self::Report => "Report",
        }
    }
}

/// What the rules are made of.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// By name. Those for load balancers may be among them.
    pub address_pools: BTreeMap<String, AddressPool>,
    /// By name.
    pub port_pools: BTreeMap<String, NodePortPool>,
    /// By pool: the namespaces with an AddressClaim that keeps a cluster IP of it.
    pub claims: BTreeMap<String, BTreeSet<String>>,
}

/// Why no rule is made of a pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOutReason {
    /// Its spec has faults.
    Malformed,
    /// It shares part of what it has with this older pool.
    Overlapping(PoolRef),
    /// The policy would be larger than API servers take.
    TooLarge,
}

impl LeftOutReason {
    /// The stable text form.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Malformed => "Malformed",
            Self::Overlapping(_) => "Overlapping",
            Self::TooLarge => "TooLarge",
        }
    }
}

/// A pool that no rule is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// The pool.
    pub pool: PoolRef,
    /// Why.
    pub reason: LeftOutReason,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = &self.pool;
        match &self.reason {
            LeftOutReason::Malformed => write!(
                f,
                "{pool} is not enforced while its spec has faults; its conditions name them"
            ),
            LeftOutReason::Overlapping(older) => write!(
                f,
                "{pool} is not enforced while it overlaps {older}: take what they share out of one of the two"
            ),
            LeftOutReason::TooLarge => write!(
                f,
                "{pool} is not enforced, nor that Services stay in their pools: all pools together are more than {TABLE} \
                 characters of a policy; write their ranges as fewer, larger CIDRs, or select by fewer names"
            ),
        }
    }
}

/// A policy and what puts it in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Enforced {
    /// What it is about.
    pub subject: Subject,
    /// The policy.
    pub policy: ValidatingAdmissionPolicy,
    /// Its binding, of the same name.
    pub binding: ValidatingAdmissionPolicyBinding,
}

/// What API servers are to hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What is to be there. A subject without pools is not among them, and its policy is to be removed.
    pub enforced: Vec<Enforced>,
    /// The pools that no rule is made of.
    pub left_out: Vec<LeftOut>,
}

impl Plan {
    /// What is to be there of a subject.
    pub fn of(&self, subject: Subject) -> Option<&Enforced> {
        self.enforced.iter().find(|enforced| enforced.subject == subject)
    }
}

/// Says what API servers are to hold.
pub fn plan(observed: &Observed, exemptions: &Exemptions, action: Action) -> Plan {
    let mut plan = Plan::default();
    for subject in Subject::ALL {
        let ranked = ranked(observed, subject);
        let Some(anchor) = ranked.oldest() else {
            continue;
        };
        let tables = match subject {
            Subject::ClusterIps => Tables::of_addresses(&ranked, observed),
            Subject::NodePorts => Tables::of_ports(&ranked, observed),
        };
        let anchor = anchor.name().name.as_str();
        let enforced = objects::enforced(subject, &tables, exemptions, action, anchor);
        plan.enforced.push(enforced);
        let faulty = ranked.iter().filter_map(|(pool, standing)| {
            let reason = match standing {
                Standing::Malformed => LeftOutReason::Malformed,
                Standing::Overlapping(older) => LeftOutReason::Overlapping(older.clone()),
                Standing::Gives | Standing::Draining => return None,
            };
            let pool = pool.name().clone();
            Some(LeftOut { pool, reason })
        });
        plan.left_out.extend(faulty);
        plan.left_out.extend(tables.too_large);
    }
    plan.left_out.sort();
    plan
}

fn ranked(observed: &Observed, subject: Subject) -> pools::Pools {
    match subject {
        Subject::ClusterIps => {
            let pools = observed.address_pools.values();
            let pools = pools.filter(|pool| pool.spec.r#use == PoolUse::ClusterIp);
            pools::Pools::new(pools.map(pools::Pool::of_addresses))
        }
        Subject::NodePorts => pools::Pools::new(observed.port_pools.values().map(pools::Pool::of_ports)),
    }
}
