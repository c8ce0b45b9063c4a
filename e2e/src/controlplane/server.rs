// SPDX-License-Identifier: Apache-2.0
//! etcd and kube-apiserver as one thing that starts, restarts and ends.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Service, ServiceAccount};
use kube::api::{Api, PostParams};

use super::binaries::Binaries;
use super::certificates::Certificates;
use super::config::{ControlPlaneConfig, apiserver_arguments, etcd_arguments};
use super::error::ControlPlaneError;
use super::kinds;
use super::kubeconfig::{self, Access};
use super::kubectl::Kubectl;
use super::listen::HeldPort;
use super::process::{Process, log_tail};
use super::rbac;

/// A busy two-core machine needs about 10 s; this is for the one that is swamped.
const READY_DEADLINE: Duration = Duration::from_secs(180);
/// Between two looks at an API server that is starting.
const READY_POLL: Duration = Duration::from_millis(100);
/// One look; a server that hangs must not use up the whole deadline.
const READY_REQUEST: Duration = Duration::from_secs(5);
/// An idle kube-apiserver ends about a second after SIGTERM; open watches take longer.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// For watches that lag by milliseconds on a machine with nothing else to do.
const SETTLE_DEADLINE: Duration = Duration::from_secs(60);
/// Seconds that a service-account token lives.
const TOKEN_SECONDS: i64 = 24 * 60 * 60;
/// What every cluster has, made by kube-apiserver shortly after it calls itself ready.
const NAMESPACES: [&str; 2] = ["default", "kube-system"];

/// A running control plane. Dropping it kills both processes and leaves its folder as it is.
///
/// Start it on a thread of the network namespace that it is to serve in: the processes inherit it.
pub struct ControlPlane {
    config: ControlPlaneConfig,
    binaries: Binaries,
    logs: PathBuf,
    authority_pem: String,
    apiserver_arguments: Vec<OsString>,
    kubectl: Kubectl,
    client: kube::Client,
    // In this order: kube-apiserver ends before the etcd that it needs.
    apiserver: Option<Process>,
    etcd: Process,
    port: HeldPort,
}

impl ControlPlane {
    /// Finds or builds the programs, starts them and waits until the API server is ready.
    pub async fn start(config: ControlPlaneConfig) -> Result<Self, ControlPlaneError> {
        let binaries = Binaries::ensure().await?;
        let config = config.prepare()?;
        let logs = config.logs.clone().unwrap_or_else(|| config.dir.join("logs"));
        fs::create_dir_all(&logs).map_err(ControlPlaneError::io("create log folder", &logs))?;
        let port = HeldPort::hold(config.bind, config.port)?;

        let mut names = vec![config.bind.to_string(), config.address().to_string()];
        names.extend(config.extra_sans.iter().cloned());
        let certificates = Certificates::make(&config.dir, names)?;

        let token = kubeconfig::random_token()?;
        kubeconfig::write_private(
            &config.dir.join("tokens.csv"),
            &format!("{token},berth-test-admin,berth-test-admin,\"system:masters\"\n"),
        )?;
        let admin = config.dir.join("admin.kubeconfig");
        let server = config.url(port.port);
        kubeconfig::write(
            &admin,
            &server,
            &certificates.authority_pem,
            "admin",
            &token,
            "default",
        )?;
        let client = kubeconfig::client(&admin).await?;
        let kubectl = Kubectl::new(binaries.kubectl.clone(), admin, config.dir.join("kubectl-cache"));

        let etcd = Process::spawn(
            "etcd",
            &binaries.etcd,
            &etcd_arguments(),
            &config.dir,
            logs.join("etcd.log"),
        )?;
        let mut control_plane = Self {
            apiserver_arguments: apiserver_arguments(&config, port.port, &certificates),
            authority_pem: certificates.authority_pem,
            config,
            binaries,
            logs,
            kubectl,
            client,
            apiserver: None,
            etcd,
            port,
        };
        control_plane.start_apiserver().await?;
        Ok(control_plane)
    }

    /// `https://ADDRESS:PORT`, as the kubeconfigs have it.
    pub fn url(&self) -> String {
        self.config.url(self.port.port)
    }

