// SPDX-License-Identifier: Apache-2.0
//! Changes as values: stages, in order, that can be printed, counted and carried out.

use std::fmt;
use std::net::IpAddr;

use berth_model::IpFamily;

use super::names::{FamilySet, LINK, SetName};
use super::objects::{Member, ServerConfig, ServerKey};
use crate::Target;

/// What a stage is for, in the order in which they are carried out. None of this is a transaction: after any prefix of a
/// plan every packet meets the old or the new state, or is refused or dropped as long as its Service comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StageKind {
    /// What has to be in sets before packets come: who is dropped, let in, masqueraded; whose the servers are.
    Admit,
    /// The servers that are found by mark get what they need.
    Prepare,
    /// Packets of Pods and of this host are led there, before the sockets' own servers change for everybody else.
    Steer,
    /// The sockets' servers: destinations added, weights restored.
    Serve,
    /// Addresses come, and go.
    Bind,
    /// What restrained packets goes.
    Release,
    /// The sockets' servers: destinations that left take no new connections, those without connections go, and servers
    /// without any.
    Withdraw,
    /// Pods and this host go to the sockets' own servers, which are as they should be by now.
    Unsteer,
    /// The same as [`StageKind::Withdraw`] of servers that are found by mark.
    Retire,
    /// What nobody meets any more.
    Forget,
}

impl StageKind {
    /// All, in order.
    pub const ALL: [StageKind; 10] = [
        Self::Admit,
        Self::Prepare,
        Self::Steer,
        Self::Serve,
        Self::Bind,
        Self::Release,
        Self::Withdraw,
        Self::Unsteer,
        Self::Retire,
        Self::Forget,
    ];
}

impl fmt::Display for StageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admit => "admit",
            Self::Prepare => "prepare",
            Self::Steer => "steer",
            Self::Serve => "serve",
            Self::Bind => "bind",
            Self::Release => "release",
            Self::Withdraw => "withdraw",
            Self::Unsteer => "unsteer",
            Self::Retire => "retire",
            Self::Forget => "forget",
        })
    }
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The element joins the set; if it is there, it gets this mark.
    Join(SetName, Member),
    /// The element leaves the set.
    Leave(SetName, Member),
    /// A server without destinations.
    AddServer(ServerKey, ServerConfig),
    /// The server picks differently.
    EditServer(ServerKey, ServerConfig),
    /// The server goes, and its destinations with it.
    RemoveServer(ServerKey),
    /// A destination of weight 1.
    AddDestination(ServerKey, Target),
    /// Weight 1: new connections; 0: none, and those that are there stay.
    Weigh(ServerKey, Target, u32),
    /// The destination goes.
    RemoveDestination(ServerKey, Target),
    /// The address comes on the link.
    Bind(IpAddr),
    /// The address goes.
    Unbind(IpAddr),
}

impl Change {
    /// The family of the packets that it is about.
    pub fn family(&self) -> IpFamily {
        match self {
            Self::Join(_, member) | Self::Leave(_, member) => member.family(),
            Self::AddServer(key, _)
            | Self::EditServer(key, _)
            | Self::RemoveServer(key)
            | Self::AddDestination(key, _)
            | Self::Weigh(key, ..)
            | Self::RemoveDestination(key, _) => key.family(),
            Self::Bind(ip) | Self::Unbind(ip) => IpFamily::of(*ip),
        }
    }

    /// Whether it is about a virtual server or one of its destinations.
    pub fn is_of_server(&self) -> bool {
        match self {
            Self::AddServer(..)
            | Self::EditServer(..)
            | Self::RemoveServer(_)
            | Self::AddDestination(..)
            | Self::Weigh(..)
            | Self::RemoveDestination(..) => true,
            Self::Join(..) | Self::Leave(..) | Self::Bind(_) | Self::Unbind(_) => false,
        }
    }
}

fn host(ip: &IpAddr) -> String {
    let bits = IpFamily::of(*ip).bits();
    format!("{ip}/{bits} dev {LINK}")
}

impl fmt::Display for Change {
    /// As a command line would say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |set: &SetName, member: &Member| FamilySet(member.family(), *set);
        match self {
            Self::Join(set, member) => write!(f, "ipset add {} {member}", of(set, member)),
            Self::Leave(set, member) => write!(f, "ipset del {} {}", of(set, member), member.key()),
            Self::AddServer(key, config) => write!(f, "ipvsadm -A {key} {config}"),
            Self::EditServer(key, config) => write!(f, "ipvsadm -E {key} {config}"),
            Self::RemoveServer(key) => write!(f, "ipvsadm -D {key}"),
            Self::AddDestination(key, target) => write!(f, "ipvsadm -a {key} -r {target} -m -w 1"),
            Self::Weigh(key, target, weight) => write!(f, "ipvsadm -e {key} -r {target} -m -w {weight}"),
            Self::RemoveDestination(key, target) => write!(f, "ipvsadm -d {key} -r {target}"),
            Self::Bind(ip) => write!(f, "ip addr add {}", host(ip)),
            Self::Unbind(ip) => write!(f, "ip addr del {}", host(ip)),
        }
    }
}

/// Changes that are carried out in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What it is for.
    pub kind: StageKind,
    /// The changes, in order.
    pub changes: Vec<Change>,
}

/// The stages of a turn, both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Stages that have changes.
    pub stages: Vec<Stage>,
}

impl Plan {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// All changes, in order.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.stages.iter().flat_map(|stage| &stage.changes)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for stage in &self.stages {
            writeln!(f, "# {}", stage.kind)?;
            for change in &stage.changes {
                writeln!(f, "{change}")?;
            }
        }
        Ok(())
    }
}
