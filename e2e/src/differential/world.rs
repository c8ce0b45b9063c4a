// SPDX-License-Identifier: Apache-2.0
//! What exists in a namespace while a history runs: which steps make sense next, and what can be compared.
//!
//! Generator, shrinker and driver share it, so that a shrunken history keeps the rules that make the outcome
//! independent of timing.

use std::collections::{BTreeMap, BTreeSet};

use super::step::{
    EndpointsEdit, EndpointsMeddling, EndpointsShape, Kind, Map, Phase, PodEdit, PodShape, PodStatus, Policy,
    ServiceEdit, ServiceShape, SliceMeddling, Step,
};

/// The annotation of a legacy leader-election record.
pub(crate) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// How freely steps may follow each other between two barriers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// What the controllers make of the steps does not depend on how many they see at once.
    Free,
    /// It does (packing, proportional hints): one change for each Service between two barriers.
    OneChangeEach,
}

#[derive(Clone, Debug)]
pub(crate) struct LivePod {
    pub(crate) labels: Map,
    pub(crate) node: Option<String>,
    pub(crate) host_network: bool,
    pub(crate) status: Option<PodStatus>,
    pub(crate) terminating: bool,
}

/// What is remembered of a name, over the Services and Endpoints that bear it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// A selector was dropped or the Service went: what is left depends on timing upstream.
    leftovers: bool,
    /// The Service was deleted since the last barrier.
    service_deleted: bool,
    /// Endpoints were written or deleted by hand since the last barrier.
    endpoints_written: bool,
    /// The Service, or what it selects, changed since the last barrier.
    touched: bool,
    /// Its type changed between headless and not.
    pub(crate) headless_flipped: bool,
    /// A stranger changed its Endpoints.
    pub(crate) endpoints_meddled: bool,
    /// A stranger gave one of its slices away.
    pub(crate) slice_disowned: bool,
    /// The Endpoints that a selector took over carry a leader-election record.
    record_taken: bool,
    /// A Service with a leader-election record of its name was deleted: nothing more happens to the name.
    pub(crate) record_kept: bool,
}

