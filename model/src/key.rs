// SPDX-License-Identifier: Apache-2.0
//! Identities: cheap to clone, ordered, never two bare strings side by side.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::Protocol;

/// Namespace and name of a Service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl ServiceKey {
    /// A key from its two parts, which the API server has validated already.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name within the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form namespace/name")]
pub struct KeyError(pub String);

impl FromStr for ServiceKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(KeyError(text.to_owned())),
        }
    }
}

/// The name of a Node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// A Node's name as the API server has it.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a Service port; empty where a Service has one unnamed port.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName(Arc<str>);

impl PortName {
    /// A port name; empty for the single unnamed port.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name as text, possibly empty.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Identity of one port of one Service: what kube-proxy calls by the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    /// The Service.
    pub service: ServiceKey,
    /// The port's name, possibly empty.
    pub port: PortName,
    /// The same name may be used once per protocol only by mistake, but the number may: keep both.
    pub protocol: Protocol,
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if !self.port.as_str().is_empty() {
            write!(f, ":{}", self.port)?;
        }
        write!(f, "/{}", self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_key_reads_back_what_it_prints() {
        let key = ServiceKey::new("shop", "web");
        assert_eq!(key.to_string().parse::<ServiceKey>(), Ok(key));
    }

    #[test]
    fn a_text_without_both_parts_is_no_key() {
        for text in ["web", "/web", "shop/", "a/b/c", ""] {
            assert_eq!(text.parse::<ServiceKey>(), Err(KeyError(text.to_owned())));
        }
    }

    #[test]
    fn an_unnamed_port_prints_without_a_colon() {
        let name = ServicePortName {
            service: ServiceKey::new("shop", "web"),
            port: PortName::default(),
            protocol: Protocol::Tcp,
        };
        assert_eq!(name.to_string(), "shop/web/TCP");
    }
}
