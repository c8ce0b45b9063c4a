// SPDX-License-Identifier: Apache-2.0
//! One Service port in one family: its chains, and its rules in the chains that all share.
//!
//! In a large cluster the rules are short: those of endpoints have no comments, and an endpoint that needs no chain of
//! its own, because it is on another node and remembers no clients, is translated to in the chain that picks it. That
//! leaves one rule of five. It matters since the kernel looks at the whole table at every change, and in the legacy
//! variant reads and writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use berth_model::{IpFamily, ServicePortName};
use ipnet::IpNet;

use super::names::{ChainName, Fixed, Purpose, Table, port_name};
use super::rule::{Action, Rule, Within};
use super::skeleton::loopback;
use crate::{Frontend, FrontendIntent, Intent, Masquerade, Outcome, Role, Target};

mod endpoints;

/// A rule in a chain that all Service ports share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// In this table.
    pub table: Table,
    /// In this chain.
    pub chain: Fixed,
    /// The rule.
    pub rule: Rule,
}

/// All rules of one Service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortRules {
    /// Its own chains, all in table nat.
    pub chains: BTreeMap<ChainName, Vec<Rule>>,
    /// Its rules in other chains.
    pub lines: BTreeSet<Line>,
}

/// What a Service port comes to. `frontends` are those that it answers on.
pub fn render(
    intent: &Intent,
    family: IpFamily,
    owner: &ServicePortName,
    frontends: &BTreeSet<Frontend>,
    short: bool,
) -> PortRules {
    let answered = frontends
        .iter()
        .filter_map(|frontend| Some((*frontend, intent.get(frontend)?)));
    let (internal, external) = answered.partition(|(_, found)| found.role == Role::ClusterIp);
    let mut writer = Writer {
        intent,
        family,
        owner,
        name: port_name(owner),
        short,
        internal,
        external,
        rules: PortRules::default(),
    };
    writer.internal();
    writer.external();
    writer.firewall();
    writer.policies();
    writer.rules
}

type Answered<'a> = Vec<(Frontend, &'a FrontendIntent)>;

struct Writer<'a> {
    intent: &'a Intent,
    family: IpFamily,
    owner: &'a ServicePortName,
    name: String,
    short: bool,
    /// ClusterIPs; at most one.
    internal: Answered<'a>,
    /// Everything else.
    external: Answered<'a>,
    rules: PortRules,
}

fn endpoints(outcome: &Outcome) -> Option<&Arc<[Target]>> {
    match outcome {
        Outcome::Endpoints(targets) => Some(targets),
        Outcome::Reject(_) | Outcome::Drop(_) => None,
    }
}

fn refusal(outcome: &Outcome, name: &str) -> Option<Rule> {
    match outcome {
        Outcome::Endpoints(_) => None,
        Outcome::Reject(_) => Some(Rule::new(Action::Reject).about(&format!("{name} has no endpoints"))),
        Outcome::Drop(_) => Some(Rule::new(Action::Drop).about(&format!("{name} has no local endpoints"))),
    }
}

