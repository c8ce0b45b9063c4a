// SPDX-License-Identifier: Apache-2.0
//! Rules that do not depend on the settings, and where base chains hook in.

use super::super::objects::{Action, BaseChain, Hook, Match, Rule};
use crate::names::{ChainName, Group, Kind, MapName, SetName};

/// Before destination translation (-100), so that packets still carry the address the client used. Like all that is of
/// type nat it is met by the first packet of a connection only: a chain of type filter, whose first rule asks whether the
/// connection is new, costs every packet some 70 ns (measured). Rejecting in prerouting needs Linux 5.9.
const BEFORE_DNAT: i32 = -110;
/// `NF_IP_PRI_NAT_DST`. nft 1.0.6 has no name for it on the output hook.
const DNAT: i32 = -100;
/// Right behind it, in the same hook: a packet has the address of its endpoint by now, and still its own source, and
/// routing, which resets the priority of a packet that is forwarded (`ip_forward` in Linux), is yet to come.
const AFTER_DNAT: i32 = -90;
/// After all translation of destinations, and before anybody translates sources: what is translated meets no later chain
/// of type nat.
const BEFORE_SNAT: i32 = 90;
/// `NF_IP_PRI_NAT_SRC`.
const SNAT: i32 = 100;

pub(super) fn rule(matches: &[Match], action: Action) -> Rule {
    Rule {
        matches: matches.to_vec(),
        action,
    }
}

/// The route lookup comes last: it costs most.
pub(super) fn reached_by(kind: Kind, set: SetName) -> Vec<Match> {
    match kind {
        Kind::Vip => vec![Match::In(set)],
        Kind::NodePort => vec![
            Match::NotLoopback,
            Match::In(set),
            Match::In(SetName::NodePortIps),
            Match::LocalDestination,
        ],
    }
}

/// After everybody's translation: another proxy (`--service-proxy-name`) may serve a ClusterIP that is none of ours, and
/// by now its packets go elsewhere. A host's own address in there stays its own.
pub(super) fn unallocated() -> Rule {
    let nobodys = [
        Match::Untranslated,
        Match::In(SetName::ServiceCidrs),
        Match::NotIn(SetName::ClusterIps),
        Match::ForeignDestination,
    ];
    rule(&nobodys, Action::Drop)
}

pub(super) fn services() -> Vec<Rule> {
    [Kind::Vip, Kind::NodePort]
        .map(|kind| {
            let reached = reached_by(kind, SetName::Frontends(kind));
            rule(&reached, Action::Goto(ChainName::Serve(kind)))
        })
        .into()
}

pub(super) fn pick(group: Group, count: u32) -> Rule {
    Rule {
        matches: vec![Match::In(SetName::Count(group, count))],
        action: Action::Translate(MapName(group), count),
    }
}

pub(super) fn remember(seconds: u32) -> Rule {
    rule(
        &[Match::In(SetName::AffinityTimeout(seconds))],
        Action::Remember(seconds),
    )
}

pub(super) fn base(chain: ChainName) -> Option<BaseChain> {
    let (nat, hook, priority) = match chain {
        ChainName::RefusePrerouting => (true, Hook::Prerouting, BEFORE_DNAT),
        ChainName::RefuseOutput => (true, Hook::Output, BEFORE_DNAT),
        ChainName::NatPrerouting => (true, Hook::Prerouting, DNAT),
        ChainName::NatOutput => (true, Hook::Output, DNAT),
        ChainName::NatPostrouting => (true, Hook::Postrouting, SNAT),
        ChainName::LearnPrerouting => (false, Hook::Prerouting, AFTER_DNAT),
        ChainName::LearnOutput => (false, Hook::Output, AFTER_DNAT),
        ChainName::Unallocated => (true, Hook::Postrouting, BEFORE_SNAT),
        ChainName::Refuse
        | ChainName::Services
        | ChainName::Serve(_)
        | ChainName::UnderLocal(_)
        | ChainName::ServeLocal(_)
        | ChainName::Pick(_)
        | ChainName::PickMany(_)
        | ChainName::Masquerade
        | ChainName::Recall
        | ChainName::Learn
        | ChainName::Remember => return None,
    };
    Some(BaseChain { nat, hook, priority })
}
