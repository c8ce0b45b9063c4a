// SPDX-License-Identifier: Apache-2.0
//! `make bench BENCH=traffic`: connections a second and throughput through each backend, beside kube-proxy in the same mode,
//! beside a plain relay, and beside nothing at all.
//!
//! Each contender has a node of its own, with the same Services from one API server; they take turns. Mode ipvs needs a
//! kernel that has it, which is a guest with an API server of its own: [`guest`].

mod contender;
mod ground;
mod guest;
mod load;
mod relay;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::endpoints::{profile_of, runs_in_words, said_version};
use super::row::{Goal, Row, Setting};
use super::stats::Spread;
use super::usage::load_average;
use crate::peers::Peers;
use contender::{Contender, GUEST_PAIRS, NATIVE, NATIVE_PAIRS, Pair};
use ground::Ground;

pub use guest::GuestArguments;
pub(crate) use guest::inside as in_guest;
pub use relay::RelayArguments;
pub(crate) use relay::relay;

/// What to run.
#[derive(Clone, Debug)]
pub struct TrafficOptions {
    /// How often each contender has its turn.
    pub runs: u32,
    /// How long a turn takes, for each of the two figures.
    pub turn: Duration,
    /// Services that are there beside the measured one.
    pub others: u16,
    /// The build of Berth that is measured; the folder that it is in says by which profile.
    pub berth: PathBuf,
    /// Whether mode ipvs is measured, too: its guest kernel takes minutes to start an API server.
    pub ipvs: bool,
}

impl TrafficOptions {
    /// What is measured unless something else is asked for.
    pub const TURN: Duration = Duration::from_secs(3);
    /// As many Services as a cluster of some size has.
    pub const OTHERS: u16 = 500;
}

/// One contender's turns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Turns {
    connections: Vec<f64>,
    throughput: Vec<f64>,
}

/// What came of all turns in one kernel.
#[derive(Clone, Debug, Default, PartialEq)]
struct Measured {
    turns: BTreeMap<Contender, Turns>,
    log: String,
}

/// Measures everything; also the log of each turn. To be called in the sandbox.
pub(crate) async fn measure(options: &TrafficOptions, say: &impl Fn(&str)) -> Result<(Vec<Row>, String)> {
    let kube_proxy = said_version(&Peers::ensure().await?.kube_proxy, "Kubernetes v")?;
    let in_guest = if options.ipvs {
        let conditions = conditions(options)?;
        let (kernel, measured) = guest::measure(options, say)?;
        Some((measured, format!("{conditions}{}", guest::conditions(&kernel))))
    } else {
        None
    };
    let conditions = conditions(options)? + &own_kernel()?;
    let ground = Ground::start(options, say).await?;
    let measured = take_turns(&ground, &NATIVE, 1, options, say)?;
    let mut rows = rows_of(&NATIVE_PAIRS, &measured, &conditions, &kube_proxy);
    let mut log = measured.log;
    if let Some((measured, conditions)) = in_guest {
        rows.extend(rows_of(&GUEST_PAIRS, &measured, &conditions, &kube_proxy));
        log.push_str(&measured.log);
    }
    Ok((rows, log))
}

/// Everybody's turns, one after the other, run by run. A turn may be cut into so many slices: then the first ones of all
/// runs come before the second ones of any, so that each run meets every mood of the machine.
fn take_turns(
    ground: &Ground,
    contenders: &[Contender],
    slices: u32,
    options: &TrafficOptions,
    say: &impl Fn(&str),
) -> Result<Measured> {
    let mut sums: BTreeMap<(u32, Contender), (f64, f64)> = BTreeMap::new();
    let mut measured = Measured::default();
    for slice in 1..=slices {
        let runs = 1..=options.runs;
        let mut turns: Vec<(u32, Contender)> = runs
            .flat_map(|run| contenders.iter().map(move |contender| (run, *contender)))
            .collect();
        if (slices - slice) % 2 == 1 {
            // Nobody shall always come after the same other.
            turns.reverse();
        }
        for (run, contender) in turns {
            let name = contender.name();
            let turn = ground.turn(contender, options.turn / slices);
            let (connections, throughput) =
                turn.with_context(|| format!("{name}, run {run}; logs in {}", ground.logs().display()))?;
            let sum = sums.entry((run, contender)).or_default();
            *sum = (sum.0 + connections.rate, sum.1 + throughput);
            if connections.failed > 0 {
                let line = format!(
                    "{name}, run {run}: {} connections were not made",
                    connections.failed
                );
                say(&line);
                measured.log.push_str(&line);
                measured.log.push('\n');
            }
            if slice == slices {
                let (connections, throughput) = (sum.0 / f64::from(slices), sum.1 / f64::from(slices));
                let line =
                    format!("{name}, run {run}: {connections:.0} connections/s, {throughput:.2} Gbit/s");
                say(&line);
                measured.log.push_str(&line);
                measured.log.push('\n');
                let turns = measured.turns.entry(contender).or_default();
                turns.connections.push(connections);
                turns.throughput.push(throughput);
            }
        }
    }
    Ok(measured)
}

fn rows_of(pairs: &[Pair], measured: &Measured, conditions: &str, kube_proxy: &str) -> Vec<Row> {
    let of_pair = |pair: &Pair| {
        let setting = Setting {
            conditions: conditions.to_owned(),
            peer_name: pair.peer.as_peer(kube_proxy),
        };
        let [berth, peer] = [pair.berth, pair.peer].map(|side| measured.turns.get(&side));
        rows(pair, berth, peer, &setting)
    };
    pairs.iter().flat_map(of_pair).collect()
}

fn rows(pair: &Pair, berth: Option<&Turns>, peer: Option<&Turns>, setting: &Setting) -> Vec<Row> {
    let figure = |name: &str, unit: &str, goal: Goal, of: fn(&Turns) -> &[f64]| {
        let berth = Spread::of(of(berth?))?;
        let peer = peer.and_then(|peer| Spread::of(of(peer)));
        let row = Row::new(format!("{}: {name}", pair.what), unit, goal, berth, peer, setting);
        Some(row.more_is_better())
    };
    let figures = [
        figure("new connections", "/s", pair.goal, |turns| &turns.connections),
        figure("throughput of one connection", "Gbit/s", Goal::None, |turns| {
            &turns.throughput
        }),
    ];
    figures.into_iter().flatten().collect()
}

/// What is the same in every kernel.
fn conditions(options: &TrafficOptions) -> Result<String> {
    Ok(format!(
        "from a Pod to a ClusterIP with one endpoint on the same node, IPv4, beside {} other Services; {} threads connect, read \
         a byte and reset; {} s a turn; load average {:.1} before the first run; Berth {} ({} build); {}; ",
        options.others,
        load::THREADS,
        options.turn.as_secs_f64(),
        load_average(),
        said_version(&options.berth, "berth ")?,
        profile_of(&options.berth),
        runs_in_words(options.runs),
    ))
}

fn own_kernel() -> Result<String> {
    Ok(format!(
        "Linux {}, {} cores that client, relay and server share",
        kernel_release()?,
        std::thread::available_parallelism()?,
    ))
}

fn kernel_release() -> Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(release.trim().to_owned())
}
