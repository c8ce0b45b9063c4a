// SPDX-License-Identifier: Apache-2.0
//! Connections one behind the other while Pods take each other's place.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use berth_model::{Conditions, Endpoint, Service, TrafficPolicy};
use berth_testkit::netns::Netns;
use berth_testkit::wait::eventually;

use crate::cluster::{Cluster, block_on, mk_syncer, on};
use crate::world::{HOST, PORT, Transport, ask, cluster_ips, ips, mk_node, mk_pod, mk_stranger, node_port};

/// What streams between two changes, at least.
const SOME: usize = 12;
const PATIENCE: Duration = Duration::from_secs(60);

/// One client behind the other, until told to stop; the first that is not answered is the last.
struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Clients {
    fn start(from: &Netns, to: SocketAddr) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = std::thread::spawn({
            let (from, stop, answered) = (from.clone(), Arc::clone(&stop), Arc::clone(&answered));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = ask(&from, Transport::Tcp, to)?;
                    answer.with_context(|| format!("{to} from {}", from.name()))?;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
        });
        Self {
            stop,
            answered,
            thread,
        }
    }

    /// Waits for some more answers. A client that gave up tells why in [`Clients::end`].
    async fn more(&self) -> anyhow::Result<()> {
        let wanted = self.answered.load(Ordering::Relaxed) + SOME;
        let more = async || match self.answered.load(Ordering::Relaxed) {
            answered if answered >= wanted || self.thread.is_finished() => Ok(()),
            answered => Err(format!("{answered} of {wanted}")),
        };
        Ok(eventually("answers", PATIENCE, more).await?)
    }

    fn end(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("a client panicked"))?
    }
}

fn terminating(pod: u8) -> Vec<Endpoint> {
    let mut endpoints = on("node-1", &[pod]);
    for endpoint in &mut endpoints {
        endpoint.conditions = Conditions {
            ready: false,
            serving: true,
            terminating: true,
        };
    }
    endpoints
}

/// By TCP. (A UDP client that has a port which another had within the timeout may lose its first datagram: IPVS drops the
/// one by which it finds that the endpoint is gone.)
pub(crate) fn a_rolling_update_costs_no_connection_under_either_policy() -> anyhow::Result<()> {
    block_on(async {
        let node = mk_node()?;
        let (client, stranger) = (mk_pod(100)?, mk_stranger(5)?);
        for n in 1..=4 {
            mk_pod(n)?;
        }
        let mut cluster = Cluster::new();
        let mut syncer = mk_syncer().await?;
        for (policy, old, new) in [(TrafficPolicy::Cluster, 1, 2), (TrafficPolicy::Local, 3, 4)] {
            let under = |service: &mut Service| {
                service.internal_policy = policy;
                service.external_policy = policy;
            };
            cluster
                .put(1, on("node-1", &[old]), under)
                .sync(&mut syncer)
                .await?;
            let to_vips = cluster_ips(1).map(|ip| Clients::start(&client, (ip, PORT).into()));
            let to_node = ips(HOST).map(|ip| Clients::start(&stranger, (ip, node_port(1)).into()));
            let clients: Vec<Clients> = to_vips.into_iter().chain(to_node).collect();
            for endpoints in [
                on("node-1", &[old, new]),
                [terminating(old), on("node-1", &[new])].concat(),
                on("node-1", &[new]),
            ] {
                cluster.put(1, endpoints, under).sync(&mut syncer).await?;
                more(&clients).await?;
            }
            node.ip(&format!("link set v-pod-{old} down\n"))?;
            more(&clients).await?;
            for clients in clients {
                clients.end()?;
            }
        }
        Ok(())
    })
}

async fn more(clients: &[Clients]) -> anyhow::Result<()> {
    for clients in clients {
        clients.more().await?;
    }
    Ok(())
}
