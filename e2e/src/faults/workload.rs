// SPDX-License-Identifier: Apache-2.0
//! Some dozens of Services and a few hundred Pods that never come to rest: no kubelet, statuses are written as one would.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use berth_testkit::builders::mk_namespace;
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::retry::persist;
use super::world::{NODES, World, zone};
use crate::cluster::PATIENCE;

/// Each has its own Services and Pods, and its own stream of changes.
pub const NAMESPACES: [&str; 3] = ["east", "north", "south"];

/// What was changed, and what that costs at the most.
#[derive(Debug, Default)]
pub(super) struct Tally {
    changes: AtomicUsize,
    needed: AtomicUsize,
}

impl Tally {
    pub(super) fn add(&self, needed: usize) {
        self.needed.fetch_add(needed, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

/// A cluster's users.
pub struct Workload {
    budget: Arc<Semaphore>,
    released: usize,
    tally: Arc<Tally>,
    changers: Vec<JoinHandle<Result<()>>>,
}

impl Workload {
    /// Makes the Nodes, then begins to make Services and Pods; see [`Workload::done`].
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn begin(client: &Client, seed: u64) -> Result<Self> {
        for index in 0..NODES {
            let node = json!({"metadata": {
                "name": format!("node-{index}"), "labels": {"topology.kubernetes.io/zone": zone(index)},
            }});
            let node: Node = serde_json::from_value(node)?;
            Api::all(client.clone())
                .create(&Default::default(), &node)
                .await?;
        }
        for namespace in NAMESPACES {
            let namespaces: Api<Namespace> = Api::all(client.clone());
            namespaces
                .create(&Default::default(), &mk_namespace(namespace))
                .await?;
        }
        let (budget, tally) = (Arc::new(Semaphore::new(0)), Arc::new(Tally::default()));
        let mut random = fastrand::Rng::with_seed(seed);
        let changers = NAMESPACES
            .iter()
            .enumerate()
            .map(|(index, namespace)| {
                let world = World::new(client.clone(), namespace, index, random.fork());
                tokio::spawn(change(world, Arc::clone(&budget), Arc::clone(&tally)))
            })
            .collect();
        Ok(Self {
            budget,
            // Each world's making counts as one.
            released: NAMESPACES.len(),
            tally,
            changers,
        })
    }

    /// Lets so many further changes happen, now and by themselves.
    pub fn release(&mut self, changes: usize) {
        self.released += changes;
        self.budget.add_permits(changes);
    }

    /// Waits until all changes that were released have happened.
    ///
    /// # Errors
    /// One could not be made.
    pub async fn done(&mut self) -> Result<()> {
        let all = eventually("all changes made", PATIENCE * 3, || async {
            let made = self.tally.changes.load(Ordering::Relaxed);
            // A changer that has ended has failed; its error is reported below.
            ensure!(
                made == self.released || self.changers.iter().any(JoinHandle::is_finished),
                "{made} of {}",
                self.released
            );
            Ok(())
        });
        all.await?;
        for changer in self.changers.iter_mut().filter(|changer| changer.is_finished()) {
            changer.await.context("a changer panicked")??;
        }
        Ok(())
    }

    /// How many changes were made.
    pub fn changes(&self) -> usize {
        self.tally.changes.load(Ordering::Relaxed)
    }

    /// How many writes of Endpoints and slices the changes cost if each is dealt with by itself, as soon as it is seen.
    pub fn needed(&self) -> usize {
        self.tally.needed.load(Ordering::Relaxed)
    }

    /// Moves a Node to the next zone; which slices that touches is for the caller to count.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn move_node(client: &Client, index: usize, to_zone_of: usize) -> Result<()> {
        let nodes: Api<Node> = Api::all(client.clone());
        let patch = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone(to_zone_of)}}});
        let name = format!("node-{index}");
        persist(|| async {
            nodes
                .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
        })
        .await?
        .ok_or_else(|| anyhow!("{name} is gone"))?;
        Ok(())
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        for changer in &self.changers {
            changer.abort();
        }
    }
}

async fn change(mut world: World, budget: Arc<Semaphore>, tally: Arc<Tally>) -> Result<()> {
    tally.add(world.make().await?);
    loop {
        budget.acquire().await?.forget();
        tally.add(world.change().await?);
    }
}
