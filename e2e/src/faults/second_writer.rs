// SPDX-License-Identifier: Apache-2.0
//! Somebody who believes that Berth's objects are theirs.

use anyhow::Result;
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};

use super::retry::persist;
use super::{Ground, NAMESPACES};

/// Writes to put one edit right: the edited object is replaced; what was moved to another slice meanwhile, too.
const REPAIR: usize = 2;

/// Plays it; yields how many further writes the edits explain.
pub(super) async fn play(ground: &mut Ground, random: &mut fastrand::Rng, edits: usize) -> Result<usize> {
    let client = ground.stage.client();
    let mut made = 0;
    while made < edits {
        ground.workload.release(2);
        made += usize::from(edit(&client, random).await?);
        // As soon as Berth has begun to answer; it is never left alone for long.
        ground.interposer.further_requests(1).await;
    }
    Ok(edits * REPAIR + edits)
}

/// One edit of one object; false if it came to nothing.
async fn edit(client: &Client, random: &mut fastrand::Rng) -> Result<bool> {
    let namespace = NAMESPACES[random.usize(0..NAMESPACES.len())];
    if random.u8(0..4) == 0 {
        return edit_endpoints(client, namespace, random).await;
    }
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let mut all = slices.list(&ListParams::default()).await?.items;
    if all.is_empty() {
        return Ok(false);
    }
    let mut slice = all.swap_remove(random.usize(0..all.len()));
    let name = slice.metadata.name.clone().unwrap_or_default();
    let endpoints = slice.endpoints.get_or_insert_default();
    match random.u8(0..5) {
        0 => {
            let deleted = persist(|| async { slices.delete(&name, &DeleteParams::default()).await }).await?;
            return Ok(deleted.is_some());
        }
        1 => endpoints.clear(),
        2 => {
            for endpoint in endpoints.iter_mut() {
                endpoint.conditions.get_or_insert_default().ready = Some(false);
            }
        }
        3 => {
            let labels = slice.metadata.labels.get_or_insert_default();
            labels.insert("somebody".to_owned(), "was-here".to_owned());
        }
        _ => {
            if let Some(first) = endpoints.first().cloned() {
                endpoints.push(first);
            }
        }
    }
    let replaced = persist(|| async { slices.replace(&name, &PostParams::default(), &slice).await }).await?;
    Ok(replaced.is_some())
}

async fn edit_endpoints(client: &Client, namespace: &str, random: &mut fastrand::Rng) -> Result<bool> {
    let api: Api<Endpoints> = Api::namespaced(client.clone(), namespace);
    let mut all = api.list(&ListParams::default()).await?.items;
    // Hand-written ones are their author's to change.
    all.retain(|endpoints| {
        let labels = endpoints.metadata.labels.as_ref();
        labels.is_some_and(|labels| labels.contains_key("endpoints.kubernetes.io/managed-by"))
    });
    if all.is_empty() {
        return Ok(false);
    }
    let mut endpoints = all.swap_remove(random.usize(0..all.len()));
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    if random.bool() {
        return Ok(
            persist(|| async { api.delete(&name, &DeleteParams::default()).await })
                .await?
                .is_some(),
        );
    }
    endpoints.subsets = None;
    let replaced = persist(|| async { api.replace(&name, &PostParams::default(), &endpoints).await }).await?;
    Ok(replaced.is_some())
}
