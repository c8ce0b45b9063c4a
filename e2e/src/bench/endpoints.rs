// SPDX-License-Identifier: Apache-2.0
//! `make bench BENCH=endpoints`: Berth's three controllers beside kube-controller-manager's, in turn.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::churn::Churn;
use super::dataset::DataSet;
use super::figures::{self, Goals, Values};
use super::row::{Row, Setting};
use super::run::{self, Plan, Subject};
use super::store::{Data, Store};
use super::usage::load_average;
use crate::peers::Peers;
use crate::stage::Contender;

/// What is there when a contender starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Case {
    /// An empty cluster
    Empty,
    /// 50 Services x 4 Pods, to try the benchmark itself
    #[value(name = "50")]
    Tiny,
    /// 2,000 Services x 10 Pods
    #[value(name = "2000")]
    Small,
    /// 5,000 Services x 10 Pods
    #[value(name = "5000")]
    Large,
}

impl Case {
    /// What is measured unless something else is asked for.
    pub const DEFAULT: [Self; 3] = [Self::Empty, Self::Small, Self::Large];

    fn plan(self) -> Plan {
        let churn = |flips| {
            Some(Churn {
                flips,
                per_second: 50,
            })
        };
        let (services, pods_each, churn) = match self {
            Self::Empty => (0, 0, None),
            Self::Tiny => (50, 4, churn(25)),
            Self::Small => (2_000, 10, churn(500)),
            Self::Large => (5_000, 10, churn(500)),
        };
        Plan {
            data: DataSet::of(services, pods_each),
            churn,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Tiny => "50 x 4",
            Self::Small => "2,000 x 10",
            Self::Large => "5,000 x 10",
        }
    }

    fn goals(self) -> Goals {
        match self {
            Self::Empty | Self::Tiny => Goals::NONE,
            Self::Small => Goals::cold(0.25),
            Self::Large => Goals::cold(0.125),
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often each contender is measured in each case.
    pub runs: u32,
    /// In this order.
    pub cases: Vec<Case>,
    /// Where data sets are kept.
    pub cache: PathBuf,
    /// The build of Berth that is measured; the folder that it is in says by which profile.
    pub berth: PathBuf,
    /// Where the API server's CPU profiles of the churn go, if any are wanted.
    pub profiles: Option<PathBuf>,
}

type Runs = BTreeMap<Contender, Vec<Values>>;

/// Measures everything; also the log of what the requests were. To be called in the sandbox.
pub(crate) async fn measure(options: &Options, say: &impl Fn(&str)) -> Result<(Vec<Row>, String)> {
    ensure!(options.runs > 0, "--runs=0: there is nothing to measure");
    let surroundings = Surroundings::observe(options).await?;
    let store = Store::open(&options.cache)?;
    if let Some(folder) = &options.profiles {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let mut log = String::new();
    let mut measured: BTreeMap<Case, Runs> = BTreeMap::new();
    for case in &options.cases {
        for run in 1..=options.runs {
            for contender in Contender::ALL {
                let name = format!("{}-{contender}-{run}", case.name().replace([',', ' '], ""));
                say(&format!(
                    "{}, {contender}, run {run} of {}",
                    case.name(),
                    options.runs
                ));
                let subject = Subject {
                    contender,
                    berth: &options.berth,
                    name: &name,
                    profiles: options.profiles.as_deref(),
                };
                let outcome = run::measure(case.plan(), subject, &store, say).await;
                let (values, line) = outcome.with_context(|| name.clone())?;
                say(&format!("  {values:.2?}"));
                log.push_str(&format!("{line}\n{name}: {values:.4?}\n"));
                let runs = measured.entry(*case).or_default();
                runs.entry(contender).or_default().push(values);
            }
        }
    }
    Ok((rows(options, &measured, &surroundings), log))
}

fn rows(options: &Options, measured: &BTreeMap<Case, Runs>, surroundings: &Surroundings) -> Vec<Row> {
    let of = |case: Case, contender| -> &[Values] {
        let runs = measured.get(&case).and_then(|runs| runs.get(&contender));
        runs.map_or(&[], Vec::as_slice)
    };
    let mut rows = Vec::new();
    for case in &options.cases {
        rows.extend(figures::rows(
            case.name(),
            &figures::figures(case.goals()),
            of(*case, Contender::Berth),
            of(*case, Contender::KubeControllerManager),
            &surroundings.setting(&case.plan().data.describe()),
        ));
    }
    let linearity = |contender| {
        let runs = |case: Case| (of(case, contender), f64::from(case.plan().data.services));
        figures::linearity(runs(Case::Small), runs(Case::Large))
    };
    if let Some(berth) = linearity(Contender::Berth) {
        let setting = surroundings.setting("both data sets");
        rows.push(figures::linearity_row(
            berth,
            linearity(Contender::KubeControllerManager),
            &setting,
        ));
    }
    rows
}

/// Machine and versions, for the conditions of every row.
struct Surroundings {
    text: String,
    peer_name: String,
}

impl Surroundings {
    async fn observe(options: &Options) -> Result<Self> {
        let peers = Peers::ensure().await?;
        let peer = said_version(&peers.kube_controller_manager, "Kubernetes v")?;
        let berth = said_version(&options.berth, "berth ")?;
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let (profile, runs) = (profile_of(&options.berth), runs_in_words(options.runs));
        Ok(Self {
            text: format!(
                "Linux {}, {} cores, load average {:.1} before the first run; everything on this machine, etcd \
                 without fsync; Berth {berth} ({profile} build) and kube-apiserver {peer}; no leader election on \
                 either side, the peer without client-side limits; {runs}",
                kernel.trim(),
                std::thread::available_parallelism()?,
                load_average(),
            ),
            peer_name: format!("kube-controller-manager {peer}"),
        })
    }

    fn setting(&self, data: &str) -> Setting {
        Setting {
            conditions: format!("{data}; {}", self.text),
            peer_name: self.peer_name.clone(),
        }
    }
}

/// The profile that a program was built by: the name of its folder.
pub(super) fn profile_of(program: &Path) -> String {
    let profile = program.parent().and_then(Path::file_name);
    profile.unwrap_or_default().to_string_lossy().into_owned()
}

pub(super) fn runs_in_words(runs: u32) -> String {
    match runs {
        1 => "1 run each".to_owned(),
        runs => format!("{runs} runs each, in turn, medians"),
    }
}

pub(super) fn said_version(program: &Path, before: &str) -> Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| program.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let version = said.strip_prefix(before).map(str::to_owned);
    version.with_context(|| format!("{} --version said {said:?}", program.display()))
}
