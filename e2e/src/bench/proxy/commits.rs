// SPDX-License-Identifier: Apache-2.0
//! When something reached the kernel's nftables: the kernel tells of every transaction once it is committed, whoever
//! wrote it and in whatever layout, and here it is told apart by the bytes of an endpoint's address and port.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_testkit::netns::Netns;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h, 7, as the bit of the old way to join a group.
const NFTABLES: u32 = 1 << (7 - 1);
/// NFT_MSG_NEWGEN of linux/netfilter/nf_tables.h, of the subsystem nftables.
const GENERATION: u16 = (10 << 8) | 15;
/// Room for the events of a transaction that replaces much; forced, beyond the machine's limit.
const ROOM: usize = 64 << 20;
/// So long a read waits at most, to see whether the deadline has passed.
const LOOK: i64 = 100;
/// The greatest datagram of events.
const DATAGRAM: usize = 1 << 18;

/// A subscription to the transactions of a namespace. Writers pay a little for each event while it is open.
pub(crate) struct Commits(OwnedFd);

impl Commits {
    /// Subscribes.
    pub(crate) fn subscribe(netns: &Netns) -> Result<Self> {
        let open = || -> nix::Result<OwnedFd> {
            let socket = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkNetFilter,
            )?;
            setsockopt(&socket, sockopt::RcvBufForce, &ROOM)
                .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &ROOM))?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOOK))?;
            bind(
                std::os::fd::AsRawFd::as_raw_fd(&socket),
                &NetlinkAddr::new(0, NFTABLES),
            )?;
            Ok(socket)
        };
        Ok(Self(netns.run(open)?.context("subscribe to nftables")?))
    }

    /// When all of these had been written somewhere as data. Blocks.
    pub(super) fn seen(&self, endpoints: &[SocketAddrV4], patience: Duration) -> Result<Instant> {
        let started = Instant::now();
        let mut wanted: Vec<[u8; 6]> = endpoints.iter().map(needle).collect();
        let mut datagram = vec![0; DATAGRAM];
        while !wanted.is_empty() {
            ensure!(
                started.elapsed() < patience,
                "{endpoints:?} not in the kernel after {patience:?}"
            );
            match self.read(&mut datagram) {
                Ok(length) => wanted.retain(|needle| !holds(&datagram[..length], needle)),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error).context("read nftables events"),
            }
        }
        Ok(Instant::now())
    }

    /// Forgets what has been told so far.
    pub(super) fn drain(&self) -> Result<()> {
        let mut datagram = vec![0; DATAGRAM];
        loop {
            match self.receive(&mut datagram, MsgFlags::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error).context("read nftables events"),
            }
        }
    }

    /// How many transactions were told of since the subscription or the last call.
    pub(crate) fn transactions(&self) -> Result<u32> {
        let mut datagram = vec![0; DATAGRAM];
        let mut count = 0;
        loop {
            match self.receive(&mut datagram, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => count += generations(&datagram[..length]),
                Err(Errno::EAGAIN) => return Ok(count),
                Err(error) => return Err(error).context("read nftables events"),
            }
        }
    }

    fn read(&self, datagram: &mut [u8]) -> nix::Result<usize> {
        self.receive(datagram, MsgFlags::empty())
    }

    fn receive(&self, datagram: &mut [u8], flags: MsgFlags) -> nix::Result<usize> {
        let mut parts = [IoSliceMut::new(datagram)];
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.0);
        let message = recvmsg::<NetlinkAddr>(fd, &mut parts, None, flags)?;
        Ok(message.bytes)
    }
}

/// Address and port as they stand in the data of an nftables map: concatenated, each padded behind to four bytes.
fn needle(endpoint: &SocketAddrV4) -> [u8; 6] {
    let [a, b, c, d] = Ipv4Addr::octets(endpoint.ip());
    let [high, low] = endpoint.port().to_be_bytes();
    [a, b, c, d, high, low]
}

/// How many messages say that a transaction has ended: each has its length and its type first, as the machine writes
/// numbers.
fn generations(mut datagram: &[u8]) -> u32 {
    let mut count = 0;
    while let Some(([a, b, c, d, low, high], _)) = datagram.split_first_chunk() {
        count += u32::from(u16::from_ne_bytes([*low, *high]) == GENERATION);
        let length = u32::from_ne_bytes([*a, *b, *c, *d]).next_multiple_of(4).max(16);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    count
}

fn holds(datagram: &[u8], needle: &[u8; 6]) -> bool {
    datagram.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use berth_testkit::in_sandbox;

    use super::*;

    #[test]
    fn an_element_is_seen_once_it_is_committed_and_another_is_not() {
        in_sandbox!({
            let netns = Netns::create("commits")?;
            let nft = |text: &str| netns.output("nft", &[text]);
            nft("add table ip t")?;
            nft("add map ip t m { typeof ip daddr : ip daddr . tcp dport; }")?;
            let commits = Commits::subscribe(&netns)?;
            nft("add element ip t m { 10.96.0.1 : 10.127.0.1 . 8080 }")?;
            let endpoint = |text: &str| text.parse::<SocketAddrV4>();
            commits.seen(&[endpoint("10.127.0.1:8080")?], Duration::from_secs(30))?;
            nft("add element ip t m { 10.96.0.2 : 10.127.0.2 . 8080 }")?;
            let other = commits.seen(&[endpoint("10.127.0.2:8081")?], Duration::from_millis(150));
            ensure!(other.is_err(), "{other:?}");
            nft("add element ip t m { 10.96.0.3 : 10.127.0.3 . 8080 }")?;
            commits.drain()?;
            let drained = commits.seen(&[endpoint("10.127.0.3:8080")?], Duration::from_millis(150));
            ensure!(drained.is_err(), "{drained:?}");
            ensure!(commits.transactions()? == 0);
            nft("add element ip t m { 10.96.0.4 : 10.127.0.4 . 8080 }")?;
            nft("add element ip t m { 10.96.0.5 : 10.127.0.5 . 8080, 10.96.0.6 : 10.127.0.6 . 8080 }")?;
            let transactions = commits.transactions()?;
            ensure!(transactions == 2, "{transactions}");
            Ok(())
        });
    }
}
