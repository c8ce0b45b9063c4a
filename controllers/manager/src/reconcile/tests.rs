// SPDX-License-Identifier: Apache-2.0
//! Whole turns: some need no API server, others have a stand-in.

mod load_balancer;
mod quiet;
mod server;

use std::sync::Arc;

use berth_model::ServiceKey;
use berth_runtime::lease::Leadership;
use clap::Parser;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Client, Config};

use super::*;
use crate::ControllersArgs;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::write::Writer;

use server::Server;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    controllers: ControllersArgs,
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

fn mk_meta(name: &str, version: u32) -> ObjectMeta {
    ObjectMeta {
        namespace: Some("shop".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(format!("uid-{name}")),
        resource_version: Some(version.to_string()),
        ..ObjectMeta::default()
    }
}

/// A leader with an empty cache whose API server is the stand-in.
fn mk_context(server: &Server) -> Context {
    let flags = Flags::parse_from(["controllers"]);
    let client = Client::try_from(Config::new(server.url().parse().unwrap())).unwrap();
    let metrics = Metrics::default();
    let (events, _) = Events::unpublished(metrics.clone());
    let writer = Writer::new(client, Leadership::always(), metrics.clone());
    Context::new(flags.controllers, writer, events, metrics)
}

/// Takes every turn that waits in the queue of a controller, once; how each ended.
async fn work(context: &Arc<Context>, controller: crate::Controller) -> Vec<Turn> {
    let queue = context.queue(controller).unwrap();
    let mut ended = Vec::new();
    for _ in 0..queue.len() {
        let taken = queue.next().await.unwrap();
        ended.push(turn(context, taken.key(), 0).await.unwrap());
        taken.done();
    }
    ended
}
