// SPDX-License-Identifier: Apache-2.0
//! What the kernel's IPVS table and our sets consist of.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use berth_model::{IpFamily, Port, Protocol};
use ipnet::IpNet;

/// What clients address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Socket {
    /// The address: a Service's or the node's own.
    pub ip: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: Port,
}

impl Socket {
    /// The family of the packets that reach it.
    pub fn family(&self) -> IpFamily {
        IpFamily::of(self.ip)
    }
}

impl fmt::Display for Socket {
    /// As ipset writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        write!(f, "{},{protocol}:{}", self.ip, self.port)
    }
}

/// How the kernel finds a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerKey {
    /// By what the packet is addressed to.
    Socket(Socket),
    /// By the packet's mark, which goes first.
    Mark {
        /// The family of the packets.
        family: IpFamily,
        /// The whole mark.
        mark: u32,
    },
}

impl ServerKey {
    /// The family of its packets and destinations.
    pub fn family(&self) -> IpFamily {
        match self {
            Self::Socket(socket) => socket.family(),
            Self::Mark { family, .. } => *family,
        }
    }
}

impl fmt::Display for ServerKey {
    /// As ipvsadm is told.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(Socket { ip, protocol, port }) => {
                let flag = match protocol {
                    Protocol::Tcp => "-t",
                    Protocol::Udp => "-u",
                    Protocol::Sctp => "--sctp-service",
                };
                write!(f, "{flag} {}", SocketAddr::new(*ip, port.get()))
            }
            Self::Mark { family, mark } => {
                let six = match family {
                    IpFamily::V4 => "",
                    IpFamily::V6 => " -6",
                };
                write!(f, "-f {mark}{six}")
            }
        }
    }
}

/// How the kernel picks a destination (`Documentation/networking/ipvs-sysctl.rst` and ipvsadm(8)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheduler {
    /// Round robin.
    #[default]
    Rr,
    /// Weighted round robin; all weights are 1.
    Wrr,
    /// Least connections.
    Lc,
    /// Weighted least connections.
    Wlc,
    /// Locality-based least connections.
    Lblc,
    /// The same with replication.
    Lblcr,
    /// Source hashing.
    Sh,
    /// Destination hashing.
    Dh,
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
    /// Maglev hashing.
    Mh,
    /// Weighted fail-over.
    Fo,
    /// Weighted overflow.
    Ovf,
    /// Power of two choices (Linux 5.15).
    Twos,
    /// One that this version does not know; seen in the kernel, never wanted.
    Unknown,
}

impl Scheduler {
    /// Those that can be asked for.
    pub const ALL: [Scheduler; 14] = [
        Self::Rr,
        Self::Wrr,
        Self::Lc,
        Self::Wlc,
        Self::Lblc,
        Self::Lblcr,
        Self::Sh,
        Self::Dh,
        Self::Sed,
        Self::Nq,
        Self::Mh,
        Self::Fo,
        Self::Ovf,
        Self::Twos,
    ];

    /// The kernel's name; its module is `ip_vs_` and that.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
            Self::Lblc => "lblc",
            Self::Lblcr => "lblcr",
            Self::Sh => "sh",
            Self::Dh => "dh",
            Self::Sed => "sed",
            Self::Nq => "nq",
            Self::Mh => "mh",
            Self::Fo => "fo",
            Self::Ovf => "ovf",
            Self::Twos => "twos",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A scheduler that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no IPVS scheduler; write one of rr, wrr, lc, wlc, lblc, lblcr, sh, dh, sed, nq, mh, fo, ovf, twos"
)]
pub struct UnknownScheduler(pub String);

impl FromStr for Scheduler {
    type Err = UnknownScheduler;

    fn from_str(text: &str) -> Result<Self, UnknownScheduler> {
        Self::ALL
            .into_iter()
            .find(|scheduler| scheduler.as_str() == text)
            .ok_or_else(|| UnknownScheduler(text.to_owned()))
    }
}

/// `IP_VS_SVC_F_PERSISTENT`: a client stays with its destination.
const PERSISTENT: u32 = 1;
/// `IP_VS_SVC_F_SCHED_MH_FALLBACK`: where the hash names a destination that takes none, the next one does.
const HASH_FALLBACK: u32 = 8;
/// `IP_VS_SVC_F_SCHED_MH_PORT`: the hash is of the source port, too.
const HASH_PORT: u32 = 16;
/// The flags that are ours to choose: `IP_VS_SVC_F_HASHED`, for one, is the kernel's.
const CHOSEN: u32 = !2;

/// How a virtual server picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerConfig {
    /// By which algorithm.
    pub scheduler: Scheduler,
    /// `IP_VS_SVC_F_*`.
    pub flags: u32,
    /// For how many seconds a client stays, where it does.
    pub timeout: u32,
}

impl ServerConfig {
    /// Every connection by itself.
    pub fn spread(scheduler: Scheduler) -> Self {
        let flags = match scheduler {
            // By the address alone all of a client's connections would go to one destination.
            Scheduler::Mh => HASH_PORT | HASH_FALLBACK,
            Scheduler::Rr
            | Scheduler::Wrr
            | Scheduler::Lc
            | Scheduler::Wlc
            | Scheduler::Lblc
            | Scheduler::Lblcr
            | Scheduler::Sh
            | Scheduler::Dh
            | Scheduler::Sed
            | Scheduler::Nq
            | Scheduler::Fo
            | Scheduler::Ovf
            | Scheduler::Twos
            | Scheduler::Unknown => 0,
        };
        Self {
            scheduler,
            flags,
            timeout: 0,
        }
    }

    /// A client stays for so many seconds after its last connection.
    pub fn persistent(scheduler: Scheduler, timeout: u32) -> Self {
        let spread = Self::spread(scheduler);
        Self {
            flags: spread.flags | PERSISTENT,
            timeout,
            ..spread
        }
    }

