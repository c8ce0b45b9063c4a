// SPDX-License-Identifier: Apache-2.0
//! What can be wrong with the way to the API server, in words that name the way out.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use kube::config::{InClusterError, KubeconfigError};
use kube::core::Status;
use rustls::CertificateError;

use super::Origin;
use super::failover::FailoverError;
use crate::exit::{Code, ExitError};

/// Why there is no usable connection to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Neither flag nor environment nor service account nor ~/.kube/config.
    #[error(
        "no way to the API server is configured: give --kubeconfig FILE (or set KUBECONFIG), or run in a Pod \
         with a service account"
    )]
    NoConfiguration,
    /// The kubeconfig is missing, does not parse, or lacks what the context refers to.
    #[error(
        "kubeconfig {file}: {}; check --kubeconfig, KUBECONFIG and --context",
        kubeconfig_fault(source)
    )]
    Kubeconfig {
        /// The file, or the list of files.
        file: String,
        /// What is wrong with it.
        source: Box<KubeconfigError>,
    },
    /// In a Pod, but the service account's files are not there.
    #[error(
        "the Pod's service account cannot be used: {source}; mount it (automountServiceAccountToken) or give \
         --kubeconfig"
    )]
    InCluster {
        /// What is missing.
        source: InClusterError,
    },
    /// The kubeconfig asks for an HTTP proxy.
    #[error("{origin}: proxy-url is not supported; remove it, or reach the server directly with --apiserver")]
    Proxy {
        /// Where it was asked for.
        origin: Origin,
    },
    /// Certificates, keys or tokens do not load.
    #[error("{origin}: the credentials cannot be used: {source}")]
    Credentials {
        /// Where they are named.
        origin: Origin,
        /// What is wrong with them.
        source: Box<kube::Error>,
    },
    /// No server answers.
    #[error("{origin} cannot be reached: {reasons}")]
    Unreachable {
        /// Where we looked.
        origin: Origin,
        /// One reason per server.
        reasons: String,
    },
    /// 401.
    #[error(
        "{origin} does not accept the credentials (401 Unauthorized: {message}); renew the token or certificate"
    )]
    Unauthorized {
        /// Where they were shown.
        origin: Origin,
        /// The server's words.
        message: String,
    },
    /// 403.
    #[error(
        "{origin} forbids the request (403 Forbidden: {message}); grant it by RBAC (manifests/base/rbac)"
    )]
    Forbidden {
        /// Who forbids.
        origin: Origin,
        /// The server's words.
        message: String,
    },
    /// Something answers, but not as an API server does.
    #[error("{origin} answers, but not as an API server: {reason}")]
    Answer {
        /// Who answers.
        origin: Origin,
        /// What was wrong with the answer.
        reason: String,
    },
}

impl ClientError {
    pub(super) fn from_request(origin: &Origin, error: &kube::Error) -> Self {
        let origin = origin.clone();
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "kube's enum is open; the rest speak for themselves"
        )]
        match error {
            kube::Error::Api(status) if status.code == 401 => Self::Unauthorized {
                origin,
                message: status.message.clone(),
            },
            kube::Error::Api(status) if status.code == 403 => Self::Forbidden {
                origin,
                message: status.message.clone(),
            },
            kube::Error::Service(cause) => Self::Unreachable {
                origin,
                reasons: cause
                    .downcast_ref::<FailoverError>()
                    .map_or_else(|| reason(cause.as_ref()), ToString::to_string),
            },
            other => Self::Answer {
                origin,
                reason: reason(other),
            },
        }
    }
}

impl From<ClientError> for ExitError {
    fn from(error: ClientError) -> Self {
        Self::new(Code::ApiServer, error)
    }
}

/// kube's text repeats the file's name, in quotes of quotes.
fn kubeconfig_fault(error: &KubeconfigError) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest speak for themselves")]
    match error {
        KubeconfigError::ReadConfig(cause, _) => format!("cannot be read: {cause}"),
        other => other.to_string(),
    }
}

