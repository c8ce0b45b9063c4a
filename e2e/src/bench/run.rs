// SPDX-License-Identifier: Apache-2.0
//! One run: a fresh control plane with the data, one contender, everything that it used.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_testkit::process::Process;
use berth_testkit::sandbox;
use kube::Client;

use super::churn::Churn;
use super::dataset::DataSet;
use super::figures::{Key, Values};
use super::observe::Observer;
use super::profile::Profile;
use super::quiet::{collect_garbage, quiet};
use super::scrape::Counters;
use super::stats::percentile;
use super::store::Store;
use super::usage::{Peak, Usage, cpu_of};
use super::wire::{self, Wire};
use crate::controlplane::ControlPlaneConfig;
use crate::stage::{self, Contender, Launch, Stage};

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What is there at the start; nothing to converge on where there are no Services.
    pub(crate) data: DataSet,
    /// What happens after convergence.
    pub(crate) churn: Option<Churn>,
}

/// Who is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) contender: Contender,
    /// The build of Berth.
    pub(crate) berth: &'a Path,
    /// Of the run: its folders and logs.
    pub(crate) name: &'a str,
    /// Where the API server's CPU profile of the churn goes.
    pub(crate) profiles: Option<&'a Path>,
}

/// A slow peer on a slow machine.
const CONVERGENCE: Duration = Duration::from_secs(600);
/// Between two looks whether the contender has ended.
const LOOK: Duration = Duration::from_millis(250);
/// Idle memory is read this long after the last work, as a garbage collector may give some back.
const IDLE: Duration = Duration::from_secs(10);

/// A control plane with the data, ready to be measured on.
struct Ground {
    stage: Stage,
    client: Client,
    apiserver: u32,
    etcd: u32,
    wire: Wire,
}

/// What the servers have done up to some moment.
struct Mark {
    contender_cpu: f64,
    apiserver_cpu: f64,
    etcd_cpu: f64,
    bytes: wire::Bytes,
}

/// Measures one contender once. The log line says what the requests were.
pub(crate) async fn measure(
    plan: Plan,
    subject: Subject<'_>,
    store: &Store,
    say: &impl Fn(&str),
) -> Result<(Values, String)> {
    let folder = Path::new(sandbox::SCRATCH).join(subject.name);
    std::fs::create_dir_all(&folder)?;
    if plan.data.services > 0 {
        store.fill(&plan.data, &folder, say).await?;
    }
    let ground = Ground::prepare(&folder, subject.name).await?;
    let outcome = ground.measure(plan, subject).await;
    let outcome = outcome.with_context(|| format!("logs in {}", ground.stage.logs().display()));
    drop(ground);
    std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    outcome
}

impl Ground {
    async fn prepare(folder: &Path, name: &str) -> Result<Self> {
        let mut config = ControlPlaneConfig::loopback(folder);
        // The contender comes in by an address of its own, see `wire`.
        config.advertise = Some(config.bind);
        config.bind = std::net::Ipv4Addr::UNSPECIFIED.into();
        config.extra_sans = vec![wire::ADDRESS.to_string()];
        config.logs = Some(stage::folder(&format!("bench-{name}"))?);
        let stage = Stage::on(config, None).await?;
        let control_plane = stage.control_plane();
        Ok(Self {
            client: stage.client(),
            apiserver: control_plane.apiserver_pid().context("no API server")?,
            etcd: control_plane.etcd_pid(),
            wire: Wire::count()?,
            stage,
        })
    }

    async fn measure(&self, plan: Plan, subject: Subject<'_>) -> Result<(Values, String)> {
        let (contender, name) = (subject.contender, subject.name);
        let mut values = Values::new();
        let mut observer = Observer::start(&self.client, plan.data.pods_each).await?;
        let before = Counters::read(&self.client).await?;
        self.quiet(None).await?;
        let launch = Launch {
            server: Some(self.url()),
            program: (contender == Contender::Berth).then(|| subject.berth.to_owned()),
            ..Launch::named(name)
        };
        let start = self.mark(None)?;
        let mut process = self.stage.launch(contender, &launch).await?;
        let started = Instant::now();
        let pid = process.pid();
        let anonymous = Peak::of_anonymous(pid);
        if plan.data.services == 0 {
            self.stage.wait_ready(contender, &launch, &mut process).await?;
        } else {
            let converged = converged(&mut observer, &plan.data, &mut process).await?;
            values.insert(Key::Wall, (converged - started).as_secs_f64());
        }
        self.quiet(Some(pid)).await?;
        let usage = Usage::of(pid)?;
        self.used(
            &mut values,
            &start,
            pid,
            [
                Key::Cpu,
                Key::ApiServerCpu,
                Key::EtcdCpu,
                Key::Received,
                Key::Sent,
            ],
        )?;
        values.insert(Key::PeakRss, usage.peak_rss);
        values.insert(Key::PeakAnonymous, anonymous.so_far());
        let after = Counters::read(&self.client).await?;
        let cold = after.since(&before);
        values.insert(Key::Writes, cold.writes());
        let mut log = format!("{name}: cold {}", cold.in_words());
        tokio::time::sleep(IDLE).await;
        let idle = Usage::of(pid)?;
        values.insert(Key::IdleRss, idle.rss);
        values.insert(Key::IdleAnonymous, idle.anonymous);
        if let Some(churn) = plan.churn {
            let observed = (&plan.data, &observer);
            let counted = self.churn(churn, observed, subject, pid, &mut values).await?;
            values.insert(Key::ChurnWrites, counted.since(&after).writes());
            let _ = write!(log, "\n{name}: churn {}", counted.since(&after).in_words());
        }
        if let Some(status) = process.try_wait()? {
            bail!("{contender} has ended ({status}): {}", process.log_end());
        }
        Ok((values, log))
    }

