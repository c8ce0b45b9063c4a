// SPDX-License-Identifier: Apache-2.0
//! The sysctls of conntrack: what they should be, what they are, and the difference. The numbers are
//! kube-proxy's (`pkg/proxy/conntrack/sysctls.go` of Kubernetes v1.37).

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::options::ConntrackOptions;

/// More entries than this are not asked for, however many CPUs there are: each takes some 300 bytes.
const MOST: u64 = 1 << 20;

/// One setting of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sysctl {
    Max,
    HashSize,
    TcpEstablished,
    TcpCloseWait,
    TcpBeLiberal,
    Udp,
    UdpStream,
}

impl Sysctl {
    fn path(self) -> &'static str {
        match self {
            Self::Max => "/proc/sys/net/netfilter/nf_conntrack_max",
            Self::HashSize => "/sys/module/nf_conntrack/parameters/hashsize",
            Self::TcpEstablished => "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established",
            Self::TcpCloseWait => "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait",
            Self::TcpBeLiberal => "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal",
            Self::Udp => "/proc/sys/net/netfilter/nf_conntrack_udp_timeout",
            Self::UdpStream => "/proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream",
        }
    }

    /// The flag that leaves it alone.
    fn way_out(self) -> &'static str {
        match self {
            Self::Max | Self::HashSize => "--conntrack-max-per-core=0",
            Self::TcpEstablished => "--conntrack-tcp-timeout-established=0",
            Self::TcpCloseWait => "--conntrack-tcp-timeout-close-wait=0",
            Self::TcpBeLiberal => "no --conntrack-tcp-be-liberal",
            Self::Udp => "--conntrack-udp-timeout=0",
            Self::UdpStream => "--conntrack-udp-timeout-stream=0",
        }
    }
}

/// One setting that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) sysctl: Sysctl,
    /// `None` where it cannot be read.
    pub(crate) from: Option<u64>,
    pub(crate) to: u64,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.sysctl.path())?;
        match self.from {
            Some(from) => write!(f, "{from} -> {}", self.to),
            None => write!(f, "unknown -> {}", self.to),
        }
    }
}

/// What to change. Sizes are only ever raised; times are set. Nothing is asked of what is to be left alone.
pub(crate) fn plan(
    options: &ConntrackOptions,
    cpus: u32,
    read: impl Fn(Sysctl) -> Option<u64>,
) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut want = |sysctl, to: u64, fits: fn(u64, u64) -> bool| {
        let from = read(sysctl);
        if !from.is_some_and(|from| fits(from, to)) {
            changes.push(Change { sysctl, from, to });
        }
    };
    let at_least = |from, to| from >= to;
    if options.max_per_core > 0 {
        let scaled = u64::from(options.max_per_core) * u64::from(cpus);
        let max = if scaled > MOST {
            MOST
        } else {
            scaled.max(options.min.into())
        };
        want(Sysctl::Max, max, at_least);
        want(Sysctl::HashSize, max / 4, at_least);
    }
    for (sysctl, timeout) in [
        (Sysctl::TcpEstablished, options.tcp_established),
        (Sysctl::TcpCloseWait, options.tcp_close_wait),
        (Sysctl::Udp, options.udp),
        (Sysctl::UdpStream, options.udp_stream),
    ] {
        if timeout >= Duration::from_secs(1) {
            want(sysctl, timeout.as_secs(), |from, to| from == to);
        }
    }
    if options.tcp_be_liberal {
        want(Sysctl::TcpBeLiberal, 1, |from, to| from == to);
    }
    changes
}

/// Sets what is not as it should be, and says so. Returns how many could not be set: the proxy works
/// without them, so that a container that may not write sysctls is no reason to stop.
pub(crate) fn apply(options: &ConntrackOptions) -> usize {
    let mut refused = 0;
    for change in plan(options, cpus(), read) {
        match std::fs::write(change.sysctl.path(), change.to.to_string()) {
            Ok(()) => tracing::info!(%change, "sysctl set"),
            Err(error) => {
                refused += 1;
                tracing::warn!(
                    %change,
                    %error,
                    "sysctl not set; set it on the node, or leave it alone with {}",
                    change.sysctl.way_out()
                );
            }
        }
    }
    refused
}

