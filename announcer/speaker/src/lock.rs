// SPDX-License-Identifier: Apache-2.0
//! One announcer for a node in one network namespace, whatever its heartbeat port.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use berth_model::NodeName;

use crate::SpeakerError;

/// An abstract Unix address (unix(7)): it belongs to the network namespace, and the kernel frees it when its
/// holder dies, however it dies.
#[derive(Debug)]
pub(crate) struct NodeLock {
    _holder: UnixDatagram,
}

impl NodeLock {
    /// Takes the lock or says that somebody has it.
    pub(crate) fn take(node: &NodeName) -> Result<Self, SpeakerError> {
        let name = format!("berth-announcer/{node}");
        let bind = || UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?);
        match bind() {
            Ok(holder) => Ok(Self { _holder: holder }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(SpeakerError::SameMachine(node.clone()))
            }
            // No lock is no reason not to announce: peers notice a second announcer too.
            Err(error) => {
                tracing::warn!(%error, address = name, "the announcer's lock cannot be taken");
                let holder = UnixDatagram::unbound().map_err(SpeakerError::Lock)?;
                Ok(Self { _holder: holder })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_one_announcer_until_it_ends() {
        let node = NodeName::new(format!("test-{}", std::process::id()));
        let first = NodeLock::take(&node).unwrap();
        let said = NodeLock::take(&node).unwrap_err().to_string();
        assert!(
            said.contains(node.as_str()) && said.contains("--node-name"),
            "{said}"
        );
        drop(first);
        assert!(NodeLock::take(&node).is_ok());
    }
}
