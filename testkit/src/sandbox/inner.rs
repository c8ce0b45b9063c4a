// SPDX-License-Identifier: Apache-2.0
//! Inside: private mounts, loopback up, forwarding on.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::{MARKER, SCRATCH};
use crate::Error;
use crate::netns::{feed, write_sysctl};

/// Settings of the namespace that stands for the office LAN's router.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    // Duplicate address detection would keep each new address unusable for a second.
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    // Where br_netfilter is loaded, frames between nodes would pass this namespace's IP rules.
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
    ("net/bridge/bridge-nf-call-arptables", "0"),
];

/// Done once, by process 1; a program that process 1 started finds it done.
pub(super) fn prepare() -> Result<(), Error> {
    if Path::new(SCRATCH).is_dir() && std::process::id() != 1 {
        return Ok(());
    }
    // A namespace's name is a mount below /run/netns: with a /run of our own none leaks out.
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .map_err(Error::errno("mount a tmpfs on /run"))?;
    fs::create_dir_all(SCRATCH).map_err(Error::io(SCRATCH))?;
    if let Err(errno) = mount(
        Some("sysfs"),
        "/sys",
        Some("sysfs"),
        MsFlags::empty(),
        None::<&str>,
    ) {
        tracing::debug!(%errno, "/sys stays the machine's: it lists the machine's interfaces");
    }
    SYSCTLS
        .iter()
        .try_for_each(|(key, value)| write_sysctl(key, value))?;
    feed("ip", &["-batch", "-"], "link set lo up\n")
}

/// A shell command by which somebody outside gets into the sandbox of the current process, to be
/// followed by what to run there. `None` outside.
pub fn enter_command() -> Option<String> {
    let outer = std::env::var(MARKER).ok()?;
    // A map of everything to itself means that there is no user namespace to join.
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let user = if map.split_whitespace().eq(["0", "0", "4294967295"]) {
        ""
    } else {
        "--user --preserve-credentials "
    };
    Some(format!(
        "nsenter --target \"$(pgrep -P \"$(pgrep -x -P {outer} unshare)\")\" {user}--net --mount --pid --"
    ))
}
