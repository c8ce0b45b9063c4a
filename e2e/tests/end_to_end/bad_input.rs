// SPDX-License-Identifier: Apache-2.0
//! Mistakes: each gets an answer that names object, field and value, and whatever worked goes on working.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use berth_crds::AddressPool;
use berth_e2e::cluster::{Cluster, Daemon, PATIENCE, Role};
use berth_testkit::builders::{mk_load_balancer, mk_service_port};
use berth_testkit::in_sandbox_async;
use berth_testkit::netns::Netns;
use berth_testkit::process::{Process, Spec};
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

#[test]
fn bad_pools_and_bad_requests_are_told_and_cost_nobody_an_address() {
    super::prepare();
    in_sandbox_async!(async {
        let mut cluster = super::whole("bad-pools").await?;
        add_pool(
            &cluster,
            "good",
            &["10.77.0.200-10.77.0.210", "fd00:77::200-fd00:77::2ff"],
        )
        .await?;
        let working = {
            add_service(&cluster, "works", None).await?;
            cluster.load_balancer_addresses("default", "works").await?
        };
        malformed(&cluster).await?;
        overlapping(&cluster).await?;
        outside_every_pool(&cluster).await?;
        a_typo_costs_nothing(&cluster, &working).await?;
        refused_by_the_schema(&cluster).await?;
        let still = cluster.load_balancer_addresses("default", "works").await?;
        ensure!(
            still == working,
            "the working Service had {working:?} and has {still:?}"
        );
        cluster.daemons.check()?;
        cluster.nothing_was_forbidden()?;
        a_lacking_right_would_be_seen(&cluster).await
    });
}

/// The check that ends every test of a cluster can fail.
async fn a_lacking_right_would_be_seen(cluster: &Cluster) -> Result<()> {
    let kubeconfig = cluster
        .control_plane
        .service_account_kubeconfig("berth-system", "berth-proxy")
        .await?;
    let secrets: Api<Secret> = Api::all(cluster.control_plane.client_for(&kubeconfig).await?);
    ensure!(
        secrets.list(&ListParams::default()).await.is_err(),
        "the proxy may list secrets"
    );
    let told = cluster
        .nothing_was_forbidden()
        .err()
        .context("a forbidden request went unseen")?;
    names(&told.to_string(), &["berth-proxy", "list", "/api/v1/secrets"])
}

async fn add_pool(cluster: &Cluster, name: &str, addresses: &[&str]) -> Result<()> {
    let pool: AddressPool = serde_json::from_value(json!({
        "apiVersion": "berth.dev/v1alpha1", "kind": "AddressPool", "metadata": {"name": name},
        "spec": {"addresses": addresses},
    }))?;
    Api::<AddressPool>::all(cluster.client())
        .create(&PostParams::default(), &pool)
        .await?;
    Ok(())
}

async fn add_service(cluster: &Cluster, name: &str, asks_for: Option<&str>) -> Result<()> {
    let ports = [mk_service_port("http", 80, "80", "TCP")];
    let mut service = mk_load_balancer("default", name, &[("app", name)], &ports);
    let spec = service.spec.as_mut().context("built with a spec")?;
    spec.load_balancer_class = Some("berth.dev/bare-metal".to_owned());
    spec.load_balancer_ip = asks_for.map(str::to_owned);
    Api::<Service>::default_namespaced(cluster.client())
        .create(&PostParams::default(), &service)
        .await?;
    Ok(())
}

/// Waits until a condition's reason is as given, and returns its message.
async fn reason_of_pool(cluster: &Cluster, pool: &str, type_: &str, reason: &str) -> Result<String> {
    let pools: Api<AddressPool> = Api::all(cluster.client());
    let message = eventually(
        format!("condition {type_} of AddressPool {pool}: {reason}"),
        PATIENCE,
        || async {
            let status = pools.get(pool).await?.status.unwrap_or_default();
            message_of(&status.conditions, type_, reason)
        },
    )
    .await?;
    Ok(message)
}

