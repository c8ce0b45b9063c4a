// SPDX-License-Identifier: Apache-2.0
//! A rule as a value. Its `Display` is what `iptables-restore` reads after `-A CHAIN`.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use berth_model::{IpFamily, Port, Protocol};
use ipnet::IpNet;

use super::names::{ChainName, protocol};
use crate::{LinkName, Links, PodSource, Target};

/// An address match, possibly negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Within {
    /// The network.
    pub net: IpNet,
    /// Whether the address must be outside of it.
    pub not: bool,
}

impl Within {
    /// In this network.
    pub fn net(net: IpNet) -> Self {
        Self { net, not: false }
    }

    /// Not in this network.
    pub fn outside(net: IpNet) -> Self {
        Self { net, not: true }
    }
}

/// A match of the interface that packets come in by, possibly negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct By {
    /// These interfaces.
    pub links: Links,
    /// Whether it must be another one, or none: a packet of this host.
    pub not: bool,
}

impl By {
    /// Whether a packet that came in by this interface matches.
    pub fn matches(&self, link: Option<&LinkName>) -> bool {
        link.is_some_and(|link| self.links.has(link)) != self.not
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.not { "! " } else { "" };
        match self.links {
            Links::Named(name) => write!(f, "{not}-i {name}"),
            Links::Beginning(prefix) => write!(f, "{not}-i {prefix}+"),
        }
    }
}

/// States of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum States {
    /// The first packet.
    New,
    /// What conntrack cannot make sense of.
    Invalid,
    /// A later packet, or one that belongs to another connection.
    RelatedOrEstablished,
}

impl States {
    /// All that we use.
    pub const ALL: [States; 3] = [Self::New, Self::Invalid, Self::RelatedOrEstablished];

    /// As iptables spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "NEW",
            Self::Invalid => "INVALID",
            Self::RelatedOrEstablished => "RELATED,ESTABLISHED",
        }
    }
}

/// The bit of the mark that carries the decision to masquerade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Marked {
    /// It is set.
    With(u32),
    /// It is not set.
    Without(u32),
}

/// Memory of clients (xt_recent). The list has the name of an endpoint's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Recent {
    /// The source came to this endpoint within so many seconds.
    Came(ChainName, u32),
    /// Notes the source.
    Note(ChainName),
}

/// What a rule does with packets that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Nothing: the rule is there for its comment.
    Nothing,
    /// Goes through another chain, and on here when that comes to its end.
    Jump(ChainName),
    /// Ends this chain.
    Return,
    /// Ends this hook.
    Accept,
    /// Silently.
    Drop,
    /// ICMP port unreachable.
    Reject,
    /// Sets a bit of the mark.
    Mark(u32),
    /// Flips a bit of the mark, which is set.
    Unmark(u32),
    /// Source translation to the address of the interface, with a random port.
    Masquerade,
    /// Destination translation.
    Translate(Target),
}

/// One rule. What is `None` or false is not looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// The source address.
    pub source: Option<Within>,
    /// The destination address.
    pub destination: Option<Within>,
    /// The interface that it came in by.
    pub by: Option<By>,
    /// The transport protocol.
    pub protocol: Option<Protocol>,
    /// The destination port; only with a protocol.
    pub port: Option<Port>,
    /// The source is an address of this host.
    pub from_here: bool,
    /// The destination is an address of this host.
    pub to_here: bool,
    /// What conntrack says.
    pub states: Option<States>,
    /// What the mark says.
    pub marked: Option<Marked>,
    /// What xt_recent knows, or is to know.
    pub recent: Option<Recent>,
    /// Matches one packet in so many, by chance.
    pub one_in: Option<u32>,
    /// For people.
    pub comment: Option<Arc<str>>,
    /// What happens.
    pub action: Action,
}

impl Rule {
    /// A rule that matches everything.
    pub fn new(action: Action) -> Self {
        Self {
            source: None,
            destination: None,
            by: None,
            protocol: None,
            port: None,
            from_here: false,
            to_here: false,
            states: None,
            marked: None,
            recent: None,
            one_in: None,
            comment: None,
            action,
        }
    }

    /// A jump that matches everything.
    pub fn jump(chain: impl Into<ChainName>) -> Self {
        Self::new(Action::Jump(chain.into()))
    }

    /// The same rule for packets of Pods that this tells, or for all others.
    #[must_use]
    pub fn of_pods(self, pods: PodSource, not: bool) -> Self {
        match pods {
            PodSource::Net(net) => Self {
                source: Some(Within { net, not }),
                ..self
            },
            PodSource::Links(links) => Self {
                by: Some(By { links, not }),
                ..self
            },
        }
    }

    /// With a comment. The kernel keeps 255 bytes (XT_MAX_COMMENT_LEN in Linux's xt_comment.h, less the closing zero).
    #[must_use]
    pub fn about(self, comment: &str) -> Self {
        let end = comment.floor_char_boundary(255);
        Self {
            comment: comment.get(..end).map(Arc::from),
            ..self
        }
    }
}

/// A fingerprint of a chain's rules in their order, comments left out: they change nothing, and large clusters do
/// without some of them.
pub fn fingerprint(rules: &[Rule]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for rule in rules {
        let uncommented = Rule {
            comment: None,
            ..rule.clone()
        };
        uncommented.hash(&mut hasher);
    }
    hasher.finish()
}

/// One in so many, with kube-proxy's ten decimals.
pub(super) fn probability(one_in: u32) -> String {
    format!("{:.10}", 1.0 / f64::from(one_in.max(1)))
}

