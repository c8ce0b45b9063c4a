// SPDX-License-Identifier: Apache-2.0
//! Berth's processes: one of the controllers, one of each node agent per node.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use berth_testkit::lan::{Lan, Node};
use berth_testkit::netns::Netns;
use berth_testkit::process::{Process, Spec, binary};

use super::{CLUSTER_CIDRS, PATIENCE};
use crate::controlplane::ControlPlane;
use crate::metrics::{Page, http_get};

/// One of Berth's daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `berth controllers`, beside the API server.
    Controllers,
    /// `berth proxy`, on each node.
    Proxy,
    /// `berth announcer`, on each node.
    Announcer,
}

impl Role {
    /// The subcommand.
    pub fn command(self) -> &'static str {
        match self {
            Self::Controllers => "controllers",
            Self::Proxy => "proxy",
            Self::Announcer => "announcer",
        }
    }

    /// The service account of `manifests/base`.
    pub fn service_account(self) -> &'static str {
        match self {
            Self::Controllers => "berth-controllers",
            Self::Proxy => "berth-proxy",
            Self::Announcer => "berth-announcer",
        }
    }

    fn admin_port(self) -> u16 {
        match self {
            Self::Controllers => 10_357,
            Self::Announcer => 10_358,
            // kube-proxy's, the default.
            Self::Proxy => 10_249,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.command())
    }
}

/// Which process: a role, and the node where it is a node's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Daemon {
    /// Its role.
    pub role: Role,
    /// Its node; `None` for the controllers.
    pub node: Option<String>,
}

impl Daemon {
    /// The controllers.
    pub fn controllers() -> Self {
        Self {
            role: Role::Controllers,
            node: None,
        }
    }

    /// The daemon of a role on a node.
    pub fn on(role: Role, node: &Node) -> Self {
        Self {
            role,
            node: Some(node.name().to_owned()),
        }
    }
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{}-{node}", self.role),
            None => write!(f, "{}", self.role),
        }
    }
}

/// Every process of Berth, and how each is started again.
pub struct Daemons {
    program: PathBuf,
    kubeconfigs: BTreeMap<Role, PathBuf>,
    api_server: String,
    logs: PathBuf,
    controllers_flags: Vec<String>,
    running: BTreeMap<Daemon, (Process, Netns)>,
}

impl Daemons {
    /// Gets each role's credentials; starts nothing.
    ///
    /// # Errors
    /// The binary is not built, or a service account is not there.
    pub async fn prepare(
        control_plane: &ControlPlane,
        logs: &Path,
        controllers_flags: Vec<String>,
    ) -> Result<Self> {
        let mut kubeconfigs = BTreeMap::new();
        for role in [Role::Controllers, Role::Proxy, Role::Announcer] {
            let account = role.service_account();
            kubeconfigs.insert(
                role,
                control_plane
                    .service_account_kubeconfig("berth-system", account)
                    .await?,
            );
        }
        Ok(Self {
            program: binary("berth", "berth")?,
            kubeconfigs,
            api_server: control_plane.url(),
            logs: logs.to_owned(),
            controllers_flags,
            running: BTreeMap::new(),
        })
    }

    /// Starts the given roles everywhere and waits until all are ready.
    ///
    /// # Errors
    /// One did not become ready; the error has the end of its log.
    pub async fn start(&mut self, lan: &Lan, roles: &[Role]) -> Result<()> {
        let mut started = Vec::new();
        for role in roles {
            let daemons = match role {
                Role::Controllers => vec![(Daemon::controllers(), lan.router().clone())],
                Role::Proxy | Role::Announcer => lan
                    .nodes()
                    .iter()
                    .map(|node| (Daemon::on(*role, node), node.netns().clone()))
                    .collect(),
            };
            for (daemon, netns) in daemons {
                self.launch(&daemon, &netns)?;
                started.push(daemon);
            }
        }
        for daemon in started {
            self.wait_ready(&daemon)?;
        }
        Ok(())
    }

