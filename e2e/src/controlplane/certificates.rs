// SPDX-License-Identifier: Apache-2.0
//! The test cluster's certificate authority, the API server's certificate, and the service-account key.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rcgen::{Certificate, KeyUsagePurpose};

use super::error::ControlPlaneError;
use super::kubeconfig::write_private;

/// Names and first addresses of `default/kubernetes`, by which Pods reach the API server.
const KUBERNETES_SERVICE: [&str; 7] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "10.96.0.1",
    "fd00:10:96::1",
];

/// Files that kube-apiserver is started with, and what its clients trust.
pub(super) struct Certificates {
    pub(super) authority_pem: String,
    pub(super) serving_certificate: PathBuf,
    pub(super) serving_key: PathBuf,
    pub(super) service_account_key: PathBuf,
    pub(super) service_account_public_key: PathBuf,
}

impl Certificates {
    /// Makes new ones in `folder`. `names` are host names and addresses beside those of `default/kubernetes`.
    pub(super) fn make(folder: &Path, names: Vec<String>) -> Result<Self, ControlPlaneError> {
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::default();
        authority
            .distinguished_name
            .push(DnType::CommonName, "berth test cluster");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_pem = authority.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(authority, authority_key);

        let serving_key = KeyPair::generate()?;
        let serving = serving(names, &serving_key, &issuer)?;
        // kube-apiserver takes ECDSA keys here too (tokens are then signed with ES256).
        let service_account_key = KeyPair::generate()?;

        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            write_private(&path, text).map(|()| path)
        };
        write("ca.crt", &authority_pem)?;
        Ok(Self {
            serving_certificate: write("apiserver.crt", &serving.pem())?,
            serving_key: write("apiserver.key", &serving_key.serialize_pem())?,
            service_account_key: write("service-account.key", &service_account_key.serialize_pem())?,
            service_account_public_key: write("service-account.pub", &service_account_key.public_key_pem())?,
            authority_pem,
        })
    }
}

fn serving(
    mut names: Vec<String>,
    key: &KeyPair,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<Certificate, ControlPlaneError> {
    names.extend(KUBERNETES_SERVICE.map(str::to_owned));
    names.sort();
    names.dedup();
    let mut serving = CertificateParams::new(names)?;
    serving
        .distinguished_name
        .push(DnType::CommonName, "kube-apiserver");
    serving.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(serving.signed_by(key, issuer)?)
}