impl Writer<'_> {
    fn chain(&self, purpose: Purpose) -> ChainName {
        ChainName::of_port(purpose, self.owner)
    }

    fn line(&mut self, table: Table, chain: Fixed, rule: Rule) {
        self.rules.lines.insert(Line { table, chain, rule });
    }

    fn own(&mut self, chain: ChainName) -> &mut Vec<Rule> {
        self.rules.chains.entry(chain).or_default()
    }

    /// The rule, for packets to this address and the Service port.
    fn to(&self, ip: IpAddr, frontend: &Frontend, rule: Rule) -> Rule {
        Rule {
            destination: Some(Within::net(ip.into())),
            ..self.to_port(frontend, rule)
        }
    }

    fn to_port(&self, frontend: &Frontend, rule: Rule) -> Rule {
        Rule {
            protocol: Some(self.owner.protocol),
            port: Some(frontend.port()),
            ..rule
        }
    }

    fn internal(&mut self) {
        for (frontend, found) in std::mem::take(&mut self.internal) {
            let Frontend::Vip { ip, .. } = frontend else {
                continue;
            };
            if let Some(refusal) = refusal(&found.outcome, &self.name) {
                let rule = self.to(ip, &frontend, refusal);
                self.line(Table::Filter, Fixed::Services, rule);
                continue;
            }
            let comment = format!("{} cluster IP", self.name);
            let chain = self.chain(if found.here_only {
                Purpose::Local
            } else {
                Purpose::Cluster
            });
            let rule = self.to(ip, &frontend, Rule::jump(chain).about(&comment));
            self.line(Table::Nat, Fixed::Services, rule);
            if let Some(mark) = self.mark_internal(found.masquerade) {
                let mark = self.to(ip, &frontend, mark.about(&comment));
                self.own(chain).push(mark);
            }
            self.internal.push((frontend, found));
        }
    }

    fn mark_internal(&self, masquerade: Masquerade) -> Option<Rule> {
        let mut pods = self.intent.settings().pod_sources(self.family);
        match masquerade {
            Masquerade::Never | Masquerade::Host => None,
            Masquerade::Always => Some(Rule::jump(Fixed::MarkMasq)),
            Masquerade::NotPods => match (pods.next(), pods.next()) {
                (None, _) => None,
                (Some(pods), None) => Some(Rule::jump(Fixed::MarkMasq).of_pods(pods, true)),
                (Some(_), Some(_)) => Some(Rule::jump(Fixed::MarkOutside)),
            },
        }
    }

    fn external(&mut self) {
        for (frontend, found) in std::mem::take(&mut self.external) {
            match frontend {
                Frontend::Vip { ip, .. } => self.address(ip, &frontend, found),
                Frontend::NodePort { .. } => self.node_port(&frontend, found),
            }
            self.external.push((frontend, found));
        }
        let mut served = self.external.iter().map(|(_, found)| *found);
        let Some(found) = served.find(|found| endpoints(&found.outcome).is_some()) else {
            return;
        };
        let chain = self.chain(Purpose::External);
        let rules = self.external_rules(found);
        self.own(chain).extend(rules);
    }

    fn address(&mut self, ip: IpAddr, frontend: &Frontend, found: &FrontendIntent) {
        let what = if found.role == Role::LoadBalancer {
            "loadbalancer IP"
        } else {
            "external IP"
        };
        if endpoints(&found.outcome).is_some() {
            let next = match found.source_ranges {
                None => Purpose::External,
                Some(_) => Purpose::Firewall,
            };
            let jump = Rule::jump(self.chain(next)).about(&format!("{} {what}", self.name));
            let rule = self.to(ip, frontend, jump);
            self.line(Table::Nat, Fixed::Services, rule);
        }
        let outside = found.outside.as_ref().unwrap_or(&found.outcome);
        let Some(refusal) = refusal(outside, &self.name) else {
            self.kept_out(ip, frontend, found);
            return;
        };
        // Those who may not come are not even refused.
        let sources: Vec<Option<Within>> = match &found.source_ranges {
            Some(ranges) => ranges.iter().map(|net| Some(Within::net(*net))).collect(),
            None => vec![None],
        };
        for source in sources {
            let rule = self.to(ip, frontend, refusal.clone());
            self.line(Table::Filter, Fixed::ExternalServices, Rule { source, ..rule });
        }
        self.kept_out(ip, frontend, found);
    }

    fn kept_out(&mut self, ip: IpAddr, frontend: &Frontend, found: &FrontendIntent) {
        if found.source_ranges.is_none() {
            return;
        }
        let firewall = self.chain(Purpose::Firewall);
        let drop =
            Rule::new(Action::Drop).about(&format!("{} traffic not accepted by {firewall}", self.name));
        let rule = self.to(ip, frontend, drop);
        self.line(Table::Filter, Fixed::ProxyFirewall, rule);
    }

    fn node_port(&mut self, frontend: &Frontend, found: &FrontendIntent) {
        if endpoints(&found.outcome).is_some() {
            let jump = Rule::jump(self.chain(Purpose::External)).about(&self.name);
            let rule = self.to_port(frontend, jump);
            self.line(Table::Nat, Fixed::NodePorts, rule);
        }
        let outside = found.outside.as_ref().unwrap_or(&found.outcome);
        let Some(refusal) = refusal(outside, &self.name) else {
            return;
        };
        let chosen = self.intent.settings().node_port_addresses.of(self.family);
        let on: Vec<Within> = match chosen {
            None => vec![Within::outside(loopback(self.family))],
            Some(chosen) => chosen
                .iter()
                .filter(|ip| !ip.is_loopback())
                .map(|ip| Within::net(IpNet::from(*ip)))
                .collect(),
        };
        for destination in on {
            let rule = Rule {
                destination: Some(destination),
                to_here: true,
                ..self.to_port(frontend, refusal.clone())
            };
            self.line(Table::Filter, Fixed::ExternalServices, rule);
        }
    }

    /// Policy Cluster masquerades everybody. Under policy Local Pods and this host have their short cuts; with no local
    /// endpoint the chain just ends, and KUBE-EXTERNAL-SERVICES drops what comes back untranslated.
    fn external_rules(&self, found: &FrontendIntent) -> Vec<Rule> {
        let about = |what: &str| format!("{what} for {} external destinations", self.name);
        let any = Rule::jump(self.chain(Purpose::Cluster));
        let mut rules = Vec::new();
        let Some(outside) = &found.outside else {
            if found.masquerade == Masquerade::Always {
                rules.push(Rule::jump(Fixed::MarkMasq).about(&about("masquerade traffic")));
            }
            rules.push(any);
            return rules;
        };
        for pods in self.intent.settings().pod_sources(self.family) {
            rules.push(any.clone().about(&about("pod traffic")).of_pods(pods, false));
        }
        rules.push(Rule {
            from_here: true,
            ..Rule::jump(Fixed::MarkMasq).about(&about("masquerade LOCAL traffic"))
        });
        rules.push(Rule {
            from_here: true,
            ..any.about(&about("route LOCAL traffic"))
        });
        if endpoints(outside).is_some() {
            rules.push(Rule::jump(self.chain(Purpose::Local)));
        }
        rules
    }

    /// A range that only some of the LoadBalancer addresses admit, as each does itself where it is bound on the node,
    /// names the address as well.
    fn firewall(&mut self) {
        let ranged: Vec<(IpAddr, &[IpNet])> = self
            .external
            .iter()
            .filter(|(_, found)| endpoints(&found.outcome).is_some())
            .filter_map(|(frontend, found)| match frontend {
                Frontend::Vip { ip, .. } => Some((*ip, found.source_ranges.as_deref()?)),
                Frontend::NodePort { .. } => None,
            })
            .collect();
        if ranged.is_empty() {
            return;
        }
        let comment = format!("{} loadbalancer IP", self.name);
        let jump = Rule::jump(self.chain(Purpose::External)).about(&comment);
        let nets: BTreeSet<IpNet> = ranged.iter().flat_map(|(_, nets)| nets.iter().copied()).collect();
        let mut rules = Vec::new();
        for net in nets {
            let from = Rule {
                source: Some(Within::net(net)),
                ..jump.clone()
            };
            let admitting: Vec<IpAddr> = ranged
                .iter()
                .filter(|(_, nets)| nets.contains(&net))
                .map(|(ip, _)| *ip)
                .collect();
            if admitting.len() == ranged.len() {
                rules.push(from);
                continue;
            }
            rules.extend(admitting.into_iter().map(|ip| Rule {
                destination: Some(Within::net(ip.into())),
                ..from.clone()
            }));
        }
        let end = format!(
            "other traffic to {} will be dropped by KUBE-PROXY-FIREWALL",
            self.name
        );
        rules.push(Rule::new(Action::Nothing).about(&end));
        let chain = self.chain(Purpose::Firewall);
        self.own(chain).extend(rules);
    }
}