/// What kind of failure a call to the API server met; a closed set for logs and metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// No server could be connected to, or the connection broke.
    Unreachable,
    /// No complete answer in time.
    Timeout,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404: for a watch, the kind is not installed.
    NotFound,
    /// 409: somebody else wrote first.
    Conflict,
    /// 410: the resource version is too old; a relist follows.
    Expired,
    /// 422, 400: the server finds the object invalid.
    Invalid,
    /// 429.
    Throttled,
    /// 5xx.
    Server,
    /// The answer cannot be read.
    Malformed,
    /// Anything else.
    Other,
}

impl Fault {
    /// Its stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Expired => "expired",
            Self::Invalid => "invalid",
            Self::Throttled => "throttled",
            Self::Server => "server",
            Self::Malformed => "malformed",
            Self::Other => "other",
        }
    }

    /// The fault a status code stands for.
    pub(crate) fn of_code(code: u16) -> Self {
        match code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            409 => Self::Conflict,
            410 => Self::Expired,
            400 | 422 => Self::Invalid,
            429 => Self::Throttled,
            500..=599 => Self::Server,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Classifies an error of a call, with its text.
pub fn explain(error: &kube::Error) -> (Fault, String) {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "kube's enum is open; the rest speak for themselves"
    )]
    match error {
        kube::Error::Api(status) => (Fault::of_code(status.code), status_text(status)),
        kube::Error::Service(cause) => match cause.downcast_ref::<FailoverError>() {
            Some(failover @ FailoverError::Timeout { .. }) => (Fault::Timeout, failover.to_string()),
            Some(failover) => (Fault::Unreachable, failover.to_string()),
            None => (Fault::Unreachable, reason(cause.as_ref())),
        },
        kube::Error::HyperError(cause) => (Fault::Unreachable, reason(cause)),
        kube::Error::ReadEvents(cause) => (Fault::Unreachable, reason(cause)),
        other => (Fault::Other, reason(other)),
    }
}

/// A status in words. Where a path is not served at all, the answer is no status and kube's text about
/// that misleads.
pub(crate) fn status_text(status: &Status) -> String {
    match status.code {
        404 if status.details.is_none() => "404: the API server does not serve this kind".to_owned(),
        code => format!("{code} {}: {}", status.reason, status.message),
    }
}

/// The root of a chain of errors, in words; the layers above it only say "error".
pub(super) fn reason(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    loop {
        if let Some(tls) = tls_error(last) {
            return tls_reason(tls);
        }
        if let Some(io) = last.downcast_ref::<io::Error>()
            && let Some(text) = io_reason(io)
        {
            return text.to_owned();
        }
        match last.source() {
            Some(next) => last = next,
            None => return last.to_string(),
        }
    }
}

/// `io::Error` hides the error that it wraps from `source()`, and may wrap another of its kind.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    let wrapped = error.downcast_ref::<io::Error>()?.get_ref()?;
    tls_error(wrapped)
}

fn io_reason(error: &io::Error) -> Option<&'static str> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "ErrorKind is open; the rest speak for themselves"
    )]
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            Some("nothing listens there (connection refused); check the address and that the server runs")
        }
        io::ErrorKind::TimedOut => {
            Some("no answer (connection timed out); check the address and that the server runs")
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Some("no route to it; check the address")
        }
        io::ErrorKind::ConnectionReset => Some("the connection was reset"),
        io::ErrorKind::UnexpectedEof => Some("the connection was closed"),
        _ => None,
    }
}

fn tls_reason(error: &rustls::Error) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "rustls' enums are non-exhaustive; the rest speak for themselves"
    )]
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is signed by an authority that the configuration does not name \
             (certificate-authority-data)"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is not valid for this address (add it to the certificate, or set tls-server-name)"
            .to_owned(),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "its certificate has expired".to_owned(),
        rustls::Error::InvalidMessage(_) => "it does not speak TLS (is the address http://?)".to_owned(),
        other => other.to_string(),
    }
}
