// SPDX-License-Identifier: Apache-2.0
//! The Secret's form: `authority-N.crt`, `authority-N.key` and `authority-N.signs-from` for each authority, and `ca.crt`
//! with all certificates for people and other programs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_controllers_core::certificates::{Authority, Fault, New, Rules, Stored};
use k8s_openapi::ByteString;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;

use super::CertificateError;

/// All certificates.
const BUNDLE: &str = "ca.crt";
/// Of the entries of an authority.
const PREFIX: &str = "authority-";

/// What an entry of an authority holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Certificate,
    Key,
    SignsFrom,
}

impl Part {
    const ALL: [Self; 3] = [Self::Certificate, Self::Key, Self::SignsFrom];

    fn suffix(self) -> &'static str {
        match self {
            Self::Certificate => ".crt",
            Self::Key => ".key",
            Self::SignsFrom => ".signs-from",
        }
    }

    fn entry(self, number: u32) -> String {
        format!("{PREFIX}{number}{}", self.suffix())
    }

    fn of(entry: &str) -> Option<(u32, Self)> {
        let rest = entry.strip_prefix(PREFIX)?;
        let part = Self::ALL.into_iter().find(|part| rest.ends_with(part.suffix()))?;
        let number = rest.strip_suffix(part.suffix())?.parse().ok()?;
        // One spelling for each, so that what is written replaces what was read.
        (part.entry(number) == entry).then_some((number, part))
    }
}

/// An authority with its certificate and, if it may sign, its key.
#[derive(Clone)]
pub(crate) struct Held {
    authority: Authority,
    certificate: CertificateDer<'static>,
    pem: String,
    key_pem: Option<String>,
}

impl Held {
    /// Makes one, with a new ECDSA P-256 key.
    pub(crate) fn make(new: &New) -> Result<Self, CertificateError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        let name = format!("berth admission authority {}", new.number);
        params.distinguished_name.push(DnType::CommonName, name);
        // It signs leaves and no other authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date(new.not_before);
        params.not_after = date(new.not_after);
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            authority: Authority {
                number: new.number,
                not_before: new.not_before,
                not_after: new.not_after,
                signs_from: new.signs_from,
                has_key: true,
            },
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            key_pem: Some(key.serialize_pem()),
        })
    }

    /// The certificate.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What signs with it.
    pub(crate) fn issuer(&self) -> Result<Issuer<'static, KeyPair>, CertificateError> {
        let key = self.key_pem.as_deref().ok_or(CertificateError::NoSigner)?;
        Ok(Issuer::from_ca_cert_der(
            &self.certificate,
            KeyPair::from_pem(key)?,
        )?)
    }
}

