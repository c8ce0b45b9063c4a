// SPDX-License-Identifier: Apache-2.0
//! Every mode of the proxy on the real API server: a Service's life, restarts, changes of mode, clean-up.

use anyhow::{Result, ensure};
use berth_e2e::proxy_modes::expect::{Expected, Seen, To, What};
use berth_e2e::proxy_modes::flow::{Flow, Traffic};
use berth_e2e::proxy_modes::ground::Ground;
use berth_e2e::proxy_modes::life::{
    BOTH, DRAINING, GONE, READY, SERVED, create, endpoints, life, policies_become, slices,
};
use berth_e2e::proxy_modes::{Mode, guest, kernel};
use berth_e2e::proxy_peer::answer::TARGETS;
use berth_e2e::proxy_peer::objects::{Request, node};
use berth_e2e::proxy_peer::world::{NODES, Origin, Site};
use berth_testkit::{in_sandbox_async, sandbox};
use serde_json::json;

#[test]
fn a_service_lives_alike_in_every_mode() {
    super::prepare();
    in_sandbox_async!(async {
        let mut ground = start("proxy-life", &Mode::EVERYWHERE).await?;
        for (number, step) in life().iter().enumerate() {
            println!("{}", step.name);
            ground.ask(&step.requests).await?;
            ground.expect(&step.expected).await?;
            if number == 2 {
                // Watches end with the API server and are taken up again.
                ground.stage.control_plane_mut().restart_apiserver().await?;
                ground.expect(&step.expected).await?;
            }
        }
        stop(&mut ground)
    });
}

#[test]
fn in_the_guest_kernel_ipvs_serves_what_the_api_server_held() {
    const STATES: &str = "proxy-ipvs";
    if let Some(states) = guest::states() {
        std::fs::create_dir_all(sandbox::SCRATCH).expect("a folder in the guest's memory");
        in_sandbox_async!(guest::live(&states));
        return;
    }
    super::prepare();
    in_sandbox_async!(guest::record(STATES));
    if !sandbox::is_inside() {
        let test = "modes::in_the_guest_kernel_ipvs_serves_what_the_api_server_held";
        guest::run_again(test, &guest::folder(STATES).expect("the folder of logs")).expect("the guest");
    }
}

#[test]
fn a_change_of_mode_removes_what_the_other_wrote_and_traffic_goes_on() {
    super::prepare();
    in_sandbox_async!(async {
        let mut ground = Ground::start("proxy-mode-change", 1).await?;
        serve(&ground).await?;
        let node = ground.nodes[0].world().node().clone();
        kernel::add_foreign(&node)?;
        let foreign = kernel::foreign(&node)?;
        let [nftables, iptables, userspace] = Mode::EVERYWHERE;
        let mut traffic: Option<Traffic> = None;
        for mode in [
            nftables, iptables, userspace, nftables, userspace, iptables, nftables,
        ] {
            println!("{mode}");
            ground.run(0, mode, &[]).await?;
            kernel::only(&node, Some(mode)).await?;
            if let Some(traffic) = traffic.take() {
                let clients = traffic.all_answered().await?;
                ensure!(clients > 20, "{clients} clients");
            }
            ground.expect(&SERVED).await?;
            // Relays end with their process; rules stay until there are others.
            if mode != userspace {
                let world = ground.nodes[0].world();
                traffic = Some(Traffic::start(world, Origin::IdlePod, To::ClusterIp));
            }
            ground.nodes[0].stop()?;
        }
        if let Some(traffic) = traffic {
            traffic.all_answered().await?;
        }
        ensure!(kernel::foreign(&node)? == foreign, "{}", kernel::foreign(&node)?);
        Ok(())
    });
}

#[test]
fn a_restart_writes_nothing_and_clean_up_leaves_nothing_of_ours_and_all_of_others() {
    super::prepare();
    in_sandbox_async!(async {
        let mut ground = start("proxy-restarts", &Mode::EVERYWHERE).await?;
        for at in &ground.nodes {
            kernel::add_foreign(at.world().node())?;
        }
        serve(&ground).await?;
        ground.expect(&SERVED).await?;
        for (number, mode) in Mode::EVERYWHERE.into_iter().enumerate() {
            let node = ground.nodes[number].world().node().clone();
            let foreign = kernel::foreign(&node)?;
            ground.nodes[number].stop()?;
            let writes = ground.nodes[number].writes()?;
            ground.run(number, mode, &[]).await?;
            let written = writes.count()?;
            // Relays end with their process, and the next one's have other ports.
            ensure!(
                (written > 0) == (mode == Mode::Userspace),
                "{mode}: {written} transactions"
            );
            ground.nodes[number].expect(&SERVED).await?;
            kernel::only(&node, Some(mode)).await?;
            ground.nodes[number].stop()?;
            ground.cleanup(number, mode).await?;
            ensure!(
                kernel::ours(&node)?.is_empty(),
                "{mode}: {:?}",
                kernel::ours(&node)?
            );
            ensure!(
                kernel::foreign(&node)? == foreign,
                "{mode}: {}",
                kernel::foreign(&node)?
            );
            ground.nodes[number].expect_of_none(&GONE).await?;
        }
        Ok(())
    });
}

