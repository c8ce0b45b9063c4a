// SPDX-License-Identifier: Apache-2.0
//! Sets, by the program ipset in its batch mode.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use berth_model::{IpFamily, Port, Protocol};
use berth_proxy_core::ipvs::names::{FamilySet, SetName};
use berth_proxy_core::ipvs::{Change, Member, Socket};
use ipnet::IpNet;

use crate::Error;
use crate::backend::program_path;
use crate::program::Program;

/// More than any cluster has; ipset's own default of 65536 is reached by 10,000 Services.
const MAX_ELEMENTS: u32 = 4 << 20;

async fn ipset(arguments: &[&str], input: &str) -> Result<String, Error> {
    let program = Program::find(&program_path(), "ipset", "ipset")?;
    program.run(arguments, input).await
}

/// Makes the sets that are not there.
///
/// # Errors
/// ipset is missing or failed: a set of the same name is there that is of another kind, or the kernel has no such sets.
pub(super) async fn create() -> Result<(), Error> {
    let mut script = String::new();
    for (family, name) in IpFamily::ALL.map(|family| match family {
        IpFamily::V4 => (family, "inet"),
        IpFamily::V6 => (family, "inet6"),
    }) {
        for set in SetName::ALL {
            let marks = if set == SetName::Inside { " skbinfo" } else { "" };
            let _ = writeln!(
                script,
                "create {} {} family {name} maxelem {MAX_ELEMENTS}{marks}",
                FamilySet(family, set),
                set.kind()
            );
        }
    }
    ipset(&["-exist", "restore"], &script).await.map(|_| ())
}

/// Carries out changes of elements, in order, in one run.
///
/// # Errors
/// ipset failed; what came before the line that it names is done.
pub(super) async fn apply(changes: &[Change]) -> Result<(), Error> {
    let mut script = String::new();
    for change in changes {
        let _ = match change {
            Change::Join(set, member) => {
                writeln!(script, "add {} {member}", FamilySet(member.family(), *set))
            }
            Change::Leave(set, member) => {
                writeln!(
                    script,
                    "del {} {}",
                    FamilySet(member.family(), *set),
                    member.key()
                )
            }
            Change::AddServer(..)
            | Change::EditServer(..)
            | Change::RemoveServer(_)
            | Change::AddDestination(..)
            | Change::Weigh(..)
            | Change::RemoveDestination(..)
            | Change::Bind(_)
            | Change::Unbind(_) => Ok(()),
        };
    }
    ipset(&["-exist", "restore"], &script).await.map(|_| ())
}

/// Every element of our sets.
///
/// # Errors
/// ipset is missing or failed.
pub(super) async fn observe() -> Result<Vec<(SetName, Member)>, Error> {
    let text = ipset(&["save"], "").await?;
    Ok(text.lines().filter_map(element).collect())
}

/// How many elements each of our sets has.
///
/// # Errors
/// ipset is missing or failed.
pub(super) async fn counts() -> Result<BTreeMap<FamilySet, usize>, Error> {
    let text = ipset(&["list", "-terse"], "").await?;
    let mut counts = BTreeMap::new();
    let mut name = None;
    for line in text.lines() {
        if let Some(text) = line.strip_prefix("Name: ") {
            name = text.parse::<FamilySet>().ok();
        } else if let Some(number) = line.strip_prefix("Number of entries: ")
            && let (Some(set), Ok(number)) = (name, number.trim().parse())
        {
            counts.insert(set, number);
        }
    }
    Ok(counts)
}

/// Our sets that are there.
///
/// # Errors
/// ipset is missing or failed.
pub(super) async fn names() -> Result<Vec<FamilySet>, Error> {
    let names = ipset(&["list", "-name"], "").await?;
    Ok(names
        .lines()
        .filter_map(|name| name.trim().parse().ok())
        .collect())
}