/// What of a name can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The controllers own all of it.
    Selected,
    /// Nothing was ever selected: what was written by hand, and its mirror.
    ByHand,
    /// Left-overs of a selector: depends on timing upstream.
    Leftovers,
    /// [`Ledger::record_kept`].
    Record,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) services: BTreeMap<String, ServiceShape>,
    pub(crate) pods: BTreeMap<String, LivePod>,
    /// Endpoints written by hand.
    pub(crate) endpoints: BTreeMap<String, EndpointsShape>,
    pub(crate) ledgers: BTreeMap<String, Ledger>,
    strangers_only: bool,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            strangers_only: true,
            ..Self::default()
        }
    }

    /// A barrier: both sides have settled.
    pub(crate) fn settle(&mut self) {
        self.strangers_only = true;
        for (name, ledger) in &mut self.ledgers {
            let owned = match self.services.get(name) {
                None => true,
                Some(service) => service.active_selector().is_some(),
            };
            if owned {
                ledger.leftovers = false;
            }
            ledger.service_deleted = false;
            ledger.endpoints_written = false;
            ledger.touched = false;
        }
    }

    /// Both sides have looked at everything again: what one of them had missed is over.
    pub(crate) fn forgive(&mut self) {
        for ledger in self.ledgers.values_mut() {
            ledger.headless_flipped = false;
            ledger.endpoints_meddled = false;
        }
    }

    pub(crate) fn scope(&self, name: &str) -> Scope {
        let ledger = self.ledgers.get(name).cloned().unwrap_or_default();
        let selected = |service: &ServiceShape| service.active_selector().is_some();
        if ledger.record_kept {
            Scope::Record
        } else if self.services.get(name).is_some_and(selected) {
            Scope::Selected
        } else if ledger.leftovers {
            Scope::Leftovers
        } else {
            Scope::ByHand
        }
    }

    /// Whether a step makes sense now, and leads to an outcome that timing does not change.
    pub(crate) fn allows(&self, step: &Step, pace: Pace) -> bool {
        let affected = self.affected(step);
        let once = pace == Pace::Free || affected.iter().all(|name| !self.ledger(name).touched);
        once && affected.iter().all(|name| !self.ledger(name).record_kept) && self.makes_sense(step)
    }

    fn makes_sense(&self, step: &Step) -> bool {
        match step {
            Step::CreateService(name, shape) => {
                !self.services.contains_key(name) && (shape.kind == Kind::Headless || !shape.ports.is_empty())
            }
            Step::EditService(name, edit) => self
                .services
                .get(name)
                .is_some_and(|service| edit_fits(service, edit)),
            Step::DeleteService(name) => {
                self.services.contains_key(name) && !self.ledger(name).endpoints_written
            }
            Step::CreatePod(name, _) => !self.pods.contains_key(name),
            Step::EditPod(name, edit) => self.pods.get(name).is_some_and(|pod| pod_edit_fits(pod, edit)),
            Step::CreateEndpoints(name, _) => {
                !self.endpoints.contains_key(name)
                    && self.by_hand(name)
                    && !self.ledger(name).endpoints_written
            }
            Step::EditEndpoints(name, _) => self.endpoints.contains_key(name) && self.by_hand(name),
            Step::DeleteEndpoints(name) => {
                // A record stays apart: who may delete it is a difference on purpose.
                self.endpoints.contains_key(name) && self.by_hand(name) && !self.is_record(name)
            }
            Step::MeddleEndpoints(name, _) | Step::MeddleSlice(name, _, _) => {
                self.strangers_only && self.scope(name) == Scope::Selected
            }
        }
    }

    /// Neither a selector nor what it left, nor a deletion that may still take Endpoints along.
    fn by_hand(&self, name: &str) -> bool {
        self.scope(name) == Scope::ByHand && !self.ledger(name).service_deleted
    }

    fn is_record(&self, name: &str) -> bool {
        let annotated = |endpoints: &EndpointsShape| endpoints.annotations.contains_key(LEADER);
        self.endpoints.get(name).is_some_and(annotated)
    }

    fn ledger(&self, name: &str) -> Ledger {
        self.ledgers.get(name).cloned().unwrap_or_default()
    }

    /// The names whose Endpoints or slices a step may change.
    fn affected(&self, step: &Step) -> BTreeSet<String> {
        let selecting = |labels: &Map| {
            let labels = labels.clone();
            self.services
                .iter()
                .filter(move |(_, service)| selects(service, &labels))
                .map(|(name, _)| name.clone())
        };
        match step {
            Step::CreateService(name, _)
            | Step::EditService(name, _)
            | Step::DeleteService(name)
            | Step::CreateEndpoints(name, _)
            | Step::EditEndpoints(name, _)
            | Step::DeleteEndpoints(name)
            | Step::MeddleEndpoints(name, _)
            | Step::MeddleSlice(name, _, _) => BTreeSet::from([name.clone()]),
            Step::CreatePod(_, shape) => selecting(&shape.labels).collect(),
            Step::EditPod(name, edit) => {
                let before = self.pods.get(name).map(|pod| pod.labels.clone());
                let after = match edit {
                    PodEdit::Labels(labels) => Some(labels.clone()),
                    PodEdit::Bind(_) | PodEdit::Status(_) | PodEdit::Terminate | PodEdit::Remove => None,
                };
                let both = before.iter().chain(&after);
                both.flat_map(selecting).collect()
            }
        }
    }

    /// Takes a step that an API server has accepted.
    pub(crate) fn apply(&mut self, step: &Step) {
        for name in self.affected(step) {
            self.ledgers.entry(name).or_default().touched = true;
        }
        self.strangers_only &= matches!(step, Step::MeddleEndpoints(..) | Step::MeddleSlice(..));
        match step {
            Step::CreateService(name, shape) => {
                self.services.insert(name.clone(), shape.clone());
                self.taken_over(name);
            }
            Step::EditService(name, edit) => self.edit_service(name, edit),
            Step::DeleteService(name) => self.delete_service(name),
            Step::CreatePod(name, shape) => {
                self.pods.insert(name.clone(), live(shape));
            }
            Step::EditPod(name, edit) => self.edit_pod(name, edit),
            Step::CreateEndpoints(name, shape) => {
                self.endpoints.insert(name.clone(), shape.clone());
                self.ledgers.entry(name.clone()).or_default().endpoints_written = true;
            }
            Step::EditEndpoints(name, edit) => self.edit_endpoints(name, edit),
            Step::DeleteEndpoints(name) => {
                self.endpoints.remove(name);
                self.ledgers.entry(name.clone()).or_default().endpoints_written = true;
            }
            Step::MeddleEndpoints(name, how) => {
                let ledger = self.ledgers.entry(name.clone()).or_default();
                ledger.endpoints_meddled = true;
                ledger.record_taken &= *how != EndpointsMeddling::Delete;
            }
            Step::MeddleSlice(name, _, how) => {
                let disowned = *how == SliceMeddling::Disown;
                self.ledgers.entry(name.clone()).or_default().slice_disowned |= disowned;
            }
        }
    }

    /// A controller writes the Endpoints from now on, if there is a selector.
    fn taken_over(&mut self, name: &str) {
        if self.scope(name) == Scope::Selected {
            let record = self.is_record(name);
            self.endpoints.remove(name);
            self.ledgers.entry(name.to_owned()).or_default().record_taken |= record;
        }
    }

    fn edit_service(&mut self, name: &str, edit: &ServiceEdit) {
        let Some(service) = self.services.get_mut(name) else {
            return;
        };
        let was_active = service.active_selector().is_some();
        let was_headless = service.kind == Kind::Headless;
        match edit {
            ServiceEdit::Selector(selector) => service.selector.clone_from(selector),
            ServiceEdit::Ports(ports) => service.ports.clone_from(ports),
            ServiceEdit::Policy(policy) => service.stack.policy = Some(*policy),
            ServiceEdit::Type(kind) => service.kind = *kind,
            ServiceEdit::ToExternalName => service.kind = Kind::ExternalName,
            ServiceEdit::FromExternalName { kind, stack } => {
                service.kind = *kind;
                service.stack = *stack;
            }
            ServiceEdit::PublishNotReady(publish) => service.publish_not_ready = *publish,
            ServiceEdit::Distribution(distribution) => service.distribution.clone_from(distribution),
            ServiceEdit::Labels(labels) => service.labels.clone_from(labels),
            ServiceEdit::Annotations(annotations) => service.annotations.clone_from(annotations),
        }
        let dropped = was_active && service.active_selector().is_none();
        let ledger = self.ledgers.entry(name.to_owned()).or_default();
        ledger.leftovers |= dropped;
        // By way of ExternalName, so any transition there counts.
        ledger.headless_flipped |=
            was_headless != (service.kind == Kind::Headless) || service.kind == Kind::ExternalName;
        self.taken_over(name);
    }

    fn delete_service(&mut self, name: &str) {
        let active = self
            .services
            .remove(name)
            .is_some_and(|s| s.active_selector().is_some());
        let record = self.is_record(name);
        self.endpoints.remove(name);
        let ledger = self.ledgers.entry(name.to_owned()).or_default();
        ledger.leftovers |= active;
        ledger.service_deleted = true;
        ledger.slice_disowned = false;
        ledger.record_kept |= record || ledger.record_taken;
    }

    fn edit_pod(&mut self, name: &str, edit: &PodEdit) {
        let Some(pod) = self.pods.get_mut(name) else {
            return;
        };
        match edit {
            PodEdit::Bind(node) => pod.node = Some(node.clone()),
            PodEdit::Status(status) => pod.status = Some(status.clone()),
            PodEdit::Labels(labels) => pod.labels.clone_from(labels),
            PodEdit::Terminate if pod.node.is_some() && !pod.is_terminal() => pod.terminating = true,
            PodEdit::Terminate | PodEdit::Remove => {
                self.pods.remove(name);
            }
        }
    }

    fn edit_endpoints(&mut self, name: &str, edit: &EndpointsEdit) {
        if let Some(endpoints) = self.endpoints.get_mut(name) {
            match edit {
                EndpointsEdit::Subsets(subsets) => endpoints.subsets.clone_from(subsets),
                EndpointsEdit::Labels(labels) => endpoints.labels.clone_from(labels),
                EndpointsEdit::Annotations(annotations) => endpoints.annotations.clone_from(annotations),
            }
        }
        self.ledgers.entry(name.to_owned()).or_default().endpoints_written = true;
    }
}

