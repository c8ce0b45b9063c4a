// SPDX-License-Identifier: Apache-2.0
//! Where and how a control plane runs, and the command lines that follow from it.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::SERVICE_RANGES;
use super::certificates::Certificates;
use super::error::ControlPlaneError;

/// Sockets of etcd in the control plane's folder. Relative, since a socket's path has at most 107 bytes.
const ETCD: &str = "unix://etcd.sock";
const ETCD_PEER: &str = "unix://etcd-peer.sock";

/// Where and how a control plane runs.
#[derive(Clone, Debug)]
pub struct ControlPlaneConfig {
    /// Address that kube-apiserver listens on; `::` for all addresses of both families.
    pub bind: IpAddr,
    /// Address that clients and the Endpoints of `default/kubernetes` use. `bind` when absent. With
    /// `reconcile_endpoints` it must not be loopback, and must be IPv4, the primary family of the Service ranges.
    pub advertise: Option<IpAddr>,
    /// Any free port when absent.
    pub port: Option<u16>,
    /// Host names and addresses that the serving certificate has to name beside `bind`, `advertise` and those of
    /// `default/kubernetes`.
    pub extra_sans: Vec<String>,
    /// An empty folder of its own for data, keys and kubeconfigs. Made when it does not exist, never removed.
    pub dir: PathBuf,
    /// Folder for `etcd.log` and `kube-apiserver.log`; `dir/logs` when absent.
    pub logs: Option<PathBuf>,
    /// Whether kube-apiserver publishes its address in the Endpoints of `default/kubernetes`.
    pub reconcile_endpoints: bool,
    /// Further flags of kube-apiserver, last.
    pub apiserver_flags: Vec<String>,
}

impl ControlPlaneConfig {
    /// On 127.0.0.1, for tests without a LAN.
    pub fn loopback(dir: impl Into<PathBuf>) -> Self {
        Self {
            bind: Ipv4Addr::LOCALHOST.into(),
            advertise: None,
            port: None,
            extra_sans: Vec::new(),
            dir: dir.into(),
            logs: None,
            reconcile_endpoints: false,
            apiserver_flags: Vec::new(),
        }
    }

    /// On an address of a test LAN, published as the endpoint of `default/kubernetes`.
    pub fn lan(dir: impl Into<PathBuf>, address: Ipv4Addr) -> Self {
        Self {
            bind: address.into(),
            reconcile_endpoints: true,
            ..Self::loopback(dir)
        }
    }

    /// Makes the folder, and the paths absolute: the programs run in it.
    pub(super) fn prepare(self) -> Result<Self, ControlPlaneError> {
        let dir = &self.dir;
        fs::create_dir_all(dir).map_err(ControlPlaneError::io("create folder", dir))?;
        let absolute = |path: &Path| std::path::absolute(path).map_err(ControlPlaneError::io("find", path));
        let (dir, logs) = (absolute(dir)?, self.logs.as_deref().map(absolute).transpose()?);
        Ok(Self { dir, logs, ..self })
    }

    /// `https://ADDRESS:PORT`.
    pub(super) fn url(&self, port: u16) -> String {
        format!("https://{}", SocketAddr::new(self.address(), port))
    }

    pub(super) fn address(&self) -> IpAddr {
        self.advertise.unwrap_or(self.bind)
    }
}

/// Relative paths: etcd runs in the control plane's folder.
pub(super) fn etcd_arguments() -> Vec<OsString> {
    [
        "--name=berth",
        "--data-dir=etcd",
        // Nothing outlives the machine: a test cluster is made anew, so its disk writes may be lost.
        "--unsafe-no-fsync",
        "--log-level=warn",
        &format!("--listen-client-urls={ETCD}"),
        &format!("--advertise-client-urls={ETCD}"),
        &format!("--listen-peer-urls={ETCD_PEER}"),
        &format!("--initial-advertise-peer-urls={ETCD_PEER}"),
        &format!("--initial-cluster=berth={ETCD_PEER}"),
    ]
    .map(OsString::from)
    .into()
}

/// `port` is where it listens; the other files are in the control plane's folder.
pub(super) fn apiserver_arguments(
    config: &ControlPlaneConfig,
    port: u16,
    certificates: &Certificates,
) -> Vec<OsString> {
    let file = |flag: &str, path: &Path| {
        let mut argument = OsString::from(flag);
        argument.push("=");
        argument.push(path);
        argument
    };
    let mut arguments: Vec<OsString> = [
        format!("--etcd-servers={ETCD}"),
        format!("--bind-address={}", config.bind),
        // Given always: without a default route kube-apiserver finds none by itself and exits.
        format!("--advertise-address={}", config.address()),
        format!("--secure-port={port}"),
        // The port is held over restarts, see HeldPort.
        "--permit-port-sharing=true".to_owned(),
        format!(
            "--endpoint-reconciler-type={}",
            if config.reconcile_endpoints {
                "lease"
            } else {
                "none"
            }
        ),
        format!("--service-cluster-ip-range={SERVICE_RANGES}"),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        "--token-auth-file=tokens.csv".to_owned(),
        // Host-network Pods of the manifests' DaemonSets ask for it; kubeadm clusters set it too.
        "--allow-privileged=true".to_owned(),
        // No controller makes the "default" accounts that this plugin wants every Pod to have.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        // Some clusters enforce it, and it asks more of our RBAC rules.
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement".to_owned(),
    ]
    .map(OsString::from)
    .into();
    arguments.extend([
        file("--tls-cert-file", &certificates.serving_certificate),
        file("--tls-private-key-file", &certificates.serving_key),
        file(
            "--service-account-signing-key-file",
            &certificates.service_account_key,
        ),
        file(
            "--service-account-key-file",
            &certificates.service_account_public_key,
        ),
    ]);
    arguments.extend(config.apiserver_flags.iter().map(OsString::from));
    arguments
}
