// SPDX-License-Identifier: Apache-2.0
//! Who is led to relays, what they get there, and what the table looks like meanwhile.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use berth_model::{IpFamily, Protocol, ServiceKey, SessionAffinity};
use berth_proxy_agent::backend::Backend;
use berth_proxy_agent::userspace::{Refusal, Userspace};
use berth_proxy_core::names::RELAY_TABLE;
use berth_proxy_core::nft::{Layout, script};
use berth_proxy_core::userspace::PortRange;
use berth_testkit::in_sandbox_async;

use crate::cluster::{Cluster, PORT, cluster_ips, node_port, pod_ips, retire, settings};
use crate::ground::{CAPACITY, address, all_settings, mk_node, mk_proxy, mk_proxy_with, sockets};
use crate::traffic::{HOST, NODE, Transport, ask_from, ips, is_refusal, mk_pod, mk_stranger, serve, spread};

pub(crate) const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

pub(crate) fn nft(arguments: &[&str], input: &str) -> anyhow::Result<String> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run nft (Debian package nftables)")?;
    child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "nft {arguments:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) fn untranslated() -> anyhow::Result<u64> {
    let mut packets = 0;
    for family in ["ip", "ip6"] {
        let text = nft(&["list", "counters", "table", family, RELAY_TABLE], "")?;
        let count = text
            .split_whitespace()
            .skip_while(|word| *word != "packets")
            .nth(1);
        packets += count.context("a counter")?.parse::<u64>()?;
    }
    Ok(packets)
}

#[test]
fn everybody_reaches_the_next_endpoint_by_every_way_and_comes_from_the_node() {
    in_sandbox_async!(async {
        let (client, stranger) = (mk_pod(100)?, mk_stranger(5)?);
        let pod = mk_pod(1)?;
        serve(&pod, 1)?;
        for n in 2..=3 {
            serve(&mk_pod(n)?, n)?;
        }
        let node = mk_node()?;
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        cluster.set(1, Some(&[1, 2, 3])).sync(&mut proxy).await?;
        for (index, ip) in cluster_ips(1).into_iter().enumerate() {
            let own: BTreeSet<String> = [NODE[index], HOST[index]].map(str::to_owned).into();
            for at in [
                (ip, PORT),
                (ips(HOST)[index], node_port(1)),
                (ips(NODE)[index], node_port(1)),
            ] {
                for transport in TRANSPORTS {
                    // An endpoint that comes back to itself among them.
                    for from in [&client, &pod, &stranger, &node] {
                        let counts = spread(from, transport, at.into(), 6)?;
                        ensure!(
                            counts.values().all(|count| *count == 2) && counts.len() == 3,
                            "{} to {at:?} by {transport:?}: {counts:?}",
                            from.name()
                        );
                        let answer = ask_from(from, transport, at.into())??;
                        let source = answer.split(' ').nth(1).context("a source")?;
                        ensure!(own.contains(source), "{answer}");
                    }
                }
            }
        }
        ensure!(untranslated()? == 0);
        anyhow::Ok(())
    });
}

#[test]
fn links_without_addresses_of_the_family_do() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        serve(&mk_pod(1)?, 1)?;
        let node = mk_node()?;
        // As some network plug-ins have it: the node answers for the gateway, without having it.
        let [v4, v6] = NODE;
        let [to4, to6] = pod_ips(100);
        // With its last address a link loses its routes.
        node.ip(&format!(
            "addr del {v4}/32 dev v100\naddr del {v6}/128 dev v100\n\
             route replace {to4} dev v100\nroute replace {to6} dev v100\n"
        ))?;
        let link = node.output("ip", &["-br", "link", "show", "dev", "v100"])?;
        let mac = link
            .split_whitespace()
            .nth(2)
            .context("a MAC address")?
            .to_owned();
        client.ip(&format!(
            "neigh replace {v4} lladdr {mac} dev eth0\nneigh replace {v6} lladdr {mac} dev eth0\n"
        ))?;
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        cluster.set(1, Some(&[1])).sync(&mut proxy).await?;
        for ip in cluster_ips(1) {
            for transport in TRANSPORTS {
                let answer = ask_from(&client, transport, (ip, PORT).into())?;
                let answer = answer.with_context(|| format!("{transport:?} {ip}"))?;
                ensure!(answer.starts_with("1 "), "{answer}");
            }
        }
        anyhow::Ok(())
    });
}

