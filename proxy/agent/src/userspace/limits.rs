// SPDX-License-Identifier: Apache-2.0
//! How much can be relayed at the same time: what descriptors there are decides.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a spliced connection holds: two sockets, and a pipe of two ends for each direction.
const PER_CONNECTION: u64 = 6;
/// Kept for the rest of the process: watches, netlink, listeners.
const RESERVE: u64 = 4_096;
/// Without a limit of descriptors, there still is one of memory.
const MOST_CONNECTIONS: u64 = 100_000;
/// Clients of one UDP relay, each with a socket. As many as `nf_conntrack_max` has for each CPU at least, divided by
/// the Service ports of a busy node.
const UDP_CLIENTS: usize = 4_096;

/// What may be relayed at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// TCP connections, of all relays together.
    pub connections: usize,
    /// UDP clients of one relay.
    pub udp_clients: usize,
}

impl Capacity {
    /// As many as there may be descriptors; as far as the process may, it raises its limit first.
    pub fn of_process() -> Self {
        let limits = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
            if soft < hard {
                setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
            }
            Ok(hard)
        });
        let descriptors = limits.unwrap_or_else(|error| {
            tracing::warn!(%error, "the limit of open files is not known");
            1_024
        });
        let capacity = Self::with(descriptors);
        tracing::info!(
            descriptors,
            connections = capacity.connections,
            udp_clients = capacity.udp_clients,
            "what can be relayed at once"
        );
        capacity
    }

    /// With so many descriptors.
    fn with(descriptors: u64) -> Self {
        let reserve = RESERVE.min(descriptors / 2);
        let connections = ((descriptors - reserve) / PER_CONNECTION).clamp(1, MOST_CONNECTIONS);
        Self {
            connections: usize::try_from(connections).unwrap_or(usize::MAX),
            udp_clients: UDP_CLIENTS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_the_descriptors() {
        for (descriptors, connections) in [(1, 1), (1_024, 85), (65_536, 10_240), (u64::MAX, 100_000)] {
            assert_eq!(
                Capacity::with(descriptors).connections,
                connections,
                "{descriptors}"
            );
        }
    }
}
