// SPDX-License-Identifier: Apache-2.0
//! A whole cluster on the test LAN: the real control plane, nodes with Pods, and Berth under the RBAC it ships.
//!
//! In: how many nodes, which of Berth's daemons. Out: a running cluster whose parts can be stopped, killed and
//! restarted one by one. Touches: the sandbox it runs in, and a folder for logs.

mod audit;
mod daemons;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_testkit::kubelet::{Kubelet, Options};
use berth_testkit::lan::{Lan, Node};
use berth_testkit::sandbox;
use berth_testkit::scheduler::Scheduler;
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::Service;
use kube::api::Api;

pub(crate) use audit::CREDENTIAL;
pub use audit::{Audit, Object, Refused, Request};
pub(crate) use daemons::with_capabilities;
pub use daemons::{Daemon, Daemons, Role};

use crate::controlplane::{ControlPlane, ControlPlaneConfig};

/// Generous: the machines are shared, and a debug build starts slowly.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where the API server listens: the LAN's own side of the bridge.
pub const API_SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Pod networks of the test LAN, as `--cluster-cidr` takes them.
pub const CLUSTER_CIDRS: &str = "10.244.0.0/16,fd00:10:244::/48";

/// What to bring up.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// A short name, part of the log folder's path.
    pub name: String,
    /// How many nodes, 1 to 9.
    pub nodes: u8,
    /// Which daemons to start, on every node where they are a node's.
    pub roles: Vec<Role>,
    /// Further flags of the controllers.
    pub controllers_flags: Vec<String>,
}

impl ClusterConfig {
    /// Three nodes with all of Berth.
    pub fn whole(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            nodes: 3,
            roles: vec![Role::Controllers, Role::Proxy, Role::Announcer],
            controllers_flags: Vec::new(),
        }
    }
}

/// A running cluster. Dropping it stops everything; the sandbox's end would, too.
pub struct Cluster {
    /// Berth's own processes. First, so that they end before what they talk to.
    pub daemons: Daemons,
    /// The node agents.
    pub kubelets: Vec<Kubelet>,
    _scheduler: Scheduler,
    /// etcd and kube-apiserver.
    pub control_plane: ControlPlane,
    /// Bridge, nodes and the outside client.
    pub lan: Lan,
    audit: Audit,
    logs: PathBuf,
}

impl Cluster {
    /// Brings everything up and waits until every daemon says that it is ready. `progress` is told each step.
    ///
    /// # Errors
    /// Whatever did not come up, with the place of its log.
    pub async fn start(config: &ClusterConfig, progress: impl Fn(&str)) -> Result<Self> {
        sandbox::require_inside("Cluster::start")?;
        let logs = log_folder(&config.name)?;
        let dir = Path::new(sandbox::SCRATCH).join(&config.name);
        progress("LAN: bridge, nodes, outside client");
        let lan = Lan::builder().nodes(config.nodes).build()?;
        progress("control plane: etcd and kube-apiserver");
        let audit = Audit::prepare(&logs)?;
        let control_plane = ControlPlane::start(ControlPlaneConfig {
            logs: Some(logs.clone()),
            apiserver_flags: audit.apiserver_flags(),
            ..ControlPlaneConfig::lan(&dir, API_SERVER)
        })
        .await?;
        progress("manifests: CRDs, service accounts, roles");
        install(&control_plane).await?;
        progress("node agents");
        let client = control_plane.client();
        let mut kubelets = Vec::new();
        for node in lan.nodes() {
            kubelets.push(
                Kubelet::start(
                    client.clone(),
                    node,
                    Options {
                        logs: logs.join("pods"),
                    },
                )
                .await?,
            );
        }
        let scheduler = Scheduler::start(
            client,
            lan.nodes().iter().map(|node| node.name().to_owned()).collect(),
        );
        progress("Berth: controllers, proxies, announcers");
        let mut daemons = Daemons::prepare(&control_plane, &logs, config.controllers_flags.clone()).await?;
        daemons.start(&lan, &config.roles).await?;
        Ok(Self {
            daemons,
            kubelets,
            _scheduler: scheduler,
            control_plane,
            lan,
            audit,
            logs,
        })
    }

    /// Where every process's log is.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// A client with all rights.
    pub fn client(&self) -> kube::Client {
        self.control_plane.client()
    }

    /// A node by its name.
    ///
    /// # Errors
    /// There is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.lan.node(name).with_context(|| format!("no node {name}"))
    }

    /// Fails if the API server refused one of Berth's requests for lack of rights, or if it saw none of a role that
    /// was started: an audit that watches nobody finds nothing.
    ///
    /// # Errors
    /// Names each refused request, or the role.
    pub fn nothing_was_forbidden(&self) -> Result<()> {
        let requests = self.audit.requests()?;
        for role in self.daemons.all().iter().map(|daemon| daemon.role) {
            let user = format!("system:serviceaccount:berth-system:{}", role.service_account());
            ensure!(
                requests.iter().any(|request| request.user() == user),
                "the audit log has nothing of {user}"
            );
        }
        let refused = self.audit.refused()?;
        ensure!(refused.is_empty(), "the shipped roles lack rights: {refused:?}");
        Ok(())
    }

    /// The address that a Service has been given, once it has one of each family it has a ClusterIP of.
    ///
    /// # Errors
    /// It has none within the deadline.
    pub async fn load_balancer_addresses(&self, namespace: &str, name: &str) -> Result<Vec<IpAddr>> {
        let services: Api<Service> = Api::namespaced(self.client(), namespace);
        let addresses = eventually(
            format!("address of Service {namespace}/{name}"),
            PATIENCE,
            || async {
                let service = services.get(name).await?;
                let wanted = service
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.cluster_ips.as_ref())
                    .map_or(1, Vec::len);
                let found = load_balancer_ips(&service);
                ensure!(
                    found.len() == wanted,
                    "has {found:?}, conditions {:?}",
                    service.status.map(|s| s.conditions)
                );
                anyhow::Ok(found)
            },
        )
        .await?;
        Ok(addresses)
    }
}

/// Applies `manifests/base` and waits until its rights count.
pub(crate) async fn install(control_plane: &ControlPlane) -> Result<()> {
    control_plane
        .apply_kustomize(&repository().join("manifests/base"))
        .await?;
    Ok(control_plane.settle_rbac().await?)
}

/// The LoadBalancer addresses in a Service's status.
pub fn load_balancer_ips(service: &Service) -> Vec<IpAddr> {
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let entries = status
        .and_then(|status| status.ingress.as_ref())
        .into_iter()
        .flatten();
    entries
        .filter_map(|entry| entry.ip.as_ref()?.parse().ok())
        .collect()
}

/// The ClusterIPs of a Service.
pub fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.cluster_ips.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|ip| ip.parse().ok())
        .collect()
}

/// Address and port.
pub fn socket(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

/// The checkout.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A new, empty folder for logs beside the build, outside the sandbox's memory, so that it can be read afterwards.
pub(crate) fn log_folder(name: &str) -> Result<PathBuf> {
    let folder = log_path(name)?;
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("clearing {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

/// Where [`log_folder`] makes it.
pub(crate) fn log_path(name: &str) -> Result<PathBuf> {
    let running = std::env::current_exe()?;
    // target/debug/berth-e2e, or target/debug/deps/e2e-HASH.
    let target = running
        .ancestors()
        .find(|path| path.join("CACHEDIR.TAG").is_file());
    let base = target.map_or_else(std::env::temp_dir, |target| target.join("e2e"));
    Ok(base.join(name))
}