#[test]
fn without_endpoints_and_on_unknown_ports_connections_are_refused_and_relays_go() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        serve(&mk_pod(1)?, 1)?;
        let node = mk_node()?;
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        cluster
            .set(1, Some(&[1]))
            .set(2, Some(&[]))
            .sync(&mut proxy)
            .await?;
        ensure!(proxy.backend().listeners() == 4);
        for from in [&client, &node] {
            for (ip, empty) in cluster_ips(1).into_iter().zip(cluster_ips(2)) {
                for transport in TRANSPORTS {
                    for refused in [(empty, PORT), (ip, PORT + 1)] {
                        let outcome = ask_from(from, transport, refused.into())?;
                        ensure!(
                            is_refusal(from, transport, &outcome),
                            "{transport:?} {refused:?}: {outcome:?}"
                        );
                    }
                }
            }
        }
        for pods in [None, Some(&[][..])] {
            cluster.set(1, Some(&[1])).sync(&mut proxy).await?;
            for ip in cluster_ips(1) {
                ensure!(ask_from(&client, Transport::Tcp, (ip, PORT).into())??.starts_with("1 "));
            }
            cluster.set(1, pods).sync(&mut proxy).await?;
            retire(&mut proxy).await?;
            ensure!(proxy.backend().listeners() == 0, "{pods:?}");
        }
        cluster.set(1, None).set(2, None).sync(&mut proxy).await?;
        retire(&mut proxy).await?;
        ensure!(
            proxy
                .backend()
                .elements()
                .iter()
                .all(|(_, elements)| *elements == 0)
        );
        ensure!(untranslated()? == 0);
        anyhow::Ok(())
    });
}

#[test]
fn relays_answer_nobody_who_was_not_led_there() {
    in_sandbox_async!(async {
        let (client, stranger) = (mk_pod(100)?, mk_stranger(5)?);
        serve(&mk_pod(1)?, 1)?;
        let node = mk_node()?;
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        cluster.set(1, Some(&[1])).sync(&mut proxy).await?;
        for (transport, protocol) in TRANSPORTS.into_iter().zip([Protocol::Tcp, Protocol::Udp]) {
            let listening = sockets(&proxy, protocol);
            ensure!(listening.len() == 2, "{listening:?}");
            for socket in &listening {
                ensure!(ips(HOST).contains(&socket.at.ip), "{socket}");
                for from in [&client, &stranger, &node] {
                    let silent = crate::traffic::is_silent(from, transport, address(socket))?;
                    ensure!(silent, "{} to {socket}", from.name());
                }
            }
        }
        anyhow::Ok(())
    });
}

#[test]
fn an_endpoint_with_a_services_address_is_not_led_to_a_relay_again() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        mk_pod(1)?;
        let node = mk_node()?;
        let [v4, v6] = cluster_ips(1);
        // Somebody answers at the address of Service 1, which has no endpoints; Service 2 leads to him.
        node.ip(&format!(
            "addr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad\n"
        ))?;
        let listeners: Vec<TcpListener> = [v4, v6]
            .map(|ip| TcpListener::bind((ip, PORT)))
            .into_iter()
            .collect::<Result<_, _>>()?;
        for listener in listeners {
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let _ = stream.write_all(b"himself");
                }
            });
        }
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        cluster
            .set(1, Some(&[]))
            .set(2, Some(&[1]))
            .edit(2, |_, endpoints| {
                for endpoint in endpoints {
                    endpoint.ip = if endpoint.ip.is_ipv4() { v4 } else { v6 };
                    endpoint.port = PORT.try_into().unwrap();
                }
            });
        cluster.sync(&mut proxy).await?;
        for (refused, led) in cluster_ips(1).into_iter().zip(cluster_ips(2)) {
            let outcome = ask_from(&client, Transport::Tcp, (refused, PORT).into())?;
            ensure!(is_refusal(&client, Transport::Tcp, &outcome), "{outcome:?}");
            let answer = ask_from(&client, Transport::Tcp, (led, PORT).into())??;
            ensure!(answer == "himself", "{answer}");
        }
        anyhow::Ok(())
    });
}