    async fn churn(
        &self,
        churn: Churn,
        (data, observer): (&DataSet, &Observer),
        subject: Subject<'_>,
        pid: u32,
        values: &mut Values,
    ) -> Result<Counters> {
        self.quiet(Some(pid)).await?;
        collect_garbage(&self.client).await?;
        self.quiet(None).await?;
        let profile = subject
            .profiles
            .map(|folder| Profile::begin(&self.client, folder, subject.name));
        let start = self.mark(Some(pid))?;
        let latencies = churn.run(&self.client, data, observer).await?;
        self.quiet(Some(pid)).await?;
        let used = [
            Key::ChurnCpu,
            Key::ChurnApiServerCpu,
            Key::ChurnEtcdCpu,
            Key::ChurnReceived,
            Key::ChurnSent,
        ];
        self.used(values, &start, pid, used)?;
        for (key, latencies, percent) in [
            (Key::SliceP50, &latencies.slices, 50),
            (Key::SliceP99, &latencies.slices, 99),
            (Key::EndpointsP50, &latencies.endpoints, 50),
            (Key::EndpointsP99, &latencies.endpoints, 99),
        ] {
            values.insert(key, percentile(latencies, percent).context("no flips")?);
        }
        if let Some(profile) = profile {
            profile.end().await?;
        }
        Counters::read(&self.client).await
    }

    /// Where the contender finds the API server.
    fn url(&self) -> String {
        format!("https://{}:{}", wire::ADDRESS, self.stage.control_plane().port())
    }

    fn mark(&self, contender: Option<u32>) -> Result<Mark> {
        Ok(Mark {
            contender_cpu: contender.map_or(Ok(0.0), cpu_of)?,
            apiserver_cpu: cpu_of(self.apiserver)?,
            etcd_cpu: cpu_of(self.etcd)?,
            bytes: self.wire.bytes()?,
        })
    }

    /// What was used since a mark: CPU of contender, API server and etcd, bytes both ways.
    fn used(&self, values: &mut Values, since: &Mark, pid: u32, keys: [Key; 5]) -> Result<()> {
        const MB: f64 = 1e6;
        let now = self.mark(Some(pid))?;
        let bytes = now.bytes.since(since.bytes);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let megabytes = |bytes: u64| bytes as f64 / MB;
        let used = [
            now.contender_cpu - since.contender_cpu,
            now.apiserver_cpu - since.apiserver_cpu,
            now.etcd_cpu - since.etcd_cpu,
            megabytes(bytes.received),
            megabytes(bytes.sent),
        ];
        values.extend(BTreeMap::from_iter(keys.into_iter().zip(used)));
        Ok(())
    }

    /// Waits until nobody has anything left to do.
    async fn quiet(&self, contender: Option<u32>) -> Result<()> {
        let pids: Vec<u32> = [self.apiserver, self.etcd].into_iter().chain(contender).collect();
        let sum = || -> Result<f64> { pids.iter().map(|pid| cpu_of(*pid)).sum() };
        quiet(sum).await
    }
}

/// When the last object was seen.
async fn converged(observer: &mut Observer, data: &DataSet, process: &mut Process) -> Result<Instant> {
    let converged = tokio::select! {
        converged = observer.converged(data.services, CONVERGENCE) => converged,
        ended = ended(process) => ended,
    };
    converged.with_context(|| process.log_end())
}

/// A contender that ends is an error at once, not after the deadline.
async fn ended(process: &mut Process) -> Result<Instant> {
    loop {
        if let Some(status) = process.try_wait()? {
            bail!("it has ended ({status})");
        }
        tokio::time::sleep(LOOK).await;
    }
}
