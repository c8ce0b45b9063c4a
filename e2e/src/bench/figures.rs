// SPDX-License-Identifier: Apache-2.0
//! What is measured, and of the endpoint controllers what it has to reach (issue 4). Pure.

use std::collections::BTreeMap;

use super::row::{Goal, Row, Setting};
use super::stats::Spread;

/// One measured thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Cpu,
    Wall,
    PeakRss,
    PeakAnonymous,
    IdleRss,
    IdleAnonymous,
    ApiServerCpu,
    EtcdCpu,
    Writes,
    Received,
    Sent,
    SliceP50,
    SliceP99,
    EndpointsP50,
    EndpointsP99,
    ChurnCpu,
    ChurnApiServerCpu,
    ChurnEtcdCpu,
    ChurnWrites,
    ChurnReceived,
    ChurnSent,
    ChangeP50,
    ChangeP99,
    ChangeCpu,
    FirstUseP50,
    FirstUseMost,
    RestartWall,
    RestartCpu,
    RestartCommits,
}

/// What one run gave.
pub(crate) type Values = BTreeMap<Key, f64>;

/// How a figure is shown and judged.
pub(crate) struct Figure {
    pub(crate) key: Key,
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) goal: Goal,
    /// How it was measured, where the name does not say.
    pub(crate) how: &'static str,
}

/// What may be had of the cold start, by the size of the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Goals {
    pub(crate) cpu: Goal,
    pub(crate) wall: Goal,
    pub(crate) peak: Goal,
    /// Requests, bytes, the API server's CPU: what others pay.
    pub(crate) load: Goal,
}

impl Goals {
    /// Issue 4: CPU at most a quarter at 2,000 Services, an eighth at 5,000; memory a tenth; time 0.8.
    pub(crate) fn cold(cpu: f64) -> Self {
        Self {
            cpu: Goal::Ratio(cpu),
            wall: Goal::Ratio(0.8),
            peak: Goal::Ratio(0.1),
            load: NO_MORE,
        }
    }

    /// Where nothing is asked for.
    pub(crate) const NONE: Self = Self {
        cpu: Goal::None,
        wall: Goal::None,
        peak: Goal::None,
        load: Goal::None,
    };
}

const NO_MORE: Goal = Goal::Ratio(1.0);
/// Issue 4.
const IDLE: Goal = Goal::Ratio(0.125);
/// How much more an object may cost among 2.5 times as many and still count as linear.
const LINEAR: f64 = 1.15;

const WIRE: &str = "bytes on the wire with TLS and HTTP, counted by nftables";

pub(super) fn figure(
    key: Key,
    name: &'static str,
    unit: &'static str,
    goal: Goal,
    how: &'static str,
) -> Figure {
    Figure {
        key,
        name,
        unit,
        goal,
        how,
    }
}

/// Every figure of a case. Those that a run does not give have no row.
pub(crate) fn figures(goals: Goals) -> Vec<Figure> {
    let mut figures = start(goals);
    figures.extend(churn());
    figures
}

fn start(goals: Goals) -> Vec<Figure> {
    const COLD: &str = "from the start of the process until all is quiet";
    const SEEN: &str = "from the start of the process until the last Endpoints and EndpointSlice are seen";
    const LOOKED: &str = "RssAnon, looked at every 20 ms";
    const REQUESTS: &str = "apiserver_request_total, whatever the answer";
    const AFTER: &str = "10 s after the last work";
    use Goal::None;
    let Goals {
        cpu,
        wall,
        peak,
        load,
    } = goals;
    vec![
        figure(Key::Cpu, "start: CPU", "s", cpu, COLD),
        figure(Key::Wall, "start: wall time", "s", wall, SEEN),
        figure(Key::PeakRss, "start: peak memory (RSS)", "MiB", peak, "VmHWM"),
        figure(
            Key::PeakAnonymous,
            "start: peak memory (anonymous)",
            "MiB",
            None,
            LOOKED,
        ),
        figure(Key::ApiServerCpu, "start: API server CPU", "s", load, COLD),
        figure(Key::EtcdCpu, "start: etcd CPU", "s", None, COLD),
        figure(Key::Writes, "start: write requests", "", load, REQUESTS),
        figure(
            Key::Received,
            "start: received from the API server",
            "MB",
            load,
            WIRE,
        ),
        figure(Key::Sent, "start: sent to the API server", "MB", None, WIRE),
        figure(Key::IdleRss, "idle: memory (RSS)", "MiB", IDLE, AFTER),
        figure(Key::IdleAnonymous, "idle: memory (anonymous)", "MiB", None, AFTER),
    ]
}

