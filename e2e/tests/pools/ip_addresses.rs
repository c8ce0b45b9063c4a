// SPDX-License-Identifier: Apache-2.0
//! IPAddresses of the API server: those that others manage, and those of its allocator beside the Services.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_controllers_core::audit::Found;
use berth_controllers_core::audit::addresses::{Listed, Look};
use berth_controllers_core::values::{ALLOCATOR, MANAGED_BY, Shown, Values};
use berth_testkit::in_sandbox_async;
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::IPAddress;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use super::cluster::{Cluster, Made};
use super::{PATIENCE, octet, prepare};

/// An IPAddress by hand.
async fn make(cluster: &Cluster, address: &str, manager: &str, parent: &Value) -> Result<()> {
    let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": address, "labels": {MANAGED_BY: manager}}, "spec": {"parentRef": parent}});
    let kubectl = cluster.kubectl_runner();
    kubectl
        .run_with_input(["create", "-f", "-"], &object.to_string())
        .await?;
    Ok(())
}

fn thing() -> Value {
    json!({"group": "example.dev", "resource": "things", "namespace": "team-a", "name": "x"})
}

/// The finding is counted so often, the events about the IPAddress are so many at least, and the pool says as much.
async fn told(cluster: &Cluster, address: &str, count: u32) -> Result<()> {
    eventually(format!("{count} are told"), PATIENCE, || async {
        let label = "reason=\"IPAddressManagedByOthers\"";
        let counted = cluster.metric("berth_allocation_findings", label).await?;
        ensure!((counted - f64::from(count)).abs() < 0.5, "{counted} counted");
        let status = "-o=jsonpath={.status.ipv4.encroached}";
        let encroached = cluster.kubectl(&["get", "addresspool", "few", status]).await?;
        let expected = if count == 0 { "" } else { &count.to_string() };
        ensure!(encroached == *expected, "{encroached:?} encroached");
        if count > 0 {
            let selector =
                format!("--field-selector=reason=IPAddressManagedByOthers,involvedObject.name={address}");
            let events = cluster
                .kubectl(&[
                    "-n",
                    "default",
                    "get",
                    "events",
                    &selector,
                    "-o=jsonpath={.items[*].message}",
                ])
                .await?;
            ensure!(events.contains("managed by ipam.example"), "{events:?}");
        }
        anyhow::Ok(())
    })
    .await?;
    Ok(())
}

#[test]
fn an_address_that_others_manage_is_passed_over_and_given_once_they_let_go() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-foreign").await?;
        make(&cluster, "10.96.1.3", "ipam.example", &thing()).await?;
        cluster.serve(3, &[]).await?;
        let spec = json!({"addresses": ["10.96.1.0/29"], "selector": {"namespaces": ["team-a"]}});
        cluster.address_pool("few", &spec).await?;
        cluster
            .served("team-a", |address| octet(address).is_ok_and(|octet| octet == 1))
            .await?;
        // 12 at once, for the 5 that are left of the 6 that a /29 has.
        let names: Vec<String> = (0..12).map(|index| format!("web-{index}")).collect();
        let made =
            futures::future::join_all(names.iter().map(|name| cluster.create("team-a", name, json!({}))))
                .await;
        let made: Vec<Made> = made.into_iter().collect::<Result<_>>()?;
        let addresses: BTreeSet<String> = made.iter().filter_map(|made| made.address().ok()).collect();
        let expected: BTreeSet<String> = [1, 2, 4, 5, 6].map(|octet| format!("10.96.1.{octet}")).into();
        ensure!(addresses == expected, "{addresses:?}");
        for refused in made.iter().filter(|made| made.address().is_err()) {
            let (code, text) = refused.refusal()?;
            ensure!(
                (code == 403 || code == 429) && text.contains("few"),
                "{code}: {text}"
            );
        }
        let late = cluster.create("team-a", "late", json!({})).await?;
        let (code, text) = late.refusal()?;
        ensure!(
            code == 403
                && text.contains("AddressPool few is exhausted")
                && text.contains("1 of these to IPAddresses"),
            "{code}: {text}"
        );
        told(&cluster, "10.96.1.3", 1).await?;
        cluster.kubectl(&["delete", "ipaddress", "10.96.1.3"]).await?;
        let given = eventually("one more", PATIENCE, || async {
            cluster.create("team-a", "late", json!({})).await?.address()
        })
        .await?;
        ensure!(given == "10.96.1.3", "{given}");
        told(&cluster, "10.96.1.3", 0).await?;
        cluster.check()
    });
}

