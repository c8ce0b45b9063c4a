// SPDX-License-Identifier: Apache-2.0
//! Which tracked flows must be forgotten, as values. UDP only: a UDP flow has no end of its own, so a
//! client that keeps its source port would go on reaching an endpoint that left, or the black hole that
//! was there before the first endpoint came.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::Protocol;

use crate::{Frontend, FrontendIntent, Target};

/// The UDP frontends whose flows must be looked at, each with the endpoints flows may stay with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaleFlows {
    /// A flow to the key is stale unless its replies come from one of these. Empty for a frontend
    /// without serving endpoints, whose flows are all stale.
    pub allowed: BTreeMap<Frontend, Arc<[Target]>>,
}

impl StaleFlows {
    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.allowed.is_empty()
    }

    /// Records what a change of one frontend means for its flows. `before` is the intent as last
    /// applied, `None` if there was none; `after` likewise.
    ///
    /// Flows are looked at when an endpoint left the serving ones, when the frontend gets its first, and when it goes.
    pub fn note(
        &mut self,
        frontend: Frontend,
        before: Option<&FrontendIntent>,
        after: Option<&FrontendIntent>,
    ) {
        if frontend.protocol() != Protocol::Udp {
            return;
        }
        let serving = |intent: Option<&FrontendIntent>| -> Arc<[Target]> {
            intent.map_or_else(
                || Arc::new([]) as Arc<[Target]>,
                |intent| Arc::clone(&intent.serving),
            )
        };
        let (old, new) = (serving(before), serving(after));
        let first = old.is_empty() && !new.is_empty();
        let left = old.iter().any(|target| !new.contains(target));
        if first || left {
            self.allowed.insert(frontend, new);
        }
    }

    /// Whether a tracked flow to this frontend, whose replies come from `replies_from`, is stale.
    pub fn is_stale(&self, frontend: &Frontend, replies_from: Target) -> bool {
        self.allowed
            .get(frontend)
            .is_some_and(|allowed| !allowed.contains(&replies_from))
    }
}

#[cfg(test)]
mod tests {
    use berth_model::{ServiceKey, ServicePortName};

    use super::*;
    use crate::{Outcome, RejectReason, Role};

    fn mk_intent(serving: &[u8]) -> FrontendIntent {
        let serving: Vec<Target> = serving.iter().map(|n| mk_target(*n)).collect();
        FrontendIntent {
            owner: ServicePortName {
                service: ServiceKey::new("shop", "dns"),
                port: Default::default(),
                protocol: Protocol::Udp,
            },
            role: Role::ClusterIp,
            outcome: Outcome::Reject(RejectReason::NoEndpoints),
            masquerade: false,
            serving: serving.into(),
        }
    }

    fn mk_target(n: u8) -> Target {
        Target {
            ip: [10, 0, 0, n].into(),
            port: 53.try_into().unwrap(),
        }
    }

    #[test]
    fn flows_are_looked_at_when_an_endpoint_left_or_the_first_one_came() {
        let vip = Frontend::Vip {
            ip: [10, 96, 0, 10].into(),
            protocol: Protocol::Udp,
            port: 53.try_into().unwrap(),
        };
        for (behaviour, before, after, looked_at) in [
            ("first endpoint", vec![], vec![1], true),
            ("one more", vec![1], vec![1, 2], false),
            ("one left", vec![1, 2], vec![2], true),
            ("replaced", vec![1], vec![2], true),
            ("last one left", vec![1], vec![], true),
            ("same", vec![1], vec![1], false),
        ] {
            let mut stale = StaleFlows::default();
            stale.note(vip, Some(&mk_intent(&before)), Some(&mk_intent(&after)));
            assert_eq!(!stale.is_empty(), looked_at, "{behaviour}");
            if looked_at {
                for n in 1..=3 {
                    assert_eq!(
                        stale.is_stale(&vip, mk_target(n)),
                        !after.contains(&n),
                        "{behaviour}: {n}"
                    );
                }
            }
        }
    }

    #[test]
    fn tcp_flows_are_left_alone() {
        let vip = Frontend::Vip {
            ip: [10, 96, 0, 10].into(),
            protocol: Protocol::Tcp,
            port: 53.try_into().unwrap(),
        };
        let mut stale = StaleFlows::default();
        stale.note(vip, Some(&mk_intent(&[1])), None);
        assert!(stale.is_empty());
    }
}