impl LivePod {
    pub(crate) fn is_terminal(&self) -> bool {
        self.status
            .as_ref()
            .is_some_and(|status| status.phase.is_terminal())
    }
}

fn live(shape: &PodShape) -> LivePod {
    LivePod {
        labels: shape.labels.clone(),
        node: shape.node.clone(),
        host_network: shape.host_network,
        status: shape.status.clone(),
        terminating: false,
    }
}

fn selects(service: &ServiceShape, labels: &Map) -> bool {
    let all = |selector: &Map| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    service.active_selector().is_some_and(all)
}

fn edit_fits(service: &ServiceShape, edit: &ServiceEdit) -> bool {
    let external = service.kind == Kind::ExternalName;
    match edit {
        ServiceEdit::Ports(ports) => !ports.is_empty() || service.kind == Kind::Headless,
        ServiceEdit::Policy(_) | ServiceEdit::ToExternalName => !external,
        ServiceEdit::Type(kind) => {
            kind.has_cluster_ip() && service.kind.has_cluster_ip() && *kind != service.kind
        }
        ServiceEdit::FromExternalName { kind, .. } => external && *kind != Kind::ExternalName,
        ServiceEdit::Selector(selector) => *selector != service.selector,
        ServiceEdit::PublishNotReady(publish) => *publish != service.publish_not_ready,
        ServiceEdit::Distribution(distribution) => *distribution != service.distribution,
        ServiceEdit::Labels(_) | ServiceEdit::Annotations(_) => true,
    }
}

fn pod_edit_fits(pod: &LivePod, edit: &PodEdit) -> bool {
    match edit {
        // A kubelet writes addresses, so a Pod without a node has none.
        PodEdit::Bind(_) => pod.node.is_none() && !pod.terminating,
        PodEdit::Status(status) => {
            let phase = pod.status.as_ref().map_or(Phase::Pending, |status| status.phase);
            let onward = phase == Phase::Pending || status.phase != Phase::Pending;
            pod.node.is_some() && !phase.is_terminal() && onward && !pod.host_network
        }
        PodEdit::Labels(labels) => *labels != pod.labels,
        PodEdit::Terminate => !pod.terminating,
        PodEdit::Remove => true,
    }
}

/// All policies, for those who pick one.
pub(crate) const POLICIES: [Policy; 3] = [
    Policy::SingleStack,
    Policy::PreferDualStack,
    Policy::RequireDualStack,
];

#[cfg(test)]
mod tests;
