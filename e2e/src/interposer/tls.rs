// SPDX-License-Identifier: Apache-2.0
//! Both sides' TLS, from the control plane's own files.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::controlplane::ControlPlane;

/// HTTP/2 is not offered: one request at a time per connection is what makes faults exact.
const PROTOCOL: &[u8] = b"http/1.1";

/// Serves with the API server's certificate: it names 127.0.0.1 and localhost.
pub(super) fn acceptor(control_plane: &ControlPlane) -> Result<TlsAcceptor> {
    let (chain, key) = (
        file(control_plane, "apiserver.crt"),
        file(control_plane, "apiserver.key"),
    );
    let chain = CertificateDer::pem_file_iter(&chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| chain.display().to_string())?;
    let key = PrivateKeyDer::from_pem_file(&key).with_context(|| key.display().to_string())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Trusts the control plane's authority.
pub(super) fn connector(control_plane: &ControlPlane) -> Result<TlsConnector> {
    let path = file(control_plane, "ca.crt");
    let authority = CertificateDer::from_pem_file(&path).with_context(|| path.display().to_string())?;
    let mut roots = RootCertStore::empty();
    roots.add(authority)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A file of the control plane's folder.
fn file(control_plane: &ControlPlane, name: &str) -> PathBuf {
    control_plane.admin_kubeconfig().with_file_name(name)
}
