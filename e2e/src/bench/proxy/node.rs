// SPDX-License-Identifier: Apache-2.0
//! The node that a measured proxy runs on: its uplink, whose bytes are counted, a client, and every endpoint's address.
//!
//! ```text
//!   API server --- uplink --- node --- client: connects to each Service, to see that it is there
//!                              |
//!                             pods: 10.128.0.0/9, listens on the endpoints' ports
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_testkit::netns::Netns;
use berth_testkit::process::Process;
use socket2::{Domain, Socket, Type};

use super::super::wire::Bytes;
use super::data::{PORTS, ProxyData};

/// Where the node finds the API server.
pub(super) const API_SERVER: Ipv4Addr = Ipv4Addr::new(172, 31, 250, 1);
/// Between two looks at the Service that is looked at while nothing is there.
const LOOK: Duration = Duration::from_millis(2);
/// A slow peer on a slow machine.
const CONVERGENCE: Duration = Duration::from_secs(900);
/// For a handshake between two namespaces. Short, since a first packet that meets rules while they are made is sent again
/// only after a second, which would be measured.
const CONNECTED: Duration = Duration::from_millis(20);
/// For one that is to tell whether a Service is there, however busy the machine: less than until a packet is sent again.
const ANSWERED: Duration = Duration::from_millis(700);

/// Gone when dropped.
pub(super) struct BenchNode {
    stage: Netns,
    node: Netns,
    client: Netns,
    pods: Netns,
}

impl BenchNode {
    /// Builds it.
    pub(super) fn build() -> Result<Self> {
        let built = Self {
            stage: Netns::current("stage")?,
            node: Netns::create("bench-node")?,
            client: Netns::create("bench-client")?,
            pods: Netns::create("bench-pods")?,
        };
        for netns in [&built.node, &built.client, &built.pods] {
            netns.sysctl(&[
                ("net/ipv4/conf/all/rp_filter", "0"),
                ("net/ipv4/conf/default/rp_filter", "0"),
                // What is not there yet is refused by ICMP, as often as it is asked for.
                ("net/ipv4/icmp_ratelimit", "0"),
                ("net/ipv4/ip_forward", "1"),
            ])?;
            netns.ip("link set lo up\n")?;
        }
        built.stage.ip(&format!(
            "link add bench-up type veth peer name uplink netns bench-node\n\
             link set bench-up up\naddr add {API_SERVER}/30 dev bench-up\n"
        ))?;
        built
            .node
            .ip("link set uplink up\naddr add 172.31.250.2/30 dev uplink\n\
             link add client type veth peer name eth0 netns bench-client\n\
             link set client up\naddr add 192.168.200.1/24 dev client\n\
             link add pods type veth peer name eth0 netns bench-pods\n\
             link set pods up\naddr add 192.168.201.1/24 dev pods\n\
             route add 10.128.0.0/9 via 192.168.201.2\n")?;
        built.client.ip(
            "link set eth0 up\naddr add 192.168.200.2/24 dev eth0\nroute add default via 192.168.200.1\n",
        )?;
        built.pods.ip(
            "link set eth0 up\naddr add 192.168.201.2/24 dev eth0\nroute add default via 192.168.201.1\n\
             route add local 10.128.0.0/9 dev lo\n",
        )?;
        for (_, _, port) in PORTS {
            let listener = built
                .pods
                .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))??;
            // Ends with the process: a bench leaves at most two a run behind.
            std::thread::spawn(move || listener.incoming().for_each(drop));
        }
        Ok(built)
    }

    /// The node's own namespace.
    pub(super) fn netns(&self) -> &Netns {
        &self.node
    }

    /// What has passed the uplink.
    pub(super) fn bytes(&self) -> Result<Bytes> {
        let table = self
            .stage
            .run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        bytes_of(&table, "bench-up").context("no uplink")
    }

    /// When every port of every Service led to an endpoint. Blocks.
    pub(super) fn converged(&self, data: &ProxyData, process: &mut Process) -> Result<Instant> {
        let every: Vec<SocketAddr> = (0..data.services)
            .flat_map(|index| {
                let ports = data.ports().iter();
                ports.map(move |(_, port, _)| SocketAddr::new(ProxyData::cluster_ip(index).into(), *port))
            })
            .collect();
        let started = Instant::now();
        let last = *every.last().context("no Services")?;
        let mut there = self.wait(last, started, process)?;
        // Most likely all is there by now. What is not, is waited for, and counts.
        for address in every {
            if !self.serves_within(ANSWERED, address)? {
                there = self.wait(address, started, process)?;
            }
        }
        Ok(there)
    }

    fn wait(&self, address: SocketAddr, started: Instant, process: &mut Process) -> Result<Instant> {
        loop {
            if self.serves(address)? {
                return Ok(Instant::now());
            }
            if let Some(status) = process.try_wait()? {
                bail!("it has ended ({status}): {}", process.log_end());
            }
            ensure!(
                started.elapsed() < CONVERGENCE,
                "{address} is not served after {CONVERGENCE:?}: {}",
                process.log_end()
            );
            std::thread::sleep(LOOK);
        }
    }

    /// Whether an endpoint takes a connection.
    pub(super) fn serves(&self, address: SocketAddr) -> Result<bool> {
        self.serves_within(CONNECTED, address)
    }

    fn serves_within(&self, patience: Duration, address: SocketAddr) -> Result<bool> {
        let tried = self.client.run(|| -> io::Result<()> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            // A reset at the end: nothing waits for anything, no port is held.
            socket.set_linger(Some(Duration::ZERO))?;
            socket.connect_timeout(&address.into(), patience)
        })?;
        Ok(tried.is_ok())
    }
}

impl Drop for BenchNode {
    fn drop(&mut self) {
        for removed in [
            self.stage.ip("link del bench-up\n"),
            self.node.delete(),
            self.client.delete(),
            self.pods.delete(),
        ] {
            if let Err(error) = removed {
                tracing::warn!(%error, "stays until the sandbox ends");
            }
        }
    }
}

/// What the stage sent, the node received.
fn bytes_of(table: &str, link: &str) -> Option<Bytes> {
    let line = table
        .lines()
        .find_map(|line| line.trim().strip_prefix(link)?.strip_prefix(':'))?;
    let mut fields = line.split_whitespace().map(str::parse::<u64>);
    Some(Bytes {
        sent: fields.next()?.ok()?,
        received: fields.nth(7)?.ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_seen_from_the_node() {
        let table =
            "face |bytes\n bench-up: 10 1 0 0 0 0 0 0 30 2 0 0 0 0 0 0\n bench-up2: 1 1 1 1 1 1 1 1 1\n";
        let bytes = bytes_of(table, "bench-up").unwrap();
        assert_eq!((bytes.received, bytes.sent), (30, 10));
        assert_eq!(bytes_of(table, "bench"), None);
    }
}
