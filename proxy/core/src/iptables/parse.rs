// SPDX-License-Identifier: Apache-2.0
//! Reads what `iptables-save` lists, and what `iptables-restore` reads, as far as it is ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use berth_model::{IpFamily, Protocol};
use ipnet::IpNet;

use super::names::{Builtin, ChainName, Table, protocol};
use super::rule::{Action, By, Marked, Recent, Rule, States, Within, probability};
use crate::{Links, Target};

/// One of our jumps in a chain that is everybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The rule's text, by which it can be deleted.
    pub text: Arc<str>,
    /// The rule, if it is one that we could have written.
    pub rule: Option<Rule>,
}

/// What was read of one table of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Our chains; `None` in place of a rule that is not of our making.
    pub chains: BTreeMap<ChainName, Vec<Option<Rule>>>,
    /// Jumps to our chains from the chains of everybody, in their order.
    pub jumps: BTreeMap<Builtin, Vec<Jump>>,
    /// Our chains that a chain of somebody else's refers to: they cannot be removed.
    pub referred: BTreeSet<ChainName>,
}

/// What `iptables-save` listed, table by table. Lines about others' chains are passed over.
pub fn read(family: IpFamily, text: &str) -> BTreeMap<Table, Read> {
    let mut tables: BTreeMap<Table, Read> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            current = name.trim().parse::<Table>().ok();
            if let Some(table) = current {
                tables.entry(table).or_default();
            }
            continue;
        }
        let Some(table) = current.and_then(|table| tables.get_mut(&table)) else {
            continue;
        };
        if let Some(rest) = line.strip_prefix(':') {
            let name = rest.split(' ').next().unwrap_or_default();
            if let Some(chain) = name.parse::<ChainName>().ok().filter(|chain| chain.is_ours()) {
                table.chains.entry(chain).or_default();
            }
        } else if let Some(rest) = line.strip_prefix("-A ") {
            table.rule(family, rest);
        }
    }
    tables
}

impl Read {
    fn rule(&mut self, family: IpFamily, text: &str) {
        let (name, spec) = text.split_once(' ').unwrap_or((text, ""));
        match name.parse::<ChainName>() {
            Ok(ChainName::Builtin(builtin)) => {
                let ours = target(spec).filter(|chain| chain.is_ours());
                if ours.is_some() {
                    self.jumps.entry(builtin).or_default().push(Jump {
                        text: spec.into(),
                        rule: parse_rule(family, spec),
                    });
                }
            }
            Ok(chain @ (ChainName::Fixed(_) | ChainName::Port(..))) => {
                self.chains
                    .entry(chain)
                    .or_default()
                    .push(parse_rule(family, spec));
            }
            Err(_) => self.referred.extend(target(spec).filter(|chain| chain.is_ours())),
        }
    }
}

/// The chain that a rule's text jumps or goes to.
fn target(spec: &str) -> Option<ChainName> {
    let words = words(spec)?;
    let at = words.iter().rposition(|word| word == "-j" || word == "-g")?;
    words.get(at + 1)?.parse().ok()
}

