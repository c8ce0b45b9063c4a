// SPDX-License-Identifier: Apache-2.0
//! What became of topology mode for one family of one Service, and what is said about it.

use std::collections::BTreeMap;
use std::fmt;

use berth_model::IpFamily;

/// Why topology mode gives no hints. The text is upstream's, which people search for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HintsOff {
    /// A ready Node has no zone label or no allocatable CPU, or no Node is ready.
    InsufficientNodeInfo,
    /// All ready Nodes are in one zone.
    OneZone,
    /// Fewer ready endpoints than zones.
    TooFewEndpoints {
        /// Ready endpoints.
        endpoints: usize,
        /// Zones with ready Nodes.
        zones: usize,
    },
    /// Rounding up what each zone needs at least asks for more endpoints than there are.
    Overload {
        /// Ready endpoints.
        endpoints: usize,
        /// Zones with ready Nodes.
        zones: usize,
    },
    /// A ready endpoint is in no zone.
    EndpointWithoutZone,
    /// The Service does not ask for it any more.
    NotAsked,
}

impl HintsOff {
    /// The stable text form, for logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InsufficientNodeInfo => "InsufficientNodeInfo",
            Self::OneZone => "OneZone",
            Self::TooFewEndpoints { .. } => "TooFewEndpoints",
            Self::Overload { .. } => "Overload",
            Self::EndpointWithoutZone => "EndpointWithoutZone",
            Self::NotAsked => "NotAsked",
        }
    }
}

impl fmt::Display for HintsOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InsufficientNodeInfo => f.write_str(
                "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes",
            ),
            Self::OneZone => f.write_str("Nodes only ready in one zone"),
            Self::TooFewEndpoints { endpoints, zones } => write!(
                f,
                "Insufficient number of endpoints ({endpoints} endpoints, {zones} zones)"
            ),
            Self::Overload { endpoints, zones } => write!(
                f,
                "Unable to allocate minimum required endpoints to each zone without exceeding overload \
                 threshold ({endpoints} endpoints, {zones} zones)"
            ),
            Self::EndpointWithoutZone => f.write_str("One or more endpoints do not have a zone specified"),
            Self::NotAsked => f.write_str("Topology Aware Hints has been disabled"),
        }
    }
}

/// An event to record on the Service. `Display` is its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyEvent {
    /// The endpoints of this family have hints now. Normal.
    Enabled(IpFamily),
    /// The endpoints of this family have no hints, or none any more. Warning.
    Disabled(IpFamily, HintsOff),
}

impl TopologyEvent {
    /// Whether it is of type Warning; of type Normal otherwise.
    pub fn is_warning(self) -> bool {
        match self {
            Self::Enabled(_) => false,
            Self::Disabled(..) => true,
        }
    }

    /// The event's reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Enabled(_) => "TopologyAwareHintsEnabled",
            Self::Disabled(..) => "TopologyAwareHintsDisabled",
        }
    }
}

impl fmt::Display for TopologyEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enabled(family) => {
                write!(f, "Topology Aware Hints has been enabled, addressType: {family}")
            }
            Self::Disabled(family, why) => write!(f, "{why}, addressType: {family}"),
        }
    }
}

/// How many ready endpoints are hinted at each zone.
pub(crate) type ZoneCounts = BTreeMap<String, usize>;

/// The outcome of one turn for one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Hints stand as counted.
    On(ZoneCounts),
    /// There are none, though the Service asks; with the number of its ready endpoints.
    Off(HintsOff, usize),
}

/// What is remembered of one Service between turns: the verdict of each family that topology mode was
/// asked for. Empty for every other Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HintState {
    families: BTreeMap<IpFamily, Verdict>,
}

impl HintState {
    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.families.is_empty()
    }

    /// Notes the verdict on a family, none where topology mode is not asked for, and says what is
    /// news compared with `before`: hints that come, hints that go, and another reason for none.
    pub(crate) fn note(
        &mut self,
        before: &Self,
        family: IpFamily,
        verdict: Option<Verdict>,
    ) -> Option<TopologyEvent> {
        let was = before.families.get(&family);
        let event = match (was, &verdict) {
            (Some(Verdict::On(_)), Some(Verdict::On(_))) => None,
            (Some(Verdict::Off(..)) | None, Some(Verdict::On(_))) => Some(TopologyEvent::Enabled(family)),
            (Some(Verdict::Off(old, _)), Some(Verdict::Off(new, _))) if old == new => None,
            (Some(_) | None, Some(Verdict::Off(why, _))) => Some(TopologyEvent::Disabled(family, *why)),
            (Some(Verdict::On(_)), None) => Some(TopologyEvent::Disabled(family, HintsOff::NotAsked)),
            (Some(Verdict::Off(..)) | None, None) => None,
        };
        if let Some(verdict) = verdict {
            self.families.insert(family, verdict);
        }
        event
    }

    #[cfg(test)]
    pub(crate) fn verdict(&self, family: IpFamily) -> Option<&Verdict> {
        self.families.get(&family)
    }

    /// The verdict on each family.
    pub(crate) fn verdicts(&self) -> impl Iterator<Item = &Verdict> {
        self.families.values()
    }
}
