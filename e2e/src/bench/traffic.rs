// SPDX-License-Identifier: Apache-2.0
//! `make bench BENCH=traffic`: connections a second and throughput through each backend, beside kube-proxy in the same mode,
//! beside a plain relay, and beside nothing at all.
//!
//! Each contender has a node of its own, with the same Services from one API server; they take turns.

mod ground;
mod load;
mod relay;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::endpoints::{profile_of, runs_in_words, said_version};
use super::row::{Goal, Row, Setting};
use super::stats::Spread;
use super::usage::load_average;
use crate::peers::Peers;
use crate::proxy_peer::launch::{Proxy, Variant};
use ground::Ground;

pub use relay::RelayArguments;
pub(crate) use relay::relay;

/// Who stands between a client and the Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Contender {
    /// Nobody: the client knows the Pod's address.
    Nobody,
    /// A proxy's rules.
    Rules(Proxy),
    /// Berth's own relays.
    Userspace,
    /// [`relay`], which the client connects to by itself.
    PlainRelay,
}

/// In the order in which they take turns.
const CONTENDERS: [Contender; 7] = [
    Contender::Nobody,
    Contender::Rules(Proxy::Berth),
    Contender::Rules(Proxy::KubeProxyNftables),
    Contender::Rules(Proxy::BerthIptables(Variant::Nft)),
    Contender::Rules(Proxy::KubeProxyIptables(Variant::Nft)),
    Contender::Userspace,
    Contender::PlainRelay,
];

/// Who is compared with whom, and what that is called.
const PAIRS: [(&str, Contender, Contender); 4] = [
    (
        "nftables beside kube-proxy's",
        Contender::Rules(Proxy::Berth),
        Contender::Rules(Proxy::KubeProxyNftables),
    ),
    (
        "nftables beside no proxy",
        Contender::Rules(Proxy::Berth),
        Contender::Nobody,
    ),
    (
        "iptables-nft beside kube-proxy's",
        Contender::Rules(Proxy::BerthIptables(Variant::Nft)),
        Contender::Rules(Proxy::KubeProxyIptables(Variant::Nft)),
    ),
    (
        "user-space beside a plain relay",
        Contender::Userspace,
        Contender::PlainRelay,
    ),
];

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Rules(proxy) => proxy.name(),
            Self::Userspace => "berth-userspace",
            Self::PlainRelay => "plain-relay",
        }
    }

    fn as_peer(self, kube_proxy: &str) -> String {
        match self {
            Self::Nobody => "none: straight to the Pod".to_owned(),
            Self::PlainRelay => "a plain relay (tokio's copy_bidirectional), straight to it".to_owned(),
            Self::Rules(Proxy::KubeProxyNftables) => format!("kube-proxy {kube_proxy} (nftables)"),
            Self::Rules(Proxy::KubeProxyIptables(Variant::Nft)) => {
                format!("kube-proxy {kube_proxy} (iptables-nft)")
            }
            Self::Rules(Proxy::KubeProxyIptables(Variant::Legacy)) => {
                format!("kube-proxy {kube_proxy} (iptables-legacy)")
            }
            Self::Rules(Proxy::Berth | Proxy::BerthIptables(_)) | Self::Userspace => self.name().to_owned(),
        }
    }
}

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
}

impl TrafficOptions {
    /// What is measured unless something else is asked for.
    pub const TURN: Duration = Duration::from_secs(3);
    /// As many Services as a cluster of some size has.
    pub const OTHERS: u16 = 500;
}

/// One contender's turns.
#[derive(Clone, Debug, Default)]
struct Turns {
    connections: Vec<f64>,
    throughput: Vec<f64>,
}

/// Measures everything; also the log of each turn. To be called in the sandbox.
pub(crate) async fn measure(options: &TrafficOptions, say: &impl Fn(&str)) -> Result<(Vec<Row>, String)> {
    let conditions = conditions(options)?;
    let kube_proxy = said_version(&Peers::ensure().await?.kube_proxy, "Kubernetes v")?;
    let ground = Ground::start(options, say).await?;
    let mut log = String::new();
    let mut measured: BTreeMap<Contender, Turns> = BTreeMap::new();
    for run in 1..=options.runs {
        for contender in CONTENDERS {
            let name = contender.name();
            let turn = ground.turn(contender, options.turn).await;
            let (connections, throughput) =
                turn.with_context(|| format!("{name}, run {run}; logs in {}", ground.logs().display()))?;
            let line = format!("{name}, run {run}: {connections:.0} connections/s, {throughput:.2} Gbit/s");
            say(&line);
            log.push_str(&line);
            log.push('\n');
            let turns = measured.entry(contender).or_default();
            turns.connections.push(connections);
            turns.throughput.push(throughput);
        }
    }
    let rows = PAIRS.iter().flat_map(|(what, berth, peer)| {
        let setting = Setting {
            conditions: conditions.clone(),
            peer_name: peer.as_peer(&kube_proxy),
        };
        rows(what, measured.get(berth), measured.get(peer), &setting)
    });
    Ok((rows.collect(), log))
}

fn rows(what: &str, berth: Option<&Turns>, peer: Option<&Turns>, setting: &Setting) -> Vec<Row> {
    let figure = |name: &str, unit: &str, of: fn(&Turns) -> &[f64]| {
        let berth = Spread::of(of(berth?))?;
        let peer = peer.and_then(|peer| Spread::of(of(peer)));
        let row = Row::new(format!("{what}: {name}"), unit, Goal::None, berth, peer, setting);
        Some(row.more_is_better())
    };
    let figures = [
        figure("new connections", "/s", |turns| &turns.connections),
        figure("throughput of one connection", "Gbit/s", |turns| {
            &turns.throughput
        }),
    ];
    figures.into_iter().flatten().collect()
}

fn conditions(options: &TrafficOptions) -> Result<String> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!(
        "from a Pod to a ClusterIP with one endpoint on the same node, IPv4, beside {} other Services; {} threads connect, read \
         a byte and reset; {} s a turn; Linux {}, {} cores that client, relay and server share, load average {:.1} before the \
         first run; Berth {} ({} build); {}",
        options.others,
        load::THREADS,
        options.turn.as_secs_f64(),
        kernel.trim(),
        std::thread::available_parallelism()?,
        load_average(),
        said_version(&options.berth, "berth ")?,
        profile_of(&options.berth),
        runs_in_words(options.runs),
    ))
}
