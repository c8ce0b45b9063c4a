// SPDX-License-Identifier: Apache-2.0
//! The planners, one after the other, as the daemons would run them on a cluster that holds these objects.

use std::sync::Arc;

use berth_controllers_core::endpoints::{EndpointsInput, plan_endpoints};
use berth_controllers_core::load_balancer::{LbPlan, LoadBalancers, Settings as LbSettings};
use berth_controllers_core::mirror::{DEFAULT_MAX_ENDPOINTS, MirrorInput, plan_mirror};
use berth_controllers_core::selector::PodIndex;
use berth_controllers_core::skips::{SkipReason, Skips};
use berth_controllers_core::slices::topology::{HintState, ZoneShares};
use berth_controllers_core::slices::{Leftovers, NodeFacts, Nodes, SliceInput, SliceOptions, plan_slices};
use berth_controllers_core::{key_of, selector_of};
use berth_model::ServiceKey;
use berth_proxy_core::{Intent, Settings as ProxySettings};
use berth_snapshot::Index;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::input::Objects;

/// Everything that was planned.
pub(crate) struct Outcome {
    /// Writes of Endpoints and EndpointSlices, a line each.
    pub(crate) writes: Vec<String>,
    /// One turn of each LoadBalancer Service.
    pub(crate) load_balancers: Vec<LbPlan>,
    /// What the rules should do.
    pub(crate) intent: Intent,
    /// What was left out, and why.
    pub(crate) remarks: Vec<String>,
}

/// Runs every planner over the objects. `now` dates conditions; the LoadBalancer addresses that come out are
/// written into the objects' Services, since the rules depend on them.
pub(crate) fn plan(objects: &mut Objects, lb: LbSettings, proxy: ProxySettings, now: &Time) -> Outcome {
    let proxy = ProxySettings {
        service_cidrs: objects.service_cidrs.clone(),
        ..proxy
    };
    let mut outcome = Outcome {
        writes: Vec::new(),
        load_balancers: Vec::new(),
        intent: Intent::empty(proxy.clone()),
        remarks: pool_faults(objects),
    };
    let slices = plan_objects(objects, &mut outcome);
    plan_addresses(objects, lb, now, &mut outcome);
    let mut index = Index::default();
    for service in &objects.services {
        let skipped = index.apply_service(service);
        outcome.remarks.extend(
            skipped
                .iter()
                .map(|skip| format!("Service {}: {skip}", key_of(&service.metadata))),
        );
    }
    for slice in &slices {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let skipped = index.apply_slice(slice);
        outcome
            .remarks
            .extend(skipped.iter().map(|skip| format!("EndpointSlice {name}: {skip}")));
    }
    outcome.intent = Intent::of(index.view(), proxy);
    outcome
        .remarks
        .extend(outcome.intent.conflicts().iter().map(ToString::to_string));
    outcome
}

fn pool_faults(objects: &Objects) -> Vec<String> {
    let faults_of = |pool: &berth_crds::AddressPool| {
        let name = pool.metadata.name.clone().unwrap_or_default();
        pool.spec
            .validate()
            .into_iter()
            .map(move |fault| format!("AddressPool {name}: {fault}"))
            .collect::<Vec<_>>()
    };
    objects.pools.iter().flat_map(faults_of).collect()
}

/// Endpoints, slices and mirrored slices. Returns the slices as they would then be.
fn plan_objects(objects: &Objects, outcome: &mut Outcome) -> Vec<Arc<EndpointSlice>> {
    let mut pods = PodIndex::default();
    for pod in &objects.pods {
        pods.insert(Arc::new(pod.into()));
    }
    let nodes: Nodes = objects
        .nodes
        .iter()
        .filter_map(|node| Some((node.metadata.name.as_deref()?.into(), NodeFacts::of(node))))
        .collect();
    let shares = ZoneShares::of(&nodes);
    let mut slices = Slices {
        all: objects.slices.clone(),
    };
    for service in &objects.services {
        let key = key_of(&service.metadata);
        let matched = selector_of(service)
            .map(|selector| pods.select(key.namespace(), selector))
            .unwrap_or_default();
        let current = objects
            .endpoints
            .iter()
            .find(|endpoints| key_of(&endpoints.metadata) == key);
        let endpoints = plan_endpoints(&EndpointsInput {
            key: &key,
            service: Some(service),
            pods: &matched,
            current,
            trigger_time: None,
            leftovers: Leftovers::Keep,
        });
        note(outcome, &key, &endpoints.writes.to_string(), &Skips::default());
        let planned = plan_slices(&SliceInput {
            service,
            pods: &matched,
            nodes: &nodes,
            existing: &slices.of(&key),
            trigger_time: None,
            options: SliceOptions::default(),
            shares: &shares,
            hints: &HintState::default(),
        });
        note(outcome, &key, &planned.writes.to_string(), &planned.skips);
        slices.write(planned.writes.create.into_iter().chain(planned.writes.update));
        slices.delete(&planned.writes.delete);
        let mirrored = plan_mirror(&MirrorInput {
            key: &key,
            endpoints: current,
            service: Some(service),
            existing: &slices.of(&key),
            max_endpoints: DEFAULT_MAX_ENDPOINTS,
        });
        // Why a Service with a selector is not mirrored is no news to anyone.
        note(outcome, &key, &mirrored.writes.to_string(), &Skips::default());
        slices.write(mirrored.writes.create.into_iter().chain(mirrored.writes.update));
        slices.delete(&mirrored.writes.delete);
    }
    slices.all
}

