// SPDX-License-Identifier: Apache-2.0
//! The testkit's node agent against a real API server: what Services depend on happens as with a kubelet.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use berth_e2e::controlplane::{Binaries, ControlPlane, ControlPlaneConfig};
use berth_testkit::builders::{mk_container_port, mk_pod, mk_pod_on};
use berth_testkit::in_sandbox_async;
use berth_testkit::kubelet::{self, Kubelet};
use berth_testkit::lan::{Lan, ROUTER};
use berth_testkit::probe::{How, Probe};
use berth_testkit::sandbox;
use berth_testkit::scheduler::Scheduler;
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(60);

struct Cluster {
    lan: Lan,
    control_plane: ControlPlane,
    kubelets: Vec<Kubelet>,
    pods: Api<Pod>,
    client: Client,
}

async fn cluster() -> anyhow::Result<Cluster> {
    let lan = Lan::builder().nodes(2).build()?;
    let folder = Path::new(sandbox::SCRATCH).join("cp");
    let control_plane = ControlPlane::start(ControlPlaneConfig::lan(folder, ROUTER.0)).await?;
    let client = control_plane.client();
    let mut kubelets = Vec::new();
    for node in lan.nodes() {
        kubelets.push(Kubelet::start(client.clone(), node, kubelet::Options::default()).await?);
    }
    Ok(Cluster {
        pods: Api::default_namespaced(client.clone()),
        lan,
        control_plane,
        kubelets,
        client,
    })
}

fn condition(pod: &Pod, type_: &str) -> Option<String> {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .filter(|condition| condition.type_ == type_)
        .map(|condition| condition.status.clone())
        .next()
}

fn address(pod: &Pod, port: u16) -> anyhow::Result<SocketAddr> {
    let ip = pod
        .status
        .as_ref()
        .and_then(|status| status.pod_ip.as_deref())
        .context("an address")?;
    Ok(SocketAddr::new(ip.parse()?, port))
}

impl Cluster {
    async fn ready(&self, name: &str, ready: &str) -> anyhow::Result<Pod> {
        let pod = eventually(format!("{name} Ready={ready}"), DEADLINE, || async {
            let pod = self.pods.get(name).await?;
            let found = condition(&pod, "Ready");
            let message = pod.status.as_ref().and_then(|status| status.message.as_deref());
            ensure!(found.as_deref() == Some(ready), "Ready={found:?} {message:?}");
            Ok(pod)
        });
        Ok(pod.await?)
    }

    async fn annotate(&self, name: &str, annotation: &str, value: &str) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"annotations": {annotation: value}}});
        self.pods
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    async fn create(&self, pod: &Pod) -> anyhow::Result<Pod> {
        // The namespace `default` appears shortly after the server calls itself ready.
        let create = || async { self.pods.create(&PostParams::default(), pod).await };
        Ok(eventually("Pod created", DEADLINE, create).await?)
    }

    async fn gone(&self, name: &str) -> anyhow::Result<()> {
        let gone = eventually(format!("{name} gone"), DEADLINE, || async {
            ensure!(self.pods.get_opt(name).await?.is_none(), "still there");
            Ok(())
        });
        Ok(gone.await?)
    }
}

#[test]
fn pods_live_and_end_as_with_a_kubelet() {
    if !sandbox::is_inside() {
        // There is no way to any registry from inside.
        Binaries::find_or_build().unwrap();
    }
    in_sandbox_async!(async {
        let mut cluster = cluster().await?;
        nodes_are_registered(&cluster).await?;
        readiness_follows_the_annotation(&cluster).await?;
        ended_process_is_started_again(&cluster).await?;
        host_network_pods_have_the_addresses_of_their_node(&cluster).await?;
        scheduler_binds_in_turn(&cluster).await?;
        lingering_pod_serves_until_its_grace_period_ends(&cluster).await?;
        fake_pods_have_addresses_only(&cluster).await?;
        agent_restart_keeps_pods(&mut cluster).await?;
        apiserver_restart_is_survived(&mut cluster).await?;
        crash_kills_processes(&mut cluster).await
    });
}

async fn nodes_are_registered(cluster: &Cluster) -> anyhow::Result<()> {
    for node in cluster.lan.nodes() {
        let found = Api::<Node>::all(cluster.client.clone()).get(node.name()).await?;
        let status = found.status.context("status")?;
        let addresses: Vec<_> = status
            .addresses
            .into_iter()
            .flatten()
            .map(|address| (address.type_, address.address))
            .collect();
        let [ipv4, ipv6] = node
            .addresses()
            .map(|address| ("InternalIP".to_owned(), address.to_string()));
        assert_eq!(addresses[..2], [ipv4, ipv6]);
        assert_eq!(
            found.spec.and_then(|spec| spec.pod_cidrs),
            Some(node.pod_ranges().to_vec())
        );
    }
    Ok(())
}

