// SPDX-License-Identifier: Apache-2.0
//! One namespace and the changes in it.
//!
//! Per app one Service of one of six kinds; beside them a Service that selects half of all Pods, one that selects none, and
//! Services with hand-written Endpoints. Each change says how many writes it costs at the most: per Service that it
//! concerns one of the Endpoints object and one slice per family.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::retry::persist;

/// Nodes of the cluster.
pub(super) const NODES: usize = 6;
const ZONES: usize = 3;
const APPS: usize = 12;
const PODS_PER_APP: usize = 8;
const BY_HAND: usize = 3;

/// The zone that a Node begins in.
pub(super) fn zone(node: usize) -> String {
    format!("zone-{}", node % ZONES)
}

#[derive(Clone, Debug)]
struct PodFacts {
    app: usize,
    wide: bool,
    ready: bool,
}

/// What a user of one namespace knows and does.
pub(super) struct World {
    client: Client,
    namespace: &'static str,
    /// Which of the namespaces: Pods of no two share an address.
    number: usize,
    random: fastrand::Rng,
    pods: BTreeMap<String, PodFacts>,
    made: usize,
    /// Goes into labels, so that each is a change.
    revision: usize,
}

impl World {
    pub(super) fn new(client: Client, namespace: &'static str, number: usize, random: fastrand::Rng) -> Self {
        Self {
            client,
            namespace,
            number,
            random,
            pods: BTreeMap::new(),
            made: 0,
            revision: 0,
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    /// Makes everything; yields what that costs.
    pub(super) async fn make(&mut self) -> Result<usize> {
        let mut needed = 0;
        for app in 0..APPS {
            self.create_service(&service_of_app(app, 0)).await?;
            needed += 1 + families(app);
        }
        self.create_service(&service(
            "wide",
            json!({"wide": "yes"}),
            "PreferDualStack",
            json!(["IPv4", "IPv6"]),
            0,
        ))
        .await?;
        self.create_service(&service(
            "none",
            json!({"app": "none"}),
            "PreferDualStack",
            json!(["IPv4", "IPv6"]),
            0,
        ))
        .await?;
        needed += 6;
        for index in 0..BY_HAND {
            self.create_service(&without_selector(index)).await?;
            needed += self.write_by_hand(index).await?;
        }
        for app in 0..APPS {
            for _ in 0..PODS_PER_APP {
                needed += self.add_pod(app).await?;
            }
        }
        Ok(needed)
    }

    /// Makes one change; yields what it costs.
    pub(super) async fn change(&mut self) -> Result<usize> {
        let app = self.random.usize(0..APPS);
        match self.random.u8(0..20) {
            0..=7 => self.flip().await,
            8..=9 => self.add_pod(app).await,
            10..=12 => {
                let gone = self.remove_pod().await?;
                Ok(gone + self.add_pod(app).await?)
            }
            13 => self.terminate_pod().await,
            14 => self.relabel_pod(app).await,
            15 => self.finish_pod().await,
            16 => self.label_service(app).await,
            17 => self.change_ports(app).await,
            18 => self.recreate_service(app).await,
            _ => {
                let index = self.random.usize(0..BY_HAND);
                self.write_by_hand(index).await
            }
        }
    }

    /// Writes per change of one Pod.
    fn cost(pod: &PodFacts) -> usize {
        1 + families(pod.app) + if pod.wide { 3 } else { 0 }
    }

    /// Writes where all slices of an app's Service change: each may be replaced by another.
    fn cost_of_all(&self, app: usize) -> usize {
        let pods = self.pods.values().filter(|pod| pod.app == app).count();
        // Two port groups, each with a slice that is not full.
        2 + families(app) * 2 * (pods.div_ceil(super::MAX_ENDPOINTS) + 2)
    }

    async fn create_service(&self, service: &Value) -> Result<()> {
        let services: Api<Service> = self.api();
        let service: Service = serde_json::from_value(service.clone())?;
        persist(|| async { services.create(&PostParams::default(), &service).await }).await?;
        Ok(())
    }

    async fn add_pod(&mut self, app: usize) -> Result<usize> {
        let index = self.made;
        self.made += 1;
        let facts = PodFacts {
            app,
            wide: index.is_multiple_of(2),
            ready: self.random.u8(0..4) > 0,
        };
        let name = format!("pod-{index}");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {
                "app": format!("a{app}"), "wide": if facts.wide { "yes" } else { "no" },
            }},
            "spec": {
                "nodeName": format!("node-{}", index % NODES),
                "terminationGracePeriodSeconds": 30,
                "automountServiceAccountToken": false,
                "containers": [{"name": "main", "image": "none", "ports": [
                    // Two groups of slices for those who go by the name.
                    {"name": "web", "containerPort": if index.is_multiple_of(5) { 9090 } else { 8080 }},
                ]}],
            },
        }))?;
        let pods: Api<Pod> = self.api();
        persist(|| async { pods.create(&PostParams::default(), &pod).await }).await?;
        let (number, low) = (self.number, index + 1);
        let addresses = json!([
            {"ip": format!("10.{}.{}.{}", 128 + number, low / 250, low % 250 + 1)},
            {"ip": format!("fd00:{}::{low:x}", 128 + number)},
        ]);
        let status = json!({"status": {
            "phase": "Running", "podIP": addresses[0]["ip"], "podIPs": addresses,
            "conditions": [ready_condition(facts.ready)],
        }});
        self.patch_status(&name, &status).await?;
        let cost = Self::cost(&facts);
        self.pods.insert(name, facts);
        Ok(cost)
    }

    async fn patch_status(&self, name: &str, status: &Value) -> Result<()> {
        let pods: Api<Pod> = self.api();
        let patched = persist(|| async {
            pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
                .await
        })
        .await?;
        ensure!(patched.is_some(), "Pod {}/{name} is gone", self.namespace);
        Ok(())
    }

    fn any_pod(&mut self) -> Option<(String, PodFacts)> {
        let count = self.pods.len();
        if count == 0 {
            return None;
        }
        let at = self.random.usize(0..count);
        let (name, facts) = self.pods.iter().nth(at)?;
        Some((name.clone(), facts.clone()))
    }

    async fn flip(&mut self) -> Result<usize> {
        let Some((name, mut facts)) = self.any_pod() else {
            return Ok(0);
        };
        facts.ready = !facts.ready;
        self.patch_status(
            &name,
            &json!({"status": {"conditions": [ready_condition(facts.ready)]}}),
        )
        .await?;
        let cost = Self::cost(&facts);
        self.pods.insert(name, facts);
        Ok(cost)
    }

    async fn remove_pod(&mut self) -> Result<usize> {
        let Some((name, facts)) = self.any_pod() else {
            return Ok(0);
        };
        let pods: Api<Pod> = self.api();
        let now = DeleteParams::default().grace_period(0);
        persist(|| async { pods.delete(&name, &now).await }).await?;
        self.pods.remove(&name);
        Ok(Self::cost(&facts))
    }

    /// It stays as it is: there is no kubelet that would end it.
    async fn terminate_pod(&mut self) -> Result<usize> {
        let Some((name, facts)) = self.any_pod() else {
            return Ok(0);
        };
        let pods: Api<Pod> = self.api();
        persist(|| async { pods.delete(&name, &DeleteParams::default()).await }).await?;
        self.pods.remove(&name);
        Ok(Self::cost(&facts))
    }

    async fn finish_pod(&mut self) -> Result<usize> {
        let Some((name, facts)) = self.any_pod() else {
            return Ok(0);
        };
        let status = json!({"status": {"phase": "Failed", "conditions": [ready_condition(false)]}});
        self.patch_status(&name, &status).await?;
        self.pods.remove(&name);
        Ok(Self::cost(&facts))
    }

    async fn relabel_pod(&mut self, app: usize) -> Result<usize> {
        let Some((name, mut facts)) = self.any_pod() else {
            return Ok(0);
        };
        let pods: Api<Pod> = self.api();
        let patch = json!({"metadata": {"labels": {"app": format!("a{app}")}}});
        persist(|| async {
            pods.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
        })
        .await?;
        let before = Self::cost(&facts);
        facts.app = app;
        let after = Self::cost(&facts);
        self.pods.insert(name, facts);
        Ok(before + after)
    }

    async fn label_service(&mut self, app: usize) -> Result<usize> {
        self.revision += 1;
        let patch = json!({"metadata": {"labels": {"revision": self.revision.to_string()}}});
        self.patch_service(app, &patch).await?;
        Ok(self.cost_of_all(app))
    }

    async fn change_ports(&mut self, app: usize) -> Result<usize> {
        self.revision += 1;
        let patch = json!({"spec": {"ports": ports(app, self.revision)}});
        self.patch_service(app, &patch).await?;
        Ok(self.cost_of_all(app))
    }

    async fn patch_service(&self, app: usize, patch: &Value) -> Result<()> {
        let services: Api<Service> = self.api();
        let name = format!("s{app}");
        let patched = persist(|| async {
            services
                .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                .await
        })
        .await?;
        ensure!(patched.is_some(), "Service {}/{name} is gone", self.namespace);
        Ok(())
    }

    /// Another one by the same name: nothing of the first may be left.
    async fn recreate_service(&mut self, app: usize) -> Result<usize> {
        let services: Api<Service> = self.api();
        let name = format!("s{app}");
        persist(|| async { services.delete(&name, &DeleteParams::default()).await }).await?;
        self.revision += 1;
        self.create_service(&service_of_app(app, self.revision)).await?;
        Ok(2 * self.cost_of_all(app))
    }

    async fn write_by_hand(&mut self, index: usize) -> Result<usize> {
        let count = self.random.usize(0..12);
        let number = self.number;
        let addresses: Vec<Value> = (0..count)
            .flat_map(|host| {
                [
                    json!({"ip": format!("172.{}.{index}.{}", 16 + number, host + 1)}),
                    json!({"ip": format!("fd00:{}:{:x}::{:x}", 172 + number, index + 1, host + 1)}),
                ]
            })
            .collect();
        let port = 1000 + self.random.u16(0..3);
        let subsets = if addresses.is_empty() {
            json!([])
        } else {
            json!([{"addresses": addresses, "ports": [{"name": "http", "port": port}]}])
        };
        let endpoints: Api<Endpoints> = self.api();
        let name = format!("by-hand-{index}");
        let whole = json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name}, "subsets": subsets,
        });
        let params = PatchParams::apply("somebody").force();
        let written =
            persist(|| async { endpoints.patch(&name, &params, &Patch::Apply(&whole)).await }).await?;
        ensure!(written.is_some(), "Endpoints {}/{name} are gone", self.namespace);
        // One slice per family, or the removal of both; another port makes other slices.
        Ok(4)
    }
}

