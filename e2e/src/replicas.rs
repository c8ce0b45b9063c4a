// SPDX-License-Identifier: Apache-2.0
//! Several `berth controllers` behind one address, as a Service has them: each can be killed and another started.
//!
//! In: a control plane with the shipped RBAC. Out: processes, and an address that API servers call. Touches: loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use berth_testkit::netns::Netns;
use berth_testkit::process::{Process, Spec, binary};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::controlplane::ControlPlane;

const OWN: &str = "berth-system";
const PATIENCE: Duration = Duration::from_secs(60);

/// One process.
struct Replica {
    process: Process,
    name: String,
    admin: SocketAddr,
    admission: SocketAddr,
}

/// Where connections go: any of those that are there.
#[derive(Clone, Default)]
struct Backends {
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Backends {
    fn set(&self, addresses: Vec<SocketAddr>) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    fn in_random_order(&self) -> Vec<SocketAddr> {
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        fastrand::shuffle(&mut addresses);
        addresses
    }

    /// As a proxy whose endpoints follow: what does not listen is passed over.
    async fn relay(self, listener: TcpListener) {
        while let Ok((mut client, _)) = listener.accept().await {
            let backends = self.in_random_order();
            tokio::spawn(async move {
                for backend in backends {
                    if let Ok(mut server) = TcpStream::connect(backend).await {
                        let nodelay = client.set_nodelay(true).and(server.set_nodelay(true));
                        if nodelay.is_ok() {
                            // A connection that breaks is the end of it, on both sides.
                            let _broken = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                        }
                        return;
                    }
                }
            });
        }
    }
}

/// The processes.
pub struct Replicas {
    program: PathBuf,
    kubeconfig: PathBuf,
    folder: PathBuf,
    netns: Netns,
    flags: Vec<String>,
    started: usize,
    running: Vec<Replica>,
    backends: Backends,
    _relay: AbortOnDropHandle<()>,
}

impl Replicas {
    /// Starts so many, which do nothing but serve admission, with these flags besides; logs go into `folder`.
    ///
    /// # Errors
    /// One is not ready in time; the error has the end of its log.
    pub async fn start(
        control_plane: &ControlPlane,
        folder: &Path,
        count: usize,
        flags: &[&str],
    ) -> Result<Self> {
        Self::of(binary("berth", "berth")?, control_plane, folder, count, flags).await
    }

    /// The same, of this build of Berth.
    ///
    /// # Errors
    /// As [`Replicas::start`].
    pub async fn of(
        program: PathBuf,
        control_plane: &ControlPlane,
        folder: &Path,
        count: usize,
        flags: &[&str],
    ) -> Result<Self> {
        let kubeconfig = control_plane
            .service_account_kubeconfig(OWN, "berth-controllers")
            .await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("--admission-url=https://{}", listener.local_addr()?);
        let backends = Backends::default();
        let mut replicas = Self {
            program,
            kubeconfig,
            folder: folder.to_owned(),
            netns: Netns::current("replicas")?,
            flags: std::iter::once(url)
                .chain(flags.iter().map(|flag| (*flag).to_owned()))
                .collect(),
            started: 0,
            running: Vec::new(),
            backends: backends.clone(),
            _relay: AbortOnDropHandle::new(tokio::spawn(backends.relay(listener))),
        };
        for _ in 0..count {
            replicas.launch()?;
        }
        replicas.ready()?;
        Ok(replicas)
    }

    /// Starts another one, and waits for none.
    ///
    /// # Errors
    /// It can't be started.
    pub fn launch(&mut self) -> Result<()> {
        self.started += 1;
        let name = format!("controllers-{}", self.started);
        let log = self.folder.join(format!("{name}.log"));
        let [admin, admission, replica] = free_addresses()?;
        let mut spec = Spec::new(&name, self.program.clone(), &log);
        spec.own_sysfs = false;
        spec.args = vec![
            "controllers".to_owned(),
            "--enable=admission".to_owned(),
            format!("--kubeconfig={}", self.kubeconfig.display()),
            format!("--lease-namespace={OWN}"),
            format!("--identity={name}"),
            format!("--admin-address={admin}"),
            format!("--admission-address={admission}"),
            format!("--replica-address={replica}"),
        ];
        spec.args.extend(self.flags.iter().cloned());
        let process = Process::start(&self.netns, &spec)?;
        self.running.push(Replica {
            process,
            name,
            admin,
            admission,
        });
        self.show();
        Ok(())
    }

    /// Waits until all that run say that they are ready.
    ///
    /// # Errors
    /// With the end of a log.
    pub fn ready(&mut self) -> Result<()> {
        for replica in &mut self.running {
            replica.process.wait_ready(replica.admin, "/readyz", PATIENCE)?;
        }
        Ok(())
    }

    /// `kill -9` of the one at this place, modulo their count.
    ///
    /// # Errors
    /// None runs.
    pub fn kill(&mut self, place: usize) -> Result<String> {
        let place = place.checked_rem(self.running.len()).context("none runs")?;
        let mut replica = self.running.remove(place);
        // It is called until it is gone, and a little longer: whoever balances learns of it later.
        replica.process.kill()?;
        self.show();
        Ok(replica.name)
    }

    /// `kill -9` of all.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill_all(&mut self) -> Result<()> {
        while !self.running.is_empty() {
            self.kill(0)?;
        }
        Ok(())
    }

    /// Starts another one for each that has ended by itself, as the kubelet does: whoever loses the leader's Lease ends.
    ///
    /// # Errors
    /// One can't be started.
    pub fn revive(&mut self) -> Result<()> {
        let mut ended = Vec::new();
        for (place, replica) in self.running.iter_mut().enumerate() {
            if replica.process.try_wait()?.is_some() {
                ended.push(place);
            }
        }
        for place in ended.into_iter().rev() {
            self.running.remove(place);
            self.launch()?;
        }
        Ok(())
    }

    /// How many run.
    pub fn count(&self) -> usize {
        self.running.len()
    }

    /// Where their metrics are.
    pub fn metric_pages(&self) -> Vec<String> {
        let pages = self.running.iter();
        pages
            .map(|replica| format!("http://{}/metrics", replica.admin))
            .collect()
    }

    /// Fails if one has ended by itself.
    ///
    /// # Errors
    /// Names it, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        for replica in &mut self.running {
            if let Some(status) = replica.process.try_wait()? {
                anyhow::bail!(
                    "{} has ended ({status}):\n{}",
                    replica.name,
                    replica.process.log_end()
                );
            }
        }
        Ok(())
    }

    fn show(&self) {
        self.backends
            .set(self.running.iter().map(|replica| replica.admission).collect());
    }
}

/// Free when they were looked for: all held at once, so that they differ.
fn free_addresses() -> Result<[SocketAddr; 3]> {
    let bind = || std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held = [bind()?, bind()?, bind()?];
    let [one, two, three] = &held;
    Ok([one.local_addr()?, two.local_addr()?, three.local_addr()?])
}
