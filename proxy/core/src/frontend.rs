// SPDX-License-Identifier: Apache-2.0
//! The two ends of a translation: what a client addresses, and where its packets go.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use berth_model::{IpFamily, Port, Protocol};

use crate::names::Kind;

/// What a client addresses. Node ports exist once per family and Service, whatever the node's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// An address that belongs to Services: ClusterIP, external or LoadBalancer address.
    Vip {
        /// The address.
        ip: IpAddr,
        /// The transport protocol.
        protocol: Protocol,
        /// The Service port.
        port: Port,
    },
    /// A port of the node itself.
    NodePort {
        /// The family of the node address.
        family: IpFamily,
        /// The transport protocol.
        protocol: Protocol,
        /// The node port.
        port: Port,
    },
}

impl Frontend {
    /// The family of the packets that reach it.
    pub fn family(&self) -> IpFamily {
        match self {
            Self::Vip { ip, .. } => IpFamily::of(*ip),
            Self::NodePort { family, .. } => *family,
        }
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Vip { .. } => Kind::Vip,
            Self::NodePort { .. } => Kind::NodePort,
        }
    }

    /// Its transport protocol.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Vip { protocol, .. } | Self::NodePort { protocol, .. } => *protocol,
        }
    }

    /// Its port.
    pub fn port(&self) -> Port {
        match self {
            Self::Vip { port, .. } | Self::NodePort { port, .. } => *port,
        }
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vip { ip, protocol, port } => write!(f, "{}/{protocol}", SocketAddr::new(*ip, port.get())),
            Self::NodePort {
                family,
                protocol,
                port,
            } => write!(f, "node port {port}/{protocol} ({family})"),
        }
    }
}

/// Where packets go: address and port of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The endpoint's address.
    pub ip: IpAddr,
    /// The endpoint's port.
    pub port: Port,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.ip, self.port.get()).fmt(f)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
