// SPDX-License-Identifier: Apache-2.0
//! What a replica shows to the API server and to other replicas, and what it demands of those.
//!
//! One key and certificate per replica, in memory. The webhook asks its client for no certificate: that is for the API
//! server's operator to configure, and what it would protect is no secret. Between replicas both sides show one of Berth's
//! own authority, to whose key only replicas have access; all carry one fixed name, so that an address may change.

use std::net::IpAddr;
use std::sync::Arc;

use berth_controllers_core::certificates::Leaf;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::CertificateError;
use super::document::{Held, date};

/// The name that every replica's certificate has beside its own.
const REPLICA: &str = "replica.admission.berth.dev";
/// What the API server's webhook client speaks, so that it spreads requests over connections (kubernetes#75791).
const PROTOCOL: &[u8] = b"http/1.1";

/// The name by which a replica verifies another, wherever it is.
pub fn replica_name() -> ServerName<'static> {
    // A constant that is a valid DNS name: the address is never used.
    ServerName::try_from(REPLICA).unwrap_or(ServerName::IpAddress(
        IpAddr::from(std::net::Ipv4Addr::UNSPECIFIED).into(),
    ))
}

/// The names and addresses that API servers reach this replica by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

impl Names {
    /// Those of a Service: `NAME.NAMESPACE.svc` is what API servers verify.
    pub fn of_service(namespace: &str, name: &str) -> Self {
        Self {
            dns: vec![format!("{name}.{namespace}.svc")],
            addresses: Vec::new(),
        }
    }

    fn texts(&self) -> Vec<String> {
        let addresses = self.addresses.iter().map(ToString::to_string);
        let ours = std::iter::once(REPLICA.to_owned());
        ours.chain(self.dns.iter().cloned()).chain(addresses).collect()
    }
}

/// Everything for TLS, made together and swapped together.
#[derive(Clone, Debug)]
pub struct Credentials {
    webhook: Arc<ServerConfig>,
    replica_server: Arc<ServerConfig>,
    replica_client: Arc<ClientConfig>,
    bundle: String,
    authority: CertificateDer<'static>,
    leaf: Leaf,
}

impl Credentials {
    /// A new key and a certificate for it.
    pub(crate) fn make<'a>(
        authority: &Held,
        leaf: Leaf,
        names: &Names,
        trusted: impl Iterator<Item = &'a CertificateDer<'static>>,
        bundle: String,
    ) -> Result<Self, CertificateError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names.texts())?;
        params
            .distinguished_name
            .push(DnType::CommonName, "berth admission");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = date(leaf.not_before);
        params.not_after = date(leaf.not_after);
        let certificate = params.signed_by(&key, &authority.issuer()?)?;
        let chain = vec![certificate.der().clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));

        let mut roots = RootCertStore::empty();
        for certificate in trusted {
            roots.add(certificate.clone())?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(ring::default_provider());
        Ok(Self {
            webhook: Arc::new(webhook(&provider, &chain, &key)?),
            replica_server: Arc::new(replica_server(&provider, &chain, &key, &roots)?),
            replica_client: Arc::new(replica_client(&provider, chain, key, roots)?),
            bundle,
            authority: authority.certificate().clone(),
            leaf,
        })
    }

    /// Serves the webhook: no certificate is asked of the client.
    pub fn webhook(&self) -> Arc<ServerConfig> {
        self.webhook.clone()
    }

    /// Serves other replicas, and nobody else: the client has to show a certificate of our authority.
    pub fn replica_server(&self) -> Arc<ServerConfig> {
        self.replica_server.clone()
    }

    /// Connects to another replica, which has to be [`replica_name`] by our authority.
    pub fn replica_client(&self) -> Arc<ClientConfig> {
        self.replica_client.clone()
    }

    /// The authorities to trust, in PEM: the `caBundle` of the webhook.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// The time limits of the certificate.
    pub fn leaf(&self) -> Leaf {
        self.leaf
    }

    /// Whether these are by this authority and trust these.
    pub(crate) fn is_of(&self, authority: &CertificateDer<'_>, bundle: &str) -> bool {
        self.authority == *authority && self.bundle == bundle
    }
}

fn webhook(
    provider: &Arc<CryptoProvider>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<ServerConfig, CertificateError> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain.to_vec(), key.clone_key())?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

fn replica_server(
    provider: &Arc<CryptoProvider>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    roots: &Arc<RootCertStore>,
) -> Result<ServerConfig, CertificateError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
    Ok(ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.to_vec(), key.clone_key())?)
}

fn replica_client(
    provider: &Arc<CryptoProvider>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
) -> Result<ClientConfig, CertificateError> {
    Ok(ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?)
}
