// SPDX-License-Identifier: Apache-2.0
//! Whole turns that need no API server.

mod load_balancer;
mod quiet;

use berth_model::ServiceKey;
use berth_runtime::lease::Leadership;
use clap::Parser;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Client, Config};
use tokio::sync::mpsc;

use super::*;
use crate::ControllersArgs;
use crate::events::{Events, Note};
use crate::metrics::Metrics;
use crate::write::Writer;

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

/// A leader with an empty cache that reaches no API server, and the events that it would publish.
fn mk_silent() -> (Context, mpsc::Receiver<Note>) {
    let flags = Flags::parse_from(["controllers"]);
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let metrics = Metrics::default();
    let (events, notes) = Events::unpublished(metrics.clone());
    let writer = Writer::new(client, Leadership::always(), metrics.clone());
    (Context::new(flags.controllers, writer, events, metrics), notes)
}
