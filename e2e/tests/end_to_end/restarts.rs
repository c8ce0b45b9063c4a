// SPDX-License-Identifier: Apache-2.0
//! Stopped, killed, killed in the middle of work: the end is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use berth_crds::AddressPool;
use berth_e2e::cluster::{Cluster, Daemon, PATIENCE, Role};
use berth_e2e::examples::{Examples, NAMESPACE};
use berth_testkit::builders::{mk_load_balancer, mk_namespace, mk_pod_on, mk_service, mk_service_port};
use berth_testkit::in_sandbox_async;
use berth_testkit::kubelet::FAKE;
use berth_testkit::wait::eventually;
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{ListParams, PostParams};

use super::state::{Objects, frontends, pass_through};

#[test]
fn a_restart_or_kill_of_each_daemon_writes_nothing_and_changes_no_rule() {
    super::prepare();
    in_sandbox_async!(async {
        let mut cluster = super::whole("restarts").await?;
        let examples = Examples::prepare(&cluster)?;
        examples.apply_and_try(&cluster).await?;
        pass_through(&cluster, NAMESPACE, "settled").await?;
        let objects = Objects::read(&cluster, NAMESPACE).await?;
        let kernel = rules_of_all(&cluster)?;
        let transitions = lease_transitions(&cluster).await?;
        for daemon in cluster.daemons.all() {
            cluster.daemons.kill(&daemon)?;
            cluster.daemons.start_again(&daemon)?;
            cluster.daemons.wait_ready(&daemon)?;
        }
        // The same identity holds the Lease: nobody had to wait for it to run out.
        ensure!(
            lease_transitions(&cluster).await? == transitions,
            "the Lease changed hands"
        );
        pass_through(&cluster, NAMESPACE, "again").await?;
        ensure!(
            Objects::read(&cluster, NAMESPACE).await? == objects,
            "a killed daemon's successor wrote something"
        );
        same_rules(&cluster, &kernel, "the rules differ after the kills").await?;
        for daemon in cluster.daemons.all() {
            let status = cluster.daemons.terminate(&daemon)?;
            ensure!(status.success(), "{daemon} ended with {status} after SIGTERM");
            cluster.daemons.start_again(&daemon)?;
            cluster.daemons.wait_ready(&daemon)?;
        }
        pass_through(&cluster, NAMESPACE, "once-more").await?;
        ensure!(
            Objects::read(&cluster, NAMESPACE).await? == objects,
            "a stopped daemon's successor wrote something"
        );
        same_rules(&cluster, &kernel, "the rules differ after the restarts").await?;
        super::sound(cluster)
    });
}

type Rules = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Left-overs of the passed-through Service go a second later: the rules settle.
async fn same_rules(cluster: &Cluster, kernel: &Rules, otherwise: &str) -> Result<()> {
    eventually("the same rules as before", PATIENCE, || async {
        ensure!(rules_of_all(cluster)? == *kernel, "{otherwise}");
        anyhow::Ok(())
    })
    .await?;
    Ok(())
}

fn rules_of_all(cluster: &Cluster) -> Result<Rules> {
    let of = |node: &berth_testkit::lan::Node| Ok((node.name().to_owned(), frontends(node.netns())?));
    cluster.lan.nodes().iter().map(of).collect()
}

async fn lease_transitions(cluster: &Cluster) -> Result<(Option<String>, i32)> {
    let leases: Api<Lease> = Api::namespaced(cluster.client(), "berth-system");
    let spec = leases
        .get("berth-controllers")
        .await?
        .spec
        .context("a Lease has a spec")?;
    Ok((spec.holder_identity, spec.lease_transitions.unwrap_or(0)))
}

const BURST: usize = 200;
/// The rest are ClusterIP Services.
const LOAD_BALANCERS: usize = 40;
const BURST_NAMESPACE: &str = "burst";

#[test]
fn kill_9_in_the_middle_of_a_burst_of_200_services_ends_as_without() {
    super::prepare();
    in_sandbox_async!(async {
        let mut cluster = super::whole("burst").await?;
        prepare_burst(&cluster).await?;
        let killed = [
            Daemon::controllers(),
            Daemon::on(Role::Proxy, cluster.node("node-1")?),
            Daemon::on(Role::Announcer, cluster.node("node-1")?),
        ];
        let creating = tokio::spawn(create(cluster.client()));
        let before = eventually("some addresses given, others not", PATIENCE, || async {
            let addresses = Objects::read(&cluster, BURST_NAMESPACE).await?.addresses;
            ensure!(addresses.values().any(|addresses| !addresses.is_empty()), "none");
            anyhow::Ok(addresses)
        })
        .await?;
        for daemon in &killed {
            cluster.daemons.kill(daemon)?;
        }
        ensure!(!creating.is_finished(), "the burst was over before the kill");
        for daemon in &killed {
            cluster.daemons.start_again(daemon)?;
            cluster.daemons.wait_ready(daemon)?;
        }
        creating.await??;
        eventually("200 Services with slices and addresses", 2 * PATIENCE, || {
            complete(&cluster)
        })
        .await?;
        kept_and_unique(
            &before,
            &Objects::read(&cluster, BURST_NAMESPACE).await?.addresses,
        )?;
        pass_through(&cluster, BURST_NAMESPACE, "settled").await?;
        let (of_killed, of_spared) = (cluster.node("node-1")?.netns(), cluster.node("node-2")?.netns());
        eventually("same rules on the node of the killed proxy", PATIENCE, || async {
            let (left, right) = (frontends(of_killed)?, frontends(of_spared)?);
            ensure!(left == right, "node-1 {left:?}\nnode-2 {right:?}");
            let vips = left.get("ip vip-frontends").map_or(0, BTreeSet::len);
            // Also kubernetes.default.
            ensure!(vips == BURST + LOAD_BALANCERS + 1, "{vips} IPv4 frontends");
            anyhow::Ok(())
        })
        .await?;
        super::sound(cluster)
    });
}

