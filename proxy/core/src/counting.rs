// SPDX-License-Identifier: Apache-2.0
//! Whether traffic reaches a Service: whose new connections are counted, and what the counts say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use berth_model::{ServiceKey, ServicePortName};

use crate::{Frontend, Intent, Outcome, Role};

/// A frontend whose new connections are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// What clients address.
    pub frontend: Frontend,
    /// The Service port that answers there.
    pub owner: ServicePortName,
    /// Why it does.
    pub role: Role,
    /// What the rules do where that is not to lead to endpoints: everybody's connections, and those from outside.
    pub refusals: Vec<String>,
}

/// Every frontend on which these Services answer, ordered. What an older Service claims as well is the older one's.
pub fn counted(intent: &Intent, services: &BTreeSet<ServiceKey>) -> Vec<Counted> {
    let refusal = |whose: &str, outcome: &Outcome| match outcome {
        Outcome::Endpoints(_) => None,
        Outcome::Reject(_) | Outcome::Drop(_) => Some(format!("{whose}{outcome}")),
    };
    let ours = intent
        .frontends()
        .filter(|(_, found)| services.contains(&found.owner.service));
    ours.map(|(frontend, found)| {
        let outside = found.outside.as_ref();
        let refusals = [
            refusal("", &found.outcome),
            outside.and_then(|outcome| refusal("from outside: ", outcome)),
        ];
        Counted {
            frontend: *frontend,
            owner: found.owner.clone(),
            role: found.role,
            refusals: refusals.into_iter().flatten().collect(),
        }
    })
    .collect()
}

/// What was counted at a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets that start a connection and address it.
    pub asked: u64,
    /// Those of them that our rules neither refused nor dropped; `None` where other rules than those of our nftables
    /// table do that, so that nobody can tell.
    pub let_through: Option<u64>,
}

/// What was counted in a span of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How long.
    pub span: Duration,
    /// By frontend.
    pub rows: Vec<(Counted, Tally)>,
}

impl Report {
    /// The counts of these frontends; none counted is 0.
    pub fn new(span: Duration, counted: Vec<Counted>, tallies: &BTreeMap<Frontend, Tally>) -> Self {
        let of = |counted: Counted| {
            let tally = tallies.get(&counted.frontend).copied().unwrap_or_default();
            (counted, tally)
        };
        Self {
            span,
            rows: counted.into_iter().map(of).collect(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "new connections in {:?}:", self.span)?;
        for (counted, tally) in &self.rows {
            let Counted {
                frontend,
                owner,
                role,
                refusals,
            } = counted;
            write!(f, "{owner}, {role} {frontend}: {} asked", tally.asked)?;
            if let Some(passed) = tally.let_through {
                write!(f, ", {passed} let through")?;
            }
            if !refusals.is_empty() {
                write!(f, " ({})", refusals.join("; "))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;
    use crate::sample::{key, mk_view, samples};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn a_services_frontends_are_counted_and_nobody_elses(samples in samples()) {
            let view = mk_view(&samples);
            let intent = Intent::of(&view, Settings::default());
            let found = counted(&intent, &[key(1)].into());
            for counted in &found {
                prop_assert_eq!(&counted.owner.service, &key(1));
                prop_assert_eq!(&intent.get(&counted.frontend).unwrap().owner, &counted.owner);
            }
            let others = counted(&intent, &[key(0), key(2)].into());
            prop_assert_eq!(found.len() + others.len(), intent.frontends().count());
        }
    }

    #[test]
    fn a_report_says_who_was_asked_and_what_came_of_it() {
        let frontend = Frontend::Vip {
            ip: [10, 96, 0, 1].into(),
            protocol: berth_model::Protocol::Tcp,
            port: 80.try_into().unwrap(),
        };
        let mk_counted = |refusals: &[&str]| Counted {
            frontend,
            owner: ServicePortName {
                service: ServiceKey::new("shop", "web"),
                port: berth_model::PortName::new("http"),
                protocol: berth_model::Protocol::Tcp,
            },
            role: Role::ClusterIp,
            refusals: refusals.iter().map(|refusal| (*refusal).to_owned()).collect(),
        };
        let report = |counted, tallies: &[(Frontend, Tally)]| {
            let tallies = tallies.iter().copied().collect();
            Report::new(Duration::from_secs(10), vec![counted], &tallies).to_string()
        };
        let tally = Tally {
            asked: 5,
            let_through: Some(0),
        };
        assert_eq!(
            report(mk_counted(&["reject (NoEndpoints)"]), &[(frontend, tally)]),
            "new connections in 10s:\n\
             shop/web:http/TCP, ClusterIP 10.96.0.1:80/TCP: 5 asked, 0 let through (reject (NoEndpoints))\n"
        );
        assert_eq!(
            report(mk_counted(&[]), &[]),
            "new connections in 10s:\nshop/web:http/TCP, ClusterIP 10.96.0.1:80/TCP: 0 asked\n"
        );
    }
}