#[test]
fn an_address_that_others_take_while_replicas_serve_is_passed_over_too() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-foreign-late").await?;
        cluster.serve(2, &[]).await?;
        let spec = json!({"addresses": ["10.96.1.0/29"], "selector": {"namespaces": ["team-a"]}});
        cluster.address_pool("few", &spec).await?;
        cluster
            .served("team-a", |address| octet(address).is_ok_and(|octet| octet == 1))
            .await?;
        make(&cluster, "10.96.1.6", "ipam.example", &thing()).await?;
        told(&cluster, "10.96.1.6", 1).await?;
        let mut addresses = BTreeSet::new();
        for index in 0..5 {
            let made = cluster
                .create("team-a", &format!("web-{index}"), json!({}))
                .await?;
            addresses.insert(made.address()?);
        }
        ensure!(!addresses.contains("10.96.1.6"), "{addresses:?}");
        let late = cluster.create("team-a", "late", json!({})).await?;
        ensure!(late.refusal()?.0 == 403, "{late:?}");
        cluster.check()
    });
}

/// What is said of all Services and IPAddresses an hour from now, read in pages of three.
async fn foreseen(cluster: &Cluster, without: Option<&str>) -> Result<Vec<String>> {
    let client = cluster.client();
    let later = k8s_openapi::jiff::Timestamp::now().as_second() + 3_600;
    let exemptions = berth_controllers_core::admission::Exemptions::with([]);
    let mut book = Values::new("30000-32767".parse()?, exemptions, 0);
    let services: Api<Service> = Api::all(client.clone());
    for service in services.list(&ListParams::default()).await?.items {
        if service.metadata.name.as_deref() != without {
            book.apply_service(Shown::of(&service), Duration::ZERO);
        }
    }
    let (used, _) = book.used_after(None, usize::MAX);
    let mut look = Look::new(used.into_iter().collect());
    let addresses: Api<IPAddress> = Api::all(client);
    let first = ListParams::default()
        .labels(&format!("{MANAGED_BY}={ALLOCATOR}"))
        .limit(3);
    let (mut params, mut pages) = (first.clone(), 0);
    loop {
        let list = addresses.list(&params).await?;
        let page: Vec<Listed> = list.items.iter().filter_map(Listed::of).collect();
        ensure!(page.len() == list.items.len(), "an IPAddress is not understood");
        look.page(&page, &book, later);
        pages += 1;
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = first.clone().continue_token(&token),
            None => break,
        }
    }
    ensure!(pages > 2, "{pages} pages");
    let findings = look.end(&book, later);
    let texts = findings.iter().map(|finding| {
        let (reason, subject) = (finding.reason().as_str(), finding.subject());
        format!("{reason} {subject}")
    });
    Ok(texts.collect())
}

#[test]
fn ip_addresses_are_compared_with_services_page_by_page_and_what_is_wrong_is_found() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-compare").await?;
        cluster.serve(2, &["--address-audit-period=1s"]).await?;
        let spec = json!({"addresses": ["10.96.1.0/28"], "selector": {"namespaces": ["team-a"]}});
        cluster.address_pool("few", &spec).await?;
        cluster
            .served("team-a", |address| octet(address).is_ok_and(|octet| octet == 1))
            .await?;
        let mut last = String::new();
        for index in 0..10 {
            last = cluster
                .create("team-a", &format!("web-{index}"), json!({}))
                .await?
                .address()?;
        }
        let found = foreseen(&cluster, None).await?;
        ensure!(found.is_empty(), "{found:?}");
        let found = foreseen(&cluster, Some("web-9")).await?;
        ensure!(
            found == [format!("IPAddressNotAllocated IPAddress {last}")],
            "{found:?}"
        );
        // One outside the pool, which no Service gets meanwhile; the API server leaves it alone for a minute.
        let nobody = json!({"resource": "services", "namespace": "team-a", "name": "nobody"});
        make(&cluster, "10.96.200.1", ALLOCATOR, &nobody).await?;
        let found = foreseen(&cluster, None).await?;
        ensure!(
            found == ["IPAddressNotAllocated IPAddress 10.96.200.1"],
            "{found:?}"
        );
        // The leader looks under its own rights, and finds nothing that is old enough.
        let looks = async |result: &str| {
            let label = format!("result=\"{result}\"");
            cluster.metric("berth_address_audits_total", &label).await
        };
        let before = looks("complete").await?;
        eventually("three more comparisons", PATIENCE, || async {
            let now = looks("complete").await?;
            ensure!(now > before + 2.5, "{now}, {before} before");
            anyhow::Ok(())
        })
        .await?;
        ensure!(looks("failed").await? < 0.5, "some failed");
        for reason in ["ClusterIPNotAllocated", "IPAddressWrongReference"] {
            let label = format!("reason=\"{reason}\"");
            let counted = cluster.metric("berth_allocation_findings", &label).await?;
            ensure!(counted < 0.5, "{counted} {reason}");
        }
        let pages = cluster.replicas()?.metric_pages();
        ensure!(pages.len() == 2, "{pages:?}");
        cluster.check().context("all run")
    });
}