fn ready_condition(ready: bool) -> Value {
    json!({
        "type": "Ready", "status": if ready { "True" } else { "False" },
        "lastTransitionTime": k8s_openapi::jiff::Timestamp::now().to_string(),
    })
}

/// How many families the Service of an app has.
fn families(app: usize) -> usize {
    match app % 6 {
        2 | 5 => 1,
        _ => 2,
    }
}

fn ports(app: usize, revision: usize) -> Value {
    let target = if app % 6 == 1 {
        json!(7000 + revision)
    } else {
        json!("web")
    };
    let http = json!({"name": "http", "port": 80, "targetPort": target});
    let extra = json!({"name": format!("more-{}", revision % 7), "port": 81, "targetPort": 9000 + revision});
    if app % 6 == 3 || revision % 2 == 1 {
        json!([http, extra])
    } else {
        json!([http])
    }
}

fn service_of_app(app: usize, revision: usize) -> Value {
    let (policy, list) = match app % 6 {
        2 => ("SingleStack", json!(["IPv6"])),
        5 => ("SingleStack", json!(["IPv4"])),
        _ => ("PreferDualStack", json!(["IPv4", "IPv6"])),
    };
    let selector = json!({"app": format!("a{app}")});
    let mut service = service(&format!("s{app}"), selector, policy, list, revision);
    service["spec"]["ports"] = ports(app, revision);
    match app % 6 {
        1 => service["spec"]["clusterIP"] = json!("None"),
        4 => service["spec"]["publishNotReadyAddresses"] = json!(true),
        _ => {}
    }
    service
}

fn service(name: &str, selector: Value, policy: &str, families: Value, revision: usize) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"revision": revision.to_string()}},
        "spec": {
            "selector": selector, "ipFamilyPolicy": policy, "ipFamilies": families,
            "ports": [{"name": "http", "port": 80, "targetPort": "web"}],
        },
    })
}

fn without_selector(index: usize) -> Value {
    json!({
        "metadata": {"name": format!("by-hand-{index}")},
        "spec": {"ipFamilyPolicy": "PreferDualStack", "ports": [{"name": "http", "port": 80}]},
    })
}
