// SPDX-License-Identifier: Apache-2.0
//! Whether the rules keep up with the changes, and whether the node may be sent traffic at all. The
//! contract is kube-proxy's (`pkg/proxy/healthcheck/proxy_health.go` of Kubernetes v1.37).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_model::IpFamily;
use k8s_openapi::jiff::Timestamp;

use crate::node::Eligibility;

/// Go's zero time, which kube-proxy shows before its first sync.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// One family's rules.
#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    /// Since when a change waits.
    oldest_queued: Option<Instant>,
    /// When the rules were last as wanted.
    updated: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct State {
    families: [Rules; 2],
    node: Eligibility,
}

/// Shared between the sync loop, which tells, and the servers, which ask.
#[derive(Clone, Debug)]
pub(crate) struct ProxyHealth {
    timeout: Duration,
    state: Arc<Mutex<State>>,
}

/// Which question is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// May a load balancer send traffic to this node?
    Healthz,
    /// Does this process do its work?
    Livez,
}

impl ProxyHealth {
    /// Healthy as long as no change has waited for `timeout` (upstream: twice the sync period).
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            state: Arc::default(),
        }
    }

    /// A change waits to be written, in both families.
    pub(crate) fn queued(&self, now: Instant) {
        for rules in &mut self.lock().families {
            rules.oldest_queued.get_or_insert(now);
        }
    }

    /// The rules of both families are as wanted.
    pub(crate) fn updated(&self, wall: Timestamp) {
        for rules in &mut self.lock().families {
            *rules = Rules {
                oldest_queued: None,
                updated: Some(wall),
            };
        }
    }

    /// What is known of the Node.
    pub(crate) fn node(&self, node: Eligibility) {
        let before = std::mem::replace(&mut self.lock().node, node);
        if before != node {
            tracing::info!(reason = node.as_str(), eligible = node.is_eligible(), "node");
        }
    }

    /// Whether the rules keep up.
    pub(crate) fn is_healthy(&self, now: Instant) -> bool {
        let state = self.lock();
        state
            .families
            .iter()
            .all(|rules| rules.is_healthy(now, self.timeout))
    }

    /// Status and JSON of an answer.
    pub(crate) fn answer(&self, probe: Probe, now: Instant, wall: Timestamp) -> (u16, String) {
        let state = self.lock();
        let healthy = state
            .families
            .iter()
            .all(|rules| rules.is_healthy(now, self.timeout));
        let eligible = state.node.is_eligible();
        let passed = match probe {
            Probe::Healthz => healthy && eligible,
            Probe::Livez => healthy,
        };
        // A healthy proxy was "updated" now even if nothing had to be: so readers of old expect.
        let last = match state.families.iter().filter_map(|rules| rules.updated).max() {
            _ if passed => wall.to_string(),
            Some(updated) => updated.to_string(),
            None => NEVER.to_owned(),
        };
        let mut json = format!("{{\"lastUpdated\":\"{last}\",\"currentTime\":\"{wall}\"");
        if probe == Probe::Healthz {
            json.push_str(&format!(",\"nodeEligible\":{eligible}"));
        }
        json.push_str(&format!(",\"healthy\":{healthy}"));
        let families: Vec<String> = IpFamily::ALL
            .iter()
            .zip(&state.families)
            .filter_map(|(family, rules)| {
                let updated = rules.updated?;
                let healthy = rules.is_healthy(now, self.timeout);
                Some(format!(
                    "\"{family}\":{{\"lastUpdated\":\"{updated}\",\"healthy\":{healthy}}}"
                ))
            })
            .collect();
        if !families.is_empty() {
            json.push_str(&format!(",\"status\":{{{}}}", families.join(",")));
        }
        json.push('}');
        (if passed { 200 } else { 503 }, json)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves it whole: every write is one assignment per family.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rules {
    /// A proxy that has not written anything yet is starting, not sick.
    fn is_healthy(&self, now: Instant, timeout: Duration) -> bool {
        let late = |queued: Instant| now.saturating_duration_since(queued) >= timeout;
        self.updated.is_none() || !self.oldest_queued.is_some_and(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn wall(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn mk_health(node: Eligibility) -> ProxyHealth {
        let health = ProxyHealth::new(TIMEOUT);
        health.node(node);
        health
    }

    #[test]
    fn a_change_that_waits_too_long_is_unhealthy_until_it_is_written() {
        let health = mk_health(Eligibility::Eligible);
        let start = Instant::now();
        health.queued(start);
        assert!(health.is_healthy(start + 10 * TIMEOUT), "starting is not sick");
        health.updated(wall(0));
        health.queued(start);
        // The oldest counts, not the latest.
        health.queued(start + TIMEOUT / 2);
        assert!(health.is_healthy(start + TIMEOUT - Duration::from_millis(1)));
        assert!(!health.is_healthy(start + TIMEOUT));
        for probe in [Probe::Healthz, Probe::Livez] {
            assert_eq!(health.answer(probe, start + TIMEOUT, wall(60)).0, 503);
        }
        health.updated(wall(61));
        assert!(health.is_healthy(start + 10 * TIMEOUT), "nothing waits");
    }

    #[test]
    fn only_healthz_cares_for_the_node() {
        let now = Instant::now();
        for (node, healthz) in [
            (Eligibility::Eligible, 200),
            (Eligibility::NotListed, 503),
            (Eligibility::Missing, 503),
            (Eligibility::Deleting, 503),
            (Eligibility::ToBeDeleted, 503),
        ] {
            let health = mk_health(node);
            health.updated(wall(0));
            assert_eq!(health.answer(Probe::Healthz, now, wall(1)).0, healthz, "{node:?}");
            assert_eq!(health.answer(Probe::Livez, now, wall(1)).0, 200, "{node:?}");
        }
    }

    #[test]
    fn the_json_is_kube_proxys() {
        let now = Instant::now();
        let health = mk_health(Eligibility::ToBeDeleted);
        assert_eq!(
            health.answer(Probe::Healthz, now, wall(1)).1,
            r#"{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"1970-01-01T00:00:01Z","nodeEligible":false,"healthy":true}"#
        );
        health.updated(wall(2));
        assert_eq!(
            health.answer(Probe::Healthz, now, wall(3)).1,
            concat!(
                r#"{"lastUpdated":"1970-01-01T00:00:02Z","currentTime":"1970-01-01T00:00:03Z","nodeEligible":false,"healthy":true,"#,
                r#""status":{"IPv4":{"lastUpdated":"1970-01-01T00:00:02Z","healthy":true},"IPv6":{"lastUpdated":"1970-01-01T00:00:02Z","healthy":true}}}"#
            )
        );
        let livez = health.answer(Probe::Livez, now, wall(4)).1;
        assert!(livez.starts_with(
            r#"{"lastUpdated":"1970-01-01T00:00:04Z","currentTime":"1970-01-01T00:00:04Z","healthy":true,"status""#
        ));
    }
}
