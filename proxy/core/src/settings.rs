// SPDX-License-Identifier: Apache-2.0
//! What the operator chose.

use berth_model::NodeName;
use ipnet::IpNet;

/// What the operator chose, for one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This node: tells local endpoints. `None` outside a node (`berth plan`).
    pub node: Option<NodeName>,
    /// Where Pods live, both families. With none of a family, nothing is masqueraded for coming from elsewhere.
    pub cluster_cidrs: Vec<IpNet>,
    /// Masquerade every connection to a Service.
    pub masquerade_all: bool,
    /// The bit of the packet mark that carries the decision to masquerade, as a mark value.
    pub mark: u32,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A packet mark has 32 bits.
    #[error("--masquerade-bit is {0}; a packet mark has bits 0 to 31")]
    MasqueradeBit(u8),
}

impl Settings {
    /// Settings with the given bit (0 to 31) of the packet mark for masquerade decisions.
    ///
    /// # Errors
    /// The bit is above 31.
    pub fn new(masquerade_bit: u8) -> Result<Self, SettingsError> {
        let mark = 1u32
            .checked_shl(masquerade_bit.into())
            .ok_or(SettingsError::MasqueradeBit(masquerade_bit))?;
        Ok(Self {
            node: None,
            cluster_cidrs: Vec::new(),
            masquerade_all: false,
            mark,
        })
    }
}

impl Default for Settings {
    /// Mark 0x4000, kube-proxy's `--iptables-masquerade-bit=14`.
    fn default() -> Self {
        Self {
            node: None,
            cluster_cidrs: Vec::new(),
            masquerade_all: false,
            mark: 1 << 14,
        }
    }
}