    /// Port that kube-apiserver listens on, the same over restarts.
    pub fn port(&self) -> u16 {
        self.port.port
    }

    /// Folder of `etcd.log` and `kube-apiserver.log`.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Process id of kube-apiserver, for its CPU and memory figures; `None` while it is away.
    pub fn apiserver_pid(&self) -> Option<u32> {
        self.apiserver.as_ref().map(Process::id)
    }

    /// Process id of etcd.
    pub fn etcd_pid(&self) -> u32 {
        self.etcd.id()
    }

    /// Starts kube-apiserver unless it runs, and waits until it is ready.
    pub async fn start_apiserver(&mut self) -> Result<(), ControlPlaneError> {
        if self.apiserver.is_none() {
            let started = Process::spawn(
                "kube-apiserver",
                &self.binaries.kube_apiserver,
                &self.apiserver_arguments,
                &self.config.dir,
                self.logs.join("kube-apiserver.log"),
            )?;
            self.apiserver = Some(started);
        }
        self.wait_ready().await
    }

    /// Ends kube-apiserver as a crash does: SIGKILL. Connections to it are refused until it is started again.
    pub fn kill_apiserver(&mut self) {
        self.apiserver = None;
    }

    /// Ends kube-apiserver as an upgrade does: SIGTERM, and SIGKILL where that takes too long.
    pub async fn stop_apiserver(&mut self) -> Result<(), ControlPlaneError> {
        match self.apiserver.take() {
            Some(process) => process.terminate(STOP_GRACE).await,
            None => Ok(()),
        }
    }

    /// [`stop_apiserver`](Self::stop_apiserver), then start it with the same data and address.
    pub async fn restart_apiserver(&mut self) -> Result<(), ControlPlaneError> {
        self.stop_apiserver().await?;
        self.start_apiserver().await
    }

    /// An error when etcd, or a kube-apiserver that was not stopped, has ended by itself.
    pub fn check(&mut self) -> Result<(), ControlPlaneError> {
        self.etcd.check()?;
        self.apiserver.as_mut().map_or(Ok(()), Process::check)
    }

