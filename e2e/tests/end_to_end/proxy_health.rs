// SPDX-License-Identifier: Apache-2.0
//! What load balancers ask a node: health-check node ports and `/healthz`; and whose Services a proxy serves.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use berth_e2e::cluster::{Cluster, ClusterConfig, Daemon, PATIENCE, Role};
use berth_testkit::builders::{mk_load_balancer, mk_namespace, mk_pod_on, mk_service, mk_service_port};
use berth_testkit::in_sandbox_async;
use berth_testkit::kubelet::FAKE;
use berth_testkit::netns::Netns;
use berth_testkit::process::Process;
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::state::elements;

const NAMESPACE: &str = "asked";
/// In the default range of node ports.
const TAKEN: u16 = 32_767;

#[test]
fn load_balancers_learn_where_endpoints_are_and_which_node_is_going() {
    super::prepare();
    in_sandbox_async!(async {
        let cluster = start("health-checks").await?;
        Api::<Namespace>::all(cluster.client())
            .create(&PostParams::default(), &mk_namespace(NAMESPACE))
            .await?;
        let port = endpoints_are_counted(&cluster).await?;
        a_node_that_goes_is_drained(&cluster, port).await?;
        a_port_that_is_taken_is_told_and_tried_again(&cluster).await?;
        let services: Api<Service> = Api::namespaced(cluster.client(), NAMESPACE);
        services.delete("web", &DeleteParams::default()).await?;
        let node = cluster.node("node-1")?.netns().clone();
        eventually("the port closed", PATIENCE, || async {
            ensure!(ask(&node, v4(port), "/").is_err(), "still open");
            anyhow::Ok(())
        })
        .await?;
        super::sound(cluster)
    });
}

#[test]
fn a_proxy_with_a_name_serves_the_services_of_that_name_only() {
    super::prepare();
    in_sandbox_async!(async {
        let mut cluster = start("proxy-name").await?;
        let services: Api<Service> = Api::default_namespaced(cluster.client());
        let mut ips = BTreeMap::new();
        for (name, proxy) in [
            ("plain", None),
            ("named", Some("mine")),
            ("foreign", Some("theirs")),
        ] {
            let ports = [mk_service_port("http", 80, "80", "TCP")];
            let mut service = mk_service("default", name, &[("app", name)], &ports);
            service.metadata.labels = proxy.map(|proxy| {
                BTreeMap::from([(
                    "service.kubernetes.io/service-proxy-name".to_owned(),
                    proxy.to_owned(),
                )])
            });
            let made = services.create(&PostParams::default(), &service).await?;
            ips.insert(
                name,
                made.spec
                    .and_then(|spec| spec.cluster_ip)
                    .context("no ClusterIP")?,
            );
        }
        let node = cluster.node("node-1")?.clone();
        let serves = async |expected: [bool; 3]| {
            eventually(format!("served: {expected:?}"), PATIENCE, || async {
                let served = elements(node.netns(), "ip", "cluster-ips")?;
                let found = ["plain", "named", "foreign"].map(|name| served.contains(&ips[name]));
                ensure!(found == expected, "{found:?}");
                anyhow::Ok(())
            })
            .await
        };
        serves([true, false, false]).await?;
        let daemon = Daemon::on(Role::Proxy, &node);
        cluster.daemons.terminate(&daemon)?;
        let mut spec = cluster.daemons.spec(&daemon);
        spec.args.push("--service-proxy-name=mine".to_owned());
        let mut named = Process::start(node.netns(), &spec)?;
        serves([false, true, false]).await?;
        named.terminate(PATIENCE)?;
        cluster.daemons.start_again(&daemon)?;
        cluster.daemons.wait_ready(&daemon)?;
        serves([true, false, false]).await?;
        super::sound(cluster)
    });
}

async fn start(name: &str) -> Result<Cluster> {
    let config = ClusterConfig {
        nodes: 2,
        roles: vec![Role::Controllers, Role::Proxy],
        ..ClusterConfig::whole(name)
    };
    Cluster::start(&config, |step| println!("{name}: {step}")).await
}

/// A Service with one Pod, on node-1: returns its health-check node port.
async fn endpoints_are_counted(cluster: &Cluster) -> Result<u16> {
    let mut pod = mk_pod_on("node-1", NAMESPACE, "web", &[("app", "web")], &[]);
    pod.metadata.annotations = Some(BTreeMap::from([(FAKE.to_owned(), "true".to_owned())]));
    Api::<Pod>::namespaced(cluster.client(), NAMESPACE)
        .create(&PostParams::default(), &pod)
        .await?;
    let made = create(cluster, "web", None).await?;
    let port = made
        .spec
        .and_then(|spec| spec.health_check_node_port)
        .context("no healthCheckNodePort")?;
    let port = u16::try_from(port)?;
    for address in [v4(port), v6(port)] {
        answers(
            cluster,
            "node-1",
            address,
            "/any/path",
            200,
            "x-load-balancing-endpoint-weight: 1",
        )
        .await?;
        answers(
            cluster,
            "node-2",
            address,
            "/any/path",
            503,
            "\"localEndpoints\": 0",
        )
        .await?;
    }
    Ok(port)
}

