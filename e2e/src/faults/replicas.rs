// SPDX-License-Identifier: Apache-2.0
//! Two replicas: the leader is lost, the other takes over, and never do both write.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use berth_testkit::process::Process;
use berth_testkit::wait::eventually;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Api;
use nix::sys::signal::Signal;

use super::{MAX_ENDPOINTS, Observed, Workload, ground};
use crate::cluster::{PATIENCE, Request};
use crate::interposer::{Interposer, Reach};
use crate::stage::{Contender, Launch, Stage, folder};

/// The defaults: with shorter ones a machine that is swamped takes the Lease from a healthy leader too.
const LEASE_SECONDS: u64 = 15;
const TIMING: [&str; 3] = [
    "--leader-elect-lease-duration=15s",
    "--leader-elect-renew-deadline=10s",
    "--leader-elect-retry-period=2s",
];
/// What an exit for a lost Lease has (runtime's `Code::Identity`).
const LOST: i32 = 5;

/// How the leader is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// kill -9.
    Killed,
    /// SIGSTOP until another leads, then SIGCONT.
    Paused,
    /// Its connections are refused until another leads.
    Refused,
    /// Its packets get lost until another leads.
    Silenced,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Killed, Self::Paused, Self::Refused, Self::Silenced];
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "killed",
            Self::Paused => "paused",
            Self::Refused => "refused",
            Self::Silenced => "silenced",
        })
    }
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    /// Writes that the first leader sent and the API server answered, of any outcome.
    pub first: usize,
    /// Those of the second.
    pub second: usize,
    /// From the first leader's last renewal to the second's acquisition.
    pub gap: Duration,
}

struct Replica {
    launch: Launch,
    process: Process,
    interposer: Interposer,
}

impl Replica {
    async fn start(stage: &Stage, name: &str, admin_port: u16) -> Result<Self> {
        let interposer = Interposer::before(stage.control_plane()).await?;
        let mut extra_flags = vec![format!("--max-endpoints-per-slice={MAX_ENDPOINTS}")];
        extra_flags.extend(TIMING.map(str::to_owned));
        let launch = Launch {
            extra_flags,
            server: Some(interposer.url()),
            leader_elect: true,
            admin_port: Some(admin_port),
            ..Launch::named(name)
        };
        let mut process = stage.launch(Contender::Berth, &launch).await?;
        stage.wait_ready(Contender::Berth, &launch, &mut process).await?;
        Ok(Self {
            launch,
            process,
            interposer,
        })
    }
}

/// Loses the leader in the middle of work.
///
/// # Errors
/// Nobody takes over, both write, or the end is not what the oracle says.
pub async fn succession(loss: Loss, seed: u64) -> Result<Succession> {
    let stage = Stage::start_audited(&folder(&format!("replicas-{loss}"))?, Vec::new()).await?;
    let mut first = Replica::start(&stage, "replica-1", 10_361).await?;
    held_by(&stage, &first).await?;
    let second = Replica::start(&stage, "replica-2", 10_362).await?;
    let mut workload = Workload::begin(&stage.client(), seed).await?;
    workload.release(100);
    tokio::time::timeout(PATIENCE, first.interposer.further_requests(100))
        .await
        .context("the first replica does nothing")?;

    let before = lease(&stage).await?;
    match loss {
        Loss::Killed => drop(first.process.kill()?),
        Loss::Paused => first.process.signal(Signal::SIGSTOP)?,
        Loss::Refused => first.interposer.reach(Reach::Refused),
        Loss::Silenced => first.interposer.reach(Reach::Silent),
    }
    let after = held_by(&stage, &second).await?;
    tokio::time::timeout(PATIENCE, second.interposer.further_requests(20))
        .await
        .context("the second replica does nothing")?;
    match loss {
        Loss::Killed => {}
        Loss::Paused => {
            first.process.signal(Signal::SIGCONT)?;
            gave_up(&mut first.process)?;
        }
        Loss::Refused | Loss::Silenced => {
            first.interposer.reach(Reach::Open);
            gave_up(&mut first.process)?;
        }
    }
    workload.release(60);
    workload.done().await?;
    settle(&stage).await?;
    ensure!(
        after.lease_transitions == before.lease_transitions.map(|count| count + 1),
        "the Lease changed hands more than once: {before:?}, {after:?}"
    );
    stage.nothing_was_forbidden()?;
    let (first, second) = apart(&stage, &first.launch, &second.launch).await?;
    Ok(Succession {
        first,
        second,
        gap: gap(&before, &after)?,
    })
}

