// SPDX-License-Identifier: Apache-2.0
//! The Node object.

use k8s_openapi::api::core::v1::{Node as ApiNode, NodeAddress, NodeCondition, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::builders::mk_node;
use crate::lan::Node;

/// Creates the object or brings its labels up to date, then writes its status.
pub(super) async fn register(client: &Client, node: &Node, ready: bool) -> Result<(), kube::Error> {
    let api: Api<ApiNode> = Api::all(client.clone());
    let object = mk_node(node);
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let labels = json!({"metadata": {"labels": object.metadata.labels}});
            api.patch(node.name(), &PatchParams::default(), &Patch::Merge(labels))
                .await?;
        }
        created => {
            created?;
        }
    }
    let status = json!({"status": status(node, ready, Timestamp::now())});
    api.patch_status(node.name(), &PatchParams::default(), &Patch::Merge(status))
        .await?;
    Ok(())
}

fn status(node: &Node, ready: bool, now: Timestamp) -> NodeStatus {
    let address = |type_: &str, address: String| NodeAddress {
        address,
        type_: type_.to_owned(),
    };
    let [ipv4, ipv6] = node.addresses();
    let resources = || {
        let sizes = [("cpu", "2"), ("memory", "8Gi"), ("pods", "250")];
        Some(
            sizes
                .map(|(name, size)| (name.to_owned(), Quantity(size.to_owned())))
                .into(),
        )
    };
    NodeStatus {
        addresses: Some(vec![
            address("InternalIP", ipv4.to_string()),
            address("InternalIP", ipv6.to_string()),
            address("Hostname", node.name().to_owned()),
        ]),
        allocatable: resources(),
        capacity: resources(),
        conditions: Some(vec![NodeCondition {
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(Time(now)),
            message: Some("node agent of the test LAN".to_owned()),
            reason: Some(if ready { "KubeletReady" } else { "KubeletNotReady" }.to_owned()),
            status: if ready { "True" } else { "False" }.to_owned(),
            type_: "Ready".to_owned(),
        }]),
        node_info: Some(NodeSystemInfo {
            architecture: std::env::consts::ARCH.to_owned(),
            kubelet_version: "v1.37.2".to_owned(),
            operating_system: "linux".to_owned(),
            os_image: "berth test LAN".to_owned(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}
