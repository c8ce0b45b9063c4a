// SPDX-License-Identifier: Apache-2.0
//! `make bench BENCH=proxy`: `berth proxy` beside kube-proxy in nftables mode, in turn.

pub(crate) mod commits;
mod data;
mod node;
mod run;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::endpoints::{profile_of, runs_in_words, said_version};
use super::figures::{self, Figure, Key, Values, figure};
use super::row::{Goal, Row, Setting};
use super::store::{Data, Store};
use super::usage::load_average;
use crate::peers::Peers;
use crate::proxy_peer::launch::Proxy;
use data::ProxyData;
use run::Subject;

/// What is there when a proxy starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProxyCase {
    /// 40 Services x 2 ports x 4 endpoints, to try the benchmark itself
    Tiny,
    /// 2,000 Services x 2 ports x 10 endpoints
    Small,
    /// 10,000 Services x 5 endpoints
    Large,
    /// 50,000 Services x 5 endpoints, Berth alone
    Huge,
}

impl ProxyCase {
    /// What is measured unless something else is asked for.
    pub const DEFAULT: [Self; 2] = [Self::Small, Self::Large];
    /// All of them, by the name on the command line.
    pub const NAMED: [(&'static str, Self); 4] = [
        ("40x2x4", Self::Tiny),
        ("2000x2x10", Self::Small),
        ("10000x5", Self::Large),
        ("50000x5", Self::Huge),
    ];

    fn data(self) -> ProxyData {
        let (services, ports, endpoints) = match self {
            Self::Tiny => (40, 2, 4),
            Self::Small => (2_000, 2, 10),
            Self::Large => (10_000, 1, 5),
            Self::Huge => (50_000, 1, 5),
        };
        ProxyData {
            services,
            ports,
            endpoints,
        }
    }

    fn changes(self) -> u32 {
        match self {
            Self::Tiny => 4,
            Self::Small | Self::Large | Self::Huge => 100,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tiny => "40 x 2 x 4",
            Self::Small => "2,000 x 2 x 10",
            Self::Large => "10,000 x 5",
            Self::Huge => "50,000 x 5",
        }
    }

    /// kube-proxy takes a quarter of an hour for the largest.
    fn contenders(self) -> &'static [Proxy] {
        match self {
            Self::Tiny | Self::Small | Self::Large => &[Proxy::Berth, Proxy::KubeProxyNftables],
            Self::Huge => &[Proxy::Berth],
        }
    }

    /// Issue 5: first sync 5 times faster at 2,000 x 2 x 10 and 15 times at 10,000 x 5, under 10 s at 50,000 x 5.
    fn first_sync(self) -> Goal {
        match self {
            Self::Tiny => Goal::None,
            Self::Small => Goal::Ratio(0.2),
            Self::Large => Goal::Ratio(0.0667),
            Self::Huge => Goal::AtMost(10.0),
        }
    }

    /// Issue 5: changes 10 times faster with a twentieth of the CPU, memory with children a sixth, and nothing more
    /// asked of the API server.
    fn goal(self, ratio: f64) -> Goal {
        match self {
            Self::Tiny | Self::Huge => Goal::None,
            Self::Small | Self::Large => Goal::Ratio(ratio),
        }
    }

    fn figures(self) -> Vec<Figure> {
        const SYNC: &str =
            "from the start of the process until every port of every Service leads to an endpoint";
        const COLD: &str = "from the start of the process until all is quiet";
        const MEMORY: &str = "VmRSS of the process and its children together, looked at every 20 ms";
        const CHANGE: &str = "from the API server's answer to the write until the kernel has committed it, which it \
                              tells itself; one change at a time, 1.3 s apart";
        const WIRE: &str = "bytes on the node's uplink, with TLS and HTTP";
        let even = self.goal(1.0);
        vec![
            figure(Key::Wall, "first sync", "s", self.first_sync(), SYNC),
            figure(Key::Cpu, "start: CPU with children", "s", Goal::None, COLD),
            figure(
                Key::PeakRss,
                "start: peak memory (RSS) with children",
                "MiB",
                self.goal(0.1667),
                MEMORY,
            ),
            figure(Key::ApiServerCpu, "start: API server CPU", "s", even, COLD),
            figure(
                Key::Received,
                "start: received from the API server",
                "MB",
                even,
                WIRE,
            ),
            figure(
                Key::ChangeP50,
                "one endpoint changed p50",
                "ms",
                Goal::None,
                CHANGE,
            ),
            figure(
                Key::ChangeP99,
                "one endpoint changed p99",
                "ms",
                self.goal(0.1),
                CHANGE,
            ),
            figure(
                Key::ChangeCpu,
                "one endpoint changed: CPU with children",
                "ms",
                self.goal(0.05),
                "",
            ),
            figure(Key::ChurnApiServerCpu, "changes: API server CPU", "s", even, ""),
            figure(
                Key::ChurnReceived,
                "changes: received from the API server",
                "MB",
                even,
                WIRE,
            ),
        ]
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

/// Measures everything; also the log of each run. To be called in the sandbox.
pub(crate) async fn measure(options: &ProxyOptions, say: &impl Fn(&str)) -> Result<(Vec<Row>, String)> {
    ensure!(options.runs > 0, "--runs=0: there is nothing to measure");
    let setting = setting(options).await?;
    let store = Store::open(&options.cache)?;
    let (mut rows, mut log) = (Vec::new(), String::new());
    for case in &options.cases {
        let mut measured: BTreeMap<Proxy, Vec<Values>> = BTreeMap::new();
        for run in 1..=options.runs {
            for proxy in case.contenders() {
                let name = format!("{}-{proxy}-{run}", case.name().replace([',', ' '], ""));
                say(&format!(
                    "{}, {proxy}, run {run} of {}",
                    case.name(),
                    options.runs
                ));
                let subject = Subject {
                    proxy: *proxy,
                    berth: &options.berth,
                    name: &name,
                    data: case.data(),
                    changes: case.changes(),
                };
                let values = run::measure(subject, &store, say)
                    .await
                    .with_context(|| name.clone())?;
                say(&format!("  {values:.2?}"));
                log.push_str(&format!("{name}: {values:.4?}\n"));
                measured.entry(*proxy).or_default().push(values);
            }
        }
        let of = |proxy| measured.get(&proxy).map_or(&[][..], Vec::as_slice);
        rows.extend(figures::rows(
            case.name(),
            &case.figures(),
            of(Proxy::Berth),
            of(Proxy::KubeProxyNftables),
            &Setting {
                conditions: format!("{}; {}", case.data().describe(), setting.conditions),
                peer_name: setting.peer_name.clone(),
            },
        ));
    }
    Ok((rows, log))
}

async fn setting(options: &ProxyOptions) -> Result<Setting> {
    let peer = said_version(&Peers::ensure().await?.kube_proxy, "Kubernetes v")?;
    let berth = said_version(&options.berth, "berth ")?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(Setting {
        conditions: format!(
            "Linux {}, {} cores, load average {:.1} before the first run; everything on this machine, etcd without \
             fsync; Berth {berth} ({} build) and kube-apiserver {peer}; upstream's default configuration; {}",
            kernel.trim(),
            std::thread::available_parallelism()?,
            load_average(),
            profile_of(&options.berth),
            runs_in_words(options.runs),
        ),
        peer_name: format!("kube-proxy {peer} (nftables)"),
    })
}
