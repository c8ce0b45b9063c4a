// SPDX-License-Identifier: Apache-2.0
//! `make bench BENCH=proxy`: `berth proxy` beside kube-proxy in the same mode, in turn.

mod change;
pub(crate) mod commits;
mod data;
mod goals;
mod node;
mod restart;
mod run;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::endpoints::{profile_of, runs_in_words, said_version};
use super::figures::{self, Key, Values};
use super::row::{Row, Setting};
use super::stats::Spread;
use super::store::{Data, Store};
use super::usage::load_average;
use crate::peers::Peers;
use crate::proxy_peer::launch::{Proxy, Variant};
use change::Seen;
use data::{Kinds, ProxyData};
use run::Subject;

/// What is there when a proxy starts, and by what it serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProxyCase {
    /// 40 Services x 2 ports x 4 endpoints, to try the benchmark itself
    Tiny,
    /// 1,000 Services x 5 endpoints, Berth alone: what a change costs at the least
    Thousand,
    /// 2,000 Services x 2 ports x 10 endpoints
    Small,
    /// 2,000 Services x 2 ports x 10 endpoints of all kinds, dual stack
    Mixed,
    /// 10,000 Services x 5 endpoints
    Large,
    /// 50,000 Services x 5 endpoints, Berth alone
    Huge,
    /// 2,000 Services x 2 ports x 10 endpoints, iptables of the legacy variant
    Legacy,
    /// 2,000 Services x 2 ports x 10 endpoints, iptables of the nft variant, where kube-proxy needs minutes
    IptablesNft,
}