/// A second more or less is of no account, and a year that no certificate can have is none.
pub(super) fn date(since_1970: Duration) -> OffsetDateTime {
    i64::try_from(since_1970.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// The authorities of the Secret.
#[derive(Clone, Default)]
pub(crate) struct Document(BTreeMap<u32, Held>);

impl Document {
    /// Reads the data of a Secret, however broken they are.
    pub(crate) fn read(data: &BTreeMap<String, ByteString>, rules: &Rules) -> (Self, Stored) {
        let mut faults = Vec::new();
        let mut numbers = BTreeSet::new();
        for entry in data.keys().filter(|entry| entry.starts_with(PREFIX)) {
            match Part::of(entry) {
                Some((number, _)) => _ = numbers.insert(number),
                None => faults.push((entry.clone(), Fault::UnknownEntry)),
            }
        }
        let read = |number: u32| Some((number, read_one(data, number, rules, &mut faults)?));
        let this = Self(numbers.into_iter().filter_map(read).collect());
        let bundle = data.get(BUNDLE).map_or(&[][..], |bundle| &bundle.0);
        if bundle != this.bundle().as_bytes() {
            faults.push((BUNDLE.to_owned(), Fault::BundleDiffers));
        }
        let authorities = this.row();
        (this, Stored { authorities, faults })
    }

    /// Puts the authorities, and nothing else of ours, in place of what the data of a Secret have of ours.
    pub(crate) fn write(&self, data: &mut BTreeMap<String, ByteString>) {
        data.retain(|entry, _| !entry.starts_with(PREFIX));
        let mut set = |entry: String, text: &str| data.insert(entry, ByteString(text.as_bytes().to_vec()));
        set(BUNDLE.to_owned(), &self.bundle());
        for (number, held) in &self.0 {
            set(Part::Certificate.entry(*number), &held.pem);
            if let Some(key) = &held.key_pem {
                set(Part::Key.entry(*number), key);
            }
            let seconds = held.authority.signs_from.as_secs_f64().to_string();
            set(Part::SignsFrom.entry(*number), &seconds);
        }
    }

    /// As the core reasons about them.
    pub(crate) fn row(&self) -> Vec<Authority> {
        self.0.values().map(|held| held.authority).collect()
    }

    /// All certificates, in PEM.
    pub(crate) fn bundle(&self) -> String {
        self.0.values().map(|held| held.pem.as_str()).collect()
    }

    /// All certificates.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.0.values().map(|held| &held.certificate)
    }

    /// One of them.
    pub(crate) fn get(&self, number: u32) -> Option<&Held> {
        self.0.get(&number)
    }

    /// Adds one.
    pub(crate) fn add(&mut self, held: Held) {
        self.0.insert(held.authority.number, held);
    }

    /// Those with these numbers.
    pub(crate) fn only(mut self, numbers: &BTreeSet<u32>) -> Self {
        self.0.retain(|number, _| numbers.contains(number));
        self
    }
}

/// An authority as far as it can be used.
fn read_one(
    data: &BTreeMap<String, ByteString>,
    number: u32,
    rules: &Rules,
    faults: &mut Vec<(String, Fault)>,
) -> Option<Held> {
    let mut fault = |part: Part, fault| faults.push((part.entry(number), fault));
    let bytes = |part: Part| data.get(&part.entry(number)).map(|value| value.0.as_slice());
    let text = |part: Part| bytes(part).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let (mut authority, certificate, public_key) = match bytes(Part::Certificate).map(read_certificate) {
        None => {
            fault(Part::Certificate, Fault::CertificateMissing);
            return None;
        }
        Some(Err(wrong)) => {
            fault(Part::Certificate, wrong);
            return None;
        }
        Some(Ok(read)) => read,
    };
    authority.number = number;
    let key_pem = text(Part::Key).filter(|pem| match KeyPair::from_pem(pem) {
        Err(_) => {
            fault(Part::Key, Fault::KeyMalformed);
            false
        }
        Ok(key) if key.public_key_raw() != public_key => {
            fault(Part::Key, Fault::KeyOfAnother);
            false
        }
        Ok(_) => true,
    });
    authority.has_key = key_pem.is_some();
    let seconds = text(Part::SignsFrom).and_then(|text| text.trim().parse().ok());
    let signs_from = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    authority.signs_from = match signs_from.filter(|at| *at <= authority.not_after) {
        Some(at) => at,
        None => {
            fault(Part::SignsFrom, Fault::SignsFromMalformed);
            authority.not_before + rules.skew + rules.publication
        }
    };
    let pem = text(Part::Certificate).unwrap_or_default();
    Some(Held {
        authority,
        certificate,
        pem,
        key_pem,
    })
}

/// The certificate with its times, and its public key.
fn read_certificate(pem: &[u8]) -> Result<(Authority, CertificateDer<'static>, Vec<u8>), Fault> {
    let mut all = CertificateDer::pem_slice_iter(pem);
    let (Some(Ok(der)), None) = (all.next(), all.next()) else {
        return Err(Fault::CertificateMalformed);
    };
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| Fault::CertificateMalformed)?;
    // Its own signature shows that no bit of it was changed: nobody else looks at that of an authority.
    let usable = RootCertStore::empty().add(der.clone()).is_ok() && parsed.verify_signature(None).is_ok();
    let public_key = parsed.public_key().subject_public_key.data.to_vec();
    if !usable {
        return Err(Fault::CertificateMalformed);
    }
    if !parsed.is_ca() {
        return Err(Fault::NotAnAuthority);
    }
    let since_1970 = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let authority = Authority {
        number: 0,
        not_before: since_1970(parsed.validity().not_before.timestamp()),
        not_after: since_1970(parsed.validity().not_after.timestamp()),
        signs_from: Duration::ZERO,
        has_key: false,
    };
    Ok((authority, der.into_owned(), public_key))
}