#[test]
fn udp_flows_leave_an_endpoint_that_left_and_follow_its_port() {
    super::prepare();
    in_sandbox_async!(async {
        let mut ground = start("proxy-udp", &Mode::EVERYWHERE).await?;
        ground.ask(&create()).await?;
        ground.ask(&slices(&[(Site::A, READY)], TARGETS[0])).await?;
        let ways = [
            (Origin::Outside, To::NodePort),
            (Origin::IdlePod, To::ClusterIp),
            (Origin::Host, To::ClusterIp),
        ];
        let flows = flows(&ground, &ways).await?;
        answered(&flows, "a:8080").await?;
        // A draining endpoint keeps its flows though new ones go elsewhere.
        ground
            .ask(&endpoints(&[(Site::A, DRAINING), (Site::B, READY)], TARGETS[0]))
            .await?;
        ground.expect(&[pod(&[Site::B], Seen::Kept)]).await?;
        answered(&flows, "a:8080").await?;
        ground.ask(&endpoints(&[], TARGETS[0])).await?;
        futures::future::try_join_all(flows.iter().map(Flow::is_refused)).await?;
        ground.ask(&endpoints(&[(Site::B, READY)], TARGETS[0])).await?;
        answered(&flows, "b:8080").await?;
        ground.ask(&endpoints(&[(Site::B, READY)], TARGETS[1])).await?;
        answered(&flows, "b:8081").await?;
        ground.ask(&[policies_become("Local")]).await?;
        ground.ask(&endpoints(&[(Site::A, READY)], TARGETS[0])).await?;
        answered(&flows, "a:8080").await?;
        stop(&mut ground)
    });
}

#[test]
fn endpoints_that_take_turns_cost_no_connection_under_either_policy() {
    const TURNS: usize = 12;
    super::prepare();
    in_sandbox_async!(async {
        let mut ground = start("proxy-rolling", &Mode::EVERYWHERE).await?;
        ground.ask(&create()).await?;
        ground.ask(&slices(&[(Site::A, READY)], TARGETS[0])).await?;
        for policy in ["Cluster", "Local"] {
            println!("{policy}");
            ground.ask(&[policies_become(policy)]).await?;
            ground.ask(&endpoints(&[(Site::A, READY)], TARGETS[0])).await?;
            ground.expect(&[pod(&[Site::A], Seen::Kept)]).await?;
            let begin = |from, to| {
                let each = ground.nodes.iter();
                each.map(move |at| Traffic::start(at.world(), from, to))
            };
            let traffic: Vec<Traffic> = begin(Origin::IdlePod, To::ClusterIp)
                .chain(begin(Origin::Outside, To::NodePort))
                .collect();
            for turn in 0..TURNS {
                // Both are of this node, and each takes its connections to their end.
                let (comes, goes) = if turn % 2 == 0 {
                    (Site::B, Site::A)
                } else {
                    (Site::A, Site::B)
                };
                for those in [
                    vec![(goes, READY), (comes, READY)],
                    vec![(goes, DRAINING), (comes, READY)],
                    vec![(comes, READY)],
                ] {
                    ground.ask(&endpoints(&those, TARGETS[0])).await?;
                }
            }
            // A port that no turn had: proxies may be some turns behind, and a turn's endpoint would tell nothing.
            ground.ask(&endpoints(&[(Site::B, READY)], TARGETS[1])).await?;
            let late = flows(&ground, &[(Origin::IdlePod, To::ClusterIp)]).await?;
            answered(&late, "b:8081").await?;
            for one in traffic {
                let clients = one.all_answered().await?;
                ensure!(clients > 20, "{clients} clients");
            }
        }
        stop(&mut ground)
    });
}

