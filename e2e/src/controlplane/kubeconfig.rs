// SPDX-License-Identifier: Apache-2.0
//! Kubeconfig files for the test cluster, and clients made from them.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use k8s_openapi::ByteString;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

use super::error::ControlPlaneError;

/// What a kubeconfig says beyond the control plane's own address and authority.
#[derive(Clone, Debug)]
pub struct Access {
    /// Name of its user entry, for people.
    pub user: String,
    /// Namespace of its context.
    pub namespace: String,
    /// The credential.
    pub token: String,
    /// Another address than the API server's own: that of something in front of it.
    pub server: Option<String>,
    /// The authority that the other address's certificate is of, if not the control plane's.
    pub authority_pem: Option<String>,
}

impl Access {
    /// To the API server itself.
    pub fn new(namespace: &str, user: &str, token: String) -> Self {
        Self {
            user: user.to_owned(),
            namespace: namespace.to_owned(),
            token,
            server: None,
            authority_pem: None,
        }
    }
}

/// Writes a kubeconfig: JSON, which every reader of YAML takes. The certificate authority is inside, so that
/// the file can be handed around.
pub(super) fn write(
    path: &Path,
    server: &str,
    authority_pem: &str,
    user: &str,
    token: &str,
    namespace: &str,
) -> Result<(), ControlPlaneError> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "berth", "cluster": {
            "server": server,
            "certificate-authority-data": ByteString(authority_pem.as_bytes().to_vec()),
        }}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "berth", "context": {"cluster": "berth", "user": user, "namespace": namespace}}],
        "current-context": "berth",
    });
    write_private(path, &format!("{config:#}\n"))
}

/// A client of the user that a kubeconfig names.
pub(super) async fn client(path: &Path) -> Result<kube::Client, ControlPlaneError> {
    // An error means that one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let invalid = |source| ControlPlaneError::Kubeconfig {
        path: path.to_path_buf(),
        source,
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(invalid)?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(invalid)?;
    // kube's own retries last for minutes and cover POST.
    config.default_retry = false;
    // The machine's proxy is for the outside; the test cluster is not there.
    config.proxy_url = None;
    kube::Client::try_from(config).map_err(|source| ControlPlaneError::Api {
        what: "make a client".to_owned(),
        source: Box::new(source),
    })
}

/// Writes a file that only its owner may read.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), ControlPlaneError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(ControlPlaneError::io("write", path))
}

/// A bearer token nobody can guess.
pub(super) fn random_token() -> Result<String, ControlPlaneError> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0_u8; 16];
    std::fs::File::open(source)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(ControlPlaneError::io("read", source))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
