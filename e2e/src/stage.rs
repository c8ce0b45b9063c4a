// SPDX-License-Identifier: Apache-2.0
//! A control plane on loopback with nothing else, and the contenders that are compared on it: Berth's three
//! controllers of Endpoints and EndpointSlices, and kube-controller-manager's.
//!
//! In: flags. Out: processes that can be stopped, killed and held, who wrote what. Touches: the sandbox it runs in,
//! a folder for logs.
//!
//! ```text
//!   etcd, kube-apiserver  <--- berth controllers            as system:serviceaccount:berth-system:berth-controllers
//!      |  audit.log       <--- kube-controller-manager      as system:serviceaccount:kube-system:NAME
//!      |                  <--- its collectors (namespaces, garbage), where a test needs them
//! ```

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use berth_testkit::netns::Netns;
use berth_testkit::process::{Process, Spec, binary};
use berth_testkit::sandbox;
use berth_testkit::wait::eventually;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::{Api, PostParams};

use crate::cluster::{self, Audit, PATIENCE};
use crate::controlplane::{Access, ControlPlane, ControlPlaneConfig};
use crate::metrics::Page;
use crate::peers::Peers;

/// The service accounts of `manifests/base` and of [`Stage::start`], namespace and name.
const BERTH: (&str, &str) = ("berth-system", "berth-controllers");
const PEER: (&str, &str) = ("kube-system", "kube-controller-manager");
const COLLECTORS: (&str, &str) = ("kube-system", "collectors");
/// Of kube-proxy, with the rights that a cluster gives it.
pub(crate) const KUBE_PROXY: (&str, &str) = ("kube-system", "kube-proxy");
/// Of `berth proxy`, in `manifests/base`.
pub(crate) const BERTH_PROXY: (&str, &str) = ("berth-system", "berth-proxy");

/// A program that keeps Endpoints and EndpointSlices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Contender {
    /// `berth controllers --enable=endpoints,endpointslices,mirroring`, with the rights that its manifests give it.
    Berth,
    /// kube-controller-manager with the same three controllers, with all rights.
    KubeControllerManager,
}

impl Contender {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Berth, Self::KubeControllerManager];

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Berth => Self::KubeControllerManager,
            Self::KubeControllerManager => Self::Berth,
        }
    }

    /// As `metadata.managedFields[].manager` has it.
    pub fn field_manager(self) -> &'static str {
        match self {
            Self::Berth => "berth-controllers",
            Self::KubeControllerManager => "kube-controller-manager",
        }
    }

    /// As the audit log has it.
    pub fn user(self) -> String {
        match self {
            Self::Berth => user(BERTH),
            Self::KubeControllerManager => user(PEER),
        }
    }

    /// Where `/metrics` is, unless [`Launch::admin_port`] says otherwise.
    pub fn default_admin_port(self) -> u16 {
        match self {
            Self::Berth => 10_357,
            Self::KubeControllerManager => 10_257,
        }
    }

    fn account(self) -> (&'static str, &'static str) {
        match self {
            Self::Berth => BERTH,
            Self::KubeControllerManager => PEER,
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Berth => "berth",
            Self::KubeControllerManager => "kube-controller-manager",
        })
    }
}

/// How a contender is started.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Of the process, its log file, its kubeconfig and its identity in the Lease: one per process.
    pub name: String,
    /// Another build of it than the one beside the running program.
    pub program: Option<PathBuf>,
    /// Last on its command line.
    pub extra_flags: Vec<String>,
    /// Another address than the API server's own, as that of a proxy in front of it: `https://127.0.0.1:PORT`.
    pub server: Option<String>,
    /// The authority (PEM) of that address's certificate, if it is not the control plane's.
    pub authority_pem: Option<String>,
    /// Whether it has to win a Lease before it writes. Without, it writes from the start.
    pub leader_elect: bool,
    /// Port of `/metrics` on 127.0.0.1, where two of a kind run at once.
    pub admin_port: Option<u16>,
}

