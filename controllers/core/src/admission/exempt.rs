// SPDX-License-Identifier: Apache-2.0
//! What pools do not apply to, so that a cluster can start, and start again, without Berth.

use std::collections::BTreeSet;
use std::fmt;

/// Where the API server's own Service is, which it makes by itself and through admission (`default/kubernetes`).
const API_SERVER: (&str, &str) = ("default", "kubernetes");
/// Of the components that a cluster does not start without.
const SYSTEM_NAMESPACE: &str = "kube-system";

/// Why a Service is exempt. The text form is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exempt {
    /// It is `default/kubernetes`.
    ApiServerService,
    /// It is in a namespace that pools do not apply to.
    SystemNamespace,
}

impl Exempt {
    /// The stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApiServerService => "ApiServerService",
            Self::SystemNamespace => "SystemNamespace",
        }
    }
}

impl fmt::Display for Exempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The namespaces that pools do not apply to, and `default/kubernetes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exemptions {
    namespaces: BTreeSet<String>,
}

impl Exemptions {
    /// `kube-system`, and the namespaces given: Berth's own, whatever it is called.
    pub fn with(namespaces: impl IntoIterator<Item = String>) -> Self {
        let mut namespaces: BTreeSet<String> = namespaces.into_iter().collect();
        namespaces.insert(SYSTEM_NAMESPACE.to_owned());
        Self { namespaces }
    }

    /// Those in which every Service is exempt, ascending.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.iter().map(String::as_str)
    }

    /// Why a Service is exempt, if it is.
    pub fn of(&self, namespace: &str, name: &str) -> Option<Exempt> {
        if (namespace, name) == API_SERVER {
            Some(Exempt::ApiServerService)
        } else if self.namespaces.contains(namespace) {
            Some(Exempt::SystemNamespace)
        } else {
            None
        }
    }
}