    /// A client stays as long as its destination does. For servers that are found by mark: a persistent one keeps the
    /// packet's port (`ip_vs_sched_persist` in Linux's net/netfilter/ipvs/ip_vs_core.c), which is not the endpoint's.
    pub fn by_source() -> Self {
        Self {
            scheduler: Scheduler::Mh,
            flags: HASH_FALLBACK,
            timeout: 0,
        }
    }

    /// As the kernel reports it.
    pub fn observed(scheduler: &str, flags: u32, timeout: u32) -> Self {
        let flags = flags & CHOSEN;
        Self {
            scheduler: scheduler.parse().unwrap_or(Scheduler::Unknown),
            flags,
            timeout: if flags & PERSISTENT == 0 { 0 } else { timeout },
        }
    }
}

impl fmt::Display for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-s {}", self.scheduler)?;
        if self.flags & PERSISTENT != 0 {
            write!(f, " -p {}", self.timeout)?;
        }
        for (flag, name) in [(HASH_FALLBACK, "mh-fallback"), (HASH_PORT, "mh-port")] {
            if self.flags & flag != 0 {
                write!(f, " -b {name}")?;
            }
        }
        Ok(())
    }
}

/// An element of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// A socket.
    Socket(Socket),
    /// A socket, and the mark of its second server.
    Steered(Socket, u32),
    /// A network that may come to a socket.
    Source(Socket, IpNet),
    /// An address on the link.
    Address(IpAddr),
    /// Where Pods live.
    Net(IpNet),
    /// An address, paired with itself.
    Pair(IpAddr),
}

impl Member {
    /// Its family.
    pub fn family(&self) -> IpFamily {
        match self {
            Self::Socket(socket) | Self::Steered(socket, _) | Self::Source(socket, _) => socket.family(),
            Self::Address(ip) | Self::Pair(ip) => IpFamily::of(*ip),
            Self::Net(net) => IpFamily::of(net.addr()),
        }
    }

    /// What names it within its set: all but what it carries.
    pub fn key(&self) -> String {
        match self {
            Self::Socket(socket) | Self::Steered(socket, _) => socket.to_string(),
            Self::Source(socket, net) => format!("{socket},{net}"),
            Self::Address(ip) => ip.to_string(),
            Self::Net(net) => net.to_string(),
            Self::Pair(ip) => format!("{ip},{ip}"),
        }
    }
}

impl fmt::Display for Member {
    /// As `ipset add` is told.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key())?;
        match self {
            Self::Steered(_, mark) => write!(f, " skbmark {mark:#x}/0xffffffff"),
            Self::Socket(_) | Self::Source(..) | Self::Address(_) | Self::Net(_) | Self::Pair(_) => Ok(()),
        }
    }
}

/// Bits 24 to 30 of a number say that it is one of our marks; the bits below number them.
const TAG: u32 = 0x5e << 24;
const TAG_BITS: u32 = 0x7f << 24;

/// The marks by which second servers are found. None has the bit that asks for masquerading, and all of them can be told
/// from other people's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkSpace {
    masquerade: u32,
}

impl MarkSpace {
    /// Beside this bit of the mark ([`Settings::mark`](crate::Settings)).
    pub fn beside(masquerade: u32) -> Self {
        Self { masquerade }
    }

    /// Makes room for the bit: what is at it or above moves up.
    fn spread(self, number: u32) -> u32 {
        let below = self.masquerade.wrapping_sub(1);
        (number & below) | ((number & !below) << 1)
    }

    /// The bit that asks for masquerading.
    pub fn masquerade(self) -> u32 {
        self.masquerade
    }

    /// Value and mask that all marks have in common.
    pub fn tag(self) -> (u32, u32) {
        (self.spread(TAG), self.spread(TAG_BITS))
    }

    /// Whether the mark is one of ours.
    pub fn has(self, mark: u32) -> bool {
        let (value, mask) = self.tag();
        mark & (mask | self.masquerade) == value
    }

    /// All marks, 16 million.
    pub fn marks(self) -> impl Iterator<Item = u32> {
        (0..1 << 24).map(move |number| self.spread(TAG | number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_distinct_ours_and_ask_for_no_masquerading() {
        for bit in [0, 1, 14, 24, 30, 31] {
            let space = MarkSpace::beside(1 << bit);
            let (first, second) = (space.marks().next(), space.marks().nth(1));
            assert_ne!(first, second);
            for mark in [
                space.marks().next(),
                space.marks().nth(0x4000),
                space.marks().last(),
            ] {
                let mark = mark.unwrap();
                assert!(space.has(mark) && mark & space.masquerade() == 0, "{mark:#x}");
            }
            assert!(!space.has(space.masquerade()) && !space.has(0));
        }
    }

    #[test]
    fn a_config_reads_back_from_the_kernel_whatever_it_adds() {
        for config in [
            ServerConfig::spread(Scheduler::Rr),
            ServerConfig::spread(Scheduler::Mh),
            ServerConfig::persistent(Scheduler::Wlc, 10_800),
            ServerConfig::by_source(),
        ] {
            let seen = ServerConfig::observed(config.scheduler.as_str(), config.flags | 2, config.timeout);
            assert_eq!(seen, config);
        }
        assert_eq!(ServerConfig::observed("sip", 0, 0).scheduler, Scheduler::Unknown);
    }

    #[test]
    fn schedulers_are_known_by_the_kernels_names() {
        for scheduler in Scheduler::ALL {
            assert_eq!(scheduler.as_str().parse(), Ok(scheduler));
        }
        assert!("random".parse::<Scheduler>().is_err() && "unknown".parse::<Scheduler>().is_err());
    }
}
