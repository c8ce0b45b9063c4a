// SPDX-License-Identifier: Apache-2.0
//! What is in each chain.

use super::rules::{pick, reached_by, remember, rule, services, unallocated};
use super::{Layout, Purpose};
use crate::names::{ChainName, Group, Kind, List, NumberMap, SetName};
use crate::nft::objects::{Action, Match, Rule};

impl Layout {
    pub(super) fn rules(&self, chain: ChainName) -> Vec<Rule> {
        match chain {
            ChainName::RefusePrerouting | ChainName::RefuseOutput => {
                vec![rule(&self.served(), Action::Jump(ChainName::Refuse))]
            }
            ChainName::NatPrerouting | ChainName::NatOutput => {
                vec![rule(&self.served(), Action::Jump(ChainName::Services))]
            }
            ChainName::NatPostrouting => vec![
                rule(
                    &[Match::Translated, Match::In(SetName::Hairpin)],
                    Action::Masquerade,
                ),
                rule(&[Match::Marked(self.mark)], Action::Goto(ChainName::Masquerade)),
            ],
            ChainName::Masquerade => self.masquerade(),
            ChainName::Refuse => self.refuse(),
            ChainName::Services => services(),
            ChainName::Serve(kind) => self.serve(kind),
            ChainName::UnderLocal(kind) => self.under_local(kind),
            ChainName::ServeLocal(kind) => self.serve_local(Group::new(kind, List::Local)),
            ChainName::Pick(group) => (1..=self.limit).map(|count| pick(group, count)).collect(),
            ChainName::PickMany(group) => self.ladder().iter().map(|count| pick(group, *count)).collect(),
            ChainName::Recall => vec![rule(&[], Action::TranslateBound)],
            ChainName::LearnPrerouting | ChainName::LearnOutput => vec![rule(
                &[Match::NewConnection, Match::Translated],
                Action::Jump(ChainName::Learn),
            )],
            ChainName::Learn => vec![
                rule(&[], Action::Jump(ChainName::Remember)),
                rule(&[Match::Numbered], Action::CountUnremembered),
            ],
            ChainName::Remember => self.affinity_timeouts.iter().copied().map(remember).collect(),
            ChainName::Unallocated => vec![unallocated()],
        }
    }

    /// The bit goes first, so that an encapsulated second pass is not masqueraded again.
    fn masquerade(&self) -> Vec<Rule> {
        vec![
            rule(&[], Action::Unmark(self.mark)),
            rule(&[], Action::Masquerade),
        ]
    }

    /// Whether a frontend is always masqueraded is asked before and after the way to the local list: a packet whose
    /// lookups straddle a change between the policies gets either list, and is masqueraded on its way to the main one.
    fn serve(&self, kind: Kind) -> Vec<Rule> {
        let under_local = rule(
            &[Match::In(SetName::Local(kind))],
            Action::Jump(ChainName::UnderLocal(kind)),
        );
        if self.purpose == Purpose::Relays {
            let mut rules = vec![under_local];
            rules.extend(self.picks(Group::new(kind, List::Main)));
            return rules;
        }
        let mark = Action::Mark(self.mark);
        let always = rule(&[Match::In(SetName::Masquerade(kind))], mark);
        let mut rules = vec![always.clone(), under_local, always];
        if kind == Kind::Vip && (!self.pod_cidrs.is_empty() || self.pod_links.is_some()) {
            let not_from_pod = [vec![Match::In(SetName::ClusterIps)], self.not_from_pod()].concat();
            rules.push(rule(&not_from_pod, mark));
        }
        rules.extend(self.picks(Group::new(kind, List::Main)));
        rules
    }

    fn under_local(&self, kind: Kind) -> Vec<Rule> {
        let from_outside = [self.not_from_pod(), vec![Match::ForeignSource]].concat();
        let local = rule(&from_outside, Action::Goto(ChainName::ServeLocal(kind)));
        match self.purpose {
            Purpose::Endpoints => vec![local, rule(&self.not_from_pod(), Action::Mark(self.mark))],
            Purpose::Relays => vec![local],
        }
    }

    /// The networks may be changed in place, so they are asked about even while there are none.
    fn not_from_pod(&self) -> Vec<Match> {
        let links = self.pod_links.map(Match::NotBy);
        [Match::NotIn(SetName::PodCidrs)]
            .into_iter()
            .chain(links)
            .collect()
    }

    /// Sources that are not let in are dropped before they could learn whether there are endpoints. Whoever comes to a
    /// Service address that is served is through soon: that is what most packets are.
    fn refuse(&self) -> Vec<Rule> {
        let of_kind = |kind| {
            let dropped = |list| reached_by(kind, SetName::Drop(Group::new(kind, list)));
            let from_outside = [self.not_from_pod(), vec![Match::ForeignSource]].concat();
            let local = [dropped(List::Local), from_outside].concat();
            [
                rule(&reached_by(kind, SetName::NoEndpoint(kind)), Action::Reject),
                rule(&dropped(List::Main), Action::Drop),
                rule(&local, Action::Drop),
            ]
        };
        let not_let_in = [
            Match::In(SetName::RangedVips),
            Match::NotIn(SetName::AllowedSources),
        ];
        let mut rules = vec![rule(&not_let_in, Action::Drop)];
        rules.extend(of_kind(Kind::Vip));
        let served = [Match::In(SetName::Frontends(Kind::Vip))];
        rules.push(rule(&served, Action::Accept));
        rules.push(rule(&[Match::In(SetName::ClusterIps)], Action::Reject));
        rules.extend(of_kind(Kind::NodePort));
        rules
    }

    /// Which packets may be refused, and led elsewhere. An endpoint may have the address of a Service or of a node port: a relay's
    /// connection goes there, as a translated one would, and not to a relay again.
    fn served(&self) -> Vec<Match> {
        match self.purpose {
            Purpose::Endpoints => Vec::new(),
            Purpose::Relays => vec![Match::Unmarked(self.mark)],
        }
    }

    fn picks(&self, group: Group) -> Vec<Rule> {
        let jump = |chain| rule(&[], Action::Jump(chain));
        let mut picks = vec![jump(ChainName::Pick(group))];
        if self.purpose == Purpose::Endpoints {
            picks.insert(0, rule(&[], Action::Recall(NumberMap(group))));
            picks.push(jump(ChainName::PickMany(group)));
        }
        picks.push(rule(&[], Action::CountAndDrop));
        picks
    }

    /// Whoever passed `refuse` before the frontend began to drop, and comes here after it became Local, is dropped as
    /// wished and not counted.
    fn serve_local(&self, group: Group) -> Vec<Rule> {
        let mut rules = vec![rule(&[Match::In(SetName::Drop(group))], Action::Drop)];
        rules.extend(self.picks(group));
        rules
    }
}