/// Words as a shell of iptables' own splits them: quotes hold spaces, a backslash the next symbol.
pub fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut symbols = text.chars();
    while let Some(symbol) = symbols.next() {
        match symbol {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().push(symbols.next()?),
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

/// The rule that a text after `-A CHAIN` stands for; `None` if it is not one that we could have written.
pub fn parse_rule(family: IpFamily, spec: &str) -> Option<Rule> {
    let words = words(spec)?;
    let mut reader = Reader {
        words: words.iter().map(String::as_str).peekable(),
        family,
        rule: Rule::new(Action::Nothing),
        recent: RecentWords::default(),
    };
    while let Some(word) = reader.words.next() {
        reader.word(word)?;
    }
    reader.finish()
}

#[derive(Default)]
struct RecentWords<'a> {
    name: Option<&'a str>,
    seconds: Option<u32>,
    reap: bool,
    check: bool,
    set: bool,
}

struct Reader<'a, I: Iterator<Item = &'a str>> {
    words: std::iter::Peekable<I>,
    family: IpFamily,
    rule: Rule,
    recent: RecentWords<'a>,
}

impl<'a, I: Iterator<Item = &'a str>> Reader<'a, I> {
    fn word(&mut self, word: &str) -> Option<()> {
        match word {
            "!" => self.negated()?,
            "-s" => self.rule.source = Some(Within::net(self.net()?)),
            "-d" => self.rule.destination = Some(Within::net(self.net()?)),
            "-i" => self.rule.by = Some(self.by(false)?),
            "-p" => self.rule.protocol = Some(self.protocol()?),
            "-m" => self.module()?,
            "--comment" => self.rule.comment = Some(self.words.next()?.into()),
            "--dport" => self.rule.port = Some(self.words.next()?.parse().ok()?),
            "--src-type" => self.rule.from_here = self.local()?,
            "--dst-type" => self.rule.to_here = self.local()?,
            "--ctstate" => self.rule.states = Some(self.states()?),
            "--mark" => self.rule.marked = Some(Marked::With(self.bit()?)),
            "--mode" => self.only("random")?,
            "--probability" => self.rule.one_in = Some(self.one_in()?),
            "--name" => self.recent.name = Some(self.words.next()?),
            "--seconds" => self.recent.seconds = Some(self.words.next()?.parse().ok()?),
            "--reap" => self.recent.reap = true,
            "--rcheck" => self.recent.check = true,
            "--set" => self.recent.set = true,
            "--mask" => self.whole_address()?,
            "--rsource" => {}
            "-j" => self.rule.action = self.action()?,
            _ => return None,
        }
        Some(())
    }

    fn negated(&mut self) -> Option<()> {
        match self.words.next()? {
            "-s" => self.rule.source = Some(Within::outside(self.net()?)),
            "-d" => self.rule.destination = Some(Within::outside(self.net()?)),
            "-i" => self.rule.by = Some(self.by(true)?),
            "--mark" => self.rule.marked = Some(Marked::Without(self.bit()?)),
            _ => return None,
        }
        Some(())
    }

    fn net(&mut self) -> Option<IpNet> {
        let word = self.words.next()?;
        let net = word.parse::<IpNet>().ok();
        net.or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from))
    }

    fn by(&mut self, not: bool) -> Option<By> {
        let word = self.words.next()?;
        let links = match word.strip_suffix('+') {
            Some(prefix) => Links::beginning(prefix),
            None => Links::named(word),
        };
        Some(By {
            links: links.ok()?,
            not,
        })
    }

    fn protocol(&mut self) -> Option<Protocol> {
        let word = self.words.next()?;
        let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        // Numbers are what is shown where /etc/protocols is missing.
        let is = |known: &Protocol| word == protocol(*known) || word == known.number().to_string();
        known.into_iter().find(is)
    }

    fn module(&mut self) -> Option<()> {
        const OURS: [&str; 9] = [
            "comment",
            "tcp",
            "udp",
            "sctp",
            "addrtype",
            "conntrack",
            "mark",
            "recent",
            "statistic",
        ];
        let name = self.words.next()?;
        OURS.contains(&name).then_some(())
    }

    fn only(&mut self, wanted: &str) -> Option<()> {
        (self.words.next()? == wanted).then_some(())
    }

    fn local(&mut self) -> Option<bool> {
        self.only("LOCAL").map(|()| true)
    }

    fn states(&mut self) -> Option<States> {
        let word = self.words.next()?;
        States::ALL.into_iter().find(|states| states.as_str() == word)
    }

    fn number(text: &str) -> Option<u32> {
        u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
    }

    /// `BIT/BIT`.
    fn bit(&mut self) -> Option<u32> {
        let (value, mask) = self.words.next()?.split_once('/')?;
        let bit = Self::number(value)?;
        (Self::number(mask)? == bit).then_some(bit)
    }

    /// The whole number that has this probability, if one has.
    fn one_in(&mut self) -> Option<u32> {
        let shown: f64 = self.words.next()?.parse().ok()?;
        // Beyond some tens of thousands neighbours cannot be told apart.
        let guessed: u32 = format!("{:.0}", (1.0 / shown).clamp(1.0, 65_536.0))
            .parse()
            .ok()?;
        let written: f64 = probability(guessed).parse().ok()?;
        (threshold(written) == threshold(shown)).then_some(guessed)
    }

    fn whole_address(&mut self) -> Option<()> {
        let mask = self.words.next()?;
        matches!(
            mask,
            "255.255.255.255" | "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        )
        .then_some(())
    }

    fn action(&mut self) -> Option<Action> {
        Some(match self.words.next()? {
            "RETURN" => Action::Return,
            "ACCEPT" => Action::Accept,
            "DROP" => Action::Drop,
            "REJECT" => self.reject()?,
            "MARK" => self.mark()?,
            "MASQUERADE" => {
                self.only("--random-fully")?;
                Action::Masquerade
            }
            "DNAT" => {
                self.only("--to-destination")?;
                Action::Translate(target_of(self.words.next()?)?)
            }
            name => Action::Jump(name.parse::<ChainName>().ok().filter(|chain| chain.is_ours())?),
        })
    }

    fn reject(&mut self) -> Option<Action> {
        if self.words.peek().is_some() {
            self.only("--reject-with")?;
            self.only(match self.family {
                IpFamily::V4 => "icmp-port-unreachable",
                IpFamily::V6 => "icmp6-port-unreachable",
            })?;
        }
        Some(Action::Reject)
    }

    fn mark(&mut self) -> Option<Action> {
        match self.words.next()? {
            "--set-xmark" => {
                let (value, mask) = self.words.next()?.split_once('/')?;
                let bit = Self::number(value)?;
                match Self::number(mask)? {
                    0 => Some(Action::Unmark(bit)),
                    same if same == bit => Some(Action::Mark(bit)),
                    _ => None,
                }
            }
            "--or-mark" => Self::number(self.words.next()?).map(Action::Mark),
            "--xor-mark" => Self::number(self.words.next()?).map(Action::Unmark),
            _ => None,
        }
    }

    fn finish(mut self) -> Option<Rule> {
        let recent = &self.recent;
        if let Some(name) = recent.name {
            let list = name.parse().ok()?;
            self.rule.recent = Some(match (recent.check, recent.set, recent.seconds) {
                (true, false, Some(seconds)) if recent.reap => Recent::Came(list, seconds),
                (false, true, None) => Recent::Note(list),
                (true | false, true | false, _) => return None,
            });
        }
        Some(self.rule)
    }
}

