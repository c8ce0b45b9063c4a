// SPDX-License-Identifier: Apache-2.0
//! Bytes between a controller and the API server, as the kernel counts them on loopback.
//!
//! The API server's own size metrics see neither compression nor the answers to writes, and its own informers
//! count among the watchers. So the controller is given an address of loopback that nothing else uses, and two
//! counters of nftables hold what passes: frames, TLS and HTTP included, at no cost to either side.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use berth_testkit::sandbox;

/// Where the measured controller, and it alone, reaches the API server.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

const TABLE: &str = "berth_bench";

/// Bytes both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    /// From the API server: lists, watches, answers.
    pub(crate) received: u64,
    /// To the API server: requests.
    pub(crate) sent: u64,
}

impl Bytes {
    /// What has passed since an earlier reading.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            received: self.received.saturating_sub(earlier.received),
            sent: self.sent.saturating_sub(earlier.sent),
        }
    }
}

/// The counters, gone when dropped.
pub(crate) struct Wire;

impl Wire {
    /// Starts counting.
    pub(crate) fn count() -> Result<Self> {
        sandbox::require_inside("Wire::count")?;
        let rules = format!(
            "add table ip {TABLE}\n\
             add counter ip {TABLE} received\n\
             add counter ip {TABLE} sent\n\
             add chain ip {TABLE} input {{ type filter hook input priority 0; policy accept; }}\n\
             add rule ip {TABLE} input ip saddr {ADDRESS} counter name received\n\
             add rule ip {TABLE} input ip daddr {ADDRESS} counter name sent\n"
        );
        nft(&["-f", "-"], &rules)?;
        Ok(Self)
    }

    /// What has passed.
    pub(crate) fn bytes(&self) -> Result<Bytes> {
        let listed = nft(&["-j", "list", "counters", "table", "ip", TABLE], "")?;
        let listed: serde_json::Value = serde_json::from_str(&listed).context("nft -j list counters")?;
        Ok(Bytes {
            received: counter(&listed, "received")?,
            sent: counter(&listed, "sent")?,
        })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Err(error) = nft(&["delete", "table", "ip", TABLE], "") {
            tracing::warn!(%error, "the counters stay until the sandbox ends");
        }
    }
}

fn counter(listed: &serde_json::Value, name: &str) -> Result<u64> {
    let objects = listed["nftables"].as_array().context("no list of objects")?;
    let counters = objects.iter().map(|object| &object["counter"]);
    let found = counters
        .filter(|counter| counter["name"] == name)
        .find_map(|counter| counter["bytes"].as_u64());
    found.with_context(|| format!("no counter {name} in {listed}"))
}

fn nft(arguments: &[&str], input: &str) -> Result<String> {
    use std::io::Write;
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("nft (Debian package nftables)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).context("nft")?;
    }
    let output = child.wait_with_output().context("nft")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "nft {}: {}",
        arguments.join(" "),
        complaint.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use berth_testkit::in_sandbox;

    use super::*;

    #[test]
    fn what_passes_the_address_is_counted_by_direction() {
        in_sandbox!({
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            let port = listener.local_addr()?.port();
            let wire = Wire::count()?;
            let mut elsewhere = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            elsewhere.write_all(&[0; 5_000])?;
            assert_eq!(wire.bytes()?, Bytes::default());
            let mut client = TcpStream::connect((ADDRESS, port))?;
            let _ = listener.accept()?;
            let (mut server, _) = listener.accept()?;
            client.write_all(&[0; 1_000])?;
            server.read_exact(&mut [0; 1_000])?;
            server.write_all(&[0; 100_000])?;
            client.read_exact(&mut [0; 100_000])?;
            let bytes = wire.bytes()?;
            assert!((1_000..3_000).contains(&bytes.sent), "{bytes:?}");
            assert!((100_000..110_000).contains(&bytes.received), "{bytes:?}");
            assert_eq!(bytes.since(bytes), Bytes::default());
            anyhow::Ok(())
        });
    }
}