async fn reason_of_service(cluster: &Cluster, name: &str, reason: &str) -> Result<String> {
    let services: Api<Service> = Api::default_namespaced(cluster.client());
    let message = eventually(
        format!("condition of Service {name}: {reason}"),
        PATIENCE,
        || async {
            let status = services.get(name).await?.status.unwrap_or_default();
            message_of(
                &status.conditions.unwrap_or_default(),
                "berth.dev/AddressAllocated",
                reason,
            )
        },
    )
    .await?;
    Ok(message)
}

fn message_of(conditions: &[Condition], type_: &str, reason: &str) -> Result<String> {
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .context("no such condition")?;
    ensure!(
        condition.reason == reason,
        "{} {}: {}",
        condition.status,
        condition.reason,
        condition.message
    );
    Ok(condition.message.clone())
}

fn names(message: &str, parts: &[&str]) -> Result<()> {
    let missing: Vec<_> = parts.iter().filter(|part| !message.contains(**part)).collect();
    ensure!(missing.is_empty(), "{message:?} does not name {missing:?}");
    Ok(())
}

async fn malformed(cluster: &Cluster) -> Result<()> {
    add_pool(cluster, "typo", &["10.77.0.240-10.77.0.230", "10.77.0.999/24"]).await?;
    let message = reason_of_pool(cluster, "typo", "Ready", "Malformed").await?;
    names(
        &message,
        &[
            "spec.addresses[0]",
            "10.77.0.240-10.77.0.230",
            "spec.addresses[1]",
            "10.77.0.999/24",
        ],
    )
}

async fn overlapping(cluster: &Cluster) -> Result<()> {
    add_pool(cluster, "late", &["10.77.0.205-10.77.0.220"]).await?;
    let message = reason_of_pool(cluster, "late", "Ready", "Overlapping").await?;
    names(&message, &["good", "10.77.0.205"])?;
    // The older one goes on giving.
    add_service(cluster, "next", None).await?;
    let given = cluster.load_balancer_addresses("default", "next").await?;
    ensure!(
        given.iter().any(|ip| ip.to_string().starts_with("10.77.0.20")),
        "{given:?}"
    );
    Ok(())
}

async fn outside_every_pool(cluster: &Cluster) -> Result<()> {
    add_service(cluster, "asks", Some("192.0.2.77")).await?;
    let message = reason_of_service(cluster, "asks", "AddressNotInAnyPool").await?;
    names(&message, &["spec.loadBalancerIP", "192.0.2.77"])
}

async fn a_typo_costs_nothing(cluster: &Cluster, working: &[IpAddr]) -> Result<()> {
    let services: Api<Service> = Api::default_namespaced(cluster.client());
    let ask = |ip: serde_json::Value| Patch::Merge(json!({"spec": {"loadBalancerIP": ip}}));
    services
        .patch("works", &PatchParams::default(), &ask(json!("10.77.9.200")))
        .await?;
    let message = reason_of_service(cluster, "works", "AddressNotInAnyPool").await?;
    names(&message, &["10.77.9.200"])?;
    let kept = cluster.load_balancer_addresses("default", "works").await?;
    ensure!(kept == working, "had {working:?}, has {kept:?}");
    services
        .patch("works", &PatchParams::default(), &ask(json!(null)))
        .await?;
    reason_of_service(cluster, "works", "Allocated").await.map(drop)
}

async fn refused_by_the_schema(cluster: &Cluster) -> Result<()> {
    let error = add_pool(cluster, "empty", &[])
        .await
        .err()
        .context("an empty pool was accepted")?;
    names(&format!("{error:#}"), &["spec.addresses"])
}

