// SPDX-License-Identifier: Apache-2.0
//! Berth measured beside its peers, in one run on one machine: `make bench`.
//!
//! In: release builds of both sides. Out: a table, `target/bench/NAME.json`, a log of what was asked of the API
//! server. Touches: the sandbox, a folder of data sets beside the cached control plane.
//!
//! ```text
//!  dataset --load once--> store --copy--> run: stage + one contender --> figures --> row: table, JSON
//!                                          |  usage (/proc), scrape (/metrics), wire (nftables)
//!                                          |  observe (one watch a kind), churn (readiness flips)
//! ```

mod admission;
mod allocation;
mod churn;
mod dataset;
mod endpoints;
mod figures;
mod observe;
mod profile;
pub(crate) mod proxy;
mod quiet;
mod row;
mod run;
mod scrape;
mod stats;
mod store;
mod traffic;
mod usage;
mod wire;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anstream::{eprintln, println};
use anyhow::{Context, Result};
use berth_testkit::process::binary;
use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

pub use endpoints::{Case, Options};
use row::Row;

pub use admission::AdmissionOptions;
pub use allocation::AllocationOptions;
pub use proxy::{ProxyCase, ProxyOptions};
pub use traffic::{GuestArguments, RelayArguments, TrafficOptions};

/// Which benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Bench {
    /// A Service made with values out of pools, beside one that the API server does not ask about
    Admission,
    /// An address allocated and given back, beside the API server's bitmap
    Allocation,
    /// Endpoints, EndpointSlices and mirroring, beside kube-controller-manager
    Endpoints,
    /// The node proxy, beside kube-proxy in the same mode
    Proxy,
    /// Connections and throughput through each backend, beside kube-proxy's and a plain relay; mode ipvs in a guest kernel,
    /// which takes some minutes
    Traffic,
}

/// A case of one of the benchmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyCase {
    /// Of [`Bench::Endpoints`].
    Endpoints(Case),
    /// Of [`Bench::Proxy`].
    Proxy(ProxyCase),
}

impl AnyCase {
    fn parser() -> impl TypedValueParser<Value = Self> {
        let endpoints = Case::value_variants()
            .iter()
            .filter_map(ValueEnum::to_possible_value);
        let proxy = ProxyCase::NAMED.map(|(name, _)| PossibleValue::new(name));
        let names: Vec<PossibleValue> = endpoints.chain(proxy).collect();
        PossibleValuesParser::new(names).try_map(|name| {
            let of_proxy = ProxyCase::NAMED.iter().find(|(known, _)| *known == name);
            match of_proxy {
                Some((_, case)) => Ok(Self::Proxy(*case)),
                None => Case::from_str(&name, false).map(Self::Endpoints),
            }
        })
    }
}

/// `berth-e2e bench`.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Which to run; all where none is named
    #[arg(value_enum)]
    pub benches: Vec<Bench>,

    /// Runs of each contender in each case
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,

    /// What is there at the start, each of one benchmark; may be given several times. A benchmark that none is given of
    /// runs its usual ones, if it is named
    #[arg(long = "case", value_name = "CASE", value_parser = AnyCase::parser())]
    pub cases: Vec<AnyCase>,

    /// The build of Berth to measure; the one beside this program where absent
    #[arg(long, value_name = "FILE")]
    pub berth: Option<PathBuf>,

    /// Folder for NAME.json and NAME.log; target/bench where absent
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,

    /// Benchmark endpoints: also keep the API server's CPU profile of each churn, as NAME.pprof beside the rest; that
    /// costs the API server some of what is measured
    #[arg(long)]
    pub profile: bool,
}

