// SPDX-License-Identifier: Apache-2.0
//! The sentinel: objects whose change shows that a contender has seen everything that came before.

use anyhow::{Result, ensure};
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use super::side::{PATIENCE, Side};

/// Its namespace.
const SENTINEL: &str = "sentinel";

impl Side {
    /// Makes a Service, and one that is mirrored, in a namespace of their own.
    pub(crate) async fn place_sentinel(&self) -> Result<()> {
        self.create_namespace(SENTINEL).await?;
        let service = |name: &str, selector: Value| {
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name},
                "spec": {"selector": selector, "ports": [{"port": 80}]},
            })
        };
        let services = format!("/api/v1/namespaces/{SENTINEL}/services");
        let selecting = service("selecting", json!({"sentinel": "yes"}));
        self.must("POST", &services, Some(&selecting)).await?;
        self.must("POST", &services, Some(&service("mirrored", Value::Null)))
            .await?;
        let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "mirrored"}});
        self.must(
            "POST",
            &format!("/api/v1/namespaces/{SENTINEL}/endpoints"),
            Some(&endpoints),
        )
        .await
    }

    /// Changes each kind of object that the controllers watch and waits until all of it has had its effect: each
    /// watch is in order, so what came before has been seen.
    pub(crate) async fn pass_sentinel(&self, number: usize) -> Result<()> {
        let name = format!("sentinel-{number}");
        let ip = format!("10.250.{}.{}", number / 200, 1 + number % 200);
        // Without CPU, zone and readiness: topology mode does not look at it.
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        self.must("POST", "/api/v1/nodes", Some(&node)).await?;
        let pods = format!("/api/v1/namespaces/{SENTINEL}/pods");
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"sentinel": "yes"}},
            "spec": {"nodeName": name, "automountServiceAccountToken": false, "containers": [{"name": "main", "image": "none"}]},
        });
        self.must("POST", &pods, Some(&pod)).await?;
        let status = json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}], "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}});
        self.must("PATCH", &format!("{pods}/{name}/status"), Some(&status))
            .await?;
        self.touch(SENTINEL, "selecting", number).await?;
        let subsets = json!({"subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 80}]}]});
        let mirrored = format!("/api/v1/namespaces/{SENTINEL}/endpoints/mirrored");
        self.must("PATCH", &mirrored, Some(&subsets)).await?;
        eventually(
            format!("{} at barrier {number}", self.contender),
            PATIENCE,
            || async { self.passed(&ip, number).await },
        )
        .await?;
        // The earlier ones only make the lists longer.
        let gone = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        self.must("DELETE", &format!("{pods}/{name}"), Some(&gone))
            .await?;
        self.must("DELETE", &format!("/api/v1/nodes/{name}"), None).await
    }

    async fn passed(&self, ip: &str, number: usize) -> Result<()> {
        let endpoints: Api<Endpoints> = Api::namespaced(self.client.clone(), SENTINEL);
        let written = json!(endpoints.get("selecting").await?);
        let label = written["metadata"]["labels"]["touched"] == json!(number.to_string());
        ensure!(
            label && written["subsets"].to_string().contains(&format!("{ip:?}")),
            "Endpoints"
        );
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), SENTINEL);
        let listed = slices.list(&ListParams::default()).await?.items;
        for service in ["selecting", "mirrored"] {
            let with_address = listed.iter().any(|slice| {
                let labels = slice.metadata.labels.iter().flatten();
                let mut of =
                    labels.filter(|(key, value)| *key == "kubernetes.io/service-name" && *value == service);
                of.next().is_some()
                    && slice
                        .endpoints
                        .iter()
                        .flatten()
                        .any(|endpoint| endpoint.addresses.iter().any(|a| a == ip))
            });
            ensure!(with_address, "the slices of {service}");
        }
        Ok(())
    }
}