impl Launch {
    /// Without further flags, against the API server itself, writing from the start.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    fn admin(&self, contender: Contender) -> SocketAddr {
        let port = self.admin_port.unwrap_or_else(|| contender.default_admin_port());
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
    }
}

/// A control plane that contenders are started beside. Dropping it ends the control plane.
pub struct Stage {
    control_plane: ControlPlane,
    audit: Option<Audit>,
    netns: Netns,
    logs: PathBuf,
}

impl Stage {
    /// Starts the control plane and gives each contender its rights; starts no contender. `folder` gets the logs and
    /// is made where it does not exist ([`folder`] makes one that outlives the sandbox); the data is in memory.
    ///
    /// # Errors
    /// Outside the sandbox; whatever did not come up, with the place of its log.
    pub async fn start(folder: &Path, apiserver_flags: Vec<String>) -> Result<Self> {
        Self::start_with(folder, apiserver_flags, None).await
    }

    /// As [`Stage::start`], with a log of every request of the contenders and the collectors: [`Stage::audit`].
    ///
    /// # Errors
    /// As there.
    pub async fn start_audited(folder: &Path, mut apiserver_flags: Vec<String>) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let users = [BERTH, PEER, COLLECTORS].map(user);
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        let audit = Audit::of_users(&std::path::absolute(folder)?, &users)?;
        apiserver_flags.extend(audit.apiserver_flags());
        Self::start_with(folder, apiserver_flags, Some(audit)).await
    }

    async fn start_with(folder: &Path, apiserver_flags: Vec<String>, audit: Option<Audit>) -> Result<Self> {
        let config = ControlPlaneConfig {
            logs: Some(std::path::absolute(folder)?),
            apiserver_flags,
            ..ControlPlaneConfig::loopback(data_folder())
        };
        Self::on(config, audit).await
    }

    /// As [`Stage::start`], on a control plane as it is asked for: its folder may hold etcd's data of an earlier one.
    pub(crate) async fn on(config: ControlPlaneConfig, audit: Option<Audit>) -> Result<Self> {
        sandbox::require_inside("Stage::start")?;
        let control_plane = ControlPlane::start(config).await?;
        let logs = control_plane.logs().to_owned();
        for (namespace, name) in [PEER, COLLECTORS] {
            control_plane
                .kubectl(&["create", "serviceaccount", name, "--namespace", namespace])
                .await?;
            let account = format!("--serviceaccount={namespace}:{name}");
            let role = "--clusterrole=cluster-admin";
            control_plane
                .kubectl(&["create", "clusterrolebinding", name, role, &account])
                .await?;
        }
        give_kube_proxy_its_rights(&control_plane).await?;
        cluster::install(&control_plane).await?;
        // What contenders write is counted, and is to be for the Services that the tests make.
        control_plane
            .kubectl(&["-n", BERTH.0, "delete", "service", "berth-admission"])
            .await?;
        Ok(Self {
            control_plane,
            audit,
            netns: Netns::current("stage")?,
            logs,
        })
    }

    /// etcd and kube-apiserver.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// etcd and kube-apiserver, to stop and start them.
    pub fn control_plane_mut(&mut self) -> &mut ControlPlane {
        &mut self.control_plane
    }

    /// A client with all rights, whose requests are not in the audit log.
    pub fn client(&self) -> kube::Client {
        self.control_plane.client()
    }

    /// What the contenders asked for.
    ///
    /// # Errors
    /// The stage was not started by [`Stage::start_audited`].
    pub fn audit(&self) -> Result<&Audit> {
        self.audit
            .as_ref()
            .context("this stage has no audit log: Stage::start_audited")
    }

    /// Where every process's log is.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Starts a contender and returns at once; see [`Stage::wait_ready`]. Each start gets a token of its own.
    ///
    /// # Errors
    /// Its program is not built.
    pub async fn launch(&self, contender: Contender, launch: &Launch) -> Result<Process> {
        let kubeconfig = self.kubeconfig(contender.account(), launch).await?;
        let (program, args) = match contender {
            Contender::Berth => {
                let built = || binary("berth", "berth");
                let program = launch.program.clone().map_or_else(|| Ok(built()?), anyhow::Ok)?;
                (program, berth_flags(launch))
            }
            Contender::KubeControllerManager => {
                let admin = launch.admin(contender).port();
                let controllers =
                    "endpoints-controller,endpointslice-controller,endpointslice-mirroring-controller";
                (
                    Peers::ensure().await?.kube_controller_manager,
                    peer_flags(launch, admin, controllers),
                )
            }
        };
        self.spawn(launch, program, args, &kubeconfig)
    }

    /// Starts kube-controller-manager's namespace and garbage-collector controllers, without which a deleted
    /// namespace stays for ever. `/healthz` and `/metrics` are at [`Launch::admin_port`], which has to be given.
    ///
    /// # Errors
    /// The program is not built.
    pub async fn launch_collectors(&self, launch: &Launch) -> Result<Process> {
        let admin = launch.admin_port.context("collectors need an admin port")?;
        let kubeconfig = self.kubeconfig(COLLECTORS, launch).await?;
        let program = Peers::ensure().await?.kube_controller_manager;
        let args = peer_flags(launch, admin, "namespace-controller,garbage-collector-controller");
        self.spawn(launch, program, args, &kubeconfig)
    }

    /// Waits until a contender says that it is ready. kube-controller-manager says so before it has read anything.
    ///
    /// # Errors
    /// At the deadline, or as soon as it has ended; with the end of its log.
    pub async fn wait_ready(
        &self,
        contender: Contender,
        launch: &Launch,
        process: &mut Process,
    ) -> Result<()> {
        let admin = launch.admin(contender);
        match contender {
            Contender::Berth => Ok(process.wait_ready(admin, "/readyz", PATIENCE)?),
            Contender::KubeControllerManager => {
                let ready = eventually(format!("{} ready", launch.name), PATIENCE, || {
                    secure_get(admin, "/healthz")
                });
                match ready.await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(error).context(process.log_end()),
                }
            }
        }
    }

    /// A contender's `/metrics`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metrics(&self, contender: Contender, launch: &Launch) -> Result<Page> {
        let admin = launch.admin(contender);
        let text = match contender {
            Contender::Berth => {
                let url = format!("http://{admin}/metrics");
                tokio::task::spawn_blocking(move || crate::metrics::http_get(&url)).await??
            }
            Contender::KubeControllerManager => secure_get(admin, "/metrics").await?,
        };
        Ok(Page::new(text))
    }

    /// Waits until every queue of a contender is empty and nothing is worked on. A key that waits for another try
    /// does not count: see `workqueue_retries_total`.
    ///
    /// # Errors
    /// At the deadline.
    pub async fn wait_idle(&self, contender: Contender, launch: &Launch) -> Result<()> {
        eventually(format!("{} idle", launch.name), PATIENCE, || async {
            let page = self.metrics(contender, launch).await?;
            // Both have these; those being worked on count.
            let waiting = page.sum_of_known("workqueue_adds_total", "")?
                - page.sum("workqueue_work_duration_seconds_count", "");
            ensure!(waiting <= 0.0, "{waiting} keys wait");
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// What [`cluster::Request::credential`] is for the requests of the process last launched by this name.
    ///
    /// # Errors
    /// None was.
    pub async fn credential(&self, launch: &Launch) -> Result<String> {
        let path = self.control_plane.kubeconfig_path(&launch.name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let kubeconfig: serde_json::Value = serde_json::from_str(&text)?;
        let token = kubeconfig["users"][0]["user"]["token"].as_str();
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.context("a kubeconfig without token")?.to_owned(),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        let extra = answer.status.and_then(|status| status.user?.extra);
        extra
            .and_then(|mut extra| extra.remove(cluster::CREDENTIAL)?.pop())
            .with_context(|| format!("the token of {} has no id", launch.name))
    }

    /// Fails if the API server refused one of Berth's requests for lack of rights.
    ///
    /// # Errors
    /// Names each.
    pub fn nothing_was_forbidden(&self) -> Result<()> {
        let mut refused = self.audit()?.refused()?;
        refused.retain(|refused| refused.user == Contender::Berth.user());
        ensure!(refused.is_empty(), "refused: {refused:?}");
        Ok(())
    }

    /// A kubeconfig with a token of a service account (namespace, name), called by the launch's name.
    pub(crate) async fn kubeconfig(&self, account: (&str, &str), launch: &Launch) -> Result<PathBuf> {
        let (namespace, name) = account;
        let token = self.control_plane.service_account_token(namespace, name).await?;
        let access = Access {
            server: launch.server.clone(),
            authority_pem: launch.authority_pem.clone(),
            ..Access::new(namespace, name, token)
        };
        Ok(self.control_plane.write_kubeconfig(&launch.name, &access)?)
    }

    fn spawn(
        &self,
        launch: &Launch,
        program: PathBuf,
        mut args: Vec<String>,
        kubeconfig: &Path,
    ) -> Result<Process> {
        args.push(format!("--kubeconfig={}", kubeconfig.display()));
        args.extend(launch.extra_flags.iter().cloned());
        let log = self.logs.join(format!("{}.log", launch.name));
        let mut spec = Spec::new(&launch.name, program, &log);
        spec.args = args;
        Ok(Process::start(&self.netns, &spec)?)
    }
}

/// A new, empty folder for a stage's logs, `target/e2e/NAME`, which outlives the sandbox.
///
/// # Errors
/// It cannot be made.
pub fn folder(name: &str) -> Result<PathBuf> {
    cluster::log_folder(name)
}

/// kubeadm's: the role is one that every API server makes by itself.
async fn give_kube_proxy_its_rights(control_plane: &ControlPlane) -> Result<()> {
    let (namespace, name) = KUBE_PROXY;
    control_plane
        .kubectl(&["create", "serviceaccount", name, "--namespace", namespace])
        .await?;
    let account = format!("--serviceaccount={namespace}:{name}");
    let role = "--clusterrole=system:node-proxier";
    control_plane
        .kubectl(&["create", "clusterrolebinding", name, role, &account])
        .await?;
    Ok(())
}

fn user((namespace, name): (&str, &str)) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// One for each control plane of this process.
fn data_folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Path::new(sandbox::SCRATCH).join(format!("stage-{}-{count}", std::process::id()))
}

fn berth_flags(launch: &Launch) -> Vec<String> {
    vec![
        "controllers".to_owned(),
        "--enable=endpoints,endpointslices,mirroring".to_owned(),
        format!("--admin-address={}", launch.admin(Contender::Berth)),
        format!("--leader-elect={}", launch.leader_elect),
        format!("--lease-namespace={}", BERTH.0),
        format!("--identity={}", launch.name),
    ]
}

fn peer_flags(launch: &Launch, admin: u16, controllers: &str) -> Vec<String> {
    vec![
        format!("--controllers={controllers}"),
        format!("--leader-elect={}", launch.leader_elect),
        // What the API server can take shall be the limit, and not the client's own brake.
        "--kube-api-qps=10000".to_owned(),
        "--kube-api-burst=10000".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={admin}"),
        // A certificate made at start, kept in memory.
        "--cert-dir=".to_owned(),
        "--authorization-always-allow-paths=/healthz,/readyz,/livez,/metrics".to_owned(),
    ]
}

/// GET from a server whose certificate is its own, on loopback.
async fn secure_get(address: SocketAddr, path: &str) -> Result<String> {
    let mut config = kube::Config::new(format!("https://{address}").parse()?);
    config.accept_invalid_certs = true;
    config.proxy_url = None;
    let request = http::Request::get(path).body(Vec::new())?;
    Ok(kube::Client::try_from(config)?.request_text(request).await?)
}