    /// Kubeconfig of a cluster admin.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.config.dir.join("admin.kubeconfig")
    }

    /// A client that may do everything.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// A client with the credential of a kubeconfig of this control plane.
    pub async fn client_for(&self, kubeconfig: &Path) -> Result<kube::Client, ControlPlaneError> {
        kubeconfig::client(kubeconfig).await
    }

    /// Writes a kubeconfig with a token of an existing ServiceAccount, valid for 24 hours. Its context's namespace
    /// is the account's, as it is inside a Pod.
    pub async fn service_account_kubeconfig(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<PathBuf, ControlPlaneError> {
        let token = self.service_account_token(namespace, name).await?;
        self.write_kubeconfig(
            &format!("{namespace}.{name}"),
            &Access::new(namespace, name, token),
        )
    }

    /// Another token of an existing ServiceAccount, valid for 24 hours.
    pub async fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<String, ControlPlaneError> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(TOKEN_SECONDS),
                ..Default::default()
            }),
            ..Default::default()
        };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .map_err(api_error(format!("token for ServiceAccount {namespace}/{name}")))?;
        Ok(answer.status.unwrap_or_default().token.unwrap_or_default())
    }

    /// Writes `FILE.kubeconfig` into the control plane's folder.
    pub fn write_kubeconfig(&self, file: &str, access: &Access) -> Result<PathBuf, ControlPlaneError> {
        let path = self.kubeconfig_path(file);
        kubeconfig::write(
            &path,
            access.server.as_ref().unwrap_or(&self.url()),
            access.authority_pem.as_ref().unwrap_or(&self.authority_pem),
            &access.user,
            &access.token,
            &access.namespace,
        )?;
        Ok(path)
    }

    /// Where [`ControlPlane::write_kubeconfig`] puts them.
    pub fn kubeconfig_path(&self, file: &str) -> PathBuf {
        self.config.dir.join(format!("{file}.kubeconfig"))
    }

    /// kubectl as the admin.
    pub fn kubectl_runner(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Runs kubectl as the admin and returns its stdout; the error carries its stderr.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String, ControlPlaneError> {
        self.kubectl.run(arguments).await
    }

    /// `kubectl apply -f PATH`; a folder is read with its sub-folders.
    pub async fn apply(&self, path: &Path) -> Result<String, ControlPlaneError> {
        self.kubectl
            .run([
                "apply".as_ref(),
                "--recursive".as_ref(),
                "-f".as_ref(),
                path.as_os_str(),
            ])
            .await
    }

    /// `kubectl apply -k FOLDER`.
    pub async fn apply_kustomize(&self, folder: &Path) -> Result<String, ControlPlaneError> {
        self.kubectl
            .run(["apply".as_ref(), "-k".as_ref(), folder.as_os_str()])
            .await
    }

    /// Installs Berth's own kinds, from `manifests/crds`, and waits until they are served and described.
    ///
    /// # Errors
    /// kubectl's, the API server's, and when they are not described in time.
    pub async fn install_kinds(&self) -> Result<(), ControlPlaneError> {
        let folder = crate::cluster::repository().join("manifests/crds");
        self.apply_kustomize(&folder).await?;
        self.kubectl(&[
            "wait",
            "--for=condition=Established",
            "crd",
            "--all",
            "--timeout=60s",
        ])
        .await?;
        let described = kinds::described(&self.client, SETTLE_DEADLINE).await;
        if described.map_err(api_error("wait for the description of the kinds"))? {
            return Ok(());
        }
        Err(self.not_ready(
            SETTLE_DEADLINE,
            "its OpenAPI description lacks kinds of Berth".to_owned(),
        ))
    }

    /// Waits until the authorizer has seen every Role, RoleBinding, ClusterRole and ClusterRoleBinding written so
    /// far. Call it after applying RBAC rules, where a Forbidden right afterwards would count as a failure.
    pub async fn settle_rbac(&self) -> Result<(), ControlPlaneError> {
        let token = kubeconfig::random_token()?;
        let settled = rbac::settle(&self.client, &token, SETTLE_DEADLINE).await;
        if settled.map_err(api_error("wait for the authorizer"))? {
            return Ok(());
        }
        Err(self.not_ready(
            SETTLE_DEADLINE,
            "its authorizer does not see new RBAC objects".to_owned(),
        ))
    }

    async fn wait_ready(&mut self) -> Result<(), ControlPlaneError> {
        let started = Instant::now();
        loop {
            self.check()?;
            let last = match tokio::time::timeout(READY_REQUEST, self.look()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {READY_REQUEST:?}"),
            };
            if started.elapsed() > READY_DEADLINE {
                let log = self.logs.join("kube-apiserver.log");
                let tail = log_tail(&log);
                return Err(ControlPlaneError::NotReady {
                    waited: READY_DEADLINE,
                    last,
                    log,
                    tail,
                });
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    fn not_ready(&self, waited: Duration, last: String) -> ControlPlaneError {
        let log = self.logs.join("kube-apiserver.log");
        let tail = log_tail(&log);
        ControlPlaneError::NotReady {
            waited,
            last,
            log,
            tail,
        }
    }

    /// `/readyz` (RBAC's bootstrap roles are part of it), then the objects that are made after it.
    async fn look(&self) -> Result<(), ControlPlaneError> {
        let request =
            http::Request::get("/readyz")
                .body(Vec::new())
                .map_err(|error| ControlPlaneError::Api {
                    what: "/readyz".to_owned(),
                    source: Box::new(kube::Error::HttpError(error)),
                })?;
        self.client
            .request_text(request)
            .await
            .map_err(api_error("/readyz"))?;
        let namespaces: Api<Namespace> = Api::all(self.client());
        for name in NAMESPACES {
            namespaces
                .get(name)
                .await
                .map_err(api_error(format!("Namespace {name}")))?;
        }
        let services: Api<Service> = Api::namespaced(self.client(), "default");
        services
            .get("kubernetes")
            .await
            .map_err(api_error("Service default/kubernetes"))?;
        Ok(())
    }
}

fn api_error(what: impl Into<String>) -> impl FnOnce(kube::Error) -> ControlPlaneError {
    let what = what.into();
    move |source| ControlPlaneError::Api {
        what,
        source: Box::new(source),
    }
}