/// Removes these sets.
///
/// # Errors
/// ipset failed, for example because a rule of somebody else's uses one.
pub(super) async fn destroy(sets: &[FamilySet]) -> Result<(), Error> {
    let script: String = sets.iter().map(|set| format!("destroy {set}\n")).collect();
    ipset(&["restore"], &script).await.map(|_| ())
}

/// Reads a line of `ipset save`.
fn element(line: &str) -> Option<(SetName, Member)> {
    let mut words = line.split_whitespace();
    if words.next()? != "add" {
        return None;
    }
    let FamilySet(_, set) = words.next()?.parse().ok()?;
    let parts: Vec<&str> = words.next()?.split(',').collect();
    let member = match (set, parts.as_slice()) {
        (SetName::Inside, [ip, port]) => {
            let mark = words.skip_while(|word| *word != "skbmark").nth(1)?;
            let mark = mark.split('/').next()?.strip_prefix("0x")?;
            Member::Steered(socket(ip, port)?, u32::from_str_radix(mark, 16).ok()?)
        }
        (SetName::Sources, [ip, port, net]) => Member::Source(socket(ip, port)?, network(net)?),
        (SetName::Addresses, [ip]) => Member::Address(ip.parse().ok()?),
        (SetName::Pods, [net]) => Member::Net(network(net)?),
        (SetName::Hairpin, [ip, _]) => Member::Pair(network(ip)?.addr()),
        (_, [ip, port]) => Member::Socket(socket(ip, port)?),
        _ => return None,
    };
    Some((set, member))
}

fn socket(ip: &str, port: &str) -> Option<Socket> {
    let (protocol, port) = port.split_once(':')?;
    Some(Socket {
        ip: ip.parse().ok()?,
        protocol: protocol.to_uppercase().parse::<Protocol>().ok()?,
        port: Port::new(port.parse().ok()?)?,
    })
}

/// A network; a host without its length.
fn network(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_reads_back_as_ipset_saves_it() {
        let socket = Socket {
            ip: "10.96.0.1".parse().unwrap(),
            protocol: Protocol::Udp,
            port: 53.try_into().unwrap(),
        };
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        for (line, set, member) in [
            (
                "add BERTH-SOCKETS 10.96.0.1,udp:53",
                SetName::Sockets,
                Member::Socket(socket),
            ),
            (
                "add BERTH-INSIDE 10.96.0.1,udp:53 skbmark 0xbc000001",
                SetName::Inside,
                Member::Steered(socket, 0xbc00_0001),
            ),
            (
                "add BERTH-INSIDE 10.96.0.1,udp:53 skbmark 0xbc000001/0xffffffff",
                SetName::Inside,
                Member::Steered(socket, 0xbc00_0001),
            ),
            (
                "add BERTH-SOURCES 10.96.0.1,udp:53,192.0.2.0/24",
                SetName::Sources,
                Member::Source(socket, net("192.0.2.0/24")),
            ),
            (
                "add BERTH-SOURCES 10.96.0.1,udp:53,192.0.2.1",
                SetName::Sources,
                Member::Source(socket, net("192.0.2.1/32")),
            ),
            (
                "add BERTH-6-ADDRESSES fd00::1",
                SetName::Addresses,
                Member::Address("fd00::1".parse().unwrap()),
            ),
            (
                "add BERTH-6-PODS fd00:244::/64",
                SetName::Pods,
                Member::Net(net("fd00:244::/64")),
            ),
            (
                "add BERTH-HAIRPIN 10.244.0.1,10.244.0.1",
                SetName::Hairpin,
                Member::Pair("10.244.0.1".parse().unwrap()),
            ),
        ] {
            assert_eq!(element(line), Some((set, member)), "{line}");
        }
        for line in [
            "create BERTH-SOCKETS hash:ip,port family inet",
            "add KUBE-CLUSTER-IP 10.96.0.1,udp:53",
            "add BERTH-SOCKETS 10.96.0.1",
            "",
        ] {
            assert_eq!(element(line), None, "{line}");
        }
    }
}
