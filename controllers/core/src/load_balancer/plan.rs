// SPDX-License-Identifier: Apache-2.0
//! What to do for one Service, as a value.

use std::fmt;
use std::net::IpAddr;

use berth_allocator::Allocation;
use berth_crds::{ConditionStatus, set_condition};
use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};

use super::reason::{NotOurs, Reason};
use super::wish::{self, CONDITION_ALLOCATED};

/// What one turn found and what is to be written. Allocations are recorded already.
#[derive(Clone, Debug, PartialEq)]
pub struct LbPlan {
    /// The Service.
    pub key: ServiceKey,
    /// Addresses that became the Service's in this turn.
    pub taken: Vec<Allocation>,
    /// Addresses that are free again, ascending.
    pub released: Vec<IpAddr>,
    /// What to write to its status subresource; `None`: it is right as it is.
    pub write: Option<StatusWrite>,
    /// What there is to say.
    pub outcome: Outcome,
    /// To be recorded once the write has succeeded.
    pub event: Option<LbEvent>,
    /// The Service that waited longest among those that can be helped now, if something became free.
    pub wake: Option<ServiceKey>,
}

/// How a Service stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is ours.
    Ours {
        /// What it has, in the order of `spec.ipFamilies`.
        addresses: Vec<IpAddr>,
        /// What there is to say about it; empty where all is as asked for.
        remarks: Vec<Reason>,
        /// Whether it has to have both families or none (RequireDualStack).
        both_or_nothing: bool,
    },
    /// It is being deleted and keeps what it has until it is gone.
    Terminating,
    /// It is another's or nobody's.
    NotOurs(NotOurs),
    /// It does not exist any more.
    Gone,
}

/// A change to the status subresource of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusWrite {
    /// The whole new `status.loadBalancer.ingress`; `None`: leave it.
    pub ingress: Option<Vec<LoadBalancerIngress>>,
    /// The whole new `status.conditions`; `None`: leave them.
    pub conditions: Option<Vec<Condition>>,
    /// What the change was planned on.
    pub resource_version: Option<String>,
}

/// An event to record on the Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LbEvent {
    /// `true`: type Warning, else Normal.
    pub warning: bool,
    /// Its reason.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
}

impl LbPlan {
    /// Whether there is no API call to make.
    pub fn is_empty(&self) -> bool {
        self.write.is_none() && self.event.is_none()
    }
}

impl StatusWrite {
    /// A JSON merge patch for the status subresource. It names the resource version that the plan was made on,
    /// so that the API server refuses it (409) where another writer was faster.
    pub fn merge_patch(&self) -> Value {
        let mut status = serde_json::Map::new();
        if let Some(ingress) = &self.ingress {
            status.insert("loadBalancer".to_owned(), json!({ "ingress": ingress }));
        }
        if let Some(conditions) = &self.conditions {
            status.insert("conditions".to_owned(), json!(conditions));
        }
        json!({
            "metadata": { "resourceVersion": self.resource_version },
            "status": status,
        })
    }
}

impl Outcome {
    /// Stable text: log field, metric label, and for a Service of ours the reason of condition and event.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ours { remarks, .. } => remarks
                .iter()
                .find(|reason| !reason.is_satisfied())
                .or(remarks.first())
                .map_or("Allocated", Reason::as_str),
            Self::Terminating => "Terminating",
            Self::NotOurs(why) => why.as_str(),
            Self::Gone => "Gone",
        }
    }

    /// Whether the Service is ours and has what it must have.
    pub fn is_satisfied(&self) -> bool {
        match self {
            Self::Ours { remarks, .. } => remarks.iter().all(Reason::is_satisfied),
            Self::Terminating | Self::NotOurs(_) | Self::Gone => false,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Ours {
            addresses,
            remarks,
            both_or_nothing,
        } = self
        else {
            return f.write_str(self.as_str());
        };
        for (index, reason) in remarks.iter().enumerate() {
            let and = if index == 0 { "" } else { ". Also, " };
            write!(f, "{and}{reason}")?;
        }
        if addresses.is_empty() {
            let why = if *both_or_nothing {
                ". RequireDualStack: both addresses or none"
            } else {
                ""
            };
            return f.write_str(why);
        }
        f.write_str(if remarks.is_empty() {
            "Has the "
        } else if self.is_satisfied() {
            ". Has the "
        } else {
            ". Keeps the "
        })?;
        for (index, address) in addresses.iter().enumerate() {
            let before = if index == 0 { RECORD } else { ", " };
            let is_left = remarks.iter().any(|reason| reason.leaves() == Some(*address));
            let after = if is_left { TO_BE_LEFT } else { "" };
            write!(f, "{before}{address}{after}")?;
        }
        Ok(())
    }
}

