// SPDX-License-Identifier: Apache-2.0
//! TCP connections: whole, half closed, reset, retried, and kept when what is around them goes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, ensure};
use berth_proxy_agent::userspace::{Capacity, Refusal};
use berth_proxy_core::userspace::PortRange;
use berth_testkit::in_sandbox_async;
use berth_testkit::netns::Netns;
use berth_testkit::wait::eventually;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::cluster::{Cluster, PORT, TARGET_PORT, cluster_ips, pod_ips, retire};
use crate::ground::{CAPACITY, Proxy, all_settings, mk_node, mk_proxy, mk_proxy_with};
use crate::traffic::{PATIENCE, Transport, ask_from, mk_pod, serve, spread};

/// Hands over every connection that the Pod accepts.
fn accept(pod: &Netns) -> anyhow::Result<Receiver<TcpStream>> {
    let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, TARGET_PORT));
    let listener = pod.run(|| TcpListener::bind(all))??;
    let (sender, accepted) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if sender.send(stream).is_err() {
                return;
            }
        }
    });
    Ok(accepted)
}

/// A connection from the client to the Service, and its other end in the Pod.
fn connected(
    client: &Netns,
    to: SocketAddr,
    accepted: &Receiver<TcpStream>,
) -> anyhow::Result<(TcpStream, TcpStream)> {
    let near = client.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    let far = accepted.recv_timeout(PATIENCE)?;
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((near, far))
}

/// One Service with one Pod that hands over its connections.
async fn mk_pair() -> anyhow::Result<(Netns, Receiver<TcpStream>, Cluster, Proxy)> {
    let client = mk_pod(100)?;
    let accepted = accept(&mk_pod(1)?)?;
    mk_node()?;
    let mut cluster = Cluster::new();
    let mut proxy = mk_proxy()?;
    cluster.set(1, Some(&[1])).sync(&mut proxy).await?;
    Ok((client, accepted, cluster, proxy))
}

/// Bytes that repeat nowhere near.
fn pattern(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

fn read_all(mut stream: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn send_all(mut stream: &TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)
}

#[test]
fn large_transfers_arrive_whole_both_ways_at_once() {
    in_sandbox_async!(async {
        let (client, accepted, _cluster, _proxy) = mk_pair().await?;
        for (ip, length) in cluster_ips(1).into_iter().zip([40_000_003, 10_000_001]) {
            let (near, far) = connected(&client, (ip, PORT).into(), &accepted)?;
            let (up, down) = (pattern(length, 7), pattern(length / 2, 11));
            let [at_far, at_near] = std::thread::scope(|scope| {
                scope.spawn(|| send_all(&near, &up));
                scope.spawn(|| send_all(&far, &down));
                let readers = [scope.spawn(|| read_all(&far)), scope.spawn(|| read_all(&near))];
                readers.map(|reader| reader.join().unwrap())
            });
            ensure!(at_far? == up && at_near? == down, "{ip}");
        }
        anyhow::Ok(())
    });
}

#[test]
fn the_end_of_either_direction_is_passed_on_and_the_other_goes_on() {
    in_sandbox_async!(async {
        let (client, accepted, _cluster, _proxy) = mk_pair().await?;
        for ip in cluster_ips(1) {
            for client_first in [true, false] {
                // Through memory, and through a pipe.
                for length in [10, 300_000] {
                    let (near, far) = connected(&client, (ip, PORT).into(), &accepted)?;
                    let (first, last) = if client_first {
                        (&near, &far)
                    } else {
                        (&far, &near)
                    };
                    let (question, answer) = (pattern(length, 3), pattern(length, 5));
                    let outcome = std::thread::scope(|scope| {
                        scope.spawn(|| send_all(first, &question));
                        read_all(last)
                    });
                    ensure!(outcome? == question, "the end arrives");
                    let outcome = std::thread::scope(|scope| {
                        scope.spawn(|| send_all(last, &answer));
                        read_all(first)
                    });
                    ensure!(outcome? == answer, "and what is said after it");
                }
            }
        }
        anyhow::Ok(())
    });
}

/// Ends a connection by RST.
fn reset(stream: TcpStream) -> anyhow::Result<()> {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger)?;
    drop(stream);
    Ok(())
}

