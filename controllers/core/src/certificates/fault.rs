// SPDX-License-Identifier: Apache-2.0
//! What is wrong with an entry of the Secret.

use std::fmt;

/// Why an entry can't be used as it is. The text form is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Its name is none that an authority's entry has.
    UnknownEntry,
    /// A key or a time without a certificate.
    CertificateMissing,
    /// The certificate can't be read.
    CertificateMalformed,
    /// The certificate is not that of an authority.
    NotAnAuthority,
    /// The key can't be read.
    KeyMalformed,
    /// The key is not that of the certificate.
    KeyOfAnother,
    /// The time from which it signs is missing or can't be read.
    SignsFromMalformed,
    /// The bundle is not that of the authorities.
    BundleDiffers,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::UnknownEntry,
        Self::CertificateMissing,
        Self::CertificateMalformed,
        Self::NotAnAuthority,
        Self::KeyMalformed,
        Self::KeyOfAnother,
        Self::SignsFromMalformed,
        Self::BundleDiffers,
    ];

    /// The stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownEntry => "UnknownEntry",
            Self::CertificateMissing => "CertificateMissing",
            Self::CertificateMalformed => "CertificateMalformed",
            Self::NotAnAuthority => "NotAnAuthority",
            Self::KeyMalformed => "KeyMalformed",
            Self::KeyOfAnother => "KeyOfAnother",
            Self::SignsFromMalformed => "SignsFromMalformed",
            Self::BundleDiffers => "BundleDiffers",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
