// SPDX-License-Identifier: Apache-2.0
//! SCTP, which this kernel has, unlike the one that the nftables tests run on.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::ensure;
use berth_model::{PortName, Protocol, ServicePort};
use berth_proxy_agent::iptables::{Iptables, Variant};
use berth_proxy_agent::sync::Syncer;
use berth_testkit::netns::Netns;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, listen,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::cluster::{Cluster, block_on, mk_syncer, on, settings};
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

/// A node, a client, and two Pods that serve.
fn mk_world() -> anyhow::Result<Netns> {
    mk_node()?;
    for n in 1..=2 {
        serve(&mk_pod(n)?, n)?;
    }
    mk_pod(100)
}

/// A Service of SCTP alone.
fn mk_cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.put(1, on("node-1", &[1, 2]), |service| {
        service.external_ips = vec![];
        service.ports = vec![ServicePort {
            name: PortName::new("sctp"),
            protocol: Protocol::Sctp,
            port: PORT.try_into().unwrap(),
            node_port: Some(node_port(1).try_into().unwrap()),
        }];
    });
    cluster
}

/// Both ClusterIPs, and the node port in both families.
fn frontends() -> impl Iterator<Item = SocketAddr> {
    let at_node = ips(HOST).map(|ip| (ip, node_port(1)).into());
    cluster_ips(1)
        .map(|ip| (ip, PORT).into())
        .into_iter()
        .chain(at_node)
}

pub(crate) fn associations_are_spread_over_endpoints() -> anyhow::Result<()> {
    block_on(async {
        let client = mk_world()?;
        mk_cluster().sync(&mut mk_syncer().await?).await?;
        for to in frontends() {
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

/// The one kernel here that has SCTP has iptables, too, of the variant legacy.
pub(crate) fn in_iptables_associations_meet_every_endpoint() -> anyhow::Result<()> {
    /// One of two endpoints is missed so often by less than 2 in a billion.
    const TRIES: usize = 30;
    block_on(async {
        let client = mk_world()?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let backend = Iptables::open(&path, Variant::Legacy)?;
        let mut syncer = Syncer::new(backend, settings());
        mk_cluster().sync(&mut syncer).await?;
        for to in frontends() {
            let mut met = BTreeSet::new();
            for _ in 0..TRIES {
                met.insert(client.run(|| ask(to))??);
                if met.len() == 2 {
                    break;
                }
            }
            ensure!(met == ["1", "2"].map(str::to_owned).into(), "{to}: {met:?}");
        }
        Ok(())
    })
}
