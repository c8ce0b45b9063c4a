// SPDX-License-Identifier: Apache-2.0
//! What a cluster has come to: objects that Berth wrote, and what the nodes' kernels hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use berth_e2e::cluster::{Cluster, PATIENCE, load_balancer_ips};
use berth_testkit::builders::{mk_service, mk_service_port};
use berth_testkit::netns::Netns;
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};

/// Objects by namespace and name, with the versions that tell a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Objects {
    pub(crate) slices: BTreeMap<String, String>,
    pub(crate) endpoints: BTreeMap<String, String>,
    /// Of Services: a status write changes them too.
    pub(crate) services: BTreeMap<String, String>,
    pub(crate) addresses: BTreeMap<String, Vec<IpAddr>>,
}

impl Objects {
    /// Reads everything that Berth writes in one namespace.
    pub(crate) async fn read(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let all = ListParams::default();
        let versions = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
            (
                meta.name.clone().unwrap_or_default(),
                meta.resource_version.clone().unwrap_or_default(),
            )
        };
        let slices = Api::<EndpointSlice>::namespaced(cluster.client(), namespace)
            .list(&all)
            .await?;
        let endpoints = Api::<Endpoints>::namespaced(cluster.client(), namespace)
            .list(&all)
            .await?;
        let services = Api::<Service>::namespaced(cluster.client(), namespace)
            .list(&all)
            .await?;
        Ok(Self {
            slices: slices.iter().map(|object| versions(&object.metadata)).collect(),
            endpoints: endpoints
                .iter()
                .map(|object| versions(&object.metadata))
                .collect(),
            services: services.iter().map(|object| versions(&object.metadata)).collect(),
            addresses: services
                .iter()
                .map(|service| (service.name_any(), load_balancer_ips(service)))
                .collect(),
        })
    }
}

/// The elements of one of Berth's sets or maps on a node, as nft prints them.
pub(crate) fn elements(node: &Netns, family: &str, set: &str) -> Result<BTreeSet<String>> {
    let text = node.output("nft", &["list", "set", family, "berth-proxy", set])?;
    Ok(listed_elements(&text))
}

/// What stands between the braces of `elements = { ... }`, one text each.
fn listed_elements(text: &str) -> BTreeSet<String> {
    let inside = text
        .split_once("elements = {")
        .map_or("", |(_, rest)| rest.split('}').next().unwrap_or(""));
    let parts = inside
        .split(',')
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    parts.filter(|part| !part.is_empty()).collect()
}

/// `10.0.0.1 . tcp . 80 . 3 : 10.1.0.1 . 8080` without the slot's number.
fn without_slot(element: &str) -> String {
    match element.split_once(" : ") {
        Some((key, target)) => format!(
            "{} : {target}",
            key.rsplit_once(" . ").map_or(key, |(frontend, _)| frontend)
        ),
        None => element.to_owned(),
    }
}

/// Chains, and rules in them, of both of Berth's tables on a node.
pub(crate) fn chains_and_rules(node: &Netns) -> Result<(usize, usize)> {
    let (mut chains, mut rules) = (0, 0);
    for family in ["ip", "ip6"] {
        let text = node.output("nft", &["list", "table", family, "berth-proxy"])?;
        let mut in_chain = false;
        for line in text.lines() {
            if line.starts_with("\tchain ") {
                chains += 1;
                in_chain = true;
            } else if line == "\t}" {
                in_chain = false;
            } else if in_chain && !line.trim_start().starts_with("type ") {
                rules += 1;
            }
        }
    }
    Ok((chains, rules))
}

/// Every element of the sets and maps that say where frontends lead, both families. What is only about the node
/// itself (hairpin) is left out, and which of a frontend's slots holds which endpoint, which depends on the past.
pub(crate) fn frontends(node: &Netns) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut found = BTreeMap::new();
    for family in ["ip", "ip6"] {
        let listed = node.output("nft", &["list", "table", family, "berth-proxy"])?;
        let names = listed.lines().filter_map(|line| {
            let rest = line
                .strip_prefix("\tset ")
                .or_else(|| line.strip_prefix("\tmap "))?;
            rest.split_whitespace().next()
        });
        for name in names.filter(|name| *name != "hairpin") {
            let kind = if listed.contains(&format!("\tmap {name} {{")) {
                "map"
            } else {
                "set"
            };
            let text = node.output("nft", &["list", kind, family, "berth-proxy", name])?;
            let elements: BTreeSet<String> = listed_elements(&text)
                .iter()
                .map(|text| without_slot(text))
                .collect();
            if !elements.is_empty() {
                found.insert(format!("{family} {name}"), elements);
            }
        }
    }
    Ok(found)
}

/// Makes a Service, waits until its slices and its rules are there, and removes it again: whatever was queued
/// before it has had its turn by then.
pub(crate) async fn pass_through(cluster: &Cluster, namespace: &str, name: &str) -> Result<()> {
    let services: Api<Service> = Api::namespaced(cluster.client(), namespace);
    let slices: Api<EndpointSlice> = Api::namespaced(cluster.client(), namespace);
    let service = mk_service(
        namespace,
        name,
        &[("app", name)],
        &[mk_service_port("http", 80, "80", "TCP")],
    );
    let made = services.create(&PostParams::default(), &service).await?;
    let ip = made
        .spec
        .and_then(|spec| spec.cluster_ip)
        .context("no ClusterIP")?;
    let of_it = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    eventually(format!("slices and rules of {name}"), PATIENCE, || async {
        let found = slices.list(&of_it).await?.items.len();
        ensure!(found == 2, "{found} slices");
        for node in cluster.lan.nodes() {
            let refused = elements(node.netns(), "ip", "no-endpoint-vips")?;
            ensure!(
                refused.iter().any(|element| element.starts_with(&ip)),
                "no rule on {}",
                node.name()
            );
        }
        anyhow::Ok(())
    })
    .await?;
    services.delete(name, &DeleteParams::default()).await?;
    eventually(format!("{name} gone from the rules"), PATIENCE, || async {
        for node in cluster.lan.nodes() {
            let refused = elements(node.netns(), "ip", "no-endpoint-vips")?;
            ensure!(
                !refused.iter().any(|element| element.starts_with(&ip)),
                "still on {}",
                node.name()
            );
        }
        anyhow::Ok(())
    })
    .await?;
    let endpoints: Api<Endpoints> = Api::namespaced(cluster.client(), namespace);
    eventually(format!("Endpoints {name} gone"), PATIENCE, || async {
        ensure!(endpoints.get_opt(name).await?.is_none(), "still there");
        anyhow::Ok(())
    })
    .await?;
    // No garbage collector runs here: what its owner reference would remove is removed by hand.
    slices.delete_collection(&DeleteParams::default(), &of_it).await?;
    Ok(())
}