#[test]
fn pod_cidrs_of_the_node_are_followed_live() {
    const MODES: [Mode; 2] = [Mode::Nftables, Mode::Iptables];
    super::prepare();
    in_sandbox_async!(async {
        let mut ground = Ground::start("proxy-node-cidr", MODES.len()).await?;
        serve(&ground).await?;
        let (name, address) = NODES[0];
        let path = format!("/api/v1/nodes/{name}");
        ground.ask(&[Request::change(&path, cidrs(PODS))]).await?;
        for (number, mode) in MODES.into_iter().enumerate() {
            ground
                .run(number, mode, &["--detect-local-mode=NodeCIDR"])
                .await?;
        }
        let both = &[Site::B, Site::FarA];
        ground.expect(&[pod(both, Seen::Kept)]).await?;
        // They cannot be changed, but a Node can be made anew.
        for (cidrs, seen) in [(OTHERS, Seen::Rewritten), (PODS, Seen::Kept)] {
            ground.ask(&[Request::delete(&path)]).await?;
            ground.ask(&node(name, address, cidrs)).await?;
            ground.expect(&[pod(both, seen)]).await?;
        }
        stop(&mut ground)
    });
}

const PODS: &[&str] = &["10.244.1.0/24", "fd00:10:244:1::/64"];
const OTHERS: &[&str] = &["10.245.1.0/24", "fd00:10:245:1::/64"];

fn cidrs(cidrs: &[&str]) -> serde_json::Value {
    json!({"spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}})
}

#[test]
fn a_configuration_file_of_kube_proxys_is_obeyed() {
    super::prepare();
    in_sandbox_async!(async {
        let modes = Mode::EVERYWHERE;
        let mut ground = Ground::start("proxy-config", modes.len()).await?;
        serve(&ground).await?;
        let file = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "hostnameOverride": NODES[0].0, "clusterCIDR": "10.244.0.0/16,fd00:10:244::/48",
            "nodePortAddresses": ["10.77.0.21/32", "fd00:77::21/128"],
            "healthzBindAddress": "127.0.0.1:10456", "metricsBindAddress": "127.0.0.1:10449",
            "iptables": {"masqueradeBit": 15}, "nftables": {"masqueradeBit": 15},
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        });
        for (number, mode) in modes.into_iter().enumerate() {
            ground.run_by_file(number, mode, file.clone(), 10_449).await?;
            let node = ground.nodes[number].world().node();
            kernel::only(node, Some(mode)).await?;
            // Relays masquerade nobody.
            let listed = match mode {
                Mode::Iptables => node.output("iptables-nft-save", &[])?,
                Mode::Nftables | Mode::Ipvs => node.output("nft", &["list", "ruleset"])?,
                Mode::Userspace => "0x8000".to_owned(),
            };
            ensure!(
                listed.contains("0x8000") || listed.contains("0x00008000"),
                "{mode}: another bit: {listed}"
            );
            let healthy = ground.nodes[number].get("http://127.0.0.1:10456/healthz")?;
            ensure!(healthy.contains("\"healthy\":true"), "{mode}: {healthy}");
        }
        let [pods, on_first, on_second, external] = SERVED;
        let on_first = Expected {
            what: What::Refused,
            ..on_first
        };
        ground.expect(&[pods, on_first, on_second, external]).await?;
        stop(&mut ground)
    });
}

/// A node for each mode, with its proxy.
async fn start(name: &str, modes: &[Mode]) -> Result<Ground> {
    let mut ground = Ground::start(name, modes.len()).await?;
    for (number, mode) in modes.iter().enumerate() {
        ground.run(number, *mode, &[]).await?;
    }
    Ok(ground)
}

/// The Service with the endpoints that [`SERVED`] speaks of.
async fn serve(ground: &Ground) -> Result<()> {
    ground.ask(&create()).await?;
    ground.ask(&slices(&BOTH, TARGETS[0])).await
}

/// A Pod's connections to the ClusterIP.
fn pod(sites: &'static [Site], seen: Seen) -> Expected {
    Expected {
        from: Origin::IdlePod,
        to: To::ClusterIp,
        what: What::Answered(sites, seen),
    }
}

/// UDP clients in every node's world and either family.
async fn flows(ground: &Ground, ways: &[(Origin, To)]) -> Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for at in &ground.nodes {
        for ipv6 in [false, true] {
            for (from, to) in ways {
                flows.push(Flow::open(at.world(), *from, *to, ipv6).await?);
            }
        }
    }
    Ok(flows)
}

async fn answered(flows: &[Flow], endpoint: &str) -> Result<()> {
    let each = flows.iter().map(|flow| flow.is_answered_by(endpoint));
    futures::future::try_join_all(each).await?;
    Ok(())
}

/// Every proxy is still there and ends in order.
fn stop(ground: &mut Ground) -> Result<()> {
    for node in &mut ground.nodes {
        node.stop()?;
    }
    Ok(())
}