/// Runs the benchmarks inside the sandbox and prints their tables. A missed goal is in the table, not in the exit code:
/// a busy machine misses some.
///
/// # Errors
/// A benchmark that could not be completed.
pub async fn run(arguments: &Arguments) -> Result<()> {
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None => default_folder()?,
    };
    let berth = match &arguments.berth {
        Some(berth) => berth
            .canonicalize()
            .with_context(|| berth.display().to_string())?,
        None => binary("berth", "berth")?,
    };
    let cache = crate::controlplane::Surroundings::observe().cache_folder()?;
    for bench in arguments.wanted() {
        let path = match bench {
            Bench::Admission => {
                let options = AdmissionOptions {
                    berth: berth.clone(),
                    runs: arguments.runs,
                    creates: AdmissionOptions::CREATES,
                };
                admission(&options, &out).await?
            }
            Bench::Allocation => {
                allocation(&AllocationOptions::beside(&berth, arguments.runs)?, &out).await?
            }
            Bench::Endpoints => {
                let options = Options {
                    berth: berth.clone(),
                    runs: arguments.runs,
                    cases: arguments.endpoints_cases(),
                    cache: cache.clone(),
                    profiles: arguments.profile.then(|| out.clone()),
                };
                endpoints(&options, &out).await?
            }
            Bench::Proxy => {
                let options = ProxyOptions {
                    berth: berth.clone(),
                    runs: arguments.runs,
                    cases: arguments.proxy_cases(),
                    cache: cache.clone(),
                };
                proxy(&options, &out).await?
            }
            Bench::Traffic => {
                let options = TrafficOptions {
                    berth: berth.clone(),
                    runs: arguments.runs,
                    turn: TrafficOptions::TURN,
                    others: TrafficOptions::OTHERS,
                    ipvs: true,
                };
                traffic(&options, &out).await?
            }
        };
        println!("written to {}", path.display());
    }
    Ok(())
}

impl Arguments {
    /// Those named; else those that a case was given of; else all.
    fn wanted(&self) -> Vec<Bench> {
        let given = |bench: &Bench| {
            self.cases.iter().any(|case| match case {
                AnyCase::Endpoints(_) => *bench == Bench::Endpoints,
                AnyCase::Proxy(_) => *bench == Bench::Proxy,
            })
        };
        let is_wanted = |bench: &Bench| match (self.benches.is_empty(), self.cases.is_empty()) {
            (false, _) => self.benches.contains(bench),
            (true, false) => given(bench),
            (true, true) => true,
        };
        Bench::value_variants()
            .iter()
            .copied()
            .filter(is_wanted)
            .collect()
    }

    fn endpoints_cases(&self) -> Vec<Case> {
        let given = self.cases.iter().filter_map(|case| match case {
            AnyCase::Endpoints(case) => Some(*case),
            AnyCase::Proxy(_) => None,
        });
        or_default(given.collect(), &Case::DEFAULT)
    }

    fn proxy_cases(&self) -> Vec<ProxyCase> {
        let given = self.cases.iter().filter_map(|case| match case {
            AnyCase::Proxy(case) => Some(*case),
            AnyCase::Endpoints(_) => None,
        });
        or_default(given.collect(), &ProxyCase::DEFAULT)
    }
}

fn or_default<C: Copy>(given: Vec<C>, default: &[C]) -> Vec<C> {
    if given.is_empty() { default.to_vec() } else { given }
}

/// Runs the benchmark of admission, prints its table and says where its JSON is.
///
/// # Errors
/// It could not be completed.
pub async fn admission(options: &AdmissionOptions, out: &Path) -> Result<PathBuf> {
    let say = progress();
    let (rows, log) = admission::measure(options, &say).await?;
    publish(&rows, &log, out, "admission")
}

/// Runs the benchmark of the allocator, prints its table and says where its JSON is.
///
/// # Errors
/// It could not be completed.
pub async fn allocation(options: &AllocationOptions, out: &Path) -> Result<PathBuf> {
    let say = progress();
    let (rows, log) = allocation::measure(options, &say).await?;
    publish(&rows, &log, out, "allocation")
}

/// Runs the benchmark of the endpoint controllers, prints its table and says where its JSON is.
///
/// # Errors
/// It could not be completed.
pub async fn endpoints(options: &Options, out: &Path) -> Result<PathBuf> {
    let say = progress();
    let (rows, log) = endpoints::measure(options, &say).await?;
    publish(&rows, &log, out, "endpoints")
}

