// SPDX-License-Identifier: Apache-2.0
//! What is measured of a proxy, and what it has to reach (issue 5). Pure.

use super::super::figures::{Figure, Key, figure};
use super::super::row::Goal;
use super::ProxyCase;

/// A change costs at most twice as much among 50 times as many Services.
pub(super) const FLAT: Goal = Goal::AtMost(2.0);

const SYNC: &str = "from the start of the process until every port of every Service leads to an endpoint";
const COLD: &str = "from the start of the process until all is quiet";
const MEMORY: &str = "VmRSS of the process and its children together, looked at every 20 ms";
const COMMITTED: &str = "from the API server's answer to the write until the kernel has committed it, which it tells \
                         itself; one change at a time, 1.3 s apart";
const TAKEN: &str = "a Service without a reachable endpoint is given one: from the API server's answer until a \
                     connection is taken; 1.3 s apart";
const STEADY: &str = "ten times as many changes, 50 a second, until all is quiet";
const FIRST: &str = "one endpoint more, ten times, up to 70 of a Service where no other has more than 10";
const WIRE: &str = "bytes on the node's uplink, with TLS and HTTP";
const RESTART: &str = "from the start of the new process until its own metric says that it has synced";
const COMMITS: &str = "transactions of nf_tables that the kernel tells of";

/// The goals of a case.
struct Goals {
    sync: Goal,
    memory: Goal,
    p50: Goal,
    p99: Goal,
    cpu: Goal,
    /// What others pay.
    load: Goal,
    restart: Goal,
    commits: Goal,
}

impl Goals {
    const NONE: Self = Self {
        sync: Goal::None,
        memory: Goal::None,
        p50: Goal::None,
        p99: Goal::None,
        cpu: Goal::None,
        load: Goal::None,
        restart: Goal::None,
        commits: Goal::None,
    };

    /// Changes 10 times faster with a twentieth of the CPU, memory with children a sixth, nothing more asked of the
    /// API server, nothing written at a restart.
    fn nftables(sync: Goal) -> Self {
        Self {
            sync,
            memory: Goal::Ratio(0.1667),
            p50: Goal::None,
            p99: Goal::Ratio(0.1),
            cpu: Goal::Ratio(0.05),
            load: Goal::Ratio(1.0),
            restart: Goal::None,
            commits: Goal::AtMost(0.0),
        }
    }

    fn of(case: ProxyCase) -> Self {
        match case {
            ProxyCase::Tiny => Self::NONE,
            ProxyCase::Thousand => Self {
                commits: Goal::AtMost(0.0),
                ..Self::NONE
            },
            ProxyCase::Small | ProxyCase::Mixed => Self::nftables(Goal::Ratio(0.2)),
            ProxyCase::Large => Self {
                restart: Goal::AtMost(1.0),
                ..Self::nftables(Goal::Ratio(0.0667))
            },
            ProxyCase::Huge => Self {
                sync: Goal::AtMost(10.0),
                commits: Goal::AtMost(0.0),
                ..Self::NONE
            },
            // First sync no worse, a change at least 3 times faster.
            ProxyCase::Legacy | ProxyCase::IptablesNft => Self {
                sync: Goal::Ratio(1.0),
                p50: Goal::Ratio(0.3333),
                load: Goal::Ratio(1.0),
                ..Self::NONE
            },
        }
    }
}

/// Every figure of a case. Those that a run does not give have no row.
pub(super) fn figures(case: ProxyCase) -> Vec<Figure> {
    let goals = Goals::of(case);
    let mut figures = start(&goals);
    let change = case.variant().map_or(COMMITTED, |_| TAKEN);
    figures.extend(changes(&goals, change));
    figures.extend(again(&goals));
    figures
}

fn start(goals: &Goals) -> Vec<Figure> {
    vec![
        figure(Key::Wall, "first sync", "s", goals.sync, SYNC),
        figure(Key::Cpu, "start: CPU with children", "s", Goal::None, COLD),
        figure(
            Key::PeakRss,
            "start: peak memory (RSS) with children",
            "MiB",
            goals.memory,
            MEMORY,
        ),
        figure(Key::ApiServerCpu, "start: API server CPU", "s", goals.load, COLD),
        figure(
            Key::Received,
            "start: received from the API server",
            "MB",
            goals.load,
            WIRE,
        ),
    ]
}

fn changes(goals: &Goals, how: &'static str) -> Vec<Figure> {
    vec![
        figure(Key::ChangeP50, "one endpoint changed p50", "ms", goals.p50, how),
        figure(Key::ChangeP99, "one endpoint changed p99", "ms", goals.p99, how),
        figure(
            Key::ChangeCpu,
            "one endpoint changed: CPU with children",
            "ms",
            goals.cpu,
            "",
        ),
        figure(
            Key::ChurnCpu,
            "changes in a row: CPU with children, each",
            "ms",
            Goal::None,
            STEADY,
        ),
        figure(
            Key::ChurnApiServerCpu,
            "changes in a row: API server CPU",
            "s",
            goals.load,
            STEADY,
        ),
        figure(
            Key::ChurnReceived,
            "changes in a row: received from the API server",
            "MB",
            goals.load,
            WIRE,
        ),
        figure(
            Key::FirstUseP50,
            "a number of endpoints used first p50",
            "ms",
            Goal::None,
            FIRST,
        ),
        figure(
            Key::FirstUseMost,
            "a number of endpoints used first, the slowest",
            "ms",
            goals.p99,
            FIRST,
        ),
    ]
}

fn again(goals: &Goals) -> Vec<Figure> {
    vec![
        figure(
            Key::RestartWall,
            "unchanged restart: time",
            "s",
            goals.restart,
            RESTART,
        ),
        figure(
            Key::RestartCpu,
            "unchanged restart: CPU with children",
            "s",
            Goal::None,
            COLD,
        ),
        figure(
            Key::RestartCommits,
            "unchanged restart: transactions",
            "",
            goals.commits,
            COMMITS,
        ),
    ]
}
