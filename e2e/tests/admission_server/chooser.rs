// SPDX-License-Identifier: Apache-2.0
//! Hands out addresses of a range of its own, one after the other.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use berth_controllers_core::admission::{Chosen, ClusterFamilies};
use berth_controllers_manager::admission::{Ask, Choice, Chooser, Refusal, RefusalKind, Unavailable};
use berth_model::IpFamily;

/// What a refusal says.
pub(crate) const REFUSAL: &str = "pool tenants has no address left; widen spec.ranges";
/// Of the static band, which the API server itself only turns to when all else is taken.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 2);
/// How many: more than there are Services at once.
const COUNT: u32 = 250;

/// The values of the test.
#[derive(Default)]
pub(crate) struct Values {
    given: AtomicU32,
    asked: Mutex<Vec<String>>,
}

impl Values {
    /// What was asked last.
    pub(crate) fn last_asked(&self) -> String {
        let asked = self
            .asked
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        asked.last().cloned().unwrap_or_default()
    }
}

/// Whether an address is one of the test's own.
pub(crate) fn is_ours(text: &str) -> bool {
    let first = FIRST.to_bits();
    text.parse::<Ipv4Addr>()
        .is_ok_and(|address| (first..first + COUNT).contains(&address.to_bits()))
}

impl Chooser for Values {
    fn cluster(&self) -> Option<ClusterFamilies> {
        Some(ClusterFamilies {
            primary: IpFamily::V4,
            dual_stack: false,
        })
    }

    async fn choose(&self, ask: Ask<'_>) -> Choice {
        let name = ask.name.unwrap_or("?");
        let text = format!("{:?} {}/{name} dry={}", ask.operation, ask.namespace, ask.dry_run);
        self.asked
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(text);
        match ask.labels.get("test").map(String::as_str) {
            Some("refuse") => Choice::Refused(Refusal {
                reason: "PoolExhausted",
                kind: RefusalKind::Forbidden,
                message: REFUSAL.to_owned(),
                field: Some("spec.clusterIP".to_owned()),
            }),
            Some("later") => Choice::Refused(Refusal {
                reason: "PoolExhausted",
                kind: RefusalKind::Exhausted(Duration::from_secs(7)),
                message: REFUSAL.to_owned(),
                field: None,
            }),
            Some("unavailable") => Choice::Unavailable(Unavailable {
                reason: "NoHolder",
                message: "no replica hands out values".to_owned(),
            }),
            _ => {
                let next = self.given.fetch_add(1, Ordering::Relaxed) % COUNT;
                let address = IpAddr::from(Ipv4Addr::from_bits(FIRST.to_bits() + next));
                Choice::Chosen(Chosen {
                    cluster_ips: [(IpFamily::V4, address)].into(),
                    ..Chosen::default()
                })
            }
        }
    }
}
