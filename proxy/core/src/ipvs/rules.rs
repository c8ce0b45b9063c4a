// SPDX-License-Identifier: Apache-2.0
//! The static iptables rules: they know sets, and no Service.
//!
//! IPVS takes packets at the end of the input hook (priority 99) and, from this host, early in the output hook (-98).
//! What must happen before that happens in the mangle table (-150), and is told to the nat table after it by a bit of
//! the mark. Packets that IPVS sends on pass the output and postrouting hooks once more.
//!
//! The text is what `iptables-save` prints, so that what is there can be compared with what should be.

use std::fmt;
use std::fmt::Write as _;

use berth_model::{IpFamily, Protocol};

use super::names::{ChainName, FamilySet, SetName};
use super::objects::MarkSpace;
use crate::iptables::rule::By;
use crate::{Links, Settings};

/// iptables' tables that have chains of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Before routing and IPVS.
    Mangle,
    /// Refusals.
    Filter,
    /// Source translation.
    Nat,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 3] = [Self::Mangle, Self::Filter, Self::Nat];
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mangle => "mangle",
            Self::Filter => "filter",
            Self::Nat => "nat",
        })
    }
}

/// The built-in chains that lead to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Packets that arrive.
    Prerouting,
    /// Packets for this host.
    Input,
    /// Packets of this host, and those that IPVS sends on.
    Output,
    /// Packets that leave.
    Postrouting,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
        })
    }
}

/// Which rule of which hook leads to which chain of ours; each stands first in its hook.
pub const HOOKS: [(Table, Hook, ChainName); 6] = [
    (Table::Mangle, Hook::Prerouting, ChainName::Services),
    (Table::Mangle, Hook::Output, ChainName::Services),
    (Table::Mangle, Hook::Postrouting, ChainName::Unmark),
    (Table::Filter, Hook::Input, ChainName::Unknown),
    (Table::Filter, Hook::Output, ChainName::Unknown),
    (Table::Nat, Hook::Postrouting, ChainName::Postrouting),
];

/// A condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// IPVS has sent the packet on, or has not.
    SentOn(bool),
    /// The packet starts a connection, or does not.
    New(bool),
    /// What the set knows a packet by is in it, or is not.
    In(SetName, bool),
    /// The packet came in by one of these interfaces, or did not. Listed first, as `iptables-save` does.
    By(Links, bool),
    /// The source is an address of this host, or is not.
    FromHere(bool),
    /// The protocol.
    Protocol(Protocol),
    /// The mark's bits under the mask have this value.
    Marked(u32, u32),
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Back to the chain that led here.
    Return,
    /// On to another chain, and back.
    Jump(ChainName),
    /// No answer.
    Drop,
    /// ICMP port unreachable.
    Reject,
    /// Sets the mark's bits under the mask to the value.
    Mark(u32, u32),
    /// Flips these bits of the mark.
    Flip(u32),
    /// The mark becomes what the set says of the socket.
    MarkFrom(SetName),
    /// The node's address becomes the source.
    Masquerade,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub matches: Vec<Match>,
    /// What then happens.
    pub action: Action,
}

/// A chain of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where it is.
    pub table: Table,
    /// Its name.
    pub name: ChainName,
    /// Its rules.
    pub rules: Vec<Rule>,
}

fn rule(matches: &[Match], action: Action) -> Rule {
    Rule {
        matches: matches.to_vec(),
        action,
    }
}

/// All chains of ours, the same for both families.
pub fn chains(settings: &Settings) -> Vec<Chain> {
    let space = MarkSpace::beside(settings.mark);
    let chain = |table, name, rules: Vec<Rule>| Chain { table, name, rules };
    vec![
        chain(Table::Mangle, ChainName::Services, services()),
        chain(
            Table::Mangle,
            ChainName::NewConnections,
            new_connections(space.masquerade(), settings.pod_links),
        ),
        chain(Table::Mangle, ChainName::Inside, inside(settings.pod_links)),
        chain(Table::Mangle, ChainName::Unmark, unmark(space)),
        chain(Table::Filter, ChainName::Unknown, unknown()),
        chain(
            Table::Nat,
            ChainName::Postrouting,
            postrouting(space.masquerade()),
        ),
        chain(Table::Nat, ChainName::Masquerade, masquerade(space.masquerade())),
    ]
}