/// The number that the kernel compares a random one of 31 bits with, as text (`libxt_statistic.c` of iptables).
fn threshold(probability: f64) -> String {
    format!("{:.0}", probability * f64::from(1u32 << 31))
}

fn target_of(text: &str) -> Option<Target> {
    let address: SocketAddr = text.parse().ok()?;
    Some(Target {
        ip: address.ip(),
        port: address.port().try_into().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::names::Fixed;
    use super::*;

    fn both(written: &str, listed: &str) -> (Option<Rule>, Option<Rule>) {
        let family = IpFamily::V4;
        (parse_rule(family, written), parse_rule(family, listed))
    }

    #[test]
    fn what_the_programs_list_is_what_was_written() {
        // Left as written, right as iptables 1.8.9 lists it.
        let cases = [
            (
                "-p tcp -m comment --comment \"a/b:c -> 10.0.0.1:80\" -m statistic --mode random --probability 0.3333333333 -j KUBE-SEP-SXIVWICOYRO3J4NJ",
                "-p 6 -m comment --comment \"a/b:c -> 10.0.0.1:80\" -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-SXIVWICOYRO3J4NJ",
            ),
            (
                "-m recent --rcheck --seconds 5 --reap --name KUBE-SEP-SXIVWICOYRO3J4NJ -j RETURN",
                "-m recent --rcheck --seconds 5 --reap --name KUBE-SEP-SXIVWICOYRO3J4NJ --mask 255.255.255.255 --rsource -j RETURN",
            ),
            ("! -i veth+ -j KUBE-MARK-MASQ", "! -i veth+ -j KUBE-MARK-MASQ"),
            (
                "-i cni0 -p tcp -j KUBE-MARK-MASQ",
                "-i cni0 -p 6 -j KUBE-MARK-MASQ",
            ),
            ("-j MARK --or-mark 0x4000", "-j MARK --set-xmark 0x4000/0x4000"),
            ("-j MARK --xor-mark 0x4000", "-j MARK --set-xmark 0x4000/0x0"),
            (
                "-d 10.96.0.1 -j REJECT",
                "-d 10.96.0.1/32 -j REJECT --reject-with icmp-port-unreachable",
            ),
        ];
        for (written, listed) in cases {
            let (written, listed) = both(written, listed);
            assert!(written.is_some());
            assert_eq!(written, listed);
        }
    }

    #[test]
    fn every_probability_up_to_ten_thousand_endpoints_reads_back() {
        for count in 1..=10_000 {
            let written: f64 = probability(count).parse().unwrap();
            // As the kernel keeps it, and libxt_statistic prints it.
            let kept = (written * f64::from(1u32 << 31)).round() / f64::from(1u32 << 31);
            let text = format!("-m statistic --mode random --probability {kept:.11} -j DROP");
            let read = parse_rule(IpFamily::V4, &text).and_then(|rule| rule.one_in);
            assert_eq!(read, Some(count));
        }
    }

    #[test]
    fn rules_of_others_are_not_taken_for_ours() {
        for foreign in [
            "-j DOCKER",
            "-o eth0 -j RETURN",
            "-i + -j RETURN",
            "-m statistic --mode nth --every 2 --packet 0 -j RETURN",
            "-j REJECT --reject-with tcp-reset",
            "-j MASQUERADE",
            "-m mark --mark 0x1/0xff -j ACCEPT",
            "-m comment --comment \"unfinished",
            "! -p tcp -j DROP",
        ] {
            assert_eq!(parse_rule(IpFamily::V4, foreign), None, "{foreign}");
        }
    }

    #[test]
    fn chains_of_others_are_passed_over_but_for_what_they_refer_to() {
        let listed = "*nat\n:PREROUTING ACCEPT [1:2]\n:KUBE-SERVICES - [0:0]\n:DOCKER - [0:0]\n\
                      -A PREROUTING -j DOCKER\n-A PREROUTING -m whatever -j KUBE-SERVICES\n\
                      -A DOCKER -g KUBE-MARK-MASQ\n-A KUBE-SERVICES -o eth0 -j DROP\nCOMMIT\n\
                      *raw\n:KUBE-SERVICES - [0:0]\nCOMMIT\n";
        let tables = read(IpFamily::V4, listed);
        let nat = tables.get(&Table::Nat).unwrap();
        assert_eq!(tables.len(), 1);
        assert_eq!(nat.chains, BTreeMap::from([(Fixed::Services.into(), vec![None])]));
        let jump = Jump {
            text: "-m whatever -j KUBE-SERVICES".into(),
            rule: None,
        };
        assert_eq!(nat.jumps, BTreeMap::from([(Builtin::Prerouting, vec![jump])]));
        assert_eq!(nat.referred, BTreeSet::from([Fixed::MarkMasq.into()]));
    }
}
