// SPDX-License-Identifier: Apache-2.0
//! UDP: a client keeps its endpoint as long as that serves, datagrams are whole, clients are not too many.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::ensure;
use berth_model::Conditions;
use berth_proxy_agent::userspace::{Capacity, Refusal};
use berth_proxy_core::userspace::PortRange;
use berth_testkit::in_sandbox_async;
use berth_testkit::netns::Netns;

use crate::cluster::{Cluster, PORT, TARGET_PORT, cluster_ips};
use crate::ground::{CAPACITY, all_settings, mk_node, mk_proxy, mk_proxy_with};
use crate::traffic::{DRAINING, PATIENCE, endpoints_on, mk_pod, serve};

/// A client that keeps its port.
fn talk(from: &Netns, to: SocketAddr) -> anyhow::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = from.run(|| UdpSocket::bind((any, 0)))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    Ok(socket)
}

fn ask(socket: &UdpSocket) -> anyhow::Result<String> {
    let mut buffer = [0; 64];
    socket.send(b"?")?;
    let length = socket.recv(&mut buffer)?;
    let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    Ok(answer.split(' ').next().unwrap_or_default().to_owned())
}

#[test]
fn a_flow_stays_with_its_endpoint_as_long_as_that_serves_and_then_moves() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        for n in 1..=2 {
            serve(&mk_pod(n)?, n)?;
        }
        mk_node()?;
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        cluster.set(1, Some(&[1])).sync(&mut proxy).await?;
        let flows: Vec<UdpSocket> = cluster_ips(1)
            .into_iter()
            .map(|ip| talk(&client, (ip, PORT).into()))
            .collect::<Result<_, _>>()?;
        let all = |wanted: &str| -> anyhow::Result<()> {
            for flow in &flows {
                for _ in 0..3 {
                    let answer = ask(flow)?;
                    ensure!(answer == wanted, "{answer} instead of {wanted}");
                }
            }
            Ok(())
        };
        all("1")?;
        cluster.set(1, Some(&[1, 2])).sync(&mut proxy).await?;
        all("1")?;
        // On its way out it still serves who is there.
        cluster.edit(1, |_, endpoints| {
            let leaving = endpoints_on(1, "node-1", DRAINING);
            *endpoints = [leaving, endpoints_on(2, "node-1", Conditions::READY)].concat();
        });
        cluster.sync(&mut proxy).await?;
        all("1")?;
        cluster.set(1, Some(&[2])).sync(&mut proxy).await?;
        all("2")?;
        // Nobody, and somebody again.
        cluster.set(1, Some(&[])).sync(&mut proxy).await?;
        cluster.set(1, Some(&[1])).sync(&mut proxy).await?;
        all("1")?;
        anyhow::Ok(())
    });
}

#[test]
fn the_largest_datagrams_pass_whole_both_ways() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        let pod = mk_pod(1)?;
        mk_node()?;
        let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, TARGET_PORT));
        let echo = pod.run(|| UdpSocket::bind(all))??;
        std::thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            while let Ok((length, peer)) = echo.recv_from(&mut buffer) {
                let _ = echo.send_to(&buffer[..length], peer);
            }
        });
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        cluster.set(1, Some(&[1])).sync(&mut proxy).await?;
        for (ip, largest) in cluster_ips(1).into_iter().zip([65_507, 65_487]) {
            let flow = talk(&client, (ip, PORT).into())?;
            for length in [0, 1, 9_000, largest] {
                let sent: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
                flow.send(&sent)?;
                let mut buffer = vec![0; 70_000];
                let received = flow.recv(&mut buffer)?;
                ensure!(buffer[..received] == sent, "{length} bytes to {ip}: {received}");
            }
        }
        anyhow::Ok(())
    });
}

#[test]
fn an_endpoint_that_refuses_loses_its_clients_to_another_one() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        mk_pod(1)?;
        serve(&mk_pod(2)?, 2)?;
        mk_node()?;
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        cluster.set(1, Some(&[1, 2])).sync(&mut proxy).await?;
        for ip in cluster_ips(1) {
            let flow = talk(&client, (ip, PORT).into())?;
            flow.set_read_timeout(Some(std::time::Duration::from_millis(200)))?;
            // The first datagram is lost with the refusal; the client asks again, as it has to with UDP.
            let answer = berth_testkit::wait::eventually("an answer", PATIENCE, || async {
                ask(&flow).map_err(|error| error.to_string())
            })
            .await?;
            ensure!(answer == "2", "{answer}");
        }
        anyhow::Ok(())
    });
}

#[test]
fn of_too_many_clients_the_most_silent_lose_their_sockets_and_are_served_anew() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        serve(&mk_pod(1)?, 1)?;
        mk_node()?;
        let mut cluster = Cluster::new();
        let few = Capacity {
            udp_clients: 5,
            ..CAPACITY
        };
        let mut proxy = mk_proxy_with(all_settings(), PortRange::Any, few)?;
        cluster.set(1, Some(&[1])).sync(&mut proxy).await?;
        let to = SocketAddr::from((cluster_ips(1)[0], PORT));
        let flows: Vec<UdpSocket> = (0..9).map(|_| talk(&client, to)).collect::<Result<_, _>>()?;
        for flow in flows.iter().chain(&flows) {
            ensure!(ask(flow)? == "1");
        }
        ensure!(proxy.backend().refusals()[&Refusal::Evicted] == 13);
        anyhow::Ok(())
    });
}
