// SPDX-License-Identifier: Apache-2.0
//! Replicas that hand out values, on the real API server's Lease and real connections: killed, told to leave, and with the
//! API server away.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_controllers_core::holder::Outcome;
use berth_controllers_manager::handout::{Handout, LeaseStore, Secure, Shell, Sites};
use berth_e2e::controlplane::{Binaries, ControlPlane, ControlPlaneConfig};
use berth_e2e::stage;
use berth_testkit::wait::eventually;
use berth_testkit::{in_sandbox_async, sandbox};
use kube::config::{KubeConfigOptions, Kubeconfig};
use numbers::{Numbers, Store, show};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

mod numbers;

/// For a state to come about.
const PATIENCE: Duration = Duration::from_secs(60);
/// What an API server waits for a webhook, less what is on the way.
const WITHIN: Duration = Duration::from_secs(9);

/// What is under test are the replicas: connections are as they come.
struct Plain;

impl Secure for Plain {
    type Stream = TcpStream;

    async fn client(&self, tcp: TcpStream) -> std::io::Result<TcpStream> {
        Ok(tcp)
    }

    async fn server(&self, tcp: TcpStream) -> std::io::Result<TcpStream> {
        Ok(tcp)
    }
}

/// A replica with a runtime of its own, which is all that a `kill -9` takes away from the others' view.
struct Process {
    handout: Handout<Numbers>,
    stop: CancellationToken,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Process {
    async fn start(name: &str, kubeconfig: &Path, store: &Store, size: u32) -> Result<Self> {
        let (started, starts) = oneshot::channel();
        let (kill, killed) = oneshot::channel::<()>();
        let stop = CancellationToken::new();
        let (name, kubeconfig, store, stops) = (
            name.to_owned(),
            kubeconfig.to_owned(),
            store.clone(),
            stop.clone(),
        );
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let (shell, handout) = match shell(&name, &kubeconfig, &store, size).await {
                    Ok(parts) => parts,
                    Err(error) => {
                        let _gone = started.send(Err(error));
                        return;
                    }
                };
                let _gone = started.send(Ok(handout));
                tokio::select! {
                    () = shell.run(stops) => {}
                    _ = killed => {}
                }
            });
        });
        let handout = starts.await.context("the replica's thread ended")??;
        Ok(Self {
            handout,
            stop,
            kill: Some(kill),
            thread: Some(thread),
        })
    }

    /// Everything that it has is gone at once; its kernel closes the connections.
    fn kill(mut self) {
        self.kill.take();
    }

    async fn leave(mut self) -> Result<()> {
        self.stop.cancel();
        let thread = self.thread.take().context("it has a thread")?;
        let ended = tokio::task::spawn_blocking(move || thread.join());
        ended.await?.map_err(|_| anyhow::anyhow!("the replica panicked"))
    }

    async fn holds(&self) -> bool {
        self.handout.look(|replica, _| replica.is_holder()).await == Some(true)
    }
}

async fn shell(
    name: &str,
    kubeconfig: &Path,
    store: &Store,
    size: u32,
) -> Result<(Shell<Numbers, Plain>, Handout<Numbers>)> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = kube::Client::try_from(config)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let sites = Sites {
        address: listener.local_addr()?.to_string(),
        listener,
        secure: Plain,
        lease: LeaseStore::new(client, "default", "numbers"),
    };
    let listed = store.clone();
    let refresh = Box::new(move || {
        let change = listed.list();
        Box::pin(async move { change }) as futures::future::BoxFuture<'static, _>
    });
    Ok(Shell::new(name, Numbers::of(size), refresh, sites))
}

/// Some replicas, and the store that they all watch.
struct Replicas {
    kubeconfig: PathBuf,
    store: Store,
    size: u32,
    started: usize,
    running: Vec<Process>,
}

impl Replicas {
    async fn start(control_plane: &ControlPlane, count: usize, size: u32) -> Result<Self> {
        let mut this = Self {
            kubeconfig: control_plane.admin_kubeconfig(),
            store: Store::default(),
            size,
            started: 0,
            running: Vec::new(),
        };
        for _ in 0..count {
            this.add().await?;
        }
        this.settled().await?;
        Ok(this)
    }

    async fn add(&mut self) -> Result<()> {
        self.started += 1;
        let name = format!("replica-{}", self.started);
        let process = Process::start(&name, &self.kubeconfig, &self.store, self.size).await?;
        self.running.push(process);
        Ok(())
    }

    /// Until every replica gets an answer, a number or that none is left.
    async fn settled(&self) -> Result<()> {
        for process in &self.running {
            let handout = process.handout.clone();
            let answers = async || match self.ask(&handout).await {
                Outcome::Granted(_) | Outcome::Refused(_) => Ok(()),
                Outcome::Unavailable => Err("no answer"),
            };
            eventually(format!("{} answers", handout.id()), PATIENCE, answers).await?;
        }
        Ok(())
    }

    /// Asks, writes down what comes of it, and lets all watches show it.
    async fn ask(&self, handout: &Handout<Numbers>) -> Outcome<u32, String> {
        let outcome = handout.ask((), WITHIN).await;
        if let Outcome::Granted(number) = outcome {
            self.store.write(number);
            for process in &self.running {
                process
                    .handout
                    .change(move |replica, _| show(replica, number))
                    .await;
            }
        }
        outcome
    }

