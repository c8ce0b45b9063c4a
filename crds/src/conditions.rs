// SPDX-License-Identifier: Apache-2.0
//! Conditions with a stable transition time.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The three values of a condition's status (API conventions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    /// The condition holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told.
    Unknown,
}

impl ConditionStatus {
    /// The spelling of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Puts a condition into a list, replacing the one of its type.
///
/// `lastTransitionTime` becomes `now` only when the status changes (API conventions); an otherwise
/// equal condition keeps its time, so that an unchanged state writes nothing.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: ConditionStatus,
    reason: &str,
    message: &str,
    observed_generation: Option<i64>,
    now: &Time,
) {
    let old = conditions.iter().position(|condition| condition.type_ == type_);
    let since = old
        .map(|index| &conditions[index])
        .filter(|condition| condition.status == status.as_str())
        .map_or_else(|| now.clone(), |condition| condition.last_transition_time.clone());
    let condition = Condition {
        type_: type_.to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation,
        last_transition_time: since,
    };
    match old {
        Some(index) => conditions[index] = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn the_time_moves_only_with_the_status() {
        let mut list = Vec::new();
        set_condition(
            &mut list,
            "Ready",
            ConditionStatus::True,
            "Usable",
            "all",
            Some(1),
            &at(10),
        );
        set_condition(
            &mut list,
            "Ready",
            ConditionStatus::True,
            "Usable",
            "still all",
            Some(2),
            &at(20),
        );
        assert_eq!(
            (list[0].last_transition_time.clone(), list[0].message.as_str()),
            (at(10), "still all")
        );
        set_condition(
            &mut list,
            "Ready",
            ConditionStatus::False,
            "Malformed",
            "spec",
            Some(3),
            &at(30),
        );
        assert_eq!((list.len(), list[0].last_transition_time.clone()), (1, at(30)));
    }
}
