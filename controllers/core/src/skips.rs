// SPDX-License-Identifier: Apache-2.0
//! What was left out of a plan, and why.

use std::collections::BTreeMap;
use std::fmt;

/// A reason for leaving something out. The text form is stable: log field, metric label, event reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SkipReason {
    /// The Pod has run to its end (Failed or Succeeded).
    PodFinished,
    /// The Pod has no address yet.
    PodWithoutAddress,
    /// The Pod is terminating, and legacy Endpoints do not carry such Pods.
    PodTerminating,
    /// The Pod has no address of the family.
    PodWithoutFamily,
    /// The Pod's Node is not known: retry, the Node may be about to appear.
    NodeUnknown,
    /// The Pod has no container port of the name and protocol that `targetPort` asks for.
    PortUnresolved,
    /// More addresses than the object may hold.
    OverCapacity,
    /// An address in hand-written Endpoints that is no IP address.
    InvalidAddress,
    /// The Service is of type ExternalName.
    ServiceExternalName,
    /// The Service has no selector: its endpoints are written by someone else.
    ServiceWithoutSelector,
    /// The Service has a selector: its slices come from Pods, not from Endpoints.
    ServiceWithSelector,
    /// There is no such Service.
    ServiceMissing,
    /// The object that would own the new ones is being deleted: nothing is created for it any more.
    OwnerTerminating,
    /// There are no Endpoints to mirror.
    EndpointsMissing,
    /// The Endpoints carry the skip-mirror label.
    MirrorDisabled,
    /// The Endpoints are a legacy leader-election record.
    LeaderElection,
}

impl SkipReason {
    /// The stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PodFinished => "PodFinished",
            Self::PodWithoutAddress => "PodWithoutAddress",
            Self::PodTerminating => "PodTerminating",
            Self::PodWithoutFamily => "PodWithoutFamily",
            Self::NodeUnknown => "NodeUnknown",
            Self::PortUnresolved => "PortUnresolved",
            Self::OverCapacity => "OverCapacity",
            Self::InvalidAddress => "InvalidAddress",
            Self::ServiceExternalName => "ServiceExternalName",
            Self::ServiceWithoutSelector => "ServiceWithoutSelector",
            Self::ServiceWithSelector => "ServiceWithSelector",
            Self::ServiceMissing => "ServiceMissing",
            Self::OwnerTerminating => "OwnerTerminating",
            Self::EndpointsMissing => "EndpointsMissing",
            Self::MirrorDisabled => "MirrorDisabled",
            Self::LeaderElection => "LeaderElection",
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How often one reason applied, with one example: a Service may have thousands of Pods of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// How often.
    pub count: usize,
    /// The first one seen, as text.
    pub example: String,
}

/// Everything left out of one plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skips {
    by_reason: BTreeMap<SkipReason, Tally>,
}

impl Skips {
    /// Notes one more; the example is built for the first of its reason only.
    pub fn add(&mut self, reason: SkipReason, example: impl FnOnce() -> String) {
        self.add_many(reason, 1, example);
    }

    /// Notes `count` more; none for zero.
    pub fn add_many(&mut self, reason: SkipReason, count: usize, example: impl FnOnce() -> String) {
        if count == 0 {
            return;
        }
        self.by_reason
            .entry(reason)
            .and_modify(|tally| tally.count += count)
            .or_insert_with(|| Tally {
                count,
                example: example(),
            });
    }

    /// How often a reason applied.
    pub fn count(&self, reason: SkipReason) -> usize {
        self.by_reason.get(&reason).map_or(0, |tally| tally.count)
    }

    /// Whether a reason applied at all.
    pub fn has(&self, reason: SkipReason) -> bool {
        self.by_reason.contains_key(&reason)
    }

    /// Whether nothing was left out.
    pub fn is_empty(&self) -> bool {
        self.by_reason.is_empty()
    }

    /// All reasons, in order.
    pub fn iter(&self) -> impl Iterator<Item = (SkipReason, &Tally)> {
        self.by_reason.iter().map(|(reason, tally)| (*reason, tally))
    }
}

impl fmt::Display for Skips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (reason, tally)) in self.iter().enumerate() {
            if position > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{} x {reason} ({})", tally.count, tally.example)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_keeps_the_first_example_and_prints_in_order() {
        let mut skips = Skips::default();
        skips.add(SkipReason::NodeUnknown, || "shop/web-0 on node-9".to_owned());
        skips.add(SkipReason::PodFinished, || "shop/job-0".to_owned());
        skips.add(SkipReason::PodFinished, || {
            unreachable!("built for the first only")
        });
        assert_eq!(
            skips.to_string(),
            "2 x PodFinished (shop/job-0), 1 x NodeUnknown (shop/web-0 on node-9)"
        );
        assert_eq!(skips.count(SkipReason::PodFinished), 2);
        assert!(!skips.has(SkipReason::OverCapacity) && !skips.is_empty());
    }
}