async fn prepare_burst(cluster: &Cluster) -> Result<()> {
    let client = cluster.client();
    Api::<Namespace>::all(client.clone())
        .create(&PostParams::default(), &mk_namespace(BURST_NAMESPACE))
        .await?;
    let pool: AddressPool = serde_json::from_value(serde_json::json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "AddressPool", "metadata": {"name": "burst"},
        "spec": {"addresses": ["10.77.0.200-10.77.0.250", "fd00:77::200-fd00:77::2ff"]},
    }))?;
    Api::<AddressPool>::all(client.clone())
        .create(&PostParams::default(), &pool)
        .await?;
    let pods: Api<Pod> = Api::namespaced(client, BURST_NAMESPACE);
    for (index, node) in cluster.lan.nodes().iter().enumerate() {
        let mut pod = mk_pod_on(
            node.name(),
            BURST_NAMESPACE,
            &format!("pod-{index}"),
            &[("app", "burst")],
            &[],
        );
        pod.metadata.annotations = Some(BTreeMap::from([(FAKE.to_owned(), "true".to_owned())]));
        pods.create(&PostParams::default(), &pod).await?;
    }
    eventually("three ready Pods", PATIENCE, || async {
        let ready = pods
            .list(&ListParams::default())
            .await?
            .iter()
            .filter(|pod| is_ready(pod))
            .count();
        ensure!(ready == 3, "{ready} are");
        anyhow::Ok(())
    })
    .await?;
    Ok(())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Few at a time, so that the burst outlasts the first address.
async fn create(client: kube::Client) -> Result<()> {
    let services: Api<Service> = Api::namespaced(client, BURST_NAMESPACE);
    let made = (0..BURST).map(|index| {
        let (services, ports) = (services.clone(), [mk_service_port("http", 80, "8080", "TCP")]);
        let (name, app) = (format!("s{index}"), [("app", "burst")]);
        let load_balancer = index % (BURST / LOAD_BALANCERS) == 0;
        let mut service = if load_balancer {
            mk_load_balancer(BURST_NAMESPACE, &name, &app, &ports)
        } else {
            mk_service(BURST_NAMESPACE, &name, &app, &ports)
        };
        if let Some(spec) = service.spec.as_mut().filter(|_| load_balancer) {
            spec.load_balancer_class = Some("berth.dev/bare-metal".to_owned());
        }
        async move { services.create(&PostParams::default(), &service).await.map(drop) }
    });
    let results: Vec<_> = futures::stream::iter(made).buffer_unordered(4).collect().await;
    results.into_iter().collect::<Result<Vec<()>, _>>()?;
    Ok(())
}

/// Each Service has exactly one slice per family with the three Pods, and each LoadBalancer both addresses.
async fn complete(cluster: &Cluster) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::namespaced(cluster.client(), BURST_NAMESPACE);
    let mut by_service: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for slice in slices.list(&ListParams::default()).await? {
        let labels = slice.metadata.labels.unwrap_or_default();
        let of = labels
            .get("kubernetes.io/service-name")
            .cloned()
            .unwrap_or_default();
        by_service
            .entry(of)
            .or_default()
            .push(slice.endpoints.map_or(0, |endpoints| endpoints.len()));
    }
    ensure!(
        by_service.len() == BURST,
        "{} Services have slices",
        by_service.len()
    );
    let odd: Vec<_> = by_service
        .iter()
        .filter(|(_, counts)| **counts != [3, 3])
        .take(3)
        .collect();
    ensure!(odd.is_empty(), "not two slices of three endpoints: {odd:?}");
    let addresses = Objects::read(cluster, BURST_NAMESPACE).await?.addresses;
    let served = addresses
        .values()
        .filter(|addresses| addresses.len() == 2)
        .count();
    ensure!(served == LOAD_BALANCERS, "{served} Services have both addresses");
    Ok(())
}

fn kept_and_unique(
    before: &BTreeMap<String, Vec<IpAddr>>,
    after: &BTreeMap<String, Vec<IpAddr>>,
) -> Result<()> {
    for (name, addresses) in before.iter().filter(|(_, addresses)| !addresses.is_empty()) {
        ensure!(
            after.get(name) == Some(addresses),
            "{name} had {addresses:?} and has {:?}",
            after.get(name)
        );
    }
    let all: Vec<&IpAddr> = after.values().flatten().collect();
    let distinct: BTreeSet<&IpAddr> = all.iter().copied().collect();
    ensure!(
        distinct.len() == all.len(),
        "an address was given twice: {after:?}"
    );
    Ok(())
}