    async fn holder(&self) -> Result<usize> {
        let one_holds = async || {
            for (index, process) in self.running.iter().enumerate() {
                if process.holds().await {
                    return Ok(index);
                }
            }
            Err("nobody holds")
        };
        Ok(eventually("a holder", PATIENCE, one_holds).await?)
    }

    fn no_number_twice(&self) -> Result<()> {
        let twice = self.store.twice();
        ensure!(twice.is_empty(), "given twice: {twice:?}");
        Ok(())
    }
}

/// Granted, refused and unanswered.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    granted: usize,
    refused: usize,
    unavailable: usize,
}

/// So many clients at once, each of which asks so often, at the replicas in turn.
async fn storm(replicas: &Replicas, clients: usize, each: usize) -> Tally {
    let ask = async |client: usize| {
        let mut tally = Tally::default();
        for turn in 0..each {
            let process = &replicas.running[(client + turn) % replicas.running.len()];
            match replicas.ask(&process.handout).await {
                Outcome::Granted(_) => tally.granted += 1,
                Outcome::Refused(_) => tally.refused += 1,
                Outcome::Unavailable => tally.unavailable += 1,
            }
        }
        tally
    };
    let tallies = futures::future::join_all((0..clients).map(ask)).await;
    let mut sum = Tally::default();
    for tally in tallies {
        sum.granted += tally.granted;
        sum.refused += tally.refused;
        sum.unavailable += tally.unavailable;
    }
    sum
}

async fn control_plane(name: &str) -> Result<ControlPlane> {
    let config = ControlPlaneConfig {
        logs: Some(stage::folder(name)?),
        ..ControlPlaneConfig::loopback(Path::new(sandbox::SCRATCH).join(name))
    };
    Ok(ControlPlane::start(config).await?)
}

#[expect(clippy::unwrap_used, reason = "a test fails by a panic, its helpers too")]
fn prepare() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().unwrap();
    }
}

#[test]
fn a_hundred_clients_of_three_replicas_get_each_number_once_and_the_last_one_too() {
    prepare();
    in_sandbox_async!(async {
        let control_plane = control_plane("handout-storm").await?;
        let replicas = Replicas::start(&control_plane, 3, 1_500).await?;
        let before = replicas.store.count();
        let tally = storm(&replicas, 100, 20).await;
        replicas.no_number_twice()?;
        let expected = Tally {
            granted: 1_500 - before,
            refused: 500 + before,
            unavailable: 0,
        };
        ensure!(tally == expected, "{tally:?}, not {expected:?}");
        anyhow::Ok(())
    });
}

#[test]
fn a_holder_that_is_killed_is_followed_by_one_that_knows_what_was_given() {
    prepare();
    in_sandbox_async!(async {
        let control_plane = control_plane("handout-kill").await?;
        let mut replicas = Replicas::start(&control_plane, 3, 100_000).await?;
        for _ in 0..6 {
            let holder = replicas.holder().await?;
            // Those that are asked while it is killed are asked at the others, which are to answer all the same.
            let killed = replicas.running.remove(holder);
            let (tally, ()) = futures::join!(storm(&replicas, 20, 20), async { killed.kill() });
            replicas.no_number_twice()?;
            ensure!(
                tally.granted == 400,
                "{tally:?}: nobody is refused, or waits for a Lease to expire"
            );
            replicas.add().await?;
            replicas.settled().await?;
        }
        anyhow::Ok(())
    });
}

#[test]
fn a_holder_that_leaves_gives_the_lease_back() {
    prepare();
    in_sandbox_async!(async {
        let control_plane = control_plane("handout-leave").await?;
        let mut replicas = Replicas::start(&control_plane, 2, 1_000).await?;
        let holder = replicas.holder().await?;
        let leaving = replicas.running.remove(holder);
        let (tally, left) = futures::join!(storm(&replicas, 10, 10), leaving.leave());
        left?;
        ensure!(tally.granted == 100, "{tally:?}");
        // The last one: whoever starts next needs to wait for nobody.
        if let Some(last) = replicas.running.pop() {
            last.leave().await?;
        }
        let lease = control_plane
            .kubectl(&["get", "lease", "numbers", "-o", "jsonpath={.spec.holderIdentity}"])
            .await?;
        ensure!(lease.is_empty(), "held by {lease}");
        replicas.add().await?;
        replicas.settled().await?;
        replicas.no_number_twice()
    });
}

#[test]
fn while_the_api_server_is_away_answers_go_on_until_the_lease_could_be_anothers() {
    prepare();
    in_sandbox_async!(async {
        let mut control_plane = control_plane("handout-away").await?;
        let replicas = Replicas::start(&control_plane, 3, 100_000).await?;
        control_plane.kill_apiserver();
        let tally = storm(&replicas, 10, 10).await;
        ensure!(tally.granted == 100, "{tally:?}: right after");
        let handout = &replicas.running[0].handout;
        let gone = Instant::now();
        while !matches!(replicas.ask(handout).await, Outcome::Unavailable) {
            if gone.elapsed() > PATIENCE {
                bail!("numbers are given though nobody can say whose the Lease is");
            }
        }
        control_plane.start_apiserver().await?;
        replicas.settled().await?;
        let tally = storm(&replicas, 10, 10).await;
        ensure!(tally.granted == 100, "{tally:?}: when it is back");
        replicas.no_number_twice()
    });
}