fn note(outcome: &mut Outcome, key: &ServiceKey, writes: &str, skips: &Skips) {
    outcome.writes.extend(writes.lines().map(str::to_owned));
    for (reason, tally) in skips.iter().filter(|(reason, _)| is_news(*reason)) {
        outcome.remarks.push(format!(
            "Service {key}: {reason}: {} ({} in all)",
            tally.example, tally.count
        ));
    }
}

/// What a Service is by its own spec is no news to its author.
fn is_news(reason: SkipReason) -> bool {
    !matches!(
        reason,
        SkipReason::ServiceExternalName | SkipReason::ServiceWithoutSelector
    )
}

/// The slices as planned so far.
struct Slices {
    all: Vec<Arc<EndpointSlice>>,
}

impl Slices {
    fn of(&self, key: &ServiceKey) -> Vec<Arc<EndpointSlice>> {
        let label = |slice: &EndpointSlice| {
            slice
                .metadata
                .labels
                .as_ref()?
                .get(berth_snapshot::SERVICE_NAME_LABEL)
                .cloned()
        };
        let of_key = |slice: &&Arc<EndpointSlice>| {
            slice.metadata.namespace.as_deref() == Some(key.namespace())
                && label(slice).as_deref() == Some(key.name())
        };
        self.all.iter().filter(of_key).cloned().collect()
    }

    /// Takes in created and updated slices. The API server would name created ones: here by their number.
    fn write(&mut self, written: impl Iterator<Item = EndpointSlice>) {
        for mut slice in written {
            let prefix = slice.metadata.generate_name.clone().unwrap_or_default();
            let number = self.all.len() + 1;
            slice
                .metadata
                .name
                .get_or_insert_with(|| format!("{prefix}{number}"));
            let same = |other: &Arc<EndpointSlice>| {
                (&other.metadata.namespace, &other.metadata.name)
                    == (&slice.metadata.namespace, &slice.metadata.name)
            };
            match self.all.iter().position(same) {
                Some(index) => self.all[index] = Arc::new(slice),
                None => self.all.push(Arc::new(slice)),
            }
        }
    }

    fn delete(&mut self, gone: &[berth_controllers_core::plan::ObjectRef]) {
        self.all.retain(|slice| {
            !gone.iter().any(|one| {
                slice.metadata.namespace.as_deref() == Some(one.namespace.as_str())
                    && slice.metadata.name.as_deref() == Some(one.name.as_str())
            })
        });
    }
}

/// LoadBalancer addresses, in the order in which the controller would take the Services up.
fn plan_addresses(objects: &mut Objects, settings: LbSettings, now: &Time, outcome: &mut Outcome) {
    let mut book = LoadBalancers::new(settings);
    book.set_pools(&objects.pools);
    let adopted = book.adopt(&objects.services);
    for (address, loser, holder) in adopted.conflicts {
        outcome.remarks.push(format!(
            "Service {loser}: {address} is listed in its status, but {holder} has it"
        ));
    }
    for key in adopted.order {
        let Some(service) = objects
            .services
            .iter_mut()
            .find(|service| key_of(&service.metadata) == key)
        else {
            continue;
        };
        let plan = book.reconcile(&key, Some(service), now);
        write_status(service, &plan);
        outcome.load_balancers.push(plan);
    }
}

fn write_status(service: &mut Service, plan: &LbPlan) {
    let Some(ingress) = plan.write.as_ref().and_then(|write| write.ingress.clone()) else {
        return;
    };
    let status = service.status.get_or_insert_default();
    status.load_balancer = Some(LoadBalancerStatus {
        ingress: Some(ingress),
    });
}