async fn readiness_follows_the_annotation(cluster: &Cluster) -> anyhow::Result<()> {
    let ports = [
        mk_container_port("http", 8080, "TCP"),
        mk_container_port("dns", 5353, "UDP"),
    ];
    cluster
        .create(&mk_pod_on("node-1", "default", "web", &[("app", "web")], &ports))
        .await?;
    let pod = cluster.ready("web", "True").await?;
    let status = pod.status.clone().context("status")?;
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.pod_ips.iter().flatten().count(), 2, "{status:?}");
    assert_eq!(status.host_ip.as_deref(), Some("10.77.0.11"));
    let from_other_node = Probe::from(cluster.lan.nodes()[1].netns());
    for ip in status.pod_ips.iter().flatten() {
        for (how, port) in [(How::Http, 8080), (How::Udp, 5353)] {
            let answer = from_other_node
                .ask_async(how, SocketAddr::new(ip.ip.parse()?, port))
                .await?;
            assert_eq!(answer.pod, "web");
        }
    }
    assert!(cluster.kubelets[0].pod_netns("default", "web").is_some());
    assert!(cluster.kubelets[1].pod_netns("default", "web").is_none());
    cluster.annotate("web", kubelet::READY, "false").await?;
    cluster.ready("web", "False").await?;
    assert!(
        from_other_node
            .ask_async(How::Tcp, address(&pod, 8080)?)
            .await
            .is_ok(),
        "goes on running"
    );
    cluster.annotate("web", kubelet::READY, "true").await?;
    cluster.ready("web", "True").await?;
    cluster.pods.delete("web", &DeleteParams::default()).await?;
    cluster.gone("web").await
}

/// The process of a Pod, found by the name it was started with.
fn kill_process_of(name: &str) -> anyhow::Result<()> {
    for entry in std::fs::read_dir("/proc")?.filter_map(Result::ok) {
        let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if line.contains(&format!("berth-testpod\0--name\0{name}\0")) {
            let pid = entry.file_name().to_string_lossy().parse()?;
            return Ok(nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::SIGKILL,
            )?);
        }
    }
    anyhow::bail!("no process of {name}")
}

async fn ended_process_is_started_again(cluster: &Cluster) -> anyhow::Result<()> {
    cluster
        .create(&mk_pod_on(
            "node-1",
            "default",
            "falls",
            &[],
            &[mk_container_port("http", 8080, "TCP")],
        ))
        .await?;
    let before = cluster.ready("falls", "True").await?;
    kill_process_of("falls")?;
    eventually("one restart", DEADLINE, || async {
        let pod = cluster.pods.get("falls").await?;
        let statuses = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten());
        let restarts: i32 = statuses.map(|status| status.restart_count).sum();
        ensure!(restarts == 1, "{restarts} restarts");
        Ok(())
    })
    .await?;
    let probe = Probe::from(cluster.lan.router());
    let answer = probe.ask_async(How::Tcp, address(&before, 8080)?).await?;
    assert_eq!(answer.pod, "falls", "at the same address");
    cluster.pods.delete("falls", &DeleteParams::default()).await?;
    cluster.gone("falls").await
}

async fn host_network_pods_have_the_addresses_of_their_node(cluster: &Cluster) -> anyhow::Result<()> {
    let mut pod = mk_pod_on(
        "node-2",
        "default",
        "host",
        &[],
        &[mk_container_port("http", 8080, "TCP")],
    );
    pod.spec.as_mut().context("spec")?.host_network = Some(true);
    cluster.create(&pod).await?;
    let pod = cluster.ready("host", "True").await?;
    let target = address(&pod, 8080)?;
    assert_eq!(target.ip(), cluster.lan.nodes()[1].ipv4());
    assert_eq!(
        Probe::from(cluster.lan.client())
            .ask_async(How::Http, target)
            .await?
            .pod,
        "host"
    );
    cluster.pods.delete("host", &DeleteParams::default()).await?;
    cluster.gone("host").await
}

async fn scheduler_binds_in_turn(cluster: &Cluster) -> anyhow::Result<()> {
    let nodes = cluster
        .lan
        .nodes()
        .iter()
        .map(|node| node.name().to_owned())
        .collect();
    let _scheduler = Scheduler::start(cluster.client.clone(), nodes);
    let mut found = Vec::new();
    for name in ["a", "b"] {
        cluster.create(&mk_pod("default", name, &[], &[])).await?;
        found.push(
            cluster
                .ready(name, "True")
                .await?
                .spec
                .and_then(|spec| spec.node_name),
        );
    }
    found.sort();
    assert_eq!(found, [Some("node-1".to_owned()), Some("node-2".to_owned())]);
    for name in ["a", "b"] {
        cluster.pods.delete(name, &DeleteParams::default()).await?;
        cluster.gone(name).await?;
    }
    Ok(())
}