fn read(sysctl: Sysctl) -> Option<u64> {
    let text = std::fs::read_to_string(Path::new(sysctl.path())).ok()?;
    text.trim().parse().ok()
}

/// The node's CPUs, and not those that this process may use: the table is everybody's.
fn cpus() -> u32 {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").ok();
    let counted = online.and_then(|text| count(text.trim()));
    counted.unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX))
    })
}

/// Counts a list such as `0-3,8`.
fn count(list: &str) -> Option<u32> {
    let mut cpus = 0;
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        cpus += last.checked_sub(first)? + 1;
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_options() -> ConntrackOptions {
        ConntrackOptions {
            max_per_core: 32_768,
            min: 131_072,
            tcp_established: Duration::from_secs(86_400),
            tcp_close_wait: Duration::from_secs(3_600),
            tcp_be_liberal: false,
            udp: Duration::ZERO,
            udp_stream: Duration::ZERO,
        }
    }

    /// What is planned where the kernel has these values and no others.
    fn planned(options: &ConntrackOptions, cpus: u32, kernel: &[(Sysctl, u64)]) -> Vec<(Sysctl, u64)> {
        let read = |sysctl| {
            kernel
                .iter()
                .find(|(name, _)| *name == sysctl)
                .map(|(_, value)| *value)
        };
        let changes = plan(options, cpus, read);
        changes.iter().map(|change| (change.sysctl, change.to)).collect()
    }

    #[test]
    fn the_table_grows_with_the_cpus_within_bounds_and_never_shrinks() {
        let options = ConntrackOptions {
            tcp_established: Duration::ZERO,
            tcp_close_wait: Duration::ZERO,
            ..mk_options()
        };
        for (cpus, max) in [
            (1, 131_072),
            (4, 131_072),
            (8, 262_144),
            (32, 1_048_576),
            (200, 1_048_576),
        ] {
            let expected = [(Sysctl::Max, max), (Sysctl::HashSize, max / 4)];
            assert_eq!(planned(&options, cpus, &[]), expected, "{cpus}");
            let enough = [(Sysctl::Max, max + 1), (Sysctl::HashSize, max)];
            assert_eq!(planned(&options, cpus, &enough), [], "{cpus}");
        }
        let left = ConntrackOptions {
            max_per_core: 0,
            ..options
        };
        assert_eq!(planned(&left, 8, &[]), []);
    }

    #[test]
    fn times_are_set_only_if_asked_for() {
        let kernel = [
            (Sysctl::Max, 1 << 20),
            (Sysctl::HashSize, 1 << 20),
            (Sysctl::TcpEstablished, 432_000),
            (Sysctl::TcpCloseWait, 3_600),
            (Sysctl::Udp, 30),
        ];
        assert_eq!(
            planned(&mk_options(), 2, &kernel),
            [(Sysctl::TcpEstablished, 86_400)]
        );
        let asked = ConntrackOptions {
            udp: Duration::from_secs(5),
            tcp_be_liberal: true,
            ..mk_options()
        };
        assert_eq!(
            planned(&asked, 2, &kernel),
            [
                (Sysctl::TcpEstablished, 86_400),
                (Sysctl::Udp, 5),
                (Sysctl::TcpBeLiberal, 1)
            ]
        );
    }

    #[test]
    fn a_list_of_cpus_is_counted() {
        for (list, cpus) in [
            ("0", Some(1)),
            ("0-3", Some(4)),
            ("0-3,8,10-11", Some(7)),
            ("", None),
            ("3-1", None),
        ] {
            assert_eq!(count(list), cpus, "{list}");
        }
    }

    #[test]
    fn a_change_names_the_file_and_both_values() {
        let change = Change {
            sysctl: Sysctl::Udp,
            from: Some(30),
            to: 5,
        };
        assert_eq!(
            change.to_string(),
            "/proc/sys/net/netfilter/nf_conntrack_udp_timeout: 30 -> 5"
        );
    }
}