#[test]
fn clients_with_affinity_stay_by_whichever_way_they_come_until_the_endpoint_goes() {
    in_sandbox_async!(async {
        let clients = [mk_pod(100)?, mk_pod(101)?];
        for n in 1..=3 {
            serve(&mk_pod(n)?, n)?;
        }
        mk_node()?;
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        let mut sticky = |pods: &[u16]| {
            cluster.set(1, Some(pods)).edit(1, |service, _| {
                service.affinity = SessionAffinity::ClientIp { timeout_seconds: 600 };
            });
            std::mem::replace(&mut cluster, Cluster::new())
        };
        let mut all = sticky(&[1, 2, 3]);
        all.sync(&mut proxy).await?;
        for (index, ip) in cluster_ips(1).into_iter().enumerate() {
            for transport in TRANSPORTS {
                let mut taken = BTreeSet::new();
                for client in &clients {
                    let mut pods = spread(client, transport, (ip, PORT).into(), 7)?;
                    let at_node = (ips(HOST)[index], node_port(1)).into();
                    pods.extend(spread(client, transport, at_node, 7)?);
                    ensure!(pods.len() == 1, "{transport:?} {ip}: {pods:?}");
                    taken.extend(pods.into_keys());
                }
                ensure!(taken.len() == 2, "round robin goes by clients: {taken:?}");
            }
        }
        let before = spread(&clients[0], Transport::Tcp, (cluster_ips(1)[0], PORT).into(), 1)?;
        let left: Vec<u16> = (1..=3).filter(|n| !before.contains_key(&n.to_string())).collect();
        sticky(&left).sync(&mut proxy).await?;
        let after = spread(&clients[0], Transport::Tcp, (cluster_ips(1)[0], PORT).into(), 7)?;
        ensure!(after.len() == 1 && !after.contains_key(before.keys().next().context("one")?));
        anyhow::Ok(())
    });
}

#[test]
fn relays_take_their_ports_from_the_range_and_a_service_without_one_refuses() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        serve(&mk_pod(1)?, 1)?;
        mk_node()?;
        // A node port is a Service's; another port is somebody's.
        let range = "30001-30003".parse::<PortRange>()?;
        let others = ips(HOST).map(|ip| TcpListener::bind((ip, 30_002)));
        ensure!(others.iter().all(Result::is_ok));
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy_with(all_settings(), range, CAPACITY)?;
        cluster.set(1, Some(&[1])).sync(&mut proxy).await?;
        let taken: Vec<u16> = sockets(&proxy, Protocol::Tcp)
            .iter()
            .map(|socket| socket.at.port.get())
            .collect();
        ensure!(taken == [30_003, 30_003], "{taken:?}");
        cluster.set(4, Some(&[1])).sync(&mut proxy).await?;
        ensure!(proxy.backend().refusals()[&Refusal::NotOpened] > 0);
        let refused = proxy.refused();
        ensure!(refused.keys().eq([&ServiceKey::new("shop", "s4")]), "{refused:?}");
        let why = refused.values().next().context("a reason")?;
        ensure!(
            why.contains("--proxy-port-range") && why.contains("shop/s4"),
            "{why}"
        );
        for (served, refused) in cluster_ips(1).into_iter().zip(cluster_ips(4)) {
            ensure!(ask_from(&client, Transport::Tcp, (served, PORT).into())??.starts_with("1 "));
            let outcome = ask_from(&client, Transport::Tcp, (refused, PORT).into())?;
            ensure!(is_refusal(&client, Transport::Tcp, &outcome), "{outcome:?}");
        }
        // As soon as there is one, it is taken.
        drop(others);
        let wait = proxy.next_wake().context("it is tried again")?;
        tokio::time::sleep(wait).await;
        proxy.turn().await?;
        for ip in cluster_ips(4) {
            ensure!(ask_from(&client, Transport::Tcp, (ip, PORT).into())??.starts_with("1 "));
        }
        ensure!(proxy.refused().is_empty(), "{:?}", proxy.refused());
        anyhow::Ok(())
    });
}