/// Runs the benchmark of the node proxy, prints its table and says where its JSON is.
///
/// # Errors
/// It could not be completed.
pub async fn proxy(options: &ProxyOptions, out: &Path) -> Result<PathBuf> {
    let say = progress();
    let outcome = proxy::measure(options, &say).await?;
    let path = publish(&outcome.rows, &outcome.log, out, "proxy")?;
    match outcome.failure {
        None => Ok(path),
        Some(failure) => Err(failure.context(format!("what was measured before is in {}", path.display()))),
    }
}

/// Runs the benchmark of what passes through each backend, prints its table and says where its JSON is.
///
/// # Errors
/// It could not be completed.
pub async fn traffic(options: &TrafficOptions, out: &Path) -> Result<PathBuf> {
    let say = progress();
    let (rows, log) = traffic::measure(options, &say).await?;
    publish(&rows, &log, out, "traffic")
}

/// Relays until it is killed: a peer of [`traffic`].
///
/// # Errors
/// A port is taken.
pub async fn relay(arguments: &RelayArguments) -> Result<()> {
    traffic::relay(arguments).await
}

/// The part of [`traffic`] that runs in the guest kernel.
///
/// # Errors
/// Outside the guest; whatever did not come up.
pub async fn traffic_in_guest(arguments: &GuestArguments) -> Result<()> {
    traffic::in_guest(arguments).await
}

/// Tells a terminal each step, with the time since now.
fn progress() -> impl Fn(&str) {
    let started = Instant::now();
    move |step: &str| {
        if std::io::stderr().is_terminal() {
            eprintln!("{:>6.0} s  {step}", started.elapsed().as_secs_f64());
        }
    }
}

fn publish(rows: &[Row], log: &str, out: &Path, name: &str) -> Result<PathBuf> {
    let path = out.join(format!("{name}.json"));
    row::store(rows, &path)?;
    let log_path = path.with_extension("log");
    std::fs::write(&log_path, log).with_context(|| log_path.display().to_string())?;
    println!("{}", row::table(rows));
    // Berth alone has no peer: any row says who it was.
    if let Some(row) = rows.iter().find(|row| row.peer_name.is_some()).or(rows.first()) {
        println!(
            "peer: {}\n{}",
            row.peer_name.as_deref().unwrap_or("none"),
            row.conditions
        );
    }
    Ok(path)
}

/// `bench` in the target folder that the running program is in.
fn default_folder() -> Result<PathBuf> {
    let running = std::env::current_exe()?;
    let target = running
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .context("this program is in no target folder: name one by --out")?;
    Ok(target.join("bench"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn a_case_brings_its_benchmark_and_a_named_benchmark_its_usual_cases() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.arguments);
        let both = [Bench::Endpoints, Bench::Proxy];
        let all = Bench::value_variants();
        for (line, wanted, endpoints, proxy) in [
            ("bench", all, &Case::DEFAULT[..], &ProxyCase::DEFAULT[..]),
            (
                "bench allocation",
                &[Bench::Allocation],
                &Case::DEFAULT,
                &ProxyCase::DEFAULT,
            ),
            (
                "bench traffic",
                &[Bench::Traffic],
                &Case::DEFAULT,
                &ProxyCase::DEFAULT,
            ),
            (
                "bench proxy",
                &[Bench::Proxy],
                &Case::DEFAULT,
                &ProxyCase::DEFAULT,
            ),
            (
                "bench --case 10000x5",
                &[Bench::Proxy],
                &Case::DEFAULT,
                &[ProxyCase::Large],
            ),
            (
                "bench endpoints --case 50",
                &[Bench::Endpoints],
                &[Case::Tiny],
                &ProxyCase::DEFAULT,
            ),
            (
                "bench --case empty --case 40x2x4",
                &both,
                &[Case::Empty],
                &[ProxyCase::Tiny],
            ),
        ] {
            let arguments = parse(line).unwrap();
            assert_eq!(arguments.wanted(), wanted, "{line}");
            assert_eq!(arguments.endpoints_cases(), endpoints, "{line}");
            assert_eq!(arguments.proxy_cases(), proxy, "{line}");
        }
        assert!(parse("bench --case 7").is_err());
    }
}
