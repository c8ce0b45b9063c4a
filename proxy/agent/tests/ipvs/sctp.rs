// SPDX-License-Identifier: Apache-2.0
//! SCTP, which this kernel has, unlike the one that the nftables tests run on.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::ensure;
use berth_model::{PortName, Protocol, Service, ServicePort};
use berth_testkit::netns::Netns;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, listen,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::cluster::{Cluster, block_on, mk_syncer, on};
use crate::world::{HOST, PORT, TARGET_PORT, cluster_ips, ips, mk_node, mk_pod, node_port};

/// A one-to-one socket: it is used like one of TCP from here on.
fn one_to_one(family: AddressFamily) -> nix::Result<OwnedFd> {
    socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Sctp,
    )
}

/// Answers each association with its number.
fn serve(pod: &Netns, n: u8) -> anyhow::Result<()> {
    let listener = pod.run(|| {
        let all = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, TARGET_PORT, 0, 0);
        let socket = one_to_one(AddressFamily::Inet6)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(all))?;
        listen(&socket, Backlog::new(16)?)?;
        nix::Result::Ok(TcpListener::from(socket))
    })??;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(format!("{n}").as_bytes());
        }
    });
    Ok(())
}

fn ask(to: SocketAddr) -> std::io::Result<String> {
    let family = match to.ip() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = one_to_one(family)?;
    // What `connect` waits for, too.
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(20, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(20, 0))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    let mut stream = TcpStream::from(socket);
    let mut buffer = [0; 8];
    let length = stream.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

pub(crate) fn associations_are_spread_over_endpoints() -> anyhow::Result<()> {
    block_on(async {
        mk_node()?;
        let client = mk_pod(100)?;
        for n in 1..=2 {
            serve(&mk_pod(n)?, n)?;
        }
        let sctp = |service: &mut Service| {
            service.external_ips = vec![];
            service.ports = vec![ServicePort {
                name: PortName::new("sctp"),
                protocol: Protocol::Sctp,
                port: PORT.try_into().unwrap(),
                node_port: Some(node_port(1).try_into().unwrap()),
            }];
        };
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        cluster
            .put(1, on("node-1", &[1, 2]), sctp)
            .sync(&mut syncer)
            .await?;
        let at_node = ips(HOST).map(|ip| SocketAddr::from((ip, node_port(1))));
        for to in cluster_ips(1)
            .map(|ip| (ip, PORT).into())
            .into_iter()
            .chain(at_node)
        {
            let mut answers = Vec::new();
            for _ in 0..4 {
                answers.push(client.run(|| ask(to))??);
            }
            answers.sort();
            ensure!(answers == ["1", "1", "2", "2"], "{to}: {answers:?}");
        }
        Ok(())
    })
}