fn churn() -> Vec<Figure> {
    const LATENCY: &str = "from sending the write of a Pod's status until the watch shows the object";
    const REQUESTS: &str = "apiserver_request_total, whatever the answer, without the Pods' own";
    use Goal::None;
    vec![
        figure(Key::SliceP50, "churn: EndpointSlice p50", "ms", None, LATENCY),
        figure(Key::SliceP99, "churn: EndpointSlice p99", "ms", NO_MORE, LATENCY),
        figure(Key::EndpointsP50, "churn: Endpoints p50", "ms", None, LATENCY),
        figure(Key::EndpointsP99, "churn: Endpoints p99", "ms", NO_MORE, LATENCY),
        figure(Key::ChurnCpu, "churn: CPU", "s", None, ""),
        figure(Key::ChurnApiServerCpu, "churn: API server CPU", "s", NO_MORE, ""),
        figure(Key::ChurnEtcdCpu, "churn: etcd CPU", "s", None, ""),
        figure(Key::ChurnWrites, "churn: write requests", "", NO_MORE, REQUESTS),
        figure(
            Key::ChurnReceived,
            "churn: received from the API server",
            "MB",
            NO_MORE,
            WIRE,
        ),
        figure(Key::ChurnSent, "churn: sent to the API server", "MB", None, WIRE),
    ]
}

/// The rows of a case out of both sides' runs.
pub(crate) fn rows(
    case: &str,
    figures: &[Figure],
    berth: &[Values],
    peer: &[Values],
    setting: &Setting,
) -> Vec<Row> {
    let of = |runs: &[Values], key| {
        let values: Vec<f64> = runs.iter().filter_map(|run| run.get(&key).copied()).collect();
        Spread::of(&values)
    };
    let mut rows = Vec::new();
    for figure in figures {
        let Some(ours) = of(berth, figure.key) else {
            continue;
        };
        let conditions = [&setting.conditions, figure.how]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("; ");
        let setting = Setting {
            conditions,
            peer_name: setting.peer_name.clone(),
        };
        rows.push(Row::new(
            format!("{case}, {}", figure.name),
            figure.unit,
            figure.goal,
            ours,
            of(peer, figure.key),
            &setting,
        ));
    }
    rows
}

/// What an object costs in the larger data over what it costs in the smaller: 1 is linear.
pub(crate) fn linearity(small: (&[Values], f64), large: (&[Values], f64)) -> Option<Spread> {
    let cost = |(runs, objects): (&[Values], f64)| {
        let costs: Vec<f64> = runs
            .iter()
            .filter_map(|run| Some(run.get(&Key::Cpu)? / objects))
            .collect();
        Spread::of(&costs)
    };
    let (small, large) = (cost(small)?, cost(large)?);
    Some(Spread {
        median: large.median / small.median,
        min: large.min / small.max,
        max: large.max / small.min,
    })
}

/// The row of [`linearity`].
pub(crate) fn linearity_row(berth: Spread, peer: Option<Spread>, setting: &Setting) -> Row {
    Row::new(
        "start: CPU per Service, 5,000 over 2,000".to_owned(),
        "",
        Goal::AtMost(LINEAR),
        berth,
        peer,
        setting,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> Setting {
        Setting {
            conditions: "here".to_owned(),
            peer_name: "peer".to_owned(),
        }
    }

    #[test]
    fn a_figure_that_was_not_measured_has_no_row() {
        let berth = [Values::from([(Key::Cpu, 1.0)]), Values::from([(Key::Cpu, 3.0)])];
        let peer = [Values::from([(Key::Cpu, 8.0), (Key::Wall, 9.0)])];
        let rows = rows(
            "2,000 x 10",
            &figures(Goals::cold(0.25)),
            &berth,
            &peer,
            &setting(),
        );
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].figure, "2,000 x 10, start: CPU");
        assert_eq!((rows[0].ratio, rows[0].met), (Some(0.25), true));
        assert!(rows[0].conditions.starts_with("here; from the start"));
    }

    #[test]
    fn linear_means_that_an_object_costs_the_same_among_more() {
        let runs = |values: &[f64]| -> Vec<Values> {
            values
                .iter()
                .map(|cpu| Values::from([(Key::Cpu, *cpu)]))
                .collect()
        };
        let (small, large) = (runs(&[2.0, 4.0, 3.0]), runs(&[7.5, 15.0, 9.0]));
        let spread = linearity((&small, 2_000.0), (&large, 5_000.0)).unwrap();
        assert!((spread.median - 1.2).abs() < 1e-9, "{spread:?}");
        assert!(spread.min < spread.median && spread.median < spread.max);
        assert!(!linearity_row(spread, None, &setting()).met);
        assert_eq!(linearity((&[], 1.0), (&large, 1.0)), None);
    }
}
