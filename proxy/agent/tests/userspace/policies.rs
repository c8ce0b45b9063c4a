// SPDX-License-Identifier: Apache-2.0
//! Traffic policies and source ranges: as in the other modes, but that sources are lost.

use std::net::SocketAddr;

use anyhow::ensure;
use berth_model::{Conditions, IpMode, LoadBalancerIngress, ServiceKind, TrafficPolicy};
use berth_testkit::in_sandbox_async;

use crate::cluster::{Cluster, PORT, cluster_ips, node_port, retire};
use crate::ground::{mk_node, mk_proxy};
use crate::steering::{TRANSPORTS, untranslated};
use crate::traffic::{
    HOST, OTHER_VIPS, Transport, VIPS, ask_from, endpoints_on, ips, is_refusal, is_silent, mk_pod,
    mk_stranger, serve, spread,
};

#[test]
fn under_policy_local_outsiders_get_local_endpoints_and_the_others_all() {
    in_sandbox_async!(async {
        let (client, stranger) = (mk_pod(100)?, mk_stranger(5)?);
        for n in 1..=2 {
            serve(&mk_pod(n)?, n)?;
        }
        let node = mk_node()?;
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        cluster.set(1, Some(&[])).edit(1, |service, endpoints| {
            service.external_ips = ips(VIPS).into();
            service.external_policy = TrafficPolicy::Local;
            let here = endpoints_on(1, "node-1", Conditions::READY);
            *endpoints = [here, endpoints_on(2, "node-2", Conditions::READY)].concat();
        });
        cluster.sync(&mut proxy).await?;
        for (vip, at_node) in ips(VIPS).into_iter().zip(ips(HOST)) {
            for transport in TRANSPORTS {
                for to in [SocketAddr::from((vip, PORT)), (at_node, node_port(1)).into()] {
                    let outside = spread(&stranger, transport, to, 6)?;
                    ensure!(outside.len() == 1 && outside["1"] == 6, "{to}: {outside:?}");
                    for from in [&client, &node] {
                        let inside = spread(from, transport, to, 6)?;
                        ensure!(
                            inside.values().all(|count| *count == 3),
                            "{} to {to}: {inside:?}",
                            from.name()
                        );
                        ensure!(inside.len() == 2, "{} to {to}: {inside:?}", from.name());
                    }
                }
            }
        }
        ensure!(untranslated()? == 0);
        anyhow::Ok(())
    });
}

#[test]
fn under_policy_local_without_a_local_endpoint_there_is_silence_and_without_any_refusal() {
    in_sandbox_async!(async {
        let (client, stranger) = (mk_pod(100)?, mk_stranger(5)?);
        for n in 1..=2 {
            serve(&mk_pod(n)?, n)?;
        }
        mk_node()?;
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        let here = endpoints_on(1, "node-1", Conditions::READY);
        let there = endpoints_on(2, "node-2", Conditions::READY);
        let lists = [
            there.to_vec(),
            [here, there.clone()].concat(),
            there.to_vec(),
            vec![],
        ];
        for (step, list) in lists.into_iter().enumerate() {
            let (any, local) = (!list.is_empty(), list.len() > 2);
            cluster.set(1, Some(&[])).edit(1, |service, endpoints| {
                service.external_ips = ips(VIPS).into();
                service.external_policy = TrafficPolicy::Local;
                service.internal_policy = TrafficPolicy::Local;
                *endpoints = list;
            });
            cluster.sync(&mut proxy).await?;
            for pass in 0..2 {
                for (vip, internal) in ips(VIPS).into_iter().zip(cluster_ips(1)) {
                    for transport in TRANSPORTS {
                        for (from, to) in [(&stranger, vip), (&client, internal)] {
                            let to = SocketAddr::from((to, PORT));
                            let what = format!("step {step}, pass {pass}, {} to {to}", from.name());
                            match (any, local) {
                                (false, _) => {
                                    let outcome = ask_from(from, transport, to)?;
                                    ensure!(is_refusal(from, transport, &outcome), "{what}: {outcome:?}");
                                }
                                (true, false) => ensure!(is_silent(from, transport, to)?, "{what}"),
                                (true, true) => ensure!(spread(from, transport, to, 4)?["1"] == 4, "{what}"),
                            }
                        }
                    }
                }
                retire(&mut proxy).await?;
            }
        }
        ensure!(untranslated()? == 0);
        anyhow::Ok(())
    });
}

#[test]
fn source_ranges_decide_who_reaches_the_load_balancer_address_and_nothing_else() {
    in_sandbox_async!(async {
        let strangers = [mk_stranger(5)?, mk_stranger(200)?];
        serve(&mk_pod(1)?, 1)?;
        mk_node()?;
        let mut cluster = Cluster::new();
        let mut proxy = mk_proxy()?;
        for (ranges, let_in) in [
            (["203.0.113.0/25", "2001:db8::/121"], [true, false]),
            (["203.0.113.128/25", "2001:db8::80/121"], [false, true]),
            (["0.0.0.0/0", "2001:db8::/64"], [true, true]),
        ] {
            cluster.set(1, Some(&[1])).edit(1, |service, _| {
                service.kind = ServiceKind::LoadBalancer;
                let mode = IpMode::Vip;
                service.load_balancer = ips(VIPS).map(|ip| LoadBalancerIngress { ip, mode }).into();
                service.external_ips = ips(OTHER_VIPS).into();
                service.source_ranges = Some(ranges.iter().map(|net| net.parse().unwrap()).collect());
            });
            cluster.sync(&mut proxy).await?;
            for (stranger, let_in) in strangers.iter().zip(let_in) {
                for (index, vip) in ips(VIPS).into_iter().enumerate() {
                    for transport in TRANSPORTS {
                        let to = SocketAddr::from((vip, PORT));
                        if let_in {
                            ensure!(
                                ask_from(stranger, transport, to)??.starts_with("1 "),
                                "{ranges:?} {to}"
                            );
                        } else {
                            ensure!(is_silent(stranger, transport, to)?, "{ranges:?} {to}");
                        }
                    }
                    let (other, at_node) = (ips(OTHER_VIPS)[index], ips(HOST)[index]);
                    for to in [SocketAddr::from((other, PORT)), (at_node, node_port(1)).into()] {
                        ensure!(
                            ask_from(stranger, Transport::Tcp, to)??.starts_with("1 "),
                            "{ranges:?} {to}"
                        );
                    }
                }
            }
        }
        ensure!(untranslated()? == 0);
        anyhow::Ok(())
    });
}