impl ProxyCase {
    /// What is measured unless something else is asked for.
    pub const DEFAULT: [Self; 6] = [
        Self::Thousand,
        Self::Small,
        Self::Mixed,
        Self::Large,
        Self::Huge,
        Self::Legacy,
    ];
    /// All of them, by the name on the command line.
    pub const NAMED: [(&'static str, Self); 8] = [
        ("40x2x4", Self::Tiny),
        ("1000x5", Self::Thousand),
        ("2000x2x10", Self::Small),
        ("2000x2x10-mixed", Self::Mixed),
        ("10000x5", Self::Large),
        ("50000x5", Self::Huge),
        ("2000x2x10-iptables-legacy", Self::Legacy),
        ("2000x2x10-iptables-nft", Self::IptablesNft),
    ];

    fn data(self) -> ProxyData {
        let (services, ports, endpoints) = match self {
            Self::Tiny => (40, 2, 4),
            Self::Thousand => (1_000, 1, 5),
            Self::Small | Self::Mixed | Self::Legacy | Self::IptablesNft => (2_000, 2, 10),
            Self::Large => (10_000, 1, 5),
            Self::Huge => (50_000, 1, 5),
        };
        let kinds = if self == Self::Mixed {
            Kinds::Mixed
        } else {
            Kinds::Plain
        };
        ProxyData {
            services,
            ports,
            endpoints,
            kinds,
        }
    }

    fn changes(self) -> u32 {
        match self {
            Self::Tiny => 4,
            Self::Thousand | Self::Small | Self::Mixed | Self::Large | Self::Huge => 100,
            Self::Legacy | Self::IptablesNft => 30,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tiny => "40 x 2 x 4",
            Self::Thousand => "1,000 x 5",
            Self::Small => "2,000 x 2 x 10",
            Self::Mixed => "2,000 x 2 x 10 mixed",
            Self::Large => "10,000 x 5",
            Self::Huge => "50,000 x 5",
            Self::Legacy => "2,000 x 2 x 10 iptables-legacy",
            Self::IptablesNft => "2,000 x 2 x 10 iptables-nft",
        }
    }

    fn variant(self) -> Option<Variant> {
        match self {
            Self::Tiny | Self::Thousand | Self::Small | Self::Mixed | Self::Large | Self::Huge => None,
            Self::Legacy => Some(Variant::Legacy),
            Self::IptablesNft => Some(Variant::Nft),
        }
    }

    fn seen(self) -> Seen {
        self.variant().map_or(Seen::ByCommit, |_| Seen::ByTraffic)
    }

    fn berth(self) -> Proxy {
        self.variant().map_or(Proxy::Berth, Proxy::BerthIptables)
    }

    /// kube-proxy takes a quarter of an hour for the largest.
    fn peer(self) -> Option<Proxy> {
        match self {
            Self::Thousand | Self::Huge => None,
            Self::Tiny | Self::Small | Self::Mixed | Self::Large | Self::Legacy | Self::IptablesNft => {
                let iptables = self.variant().map(Proxy::KubeProxyIptables);
                Some(iptables.unwrap_or(Proxy::KubeProxyNftables))
            }
        }
    }

    fn contenders(self) -> impl Iterator<Item = Proxy> {
        std::iter::once(self.berth()).chain(self.peer())
    }

    fn peer_mode(self) -> &'static str {
        match self.variant() {
            None => "nftables",
            Some(Variant::Legacy) => "iptables-legacy",
            Some(Variant::Nft) => "iptables-nft",
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// How often each proxy is measured in each case.
    pub runs: u32,
    /// In this order.
    pub cases: Vec<ProxyCase>,
    /// Where data sets are kept.
    pub cache: PathBuf,
    /// The build of Berth that is measured; the folder that it is in says by which profile.
    pub berth: PathBuf,
}

/// What came of all runs.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) rows: Vec<Row>,
    /// A line for each run.
    pub(crate) log: String,
    /// Of the run that was the last because it failed; what was measured before it stands.
    pub(crate) failure: Option<anyhow::Error>,
}

type Runs = BTreeMap<ProxyCase, BTreeMap<Proxy, Vec<Values>>>;

/// Measures everything. To be called in the sandbox.
pub(crate) async fn measure(options: &ProxyOptions, say: &impl Fn(&str)) -> Result<Outcome> {
    ensure!(options.runs > 0, "--runs=0: there is nothing to measure");
    let setting = setting(options).await?;
    let (mut runs, mut outcome) = (Runs::new(), Outcome::default());
    outcome.failure = run_all(options, &mut runs, &mut outcome.log, say).await.err();
    for (case, measured) in &runs {
        let of = |proxy: Option<Proxy>| {
            let values = proxy.and_then(|proxy| measured.get(&proxy));
            values.map_or(&[][..], Vec::as_slice)
        };
        outcome.rows.extend(figures::rows(
            case.name(),
            &goals::figures(*case),
            of(Some(case.berth())),
            of(case.peer()),
            &setting.of(*case),
        ));
    }
    outcome.rows.extend(flatness(&runs, &setting));
    Ok(outcome)
}

async fn run_all(
    options: &ProxyOptions,
    runs: &mut Runs,
    log: &mut String,
    say: &impl Fn(&str),
) -> Result<()> {
    let store = Store::open(&options.cache)?;
    for case in &options.cases {
        for run in 1..=options.runs {
            for proxy in case.contenders() {
                let name = format!("{}-{proxy}-{run}", case.name().replace([',', ' '], ""));
                say(&format!(
                    "{}, {proxy}, run {run} of {}",
                    case.name(),
                    options.runs
                ));
                let subject = Subject {
                    proxy,
                    berth: &options.berth,
                    name: &name,
                    data: case.data(),
                    changes: case.changes(),
                    seen: case.seen(),
                };
                let values = run::measure(subject, &store, say)
                    .await
                    .with_context(|| name.clone())?;
                say(&format!("  {values:.2?}"));
                log.push_str(&format!("{name}: {values:.4?}\n"));
                runs.entry(*case)
                    .or_default()
                    .entry(proxy)
                    .or_default()
                    .push(values);
            }
        }
    }
    Ok(())
}

/// What a change takes among 50,000 Services over what it takes among 1,000, where both were measured.
fn flatness(measured: &Runs, setting: &Conditions) -> Option<Row> {
    let p99 = |case: ProxyCase| {
        let runs = measured.get(&case)?.get(&case.berth())?.iter();
        let values: Vec<f64> = runs.filter_map(|run| run.get(&Key::ChangeP99).copied()).collect();
        Spread::of(&values)
    };
    let (few, many) = (p99(ProxyCase::Thousand)?, p99(ProxyCase::Huge)?);
    Some(Row::new(
        "one endpoint changed p99, 50,000 over 1,000".to_owned(),
        "",
        goals::FLAT,
        Spread {
            median: many.median / few.median,
            min: many.min / few.max,
            max: many.max / few.min,
        },
        None,
        &setting.of(ProxyCase::Huge),
    ))
}

/// What stays the same over all cases.
struct Conditions {
    text: String,
    /// Of the peer.
    version: String,
}

impl Conditions {
    fn of(&self, case: ProxyCase) -> Setting {
        Setting {
            conditions: format!("{}; {}", case.data().describe(), self.text),
            peer_name: format!("kube-proxy {} ({})", self.version, case.peer_mode()),
        }
    }
}

async fn setting(options: &ProxyOptions) -> Result<Conditions> {
    let peer = said_version(&Peers::ensure().await?.kube_proxy, "Kubernetes v")?;
    let berth = said_version(&options.berth, "berth ")?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(Conditions {
        text: format!(
            "Linux {}, {} cores, load average {:.1} before the first run; everything on this machine, etcd without \
             fsync; Berth {berth} ({} build) and kube-apiserver {peer}; upstream's default configuration; {}",
            kernel.trim(),
            std::thread::available_parallelism()?,
            load_average(),
            profile_of(&options.berth),
            runs_in_words(options.runs),
        ),
        version: peer,
    })
}