struct Address<'a>(&'static str, &'a Within);

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.1.not { "! " } else { "" };
        write!(f, " {not}{} {}", self.0, self.1.net)
    }
}

impl Rule {
    fn write_matches(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{}", Address("-s", source))?;
        }
        if let Some(destination) = &self.destination {
            write!(f, "{}", Address("-d", destination))?;
        }
        if let Some(by) = &self.by {
            write!(f, " {by}")?;
        }
        if let Some(known) = self.protocol {
            write!(f, " -p {}", protocol(known))?;
        }
        if let Some(comment) = &self.comment {
            write!(f, " -m comment --comment {}", Quoted(comment))?;
        }
        if let (Some(known), Some(port)) = (self.protocol, self.port) {
            write!(f, " -m {} --dport {port}", protocol(known))?;
        }
        if self.from_here {
            f.write_str(" -m addrtype --src-type LOCAL")?;
        }
        if self.to_here {
            f.write_str(" -m addrtype --dst-type LOCAL")?;
        }
        if let Some(states) = self.states {
            write!(f, " -m conntrack --ctstate {}", states.as_str())?;
        }
        match self.marked {
            None => {}
            Some(Marked::With(bit)) => write!(f, " -m mark --mark {bit:#x}/{bit:#x}")?,
            Some(Marked::Without(bit)) => write!(f, " -m mark ! --mark {bit:#x}/{bit:#x}")?,
        }
        match self.recent {
            None => {}
            Some(Recent::Came(list, seconds)) => {
                write!(f, " -m recent --rcheck --seconds {seconds} --reap --name {list}")?;
            }
            Some(Recent::Note(list)) => write!(f, " -m recent --set --name {list}")?,
        }
        match self.one_in {
            None => Ok(()),
            Some(count) => write!(
                f,
                " -m statistic --mode random --probability {}",
                probability(count)
            ),
        }
    }

    fn family(&self) -> Option<IpFamily> {
        let within = self.source.or(self.destination)?;
        Some(IpFamily::of(within.net.addr()))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_matches(f)?;
        match self.action {
            Action::Nothing => Ok(()),
            Action::Jump(chain) => write!(f, " -j {chain}"),
            Action::Return => f.write_str(" -j RETURN"),
            Action::Accept => f.write_str(" -j ACCEPT"),
            Action::Drop => f.write_str(" -j DROP"),
            Action::Reject => {
                let with = match self.family() {
                    Some(IpFamily::V6) => "icmp6-port-unreachable",
                    Some(IpFamily::V4) | None => "icmp-port-unreachable",
                };
                write!(f, " -j REJECT --reject-with {with}")
            }
            Action::Mark(bit) => write!(f, " -j MARK --set-xmark {bit:#x}/{bit:#x}"),
            Action::Unmark(bit) => write!(f, " -j MARK --set-xmark {bit:#x}/0x0"),
            Action::Masquerade => f.write_str(" -j MASQUERADE --random-fully"),
            Action::Translate(target) => write!(f, " -j DNAT --to-destination {target}"),
        }
    }
}

/// A word as iptables-save writes it: in quotes unless it is plain (`xtables_save_string` of iptables).
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if !self.0.is_empty() && self.0.bytes().all(plain) {
            return f.write_str(self.0);
        }
        f.write_str("\"")?;
        for symbol in self.0.chars() {
            if matches!(symbol, '"' | '\\' | '\'') {
                f.write_str("\\")?;
            }
            write!(f, "{symbol}")?;
        }
        f.write_str("\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_as_iptables_save_writes_it() {
        let port = Some(80.try_into().unwrap());
        let rule = Rule {
            source: Some(Within::outside("10.244.0.0/16".parse().unwrap())),
            destination: Some(Within::net("10.96.0.1/32".parse().unwrap())),
            protocol: Some(Protocol::Tcp),
            port,
            ..Rule::new(Action::Mark(0x4000)).about("shop/web:http cluster IP")
        };
        assert_eq!(
            rule.to_string(),
            " ! -s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -m comment --comment \"shop/web:http cluster IP\" \
             -m tcp --dport 80 -j MARK --set-xmark 0x4000/0x4000"
        );
    }

    #[test]
    fn what_pods_come_by_reads_as_iptables_save_writes_it() {
        let of_pods = |pods, not| {
            Rule::jump(super::super::names::Fixed::MarkMasq)
                .of_pods(pods, not)
                .to_string()
        };
        let bridge = PodSource::Links(Links::named("cni0").unwrap());
        let prefix = PodSource::Links(Links::beginning("veth").unwrap());
        assert_eq!(of_pods(bridge, true), " ! -i cni0 -j KUBE-MARK-MASQ");
        assert_eq!(of_pods(prefix, false), " -i veth+ -j KUBE-MARK-MASQ");
        let net = PodSource::Net("10.244.0.0/16".parse().unwrap());
        assert_eq!(of_pods(net, true), " ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ");
    }

    #[test]
    fn comments_do_not_change_the_fingerprint_and_everything_else_does() {
        let rules = [Rule::new(Action::Drop), Rule::new(Action::Accept)];
        let commented = rules.clone().map(|rule| rule.about("why"));
        assert_eq!(fingerprint(&rules), fingerprint(&commented));
        let turned = [rules[1].clone(), rules[0].clone()];
        assert_ne!(fingerprint(&rules), fingerprint(&turned));
        assert_ne!(fingerprint(&rules), fingerprint(&rules[..1]));
    }

    #[test]
    fn a_probability_has_ten_decimals() {
        assert_eq!(probability(3), "0.3333333333");
        assert_eq!(probability(2), "0.5000000000");
        assert_eq!(probability(7), "0.1428571429");
    }
}
