// SPDX-License-Identifier: Apache-2.0
//! Whose rules a node's kernel holds, by nft's and iptables' own listings.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use berth_testkit::netns::Netns;
use berth_testkit::wait::eventually;

use super::Mode;
use crate::cluster::PATIENCE;

/// What a node has of somebody else's, which no proxy may touch.
const FOREIGN: &str = "table inet others { set here { type ipv4_addr; elements = { 192.0.2.9 }; }; \
    chain forward { type filter hook forward priority 5; ip daddr @here drop; }; }";
/// The same, in iptables.
const FOREIGN_CHAIN: &str =
    "*filter\n:OTHERS - [0:0]\n-A OTHERS -d 192.0.2.9/32 -j DROP\n-A FORWARD -j OTHERS\nCOMMIT\n";

/// Gives a node something that no proxy may touch.
///
/// # Errors
/// The kernel refuses.
pub fn add_foreign(node: &Netns) -> Result<()> {
    node.output("nft", &[FOREIGN])?;
    for program in ["iptables-nft-restore", "ip6tables-nft-restore"] {
        let text = FOREIGN_CHAIN.replace(
            "192.0.2.9/32",
            if program.starts_with("ip6") {
                "2001:db8::9/128"
            } else {
                "192.0.2.9/32"
            },
        );
        node.output(
            "sh",
            &[
                "-c",
                &format!("printf '{}' | {program} --noflush", text.replace('\n', "\\n")),
            ],
        )?;
    }
    Ok(())
}

/// Everything of somebody else's, as listed.
///
/// # Errors
/// It is not there.
pub fn foreign(node: &Netns) -> Result<String> {
    let table = node.output("nft", &["--stateless", "list", "table", "inet", "others"])?;
    let mut lines: Vec<String> = table.lines().map(str::to_owned).collect();
    for program in ["iptables-nft-save", "ip6tables-nft-save"] {
        let listed = node.output(program, &[])?;
        let others = listed.lines().filter(|line| line.contains("OTHERS"));
        lines.extend(others.map(|line| format!("{program} {line}")));
    }
    ensure!(lines.iter().any(|line| line.contains("-j OTHERS")), "{lines:?}");
    Ok(lines.join("\n"))
}

/// Objects of Berth's: nftables tables, iptables chains and what leads to these, each with the mode that writes it.
///
/// # Errors
/// A program fails.
pub fn ours(node: &Netns) -> Result<BTreeSet<(Mode, String)>> {
    let mut found = BTreeSet::new();
    for line in node.output("nft", &["list", "tables"])?.lines() {
        match line.rsplit(' ').next() {
            Some("berth-proxy") => _ = found.insert((Mode::Nftables, line.to_owned())),
            Some("berth-relay") => _ = found.insert((Mode::Userspace, line.to_owned())),
            _ => ensure!(!line.contains("berth"), "whose is {line}?"),
        }
    }
    for program in ["iptables-nft-save", "ip6tables-nft-save"] {
        let listed = node.output(program, &[])?;
        let lines = listed
            .lines()
            .filter(|line| line.contains("KUBE-") || line.contains("BERTH-"));
        found.extend(lines.map(|line| (Mode::Iptables, format!("{program} {line}"))));
    }
    Ok(found)
}

/// Waits until a node has objects of this mode and of no other, or none at all.
///
/// # Errors
/// At the deadline, with those that are too many or missing.
pub async fn only(node: &Netns, mode: Option<Mode>) -> Result<()> {
    let what = mode.map_or("nothing of ours".to_owned(), |mode| {
        format!("objects of mode {mode} alone")
    });
    eventually(what, PATIENCE, || async {
        let found = ours(node)?;
        let others: Vec<_> = found.iter().filter(|(of, _)| Some(*of) != mode).take(5).collect();
        ensure!(others.is_empty(), "also there: {others:?}");
        ensure!(mode.is_none() || !found.is_empty(), "nothing is there");
        anyhow::Ok(())
    })
    .await?;
    Ok(())
}