#[test]
fn a_reset_is_passed_on_even_after_half_an_end() {
    in_sandbox_async!(async {
        let (client, accepted, _cluster, _proxy) = mk_pair().await?;
        for ip in cluster_ips(1) {
            for client_resets in [true, false] {
                for half_closed in [false, true] {
                    let (near, far) = connected(&client, (ip, PORT).into(), &accepted)?;
                    let (gone, mut left) = if client_resets { (near, far) } else { (far, near) };
                    if half_closed {
                        gone.shutdown(Shutdown::Write)?;
                        ensure!(left.read(&mut [0])? == 0, "an end first");
                    }
                    reset(gone)?;
                    let seen = if half_closed {
                        // After an end nothing is read any more: it shows in what is written.
                        eventually("an error", PATIENCE, || async {
                            (&left).write_all(b"x").err().ok_or_else(|| "none".to_owned())
                        })
                        .await?
                    } else {
                        left.read(&mut [0]).err().context("an end instead of a reset")?
                    };
                    let kind = seen.kind();
                    ensure!(
                        matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
                        "{client_resets} {half_closed}: {seen}"
                    );
                }
            }
        }
        anyhow::Ok(())
    });
}

#[test]
fn connections_outlive_their_endpoints_place_in_the_service_and_the_service() {
    in_sandbox_async!(async {
        let (client, accepted, mut cluster, mut proxy) = mk_pair().await?;
        let mut kept = Vec::new();
        for ip in cluster_ips(1) {
            kept.push(connected(&client, (ip, PORT).into(), &accepted)?);
        }
        let again = |kept: &[(TcpStream, TcpStream)]| -> anyhow::Result<()> {
            for (near, far) in kept {
                for (mut from, mut to) in [(near, far), (far, near)] {
                    let mut buffer = [0; 4];
                    from.write_all(b"ping")?;
                    to.read_exact(&mut buffer)?;
                    ensure!(buffer == *b"ping");
                }
            }
            Ok(())
        };
        again(&kept)?;
        serve(&mk_pod(2)?, 2)?;
        for pods in [Some(&[1, 2][..]), Some(&[2]), Some(&[]), Some(&[2]), None] {
            cluster.set(1, pods).sync(&mut proxy).await?;
            again(&kept)?;
            retire(&mut proxy).await?;
            again(&kept).with_context(|| format!("{pods:?}"))?;
        }
        ensure!(proxy.backend().listeners() == 0);
        anyhow::Ok(())
    });
}

#[test]
fn a_listener_stays_where_it_is_while_endpoints_come_and_go() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        for n in 1..=3 {
            serve(&mk_pod(n)?, n)?;
        }
        mk_node()?;
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        cluster.set(1, Some(&[1])).sync(&mut proxy).await?;
        let before = crate::ground::sockets(&proxy, berth_model::Protocol::Tcp);
        for pods in [&[1, 2][..], &[2, 3], &[3], &[1, 2, 3], &[]] {
            cluster.set(1, Some(pods)).sync(&mut proxy).await?;
            for ip in cluster_ips(1).into_iter().filter(|_| !pods.is_empty()) {
                let counts = spread(&client, Transport::Tcp, (ip, PORT).into(), pods.len())?;
                let wanted: Vec<String> = pods.iter().map(u16::to_string).collect();
                ensure!(counts.into_keys().collect::<Vec<_>>() == wanted, "{pods:?}");
            }
        }
        cluster.set(1, Some(&[1])).sync(&mut proxy).await?;
        ensure!(crate::ground::sockets(&proxy, berth_model::Protocol::Tcp) == before);
        anyhow::Ok(())
    });
}

