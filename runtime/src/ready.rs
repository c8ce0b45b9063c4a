// SPDX-License-Identifier: Apache-2.0
//! Readiness as a list of named conditions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whether each condition holds, by name.
type Map = BTreeMap<&'static str, bool>;

/// What must hold before the process counts as ready. Ready with no condition at all.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<Map>>,
}

/// One condition, unset at first. Lives in the part of the program that knows.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    conditions: Arc<Mutex<Map>>,
}

impl Readiness {
    /// No condition yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition that does not hold yet. The same name twice is the same condition.
    pub fn register(&self, name: &'static str) -> Condition {
        lock(&self.conditions).entry(name).or_insert(false);
        Condition {
            name,
            conditions: Arc::clone(&self.conditions),
        }
    }

    /// Whether all conditions hold.
    pub fn is_ready(&self) -> bool {
        lock(&self.conditions).values().all(|holds| *holds)
    }

    /// The conditions that do not hold, in order.
    pub fn missing(&self) -> Vec<&'static str> {
        lock(&self.conditions)
            .iter()
            .filter(|(_, holds)| !**holds)
            .map(|(name, _)| *name)
            .collect()
    }

    /// One line per condition, marked as Kubernetes' own components mark them, and a verdict.
    pub fn report(&self) -> String {
        let conditions = lock(&self.conditions);
        let mut text = String::new();
        for (name, holds) in conditions.iter() {
            let line = if *holds {
                format!("[+]{name} ok")
            } else {
                format!("[-]{name} missing")
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{line}");
        }
        text.push_str(if conditions.values().all(|holds| *holds) {
            "ready\n"
        } else {
            "not ready\n"
        });
        text
    }
}

impl Condition {
    /// It holds from now on.
    pub fn set(&self) {
        self.write(true);
    }

    /// It holds no longer.
    pub fn clear(&self) {
        self.write(false);
    }

    fn write(&self, holds: bool) {
        let before = lock(&self.conditions).insert(self.name, holds);
        if before != Some(holds) {
            tracing::info!(condition = self.name, holds, "readiness");
        }
    }
}

fn lock(conditions: &Mutex<Map>) -> MutexGuard<'_, Map> {
    // A panic elsewhere leaves the map whole: every write is one insert.
    conditions.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_condition_holds() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let pods = readiness.register("pods-listed");
        let lease = readiness.register("lease");
        assert_eq!(readiness.missing(), ["lease", "pods-listed"]);
        pods.set();
        assert!(!readiness.is_ready());
        lease.set();
        assert!(readiness.is_ready());
        pods.clear();
        assert_eq!(readiness.missing(), ["pods-listed"]);
    }

    #[test]
    fn the_report_names_what_is_missing() {
        let readiness = Readiness::new();
        readiness.register("nodes-listed").set();
        readiness.register("rules-written");
        assert_eq!(
            readiness.report(),
            "[+]nodes-listed ok\n[-]rules-written missing\nnot ready\n"
        );
    }
}
