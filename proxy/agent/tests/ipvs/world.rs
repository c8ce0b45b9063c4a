// SPDX-License-Identifier: Apache-2.0
//! A node with Pods and strangers around it, and a small cluster's view for it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::Context;
use berth_testkit::netns::Netns;
use nix::sys::socket::{setsockopt, sockopt};

pub(crate) const PORT: u16 = 80;
pub(crate) const TARGET_PORT: u16 = 8_080;
const PATIENCE: Duration = Duration::from_secs(20);
/// How long an answer that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(250);
/// The node's addresses among the Pods, at the other end of every link, and those outside.
pub(crate) const GATE: [&str; 2] = ["10.244.255.254", "fd00:10:244:ffff::1"];
pub(crate) const HOST: [&str; 2] = ["10.77.0.11", "fd00:77::b"];
/// External and LoadBalancer addresses.
pub(crate) const VIPS: [&str; 2] = ["192.0.2.7", "2001:db8:192::7"];
pub(crate) const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

pub(crate) fn ips(texts: [&str; 2]) -> [IpAddr; 2] {
    texts.map(|text| text.parse().unwrap())
}

pub(crate) fn cluster_ips(n: u8) -> [IpAddr; 2] {
    [
        [10, 96, 0, n].into(),
        format!("fd00:10:96::{n:x}").parse().unwrap(),
    ]
}

pub(crate) fn pod_ips(n: u8) -> [IpAddr; 2] {
    [
        [10, 244, 0, n].into(),
        format!("fd00:10:244::{n:x}").parse().unwrap(),
    ]
}

pub(crate) fn stranger_ips(n: u8) -> [IpAddr; 2] {
    [
        [203, 0, 113, n].into(),
        format!("2001:db8:203::{n:x}").parse().unwrap(),
    ]
}

pub(crate) fn node_port(n: u8) -> u16 {
    30_000 + u16::from(n)
}

/// Makes the namespace of this thread a node.
pub(crate) fn mk_node() -> anyhow::Result<Netns> {
    let node = Netns::current("node")?;
    node.sysctl(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        // Refusals are asked for in quick succession here.
        ("net/ipv4/icmp_ratelimit", "0"),
        ("net/ipv6/icmp/ratelimit", "0"),
    ])?;
    let [v4, v6] = HOST;
    node.ip(&format!(
        "link set lo up\naddr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad\n"
    ))?;
    Ok(node)
}

/// A host of its own behind the node, with these addresses.
fn mk_host(name: &str, addresses: [IpAddr; 2]) -> anyhow::Result<Netns> {
    let host = Netns::create(name)?;
    let ([v4, v6], [gate4, gate6]) = (addresses, GATE);
    Netns::current("node")?.ip(&format!(
        "link add v-{name} type veth peer name eth0 netns {name}\n\
         link set v-{name} up\n\
         addr add {gate4}/32 dev v-{name}\n\
         addr add {gate6}/128 dev v-{name} nodad\n\
         route add {v4} dev v-{name}\nroute add {v6} dev v-{name}\n"
    ))?;
    host.ip(&format!(
        "link set lo up\nlink set eth0 up\n\
         addr add {v4}/32 dev eth0\n\
         addr add {v6}/128 dev eth0 nodad\n\
         route add {gate4} dev eth0\nroute add default via {gate4} dev eth0\n\
         route add {gate6} dev eth0\nroute add default via {gate6} dev eth0\n"
    ))?;
    Ok(host)
}

/// A Pod that answers.
pub(crate) fn mk_pod(n: u8) -> anyhow::Result<Netns> {
    let pod = mk_host(&format!("pod-{n}"), pod_ips(n))?;
    serve(&pod, n)?;
    Ok(pod)
}

/// A host that is no Pod, for which this node is the way to everything.
pub(crate) fn mk_stranger(n: u8) -> anyhow::Result<Netns> {
    mk_host(&format!("stranger-{n}"), stranger_ips(n))
}

/// Names of namespaces are the machine's; a case leaves its own.
pub(crate) fn forget_namespaces() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str()
            && let Ok(namespace) = Netns::open(name)
        {
            namespace.delete().unwrap();
        }
    }
}

/// Answers each TCP connection and each datagram with `N CLIENT`, and each further line with the line.
fn serve(pod: &Netns, n: u8) -> anyhow::Result<()> {
    let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, TARGET_PORT));
    let (tcp, udp) = pod.run(|| (TcpListener::bind(all), UdpSocket::bind(all)))?;
    let (tcp, udp) = (tcp?, udp?);
    std::thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            std::thread::spawn(move || echo(stream, n));
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{n} {}\n", peer.ip().to_canonical()).as_bytes(), peer);
        }
    });
    Ok(())
}

fn echo(stream: TcpStream, n: u8) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    writeln!(writer, "{n} {}", stream.peer_addr()?.ip().to_canonical())?;
    for line in BufReader::new(stream).lines() {
        writeln!(writer, "{}", line?)?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

fn line(stream: &TcpStream) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    if line.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim().to_owned())
}