#[test]
fn a_daemon_that_cannot_start_says_why_and_exits_with_its_code() {
    super::prepare();
    in_sandbox_async!(async {
        let mut cluster = super::whole("bad-starts").await?;
        let node = cluster.node("node-1")?.clone();
        let (proxy, announcer) = (Daemon::on(Role::Proxy, &node), Daemon::on(Role::Announcer, &node));
        let controllers = Daemon::controllers();

        let nowhere = with(&cluster, &controllers, &["--kubeconfig=/nowhere/kubeconfig"]);
        fails(cluster.lan.router(), nowhere, 4, &["/nowhere/kubeconfig"]).await?;

        let elsewhere = [
            "--apiserver=https://10.77.0.1:1",
            "--api-wait=1s",
            "--admin-address=127.0.0.1:9999",
        ];
        let unreachable = with(&cluster, &proxy, &elsewhere);
        fails(node.netns(), unreachable, 4, &["10.77.0.1:1"]).await?;

        fails(
            node.netns(),
            with(&cluster, &proxy, &["--cluster-cidr=10.244.0.0/99"]),
            2,
            &["--cluster-cidr"],
        )
        .await?;

        let taken = with(&cluster, &proxy, &[]);
        fails(
            node.netns(),
            taken,
            2,
            &["--metrics-bind-address", "127.0.0.1:10249"],
        )
        .await?;

        for (daemon, capability) in [(&proxy, "net_admin"), (&announcer, "net_raw")] {
            cluster.daemons.kill(daemon)?;
            let spec = without_capability(cluster.daemons.spec(daemon), capability);
            fails(
                node.netns(),
                spec,
                3,
                &[&format!("CAP_{}", capability.to_uppercase())],
            )
            .await?;
            cluster.daemons.start_again(daemon)?;
            cluster.daemons.wait_ready(daemon)?;
        }
        super::sound(cluster)
    });
}

#[test]
fn a_second_announcer_for_a_node_gives_up_and_the_first_goes_on() {
    super::prepare();
    in_sandbox_async!(async {
        let mut cluster = super::whole("second-announcer").await?;
        let (first, second) = (cluster.node("node-1")?.clone(), cluster.node("node-2")?.clone());
        // On another machine: the daemon that belongs there makes room.
        cluster.daemons.kill(&Daemon::on(Role::Announcer, &second))?;
        let twin = cluster.daemons.spec(&Daemon::on(Role::Announcer, &first));
        fails(second.netns(), twin, 5, &["node-1"]).await?;
        // And on the same one.
        let twin = with(
            &cluster,
            &Daemon::on(Role::Announcer, &first),
            &["--admin-address=127.0.0.1:9999"],
        );
        fails(
            first.netns(),
            twin,
            5,
            &["--heartbeat-port", "7947", "another announcer"],
        )
        .await?;
        cluster
            .daemons
            .start_again(&Daemon::on(Role::Announcer, &second))?;
        cluster
            .daemons
            .wait_ready(&Daemon::on(Role::Announcer, &second))?;
        super::sound(cluster)
    });
}

/// The daemon's command line with further flags; one that is given twice counts the last time.
fn with(cluster: &Cluster, daemon: &Daemon, flags: &[&str]) -> Spec {
    let mut spec = cluster.daemons.spec(daemon);
    for flag in flags {
        let name = flag.split('=').next().unwrap_or(flag);
        spec.args
            .retain(|argument| argument.split('=').next() != Some(name));
        spec.args.push((*flag).to_owned());
    }
    spec
}

/// The command line without the one capability that it comes with.
fn without_capability(mut spec: Spec, capability: &str) -> Spec {
    for argument in &mut spec.args {
        *argument = argument.replace(&format!(",+{capability}"), "");
    }
    spec
}

/// Runs it to its end, which has to come with this exit code and a message that names all of `parts`.
async fn fails(netns: &Netns, mut spec: Spec, code: i32, parts: &[&str]) -> Result<()> {
    spec.name = format!("bad-{}", spec.name);
    spec.log.set_file_name(format!("{}-{code}.log", spec.name));
    let mut process = Process::start(netns, &spec)?;
    let status = tokio::task::block_in_place(|| process.wait(PATIENCE))?;
    let said = process.output()?;
    ensure!(
        status.code() == Some(code),
        "{:?} ended with {status}, not {code}:\n{said}",
        spec.args
    );
    let last = said
        .lines()
        .rev()
        .find(|line| line.starts_with("error"))
        .context("no error was printed")?;
    names(last, parts)
}
