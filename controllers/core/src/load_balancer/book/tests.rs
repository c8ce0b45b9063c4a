// SPDX-License-Identifier: Apache-2.0
//! What Services get, one file a question; the long random histories are in `history.rs`.

use berth_crds::{AddressPoolSpec, PoolUse};
use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, ServiceSpec, ServiceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use super::super::plan::LbEvent;
use super::super::wish::CONDITION_ALLOCATED;
use super::*;
use crate::key_of;

mod definitions;
mod families;
mod history;
mod leaving;
mod pools;
mod requests;
mod selection;
mod sharing;
mod status;
mod waking;

const V4: &[&str] = &["IPv4"];
const DUAL: &[&str] = &["IPv4", "IPv6"];

pub(super) fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

pub(super) fn mk_pool(name: &str, created: i64, addresses: &[&str]) -> AddressPool {
    let mut pool = AddressPool::new(
        name,
        AddressPoolSpec {
            r#use: PoolUse::LoadBalancer,
            addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
            ..AddressPoolSpec::default()
        },
    );
    pool.metadata.creation_timestamp = Some(at(created));
    pool
}

pub(super) fn mk_service(name: &str, families: &[&str]) -> Service {
    Service {
        metadata: ObjectMeta {
            namespace: Some("shop".to_owned()),
            name: Some(name.to_owned()),
            creation_timestamp: Some(at(100)),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some("LoadBalancer".to_owned()),
            load_balancer_class: Some(BARE_METAL_CLASS.to_owned()),
            ip_families: Some(families.iter().map(|family| (*family).to_owned()).collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

trait Changes: Sized {
    fn spec(self, change: impl FnOnce(&mut ServiceSpec)) -> Self;
    fn policy(self, policy: &str) -> Self;
    fn annotated(self, name: &str, value: &str) -> Self;
    fn listing(self, addresses: &[&str]) -> Self;
    fn born(self, second: i64) -> Self;
}

impl Changes for Service {
    fn spec(mut self, change: impl FnOnce(&mut ServiceSpec)) -> Self {
        change(self.spec.as_mut().unwrap());
        self
    }

    fn policy(self, policy: &str) -> Self {
        self.spec(|spec| spec.ip_family_policy = Some(policy.to_owned()))
    }

    fn annotated(mut self, name: &str, value: &str) -> Self {
        let annotations = self.metadata.annotations.get_or_insert_default();
        annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    fn listing(mut self, addresses: &[&str]) -> Self {
        let ingress = addresses.iter().map(|ip| LoadBalancerIngress {
            ip: Some((*ip).to_owned()),
            ip_mode: Some("VIP".to_owned()),
            ..LoadBalancerIngress::default()
        });
        self.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus {
            ingress: Some(ingress.collect()),
        });
        self
    }

    fn born(mut self, second: i64) -> Self {
        self.metadata.creation_timestamp = Some(at(second));
        self
    }
}

pub(super) fn listed(service: &Service) -> Vec<String> {
    wish::ingress(service)
        .iter()
        .filter_map(|entry| entry.ip.clone())
        .collect()
}

/// What the API server makes of a write.
pub(super) fn apply(service: &mut Service, write: &StatusWrite) {
    let status: &mut ServiceStatus = service.status.get_or_insert_default();
    if let Some(ingress) = &write.ingress {
        status.load_balancer = Some(LoadBalancerStatus {
            ingress: Some(ingress.clone()),
        });
    }
    if let Some(conditions) = &write.conditions {
        status.conditions = Some(conditions.clone());
    }
}

fn book(pools: &[AddressPool]) -> LoadBalancers {
    let mut book = LoadBalancers::new(Settings::default());
    book.set_pools(pools);
    book
}

/// One turn, written.
fn turn(book: &mut LoadBalancers, service: &mut Service) -> LbPlan {
    let plan = book.reconcile(&key_of(&service.metadata), Some(service), &at(1_000));
    if let Some(write) = &plan.write {
        apply(service, write);
    }
    plan
}

/// Turns until nothing is left to write; the last plan that said something.
fn settle(book: &mut LoadBalancers, service: &mut Service) -> LbPlan {
    let mut last = turn(book, service);
    for _ in 0..5 {
        let next = turn(book, service);
        if next.is_empty() {
            last.released.extend(next.released);
            return last;
        }
        last = next;
    }
    panic!("does not settle: {last}");
}

fn condition(service: &Service) -> (String, String, String) {
    let conditions = service.status.as_ref().unwrap().conditions.as_ref().unwrap();
    let ours = conditions
        .iter()
        .find(|condition| condition.type_ == CONDITION_ALLOCATED)
        .unwrap();
    (ours.status.clone(), ours.reason.clone(), ours.message.clone())
}

fn lan() -> Vec<AddressPool> {
    vec![mk_pool("lan", 1, &["10.0.0.0/29", "fd00::/64"])]
}