#[test]
fn the_table_lists_and_loads_and_is_kept_and_goes() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        serve(&mk_pod(1)?, 1)?;
        mk_node()?;
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        cluster
            .set(1, Some(&[1]))
            .set(2, Some(&[]))
            .sync(&mut proxy)
            .await?;
        for (family, word) in [(IpFamily::V4, "ip"), (IpFamily::V6, "ip6")] {
            let listed = nft(&["-s", "list", "table", word, RELAY_TABLE], "")?;
            nft(
                &["-f", "-"],
                &format!("delete table {word} {RELAY_TABLE}\n{listed}"),
            )?;
            ensure!(listed == nft(&["-s", "list", "table", word, RELAY_TABLE], "")?);
            // Our own text is the same table, but for its elements.
            let bare = nft(&["-s", "-t", "list", "table", word, RELAY_TABLE], "")?;
            let text = script(&Layout::of_relays(family, &all_settings()), &[]);
            nft(&["delete", "table", word, RELAY_TABLE], "")?;
            nft(&["-f", "-"], &text)?;
            ensure!(bare == nft(&["-s", "-t", "list", "table", word, RELAY_TABLE], "")?);
            nft(
                &["-f", "-"],
                &format!("delete table {word} {RELAY_TABLE}\n{listed}"),
            )?;
        }
        // It is found as it was, and what somebody takes out comes back.
        proxy.audit().await?;
        ensure!(proxy.turn().await?.is_nothing());
        nft(&["flush", "ruleset"], "")?;
        ensure!(proxy.glance().await?);
        ensure!(proxy.turn().await?.rebuilt == 2);
        ensure!(!proxy.glance().await?);
        for ip in cluster_ips(1) {
            ensure!(ask_from(&client, Transport::Tcp, (ip, PORT).into())??.starts_with("1 "));
        }
        // The next process has other relays, and leads everybody there.
        drop(proxy);
        let mut proxy = mk_proxy()?;
        proxy.take(&cluster.view, &cluster.view.services.keys().cloned().collect());
        proxy.turn().await?;
        for ip in cluster_ips(1) {
            for transport in TRANSPORTS {
                ensure!(ask_from(&client, transport, (ip, PORT).into())??.starts_with("1 "));
            }
        }
        let nftables = Userspace::nft()?;
        for (family, word) in [(IpFamily::V4, "ip"), (IpFamily::V6, "ip6")] {
            ensure!(nftables.remove(family).await?);
            ensure!(nft(&["list", "tables", word], "")?.is_empty());
        }
        anyhow::Ok(())
    });
}

#[test]
fn relays_follow_the_nodes_address() {
    in_sandbox_async!(async {
        let client = mk_pod(100)?;
        serve(&mk_pod(1)?, 1)?;
        let node = mk_node()?;
        let mut cluster = Cluster::new();
        // No address is known of the Node: the smallest one serves.
        let mut proxy = mk_proxy_with(settings(), PortRange::Any, CAPACITY)?;
        cluster.set(1, Some(&[1])).sync(&mut proxy).await?;
        let at = |proxy: &crate::ground::Proxy| -> BTreeSet<IpAddr> {
            sockets(proxy, Protocol::Tcp)
                .iter()
                .map(|socket| socket.at.ip)
                .collect()
        };
        let first = at(&proxy);
        ensure!(
            first == ["10.77.0.11".parse()?, "fd00:10:244:ffff::1".parse()?].into(),
            "{first:?}"
        );
        // It goes; the relays move to another one.
        node.ip("addr del 10.77.0.11/32 dev lo\naddr add 10.88.0.1/32 dev lo\n")?;
        proxy.audit().await?;
        proxy.turn().await?;
        retire(&mut proxy).await?;
        let second = at(&proxy);
        ensure!(second.contains(&"10.88.0.1".parse::<IpAddr>()?), "{second:?}");
        ensure!(proxy.backend().listeners() == 4);
        for ip in cluster_ips(1) {
            for transport in TRANSPORTS {
                ensure!(ask_from(&client, transport, SocketAddr::from((ip, PORT)))??.starts_with("1 "));
            }
        }
        anyhow::Ok(())
    });
}