impl fmt::Display for LbEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.warning { "Warning" } else { "Normal" };
        write!(f, "{kind} {}: {}", self.reason, self.message)
    }
}

impl fmt::Display for LbPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.outcome.as_str())?;
        for allocation in &self.taken {
            match &allocation.pool {
                Some(pool) => write!(f, "; takes {} from {pool}", allocation.item)?,
                None => write!(f, "; takes {}", allocation.item)?,
            }
        }
        for address in &self.released {
            write!(f, "; releases {address}")?;
        }
        if let Some(ingress) = self.write.as_ref().and_then(|write| write.ingress.as_ref()) {
            let addresses: Vec<&str> = ingress.iter().filter_map(|entry| entry.ip.as_deref()).collect();
            write!(f, "; status.loadBalancer.ingress = [{}]", addresses.join(", "))?;
        }
        if let Some(event) = &self.event {
            write!(f, "; {event}")?;
        }
        Ok(())
    }
}

/// The write that makes the status list exactly these addresses; `None` where it does.
pub(super) fn ingress_write(service: &Service, addresses: &[IpAddr]) -> Option<Vec<LoadBalancerIngress>> {
    let listed = wish::ingress(service);
    let same = listed.len() == addresses.len()
        && listed.iter().zip(addresses).all(|(entry, address)| {
            entry.hostname.is_none()
                && entry.ip.as_deref() == Some(address.to_string().as_str())
                && matches!(entry.ip_mode.as_deref(), None | Some(IP_MODE_VIP))
        });
    (!same).then(|| {
        addresses
            .iter()
            .map(|address| LoadBalancerIngress {
                ip: Some(address.to_string()),
                ip_mode: Some(IP_MODE_VIP.to_owned()),
                ..LoadBalancerIngress::default()
            })
            .collect()
    })
}

/// Packets reach a node with the address as destination (KEP-1860); what the API server fills in.
const IP_MODE_VIP: &str = "VIP";

/// Condition and event that say the outcome; both `None` where the Service says so already.
pub(super) fn say(
    service: &Service,
    outcome: &Outcome,
    now: &Time,
) -> (Option<Vec<Condition>>, Option<LbEvent>) {
    let before = conditions(service);
    let status = if outcome.is_satisfied() {
        ConditionStatus::True
    } else {
        ConditionStatus::False
    };
    let (reason, message) = (outcome.as_str(), outcome.to_string());
    let said = before.iter().any(|condition| {
        condition.type_ == CONDITION_ALLOCATED
            && condition.status == status.as_str()
            && condition.reason == reason
            && condition.message == message
    });
    if said {
        return (None, None);
    }
    let mut after = before.to_vec();
    set_condition(
        &mut after,
        CONDITION_ALLOCATED,
        status,
        reason,
        &message,
        None,
        now,
    );
    let warning = reason != "Allocated";
    (
        Some(after),
        Some(LbEvent {
            warning,
            reason,
            message,
        }),
    )
}

/// The conditions without ours; `None` where it is not among them.
pub(super) fn unsay(service: &Service) -> Option<Vec<Condition>> {
    let before = conditions(service);
    let after: Vec<Condition> = before
        .iter()
        .filter(|condition| condition.type_ != CONDITION_ALLOCATED)
        .cloned()
        .collect();
    (after.len() != before.len()).then_some(after)
}

/// The addresses that our condition on the Service says it has: the only record that outlives both the
/// controller and the pool that they came from.
pub(super) fn recorded(service: &Service) -> Vec<IpAddr> {
    record(service).map(|(address, _)| address).collect()
}

/// Those of them that it is to leave, because others have them on other terms.
pub(super) fn to_be_left(service: &Service) -> Vec<IpAddr> {
    let left = record(service).filter(|(_, is_left)| *is_left);
    left.map(|(address, _)| address).collect()
}

fn record(service: &Service) -> impl Iterator<Item = (IpAddr, bool)> {
    let mut ours = conditions(service).iter();
    let said = ours
        .find(|condition| condition.type_ == CONDITION_ALLOCATED)
        .and_then(|condition| condition.message.rsplit_once(RECORD))
        .map_or("", |(_, addresses)| addresses);
    said.split(", ").filter_map(|text| {
        let kept = text.strip_suffix(TO_BE_LEFT);
        let address = kept.unwrap_or(text).parse().ok()?;
        Some((address, kept.is_some()))
    })
}

/// What the list of addresses at the end of a condition's message begins with. It is read back.
const RECORD: &str = "addresses: ";
/// What follows an address of it that others have on other terms. It is read back.
const TO_BE_LEFT: &str = " (to be left)";

fn conditions(service: &Service) -> &[Condition] {
    service
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default()
}
