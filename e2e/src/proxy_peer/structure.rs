// SPDX-License-Identifier: Apache-2.0
//! What `iptables-save` shows of a proxy in iptables mode: its chains, and which of them each frontend leads to.
//! Pure. The text is read by words, by nothing of Berth's.

use std::collections::BTreeSet;

use super::differences::Difference;

/// The tables of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Structure {
    /// `TABLE CHAIN`, for chains of a proxy's.
    pub chains: BTreeSet<String>,
    /// `TABLE CHAIN: PROTOCOL DESTINATION PORT -> TARGET` for the rules of chains with a rule per frontend.
    pub frontends: BTreeSet<String>,
    /// `CHAIN -> CHAIN` for jumps between chains of Service ports.
    pub jumps: BTreeSet<String>,
    /// `CHAIN -> ADDRESS` for translations.
    pub translations: BTreeSet<String>,
}

/// kubelet's, which kube-proxy writes too for node ports of loopback addresses.
const OF_KUBELET: &str = "KUBE-FIREWALL";

impl Structure {
    /// Of what was listed.
    pub fn of(listed: &str) -> Self {
        let mut structure = Self::default();
        let mut table = "";
        for line in listed.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(rest) = line.strip_prefix(':') {
                let chain = rest.split(' ').next().unwrap_or_default();
                if chain.starts_with("KUBE-") && chain != OF_KUBELET {
                    structure.chains.insert(format!("{table} {chain}"));
                }
            } else if let Some(rest) = line.strip_prefix("-A ") {
                structure.rule(table, rest);
            }
        }
        structure
    }

    fn rule(&mut self, table: &str, rule: &str) {
        let words: Vec<&str> = rule.split(' ').collect();
        let after = |option: &str| {
            let at = words.iter().position(|word| *word == option)?;
            words.get(at + 1).copied()
        };
        let (chain, target) = (words[0], after("-j").unwrap_or("nowhere"));
        let of_port = |chain: &str| {
            ["SVC", "SVL", "EXT", "FW", "SEP"]
                .iter()
                .any(|kind| chain.starts_with(&format!("KUBE-{kind}-")))
        };
        if of_port(chain) && of_port(target) {
            self.jumps.insert(format!("{chain} -> {target}"));
        }
        if let Some(address) = after("--to-destination") {
            self.translations.insert(format!("{chain} -> {address}"));
        }
        let shared = [
            "KUBE-SERVICES",
            "KUBE-EXTERNAL-SERVICES",
            "KUBE-NODEPORTS",
            "KUBE-PROXY-FIREWALL",
        ];
        if let Some(port) = after("--dport").filter(|_| shared.contains(&chain)) {
            let destination = after("-d").filter(|_| !words.contains(&"!")).unwrap_or("here");
            let protocol = after("-p").unwrap_or("any");
            let line = format!("{table} {chain}: {protocol} {destination} {port} -> {target}");
            self.frontends.insert(line);
        }
    }

    /// What only one side has: `< ` this one, `> ` the other.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let pairs = [
            (&self.chains, &other.chains),
            (&self.frontends, &other.frontends),
            (&self.jumps, &other.jumps),
            (&self.translations, &other.translations),
        ];
        let of_pair = |(ours, theirs): (&BTreeSet<String>, &BTreeSet<String>)| {
            let mut found: Vec<String> = ours.difference(theirs).map(|line| format!("< {line}")).collect();
            found.extend(theirs.difference(ours).map(|line| format!("> {line}")));
            found
        };
        pairs.into_iter().flat_map(of_pair).collect()
    }
}

/// Which known difference of outcomes shows as this one of structures, where Berth's come first.
pub fn known(line: &str) -> Option<Difference> {
    if line.starts_with("> nat KUBE-NODEPORTS: ") && line.contains(" 127.0.0.0/8 ") {
        Some(Difference::LoopbackNodePort)
    } else if line.starts_with("< filter KUBE-PROXY-FIREWALL: ") {
        Some(Difference::RangesBeforeRefusal)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n:KUBE-FIREWALL - [0:0]\n\
         -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment \"a/b cluster IP\" -m tcp --dport 80 -j KUBE-SVC-A\n\
         -A KUBE-SVC-A -j KUBE-SEP-B\n-A KUBE-SEP-B -p tcp -j DNAT --to-destination 10.0.0.1:80\nCOMMIT\n";

    #[test]
    fn chains_frontends_jumps_and_translations_are_read() {
        let structure = Structure::of(LISTED);
        let set = |lines: &[&str]| {
            lines
                .iter()
                .map(|line| (*line).to_owned())
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(structure.chains, set(&["nat KUBE-SERVICES", "nat KUBE-SVC-A"]));
        assert_eq!(
            structure.frontends,
            set(&["nat KUBE-SERVICES: tcp 10.96.0.1/32 80 -> KUBE-SVC-A"])
        );
        assert_eq!(structure.jumps, set(&["KUBE-SVC-A -> KUBE-SEP-B"]));
        assert_eq!(structure.translations, set(&["KUBE-SEP-B -> 10.0.0.1:80"]));
    }

    #[test]
    fn what_one_side_has_alone_is_a_difference() {
        let ours = Structure::of(LISTED);
        let theirs = Structure::of(&LISTED.replace("10.0.0.1:80", "10.0.0.2:80"));
        assert!(ours.differences(&ours).is_empty());
        assert_eq!(
            ours.differences(&theirs),
            ["< KUBE-SEP-B -> 10.0.0.1:80", "> KUBE-SEP-B -> 10.0.0.2:80"]
        );
        assert!(ours.differences(&theirs).iter().all(|line| known(line).is_none()));
    }
}