async fn a_node_that_goes_is_drained(cluster: &Cluster, health_check: u16) -> Result<()> {
    let health = [v4(10_256), v6(10_256)];
    for address in health {
        answers(
            cluster,
            "node-1",
            address,
            "/healthz",
            200,
            "\"nodeEligible\":true",
        )
        .await?;
    }
    let nodes: Api<Node> = Api::all(cluster.client());
    let taints = |taints: serde_json::Value| Patch::Merge(json!({"spec": {"taints": taints}}));
    let going = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    nodes
        .patch("node-1", &PatchParams::default(), &taints(going))
        .await?;
    answers(
        cluster,
        "node-1",
        health[0],
        "/healthz",
        503,
        "\"nodeEligible\":false",
    )
    .await?;
    answers(cluster, "node-1", health[0], "/livez", 200, "\"healthy\":true").await?;
    answers(
        cluster,
        "node-1",
        v4(health_check),
        "/",
        200,
        "\"serviceProxyHealthy\": true",
    )
    .await?;
    answers(
        cluster,
        "node-2",
        health[0],
        "/healthz",
        200,
        "\"nodeEligible\":true",
    )
    .await?;
    nodes
        .patch("node-1", &PatchParams::default(), &taints(json!(null)))
        .await?;
    answers(cluster, "node-1", health[0], "/healthz", 200, "\"IPv6\"").await?;
    for metric in [
        "kubeproxy_proxy_healthz_total{code=\"503\"}",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"}",
    ] {
        answers(cluster, "node-1", v4(10_249), "/metrics", 200, metric).await?;
    }
    Ok(())
}

async fn a_port_that_is_taken_is_told_and_tried_again(cluster: &Cluster) -> Result<()> {
    let node = cluster.node("node-2")?.netns();
    let blocker = node.run(|| TcpListener::bind(v4(TAKEN)))??;
    create(cluster, "blocked", Some(TAKEN)).await?;
    let events: Api<Event> = Api::namespaced(cluster.client(), NAMESPACE);
    eventually("the event", PATIENCE, || async {
        let found = events
            .list(&ListParams::default())
            .await?
            .items
            .into_iter()
            .any(|event| {
                let note = event.note.unwrap_or_default();
                event.reason.as_deref() == Some("FailedToStartServiceHealthcheck")
                    && event.regarding.and_then(|about| about.name).as_deref() == Some("blocked")
                    && note.contains("node-2")
                    && note.contains(&TAKEN.to_string())
            });
        ensure!(found, "not there");
        anyhow::Ok(())
    })
    .await?;
    drop(blocker);
    answers(cluster, "node-2", v4(TAKEN), "/", 503, "\"name\": \"blocked\"").await
}

async fn create(cluster: &Cluster, name: &str, port: Option<u16>) -> Result<Service> {
    let ports = [mk_service_port("http", 80, "8080", "TCP")];
    let mut service = mk_load_balancer(NAMESPACE, name, &[("app", name)], &ports);
    let spec = service.spec.get_or_insert_default();
    spec.external_traffic_policy = Some("Local".to_owned());
    spec.health_check_node_port = port.map(i32::from);
    let services: Api<Service> = Api::namespaced(cluster.client(), NAMESPACE);
    Ok(services.create(&PostParams::default(), &service).await?)
}

fn v4(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn v6(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port)
}

/// Waits for an answer with this status and part.
async fn answers(
    cluster: &Cluster,
    node: &str,
    address: SocketAddr,
    path: &str,
    status: u16,
    part: &str,
) -> Result<()> {
    let netns = cluster.node(node)?.netns();
    eventually(
        format!("{node} {address}{path}: {status} with {part}"),
        PATIENCE,
        || async {
            let answer = ask(netns, address, path)?;
            ensure!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(part),
                "{answer}"
            );
            anyhow::Ok(())
        },
    )
    .await?;
    Ok(())
}

/// One GET from inside a node.
fn ask(node: &Netns, address: SocketAddr, path: &str) -> Result<String> {
    node.run(|| {
        let mut stream = TcpStream::connect(address)?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        anyhow::Ok(answer)
    })?
}