/// Whatever is no Service's leaves after one lookup.
fn services() -> Vec<Rule> {
    vec![
        rule(&[Match::SentOn(true)], Action::Return),
        rule(&[Match::In(SetName::Sockets, false)], Action::Return),
        rule(&[Match::New(true)], Action::Jump(ChainName::NewConnections)),
        // Of every packet: IPVS may have to look the server up again for one that is not the first.
        rule(
            &[Match::In(SetName::Inside, true)],
            Action::Jump(ChainName::Inside),
        ),
    ]
}

fn new_connections(mark: u32, pod_links: Option<Links>) -> Vec<Rule> {
    let foreign = Match::In(SetName::Pods, false);
    let not_by = |matches: &[Match]| -> Vec<Match> {
        let links = pod_links.map(|links| Match::By(links, false));
        links.into_iter().chain(matches.iter().copied()).collect()
    };
    vec![
        rule(
            &[
                Match::In(SetName::Ranged, true),
                Match::In(SetName::Sources, false),
            ],
            Action::Drop,
        ),
        rule(&[Match::In(SetName::Drop, true)], Action::Drop),
        rule(
            &not_by(&[
                Match::In(SetName::DropOutside, true),
                foreign,
                Match::FromHere(false),
            ]),
            Action::Drop,
        ),
        rule(&[Match::In(SetName::Masquerade, true)], Action::Mark(mark, mark)),
        rule(
            &not_by(&[Match::In(SetName::MasqueradeForeign, true), foreign]),
            Action::Mark(mark, mark),
        ),
    ]
}

fn inside(pod_links: Option<Links>) -> Vec<Rule> {
    let pods = Match::In(SetName::Pods, true);
    let by_links = pod_links.map(|links| Match::By(links, true));
    let told = [pods, Match::FromHere(true)].into_iter().chain(by_links);
    told.map(|told| rule(&[told], Action::MarkFrom(SetName::Inside)))
        .collect()
}

/// A packet that is encapsulated keeps its mark, and would be led to the server once more.
fn unmark(space: MarkSpace) -> Vec<Rule> {
    let (value, mask) = space.tag();
    let ours = [Match::SentOn(true), Match::Marked(value, mask)];
    vec![rule(&ours, Action::Mark(0, u32::MAX))]
}

/// A Service address is bound on this host: without these rules its own sockets would answer there
/// (kubernetes#72236). Protocols without ports stay: neighbour discovery and ping.
fn unknown() -> Vec<Rule> {
    let refuse = |protocol| {
        rule(
            &[Match::Protocol(protocol), Match::In(SetName::Addresses, true)],
            Action::Reject,
        )
    };
    vec![
        rule(&[Match::SentOn(true)], Action::Return),
        rule(&[Match::New(false)], Action::Return),
        rule(&[Match::In(SetName::Sockets, true)], Action::Return),
        refuse(Protocol::Tcp),
        refuse(Protocol::Udp),
        refuse(Protocol::Sctp),
    ]
}

/// A connection from this host has a Service address as source, if it did not choose another: it is on this host's
/// link, and nobody else sends answers for it back here.
fn postrouting(mark: u32) -> Vec<Rule> {
    let masquerade = Action::Jump(ChainName::Masquerade);
    vec![
        rule(&[Match::SentOn(false)], Action::Return),
        rule(&[Match::Marked(mark, mark)], masquerade),
        rule(&[Match::In(SetName::Hairpin, true)], masquerade),
        rule(
            &[Match::In(SetName::Pods, false), Match::FromHere(true)],
            masquerade,
        ),
    ]
}

fn masquerade(mark: u32) -> Vec<Rule> {
    vec![
        rule(&[Match::Marked(mark, mark)], Action::Flip(mark)),
        rule(&[], Action::Masquerade),
    ]
}