    /// The command line of a daemon, as the manifests have it but for the credentials.
    pub fn spec(&self, daemon: &Daemon) -> Spec {
        let mut spec = Spec::new(
            &daemon.to_string(),
            self.program.clone(),
            &self.logs.join(format!("{daemon}.log")),
        );
        let role = daemon.role;
        spec.args = vec![
            role.command().to_owned(),
            format!("--kubeconfig={}", self.kubeconfigs[&role].display()),
            format!("--admin-address=127.0.0.1:{}", role.admin_port()),
            "--log-level=info,berth=debug".to_owned(),
        ];
        match (role, &daemon.node) {
            (Role::Controllers, _) => {
                spec.args.push("--lease-namespace=berth-system".to_owned());
                spec.args.push("--identity=controllers-0".to_owned());
                spec.args.extend(self.controllers_flags.iter().cloned());
            }
            (Role::Proxy | Role::Announcer, node) => {
                spec.args
                    .push(format!("--node-name={}", node.as_deref().unwrap_or_default()));
                spec.args.push(format!("--apiserver={}", self.api_server));
            }
        }
        if role == Role::Proxy {
            spec.args.push(format!("--cluster-cidr={CLUSTER_CIDRS}"));
        }
        with_shipped_capabilities(spec, role)
    }

    fn launch(&mut self, daemon: &Daemon, netns: &Netns) -> Result<()> {
        let process = Process::start(netns, &self.spec(daemon))?;
        self.running.insert(daemon.clone(), (process, netns.clone()));
        Ok(())
    }

    /// The running process.
    ///
    /// # Errors
    /// It was never started.
    pub fn process(&mut self, daemon: &Daemon) -> Result<&mut Process> {
        let running = self
            .running
            .get_mut(daemon)
            .with_context(|| format!("{daemon} was never started"))?;
        Ok(&mut running.0)
    }

    /// Waits until the daemon's `/readyz` says so.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn wait_ready(&mut self, daemon: &Daemon) -> Result<()> {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), daemon.role.admin_port());
        self.process(daemon)?.wait_ready(address, "/readyz", PATIENCE)?;
        Ok(())
    }

    /// kill -9.
    ///
    /// # Errors
    /// It was never started.
    pub fn kill(&mut self, daemon: &Daemon) -> Result<()> {
        self.process(daemon)?.kill()?;
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// It does not end.
    pub fn terminate(&mut self, daemon: &Daemon) -> Result<std::process::ExitStatus> {
        Ok(self.process(daemon)?.terminate(PATIENCE)?)
    }

    /// Starts it again where it ran before, without waiting.
    ///
    /// # Errors
    /// It was never started.
    pub fn start_again(&mut self, daemon: &Daemon) -> Result<()> {
        let netns = self.running.get(daemon).map(|running| running.1.clone());
        self.launch(
            daemon,
            &netns.with_context(|| format!("{daemon} was never started"))?,
        )
    }

    /// Every daemon that was started.
    pub fn all(&self) -> Vec<Daemon> {
        self.running.keys().cloned().collect()
    }

    /// Fails if one of them has ended by itself.
    ///
    /// # Errors
    /// Names it, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        for (daemon, (process, _)) in &mut self.running {
            if let Some(status) = process.try_wait()? {
                anyhow::bail!("{daemon} has ended ({status}):\n{}", process.log_end());
            }
        }
        Ok(())
    }

    /// One metric of a daemon as its `/metrics` has it: the sum over all label sets whose text holds `labels`.
    ///
    /// # Errors
    /// The page cannot be read.
    pub fn metric(&self, daemon: &Daemon, name: &str, labels: &str) -> Result<f64> {
        let (_, netns) = self
            .running
            .get(daemon)
            .with_context(|| format!("{daemon} was never started"))?;
        let url = format!("http://127.0.0.1:{}/metrics", daemon.role.admin_port());
        let page = netns.run(|| http_get(&url))??;
        Ok(Page::new(page).sum(name, labels))
    }
}

/// Root with no capability but the one that the DaemonSets of `manifests/base` add.
fn with_shipped_capabilities(spec: Spec, role: Role) -> Spec {
    match role {
        Role::Controllers => spec,
        Role::Proxy => with_capabilities(spec, "-all,+net_admin"),
        Role::Announcer => with_capabilities(spec, "-all,+net_raw"),
    }
}

/// Root with no capabilities but these, as setpriv has them.
pub(crate) fn with_capabilities(mut spec: Spec, only: &str) -> Spec {
    let program = std::mem::replace(&mut spec.program, "setpriv".into());
    spec.args.insert(0, program.display().to_string());
    spec.args.insert(0, format!("--inh-caps={only}"));
    spec.args.insert(0, format!("--bounding-set={only}"));
    spec
}