impl Succession {
    /// How long a gap is explained: a renewal that followed the look at the Lease, its duration as the other one sees
    /// it, that one's next look. Twice over, since the machine may be busy.
    pub const GAP: Duration = Duration::from_secs(2 * (LEASE_SECONDS + 2));
}

/// A leader that may not write ends, with the code for that.
fn gave_up(process: &mut Process) -> Result<()> {
    let status = process.wait(PATIENCE)?;
    ensure!(
        status.code() == Some(LOST),
        "ended with {status}: {}",
        process.log_end()
    );
    Ok(())
}

async fn lease(stage: &Stage) -> Result<LeaseSpec> {
    let leases: Api<Lease> = Api::namespaced(stage.client(), "berth-system");
    let lease = leases.get("berth-controllers").await?;
    lease.spec.context("a Lease has a spec")
}

/// Waits until a replica holds the Lease.
async fn held_by(stage: &Stage, replica: &Replica) -> Result<LeaseSpec> {
    let wanted = Some(replica.launch.name.as_str());
    let held = eventually(
        format!("the Lease held by {}", replica.launch.name),
        PATIENCE,
        || async {
            let spec = lease(stage).await?;
            ensure!(
                spec.holder_identity.as_deref() == wanted,
                "it is {:?}",
                spec.holder_identity
            );
            Ok(spec)
        },
    );
    held.await.context(replica.process.log_end())
}

fn gap(before: &LeaseSpec, after: &LeaseSpec) -> Result<Duration> {
    let (Some(renewed), Some(acquired)) = (&before.renew_time, &after.acquire_time) else {
        bail!("a Lease without times: {before:?}, {after:?}");
    };
    Ok(acquired.0.duration_since(renewed.0).try_into()?)
}

async fn settle(stage: &Stage) -> Result<()> {
    eventually("everything as the oracle says", PATIENCE * 5, || async {
        let faults = observe(stage).await?.faults();
        ensure!(faults.is_empty(), "{}", faults[..faults.len().min(12)].join("\n"));
        anyhow::Ok(())
    })
    .await?;
    Ok(())
}

async fn observe(stage: &Stage) -> Result<Observed> {
    ground::observe(&stage.client()).await
}

/// Checks that the writes of the two do not interleave; yields how many each sent.
async fn apart(stage: &Stage, first: &Launch, second: &Launch) -> Result<(usize, usize)> {
    let (of_first, of_second) = (stage.credential(first).await?, stage.credential(second).await?);
    let requests = stage.audit()?.requests()?;
    let writes: Vec<&Request> = requests
        .iter()
        .filter(|request| request.is_write() && request.resource() != "leases")
        .collect();
    let of = |credential: &str| -> Vec<&Request> {
        writes
            .iter()
            .copied()
            .filter(|request| request.credential() == Some(credential))
            .collect()
    };
    let (firsts, seconds) = (of(&of_first), of(&of_second));
    let begin = seconds.iter().map(|request| &request.received).min();
    let begin = begin.context("the second replica wrote nothing")?;
    ensure!(!firsts.is_empty(), "the first replica wrote nothing");
    // Answered after it: it was under way when the other began.
    if let Some(late) = firsts.iter().find(|request| request.answered > *begin) {
        bail!(
            "the first replica wrote after the second had begun at {begin:?}: {late} at {:?}",
            late.received
        );
    }
    Ok((firsts.len(), seconds.len()))
}