fn ask_for(patience: Duration, transport: Transport, to: SocketAddr) -> std::io::Result<String> {
    match transport {
        Transport::Tcp => {
            let stream = TcpStream::connect_timeout(&to, patience)?;
            stream.set_read_timeout(Some(patience))?;
            line(&stream)
        }
        Transport::Udp => {
            let socket = udp_to(to, patience)?;
            again(&socket)
        }
    }
}

/// A UDP client that keeps its port.
pub(crate) fn udp_to(to: SocketAddr, patience: Duration) -> std::io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(to)?;
    Ok(socket)
}

/// One more datagram and its answer.
pub(crate) fn again(socket: &UdpSocket) -> std::io::Result<String> {
    let mut buffer = [0; 64];
    socket.send(b"?")?;
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
}

/// One new connection: the answer.
pub(crate) fn ask(
    from: &Netns,
    transport: Transport,
    to: SocketAddr,
) -> anyhow::Result<std::io::Result<String>> {
    Ok(from.run(|| ask_for(PATIENCE, transport, to))?)
}

/// A TCP connection that stays, with the answer it began with.
pub(crate) fn connect(from: &Netns, to: SocketAddr) -> anyhow::Result<(TcpStream, String)> {
    let stream = from.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    let first = line(&stream)?;
    Ok((stream, first))
}

/// One more line and its echo.
pub(crate) fn talk(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_all(b"still there\n")?;
    anyhow::ensure!(line(stream)? == "still there");
    Ok(())
}

/// Ends a connection by a reset, which IPVS remembers for 10 s; an orderly end, for 2 minutes.
pub(crate) fn reset(stream: &TcpStream) -> anyhow::Result<()> {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(setsockopt(stream, sockopt::Linger, &linger)?)
}

/// How often each Pod answered.
pub(crate) fn spread(
    from: &Netns,
    transport: Transport,
    to: SocketAddr,
    times: usize,
) -> anyhow::Result<BTreeMap<String, usize>> {
    let answers: Vec<_> = from.run(|| (0..times).map(|_| ask_for(PATIENCE, transport, to)).collect())?;
    let mut counts = BTreeMap::new();
    for answer in answers {
        let answer = answer.with_context(|| format!("{transport:?} {to} from {}", from.name()))?;
        let pod = answer.split(' ').next().unwrap_or_default().to_owned();
        *counts.entry(pod).or_default() += 1;
    }
    Ok(counts)
}

/// A host's own datagram that a rule of its output hook stops fails in `send` already.
fn own_datagram_stopped(from: &Netns, kind: ErrorKind) -> bool {
    from.name() == "node" && kind == ErrorKind::PermissionDenied
}

/// One new connection: from where, how, and where to.
pub(crate) type Try<'a> = (&'a Netns, Transport, SocketAddr);

/// How new connections fail, all at the same time; an error names one that does not.
fn failures(patience: Duration, tries: &[Try<'_>]) -> anyhow::Result<Vec<ErrorKind>> {
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let started: Vec<_> = tries
            .iter()
            .map(|(from, transport, to)| scope.spawn(|| from.run(|| ask_for(patience, *transport, *to))))
            .collect();
        started.into_iter().map(|thread| thread.join()).collect()
    });
    let kind = |(outcome, (from, transport, to)): (_, &Try<'_>)| {
        let outcome: std::thread::Result<Result<std::io::Result<String>, berth_testkit::Error>> = outcome;
        match outcome.map_err(|_| anyhow::anyhow!("a client panicked"))?? {
            Ok(answer) => anyhow::bail!("{transport:?} {to} from {} was answered: {answer}", from.name()),
            Err(error) => Ok(error.kind()),
        }
    };
    outcomes.into_iter().zip(tries).map(kind).collect()
}

/// All of these new connections are refused.
pub(crate) fn expect_refused(tries: &[Try<'_>]) -> anyhow::Result<()> {
    for (kind, (from, transport, to)) in failures(PATIENCE, tries)?.into_iter().zip(tries) {
        let refused = kind == ErrorKind::ConnectionRefused || own_datagram_stopped(from, kind);
        anyhow::ensure!(refused, "{transport:?} {to} from {}: {kind:?}", from.name());
    }
    Ok(())
}

/// None of these new connections is answered or refused.
pub(crate) fn expect_silent(tries: &[Try<'_>]) -> anyhow::Result<()> {
    for (kind, (from, transport, to)) in failures(SILENCE, tries)?.into_iter().zip(tries) {
        let silent = matches!(kind, ErrorKind::TimedOut | ErrorKind::WouldBlock);
        let silent = silent || own_datagram_stopped(from, kind);
        anyhow::ensure!(silent, "{transport:?} {to} from {}: {kind:?}", from.name());
    }
    Ok(())
}