#[test]
fn connections_go_to_another_endpoint_where_one_refuses_or_is_silent() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        // Pod 1 refuses, Pod 2 does not answer, Pod 3 serves.
        mk_pod(1)?;
        let ([v4, v6], silent) = (pod_ips(2), mk_pod(2)?);
        silent.ip(&format!(
            "addr del {v4}/32 dev eth0\naddr del {v6}/128 dev eth0\n"
        ))?;
        serve(&mk_pod(3)?, 3)?;
        mk_node()?;
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        cluster.set(1, Some(&[1, 2, 3])).sync(&mut proxy).await?;
        for ip in cluster_ips(1) {
            let counts = spread(&client, Transport::Tcp, (ip, PORT).into(), 12)?;
            ensure!(counts["3"] == 12, "{counts:?}");
        }
        ensure!(proxy.backend().refusals()[&Refusal::Unreachable] == 0);
        // Where all refuse, so does the Service, by a reset.
        cluster.set(1, Some(&[1])).sync(&mut proxy).await?;
        for ip in cluster_ips(1) {
            let outcome = ask_from(&client, Transport::Tcp, (ip, PORT).into())?;
            let kind = outcome.map_err(|error| error.kind());
            ensure!(kind == Err(ErrorKind::ConnectionReset), "{kind:?}");
        }
        ensure!(proxy.backend().refusals()[&Refusal::Unreachable] == 2);
        anyhow::Ok(())
    });
}

#[test]
fn above_the_limit_connections_wait_for_their_turn() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        let accepted = accept(&mk_pod(1)?)?;
        mk_node()?;
        let mut cluster = Cluster::new();
        let two = Capacity {
            connections: 2,
            ..CAPACITY
        };
        let mut proxy = mk_proxy_with(all_settings(), PortRange::Any, two)?;
        cluster.set(1, Some(&[1])).sync(&mut proxy).await?;
        let to = SocketAddr::from((cluster_ips(1)[0], PORT));
        let first = connected(&client, to, &accepted)?;
        let _second = connected(&client, to, &accepted)?;
        let third = client.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
        ensure!(
            accepted.recv_timeout(Duration::from_millis(200)).is_err(),
            "it waits"
        );
        drop(first);
        let far = accepted.recv_timeout(PATIENCE)?;
        send_all(&third, b"at last")?;
        ensure!(read_all(&far)? == b"at last");
        anyhow::Ok(())
    });
}

/// Leaves room for so many more descriptors, below the lowest that is free.
fn limit_descriptors(more: u64) -> anyhow::Result<(u64, u64)> {
    let before = getrlimit(Resource::RLIMIT_NOFILE)?;
    let free = std::fs::File::open("/dev/null")?.as_raw_fd();
    setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(free)? + more, before.1)?;
    Ok(before)
}

#[test]
fn without_descriptors_connections_wait_or_are_reset_and_then_it_goes_on() {
    in_sandbox_async!(async {
        let (client, accepted, _cluster, proxy) = mk_pair().await?;
        let to = SocketAddr::from((cluster_ips(1)[0], PORT));
        let exhausted = || proxy.backend().refusals()[&Refusal::Exhausted];
        let counted = |above: u64| async move {
            match exhausted() {
                count if count > above => Ok(count),
                count => Err(format!("{count}")),
            }
        };
        // One for the client's own end: none is left to accept its connection.
        let (soft, hard) = limit_descriptors(1)?;
        let near = client.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
        let count = eventually("a count", PATIENCE, || counted(0)).await?;
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
        let far = accepted.recv_timeout(PATIENCE)?;
        send_all(&near, b"at last")?;
        ensure!(read_all(&far)? == b"at last");
        // One more: it is accepted, and there is none to go on.
        limit_descriptors(2)?;
        let near = client.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        // The reset may come while the client is still about to connect.
        let end = near
            .and_then(|near| read_all(&near))
            .map_err(|error| error.kind());
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
        ensure!(end == Err(ErrorKind::ConnectionReset), "{end:?}");
        ensure!(exhausted() > count);
        let (near, far) = connected(&client, to, &accepted)?;
        send_all(&near, b"again")?;
        ensure!(read_all(&far)? == b"again");
        anyhow::Ok(())
    });
}
