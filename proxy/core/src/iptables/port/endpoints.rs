// SPDX-License-Identifier: Apache-2.0
//! Which endpoint a connection gets: the chains that pick one, and those of endpoints.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_model::SessionAffinity;

use super::super::names::{ChainName, Fixed, Purpose};
use super::super::rule::{Action, Recent, Rule, Within};
use super::{Writer, endpoints};
use crate::Target;

impl Writer<'_> {
    pub(super) fn policies(&mut self) {
        let internal = |here_only: bool| {
            let of_list = self.internal.iter();
            let of_list = of_list.filter(move |(_, found)| found.here_only == here_only);
            of_list.filter_map(|(_, found)| endpoints(&found.outcome))
        };
        let main = self.external.iter().map(|(_, found)| &found.outcome);
        let outside = self
            .external
            .iter()
            .filter_map(|(_, found)| found.outside.as_ref());
        let cluster = internal(false).chain(main.filter_map(endpoints)).next();
        let local = internal(true).chain(outside.filter_map(endpoints)).next();
        let lists = [(Purpose::Cluster, cluster), (Purpose::Local, local)]
            .map(|(purpose, list)| (purpose, list.map(Arc::clone)));
        let answered = self.internal.iter().chain(&self.external).next();
        let affinity = answered.map_or(SessionAffinity::None, |(_, found)| found.affinity);
        let mut all = BTreeSet::new();
        for (purpose, list) in lists {
            let Some(targets) = list else { continue };
            let rules = self.picks(&targets, affinity);
            let chain = self.chain(purpose);
            self.own(chain).extend(rules);
            all.extend(targets.iter().copied());
        }
        for target in all {
            if self.is_inline(&target, affinity) {
                continue;
            }
            let rules = self.endpoint(target, affinity);
            let chain = ChainName::endpoint(self.owner, &target);
            self.own(chain).extend(rules);
        }
    }

    fn comment(&self, rule: Rule, comment: impl FnOnce() -> String) -> Rule {
        if self.short { rule } else { rule.about(&comment()) }
    }

    /// Whether the endpoint needs no chain of its own.
    fn is_inline(&self, target: &Target, affinity: SessionAffinity) -> bool {
        self.short && affinity == SessionAffinity::None && !self.intent.is_local_endpoint(target.ip)
    }

    /// A client that an endpoint of the list knows goes there; everybody else by chance, each with the same one.
    fn picks(&self, targets: &[Target], affinity: SessionAffinity) -> Vec<Rule> {
        let jump = |target: &Target| {
            if self.is_inline(target, affinity) {
                return self.translate(*target);
            }
            let jump = Rule::jump(ChainName::endpoint(self.owner, target));
            self.comment(jump, || format!("{} -> {target}", self.name))
        };
        let mut rules = Vec::new();
        if let SessionAffinity::ClientIp { timeout_seconds } = affinity {
            rules.extend(targets.iter().map(|target| Rule {
                recent: Some(Recent::Came(
                    ChainName::endpoint(self.owner, target),
                    timeout_seconds,
                )),
                ..jump(target)
            }));
        }
        let left = (1..=u32::try_from(targets.len()).unwrap_or(u32::MAX)).rev();
        rules.extend(targets.iter().zip(left).map(|(target, left)| Rule {
            one_in: (left > 1).then_some(left),
            ..jump(target)
        }));
        rules
    }

    /// A connection that comes back to the endpoint it started from is masqueraded. That can only happen to
    /// endpoints of this node: others need no such rule, though kube-proxy writes it.
    fn endpoint(&self, target: Target, affinity: SessionAffinity) -> Vec<Rule> {
        let commented = |rule| self.comment(rule, || self.name.clone());
        let mut rules = Vec::new();
        if self.intent.is_local_endpoint(target.ip) {
            rules.push(Rule {
                source: Some(Within::net(target.ip.into())),
                ..commented(Rule::jump(Fixed::MarkMasq))
            });
        }
        let chain = ChainName::endpoint(self.owner, &target);
        rules.push(commented(Rule {
            recent: match affinity {
                SessionAffinity::None => None,
                SessionAffinity::ClientIp { .. } => Some(Recent::Note(chain)),
            },
            ..self.translate(target)
        }));
        rules
    }

    fn translate(&self, target: Target) -> Rule {
        Rule {
            protocol: Some(self.owner.protocol),
            ..Rule::new(Action::Translate(target))
        }
    }
}
