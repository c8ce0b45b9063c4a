// SPDX-License-Identifier: Apache-2.0

mod endpoints;
mod hints;
mod packing;
mod placeholders;
mod random;
mod scale;
mod takeover;

use super::*;
use crate::fixtures::{Server, mk_nodes};

/// One Service on a small server, planned and applied turn by turn.
pub(super) struct World {
    pub(super) service: Service,
    pub(super) pods: Vec<Arc<Pod>>,
    pub(super) nodes: Nodes,
    pub(super) options: SliceOptions,
    pub(super) trigger_time: Option<Timestamp>,
    pub(super) hints: HintState,
    pub(super) server: Server,
}

impl World {
    pub(super) fn new(service: Service, pods: Vec<Arc<Pod>>) -> Self {
        Self {
            service,
            pods,
            nodes: mk_nodes(&[("node-1", "zone-a"), ("node-2", "zone-b"), ("node-3", "")]),
            options: SliceOptions::default(),
            trigger_time: None,
            hints: HintState::default(),
            server: Server::default(),
        }
    }

    pub(super) fn plan(&self) -> SlicePlan {
        let existing = self.server.slices();
        plan_slices(&SliceInput {
            service: &self.service,
            pods: &self.pods,
            nodes: &self.nodes,
            existing: &existing,
            trigger_time: self.trigger_time,
            options: self.options,
            shares: &ZoneShares::of(&self.nodes),
            hints: &self.hints,
        })
    }

    /// Plans, applies, and checks that nothing is left to do.
    pub(super) fn converge(&mut self) -> SlicePlan {
        let plan = self.plan();
        self.server.apply(&plan.writes);
        self.hints = plan.hints.clone();
        let again = self.plan();
        assert!(
            again.writes.is_empty(),
            "planned twice:\n{}{}",
            plan.writes,
            again.writes
        );
        assert!(again.events.is_empty(), "said twice: {:?}", again.events);
        assert_eq!(again.hints, self.hints);
        plan
    }

    /// Address type, ports, and each endpoint's first address, of every slice.
    pub(super) fn shape(&self) -> Vec<(String, Vec<i32>, Vec<String>)> {
        let slices = self.server.slices();
        slices.iter().map(|slice| shape_of(slice)).collect()
    }

    pub(super) fn endpoints(&self) -> Vec<k8s_openapi::api::discovery::v1::Endpoint> {
        let slices = self.server.slices();
        slices
            .iter()
            .flat_map(|slice| slice.endpoints.clone().unwrap_or_default())
            .collect()
    }

    /// Edits the slice of this position, by name, as a stranger would.
    pub(super) fn tamper(&mut self, position: usize, edit: impl FnOnce(&mut EndpointSlice)) {
        let mut slice = EndpointSlice::clone(&self.server.slices()[position]);
        edit(&mut slice);
        self.server.put(slice);
    }
}

pub(super) fn shape_of(slice: &EndpointSlice) -> (String, Vec<i32>, Vec<String>) {
    let ports = slice.ports.iter().flatten();
    let endpoints = slice.endpoints.iter().flatten();
    let mut addresses: Vec<String> = endpoints.map(|endpoint| endpoint.addresses[0].clone()).collect();
    addresses.sort();
    (
        slice.address_type.clone(),
        ports.filter_map(|port| port.port).collect(),
        addresses,
    )
}