async fn lingering_pod_serves_until_its_grace_period_ends(cluster: &Cluster) -> anyhow::Result<()> {
    let mut pod = mk_pod_on(
        "node-1",
        "default",
        "slow",
        &[],
        &[mk_container_port("http", 8080, "TCP")],
    );
    pod.metadata.annotations = Some(
        [(kubelet::LINGER.to_owned(), "true".to_owned())]
            .into_iter()
            .collect(),
    );
    cluster.create(&pod).await?;
    let pod = cluster.ready("slow", "True").await?;
    cluster
        .pods
        .delete(
            "slow",
            &DeleteParams {
                grace_period_seconds: Some(600),
                ..DeleteParams::default()
            },
        )
        .await?;
    let probe = Probe::from(cluster.lan.router());
    let deleting = cluster.pods.get("slow").await?;
    assert!(deleting.metadata.deletion_timestamp.is_some());
    assert_eq!(condition(&deleting, "Ready").as_deref(), Some("True"));
    cluster.annotate("slow", kubelet::READY, "false").await?;
    cluster.ready("slow", "False").await?;
    cluster.annotate("slow", kubelet::READY, "true").await?;
    cluster.ready("slow", "True").await?;
    assert!(
        probe.ask_async(How::Tcp, address(&pod, 8080)?).await.is_ok(),
        "serves while terminating"
    );
    // A second deletion shortens the grace period.
    cluster
        .pods
        .delete(
            "slow",
            &DeleteParams {
                grace_period_seconds: Some(1),
                ..DeleteParams::default()
            },
        )
        .await?;
    cluster.gone("slow").await?;
    assert!(probe.ask_async(How::Tcp, address(&pod, 8080)?).await.is_err());
    Ok(())
}

async fn fake_pods_have_addresses_only(cluster: &Cluster) -> anyhow::Result<()> {
    let names: Vec<String> = (0..100).map(|number| format!("fake-{number}")).collect();
    for name in &names {
        let mut pod = mk_pod_on("node-2", "default", name, &[], &[]);
        pod.metadata.annotations = Some(
            [(kubelet::FAKE.to_owned(), "true".to_owned())]
                .into_iter()
                .collect(),
        );
        cluster.create(&pod).await?;
    }
    let mut addresses = std::collections::BTreeSet::new();
    for name in &names {
        addresses.insert(address(&cluster.ready(name, "True").await?, 1)?);
        assert!(cluster.kubelets[1].pod_netns("default", name).is_none());
    }
    assert_eq!(addresses.len(), names.len(), "no address twice");
    for name in &names {
        cluster.pods.delete(name, &DeleteParams::default()).await?;
    }
    for name in &names {
        cluster.gone(name).await?;
    }
    Ok(())
}

async fn agent_restart_keeps_pods(cluster: &mut Cluster) -> anyhow::Result<()> {
    let port = [mk_container_port("http", 8080, "TCP")];
    for name in ["stays", "goes"] {
        cluster
            .create(&mk_pod_on("node-1", "default", name, &[], &port))
            .await?;
    }
    let (stays, goes) = (
        cluster.ready("stays", "True").await?,
        cluster.ready("goes", "True").await?,
    );
    cluster.kubelets[0].stop().await;
    let probe = Probe::from(cluster.lan.router());
    assert!(
        probe.ask_async(How::Tcp, address(&stays, 8080)?).await.is_ok(),
        "runs without the agent"
    );
    let at_once = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    cluster.pods.delete("goes", &at_once).await?;
    cluster.annotate("stays", kubelet::READY, "false").await?;
    cluster.kubelets[0].resume();
    let after = cluster.ready("stays", "False").await?;
    assert_eq!(address(&after, 8080)?, address(&stays, 8080)?);
    let restarts = after
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    assert_eq!(restarts.map(|status| status.restart_count).sum::<i32>(), 0);
    eventually("the Pod deleted meanwhile is cleaned up", DEADLINE, || async {
        ensure!(
            probe.ask_async(How::Tcp, address(&goes, 8080)?).await.is_err(),
            "still answers"
        );
        Ok(())
    })
    .await?;
    Ok(())
}

async fn apiserver_restart_is_survived(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.control_plane.restart_apiserver().await?;
    cluster.annotate("stays", kubelet::READY, "true").await?;
    cluster.ready("stays", "True").await?;
    Ok(())
}

async fn crash_kills_processes(cluster: &mut Cluster) -> anyhow::Result<()> {
    let pod = cluster.pods.get("stays").await?;
    cluster.kubelets[0].crash().await;
    let outcome = Probe::from(cluster.lan.nodes()[0].netns())
        .ask_async(How::Tcp, address(&pod, 8080)?)
        .await;
    assert!(outcome.is_err(), "{outcome:?}");
    assert_eq!(
        condition(&cluster.pods.get("stays").await?, "Ready").as_deref(),
        Some("True"),
        "nobody was told"
    );
    Ok(())
}