/// How a set knows a packet (ipset(8), `--match-set`).
fn directions(set: SetName) -> &'static str {
    match set {
        SetName::Sockets
        | SetName::Masquerade
        | SetName::MasqueradeForeign
        | SetName::Drop
        | SetName::DropOutside
        | SetName::Ranged
        | SetName::Inside => "dst,dst",
        SetName::Sources => "dst,dst,src",
        SetName::Addresses => "dst",
        SetName::Pods => "src",
        SetName::Hairpin => "src,dst",
    }
}

fn not(holds: bool) -> &'static str {
    if holds { "" } else { "! " }
}

fn match_text(family: IpFamily, condition: Match) -> String {
    match condition {
        Match::SentOn(holds) => format!("-m ipvs {}--ipvs", not(holds)),
        Match::New(holds) => format!("-m conntrack {}--ctstate NEW", not(holds)),
        Match::In(set, holds) => format!(
            "-m set {}--match-set {} {}",
            not(holds),
            FamilySet(family, set),
            directions(set)
        ),
        Match::FromHere(holds) => format!("-m addrtype {}--src-type LOCAL", not(holds)),
        Match::By(links, holds) => By { links, not: !holds }.to_string(),
        Match::Protocol(protocol) => format!("-p {}", protocol.as_str().to_lowercase()),
        Match::Marked(value, mask) => format!("-m mark --mark {value:#x}/{mask:#x}"),
    }
}

fn action_text(family: IpFamily, action: Action) -> String {
    match action {
        Action::Return => "-j RETURN".to_owned(),
        Action::Jump(chain) => format!("-j {chain}"),
        Action::Drop => "-j DROP".to_owned(),
        Action::Reject => match family {
            IpFamily::V4 => "-j REJECT --reject-with icmp-port-unreachable".to_owned(),
            IpFamily::V6 => "-j REJECT --reject-with icmp6-port-unreachable".to_owned(),
        },
        Action::Mark(value, mask) => format!("-j MARK --set-xmark {value:#x}/{mask:#x}"),
        Action::Flip(bits) => format!("-j MARK --set-xmark {bits:#x}/0x0"),
        Action::MarkFrom(set) => format!(
            "-j SET --map-set {} {} --map-mark",
            FamilySet(family, set),
            directions(set)
        ),
        Action::Masquerade => "-j MASQUERADE --random-fully".to_owned(),
    }
}

/// The lines of a chain, as iptables-save prints them.
pub fn lines(family: IpFamily, chain: &Chain) -> Vec<String> {
    let of_rule = |rule: &Rule| {
        let mut line = format!("-A {}", chain.name);
        for condition in &rule.matches {
            let _ = write!(line, " {}", match_text(family, *condition));
        }
        let _ = write!(line, " {}", action_text(family, rule.action));
        line
    };
    chain.rules.iter().map(of_rule).collect()
}

/// The line that leads from a hook to a chain.
pub fn hook_line(hook: Hook, chain: ChainName) -> String {
    format!("-A {hook} -j {chain}")
}

/// What `iptables-restore --noflush` is told to make a family's tables right: our chains are replaced as a whole, and
/// those hooks that do not lead to us yet do so first of all.
pub fn restore_text(family: IpFamily, settings: &Settings, missing: &[(Table, Hook, ChainName)]) -> String {
    let chains = chains(settings);
    let mut text = String::new();
    for table in Table::ALL {
        let ours = || chains.iter().filter(|chain| chain.table == table);
        let _ = writeln!(text, "*{table}");
        for chain in ours() {
            let _ = writeln!(text, ":{} - [0:0]", chain.name);
        }
        for line in ours().flat_map(|chain| lines(family, chain)) {
            let _ = writeln!(text, "{line}");
        }
        for (_, hook, chain) in missing.iter().filter(|(of, ..)| *of == table) {
            let _ = writeln!(text, "-I {hook} -j {chain}");
        }
        let _ = writeln!(text, "COMMIT");
    }
    text
}
