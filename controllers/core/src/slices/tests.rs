// SPDX-License-Identifier: Apache-2.0

mod compacting;
mod endpoints;
mod figures;
mod hints;
mod packing;
mod placeholders;
mod random;
mod scale;
mod takeover;

use super::*;
use crate::fixtures::{Server, mk_nodes};

/// One Service on a small server, planned and applied turn by turn.
pub(in crate::slices) struct World {
    pub(in crate::slices) service: Service,
    pub(in crate::slices) pods: Vec<Arc<Pod>>,
    pub(in crate::slices) nodes: Nodes,
    pub(in crate::slices) options: SliceOptions,
    pub(in crate::slices) trigger_time: Option<Timestamp>,
    pub(in crate::slices) hints: HintState,
    pub(in crate::slices) server: Server,
}

impl World {
    pub(in crate::slices) fn new(service: Service, pods: Vec<Arc<Pod>>) -> Self {
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

    pub(in crate::slices) fn plan(&self) -> SlicePlan {
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
    pub(in crate::slices) fn converge(&mut self) -> SlicePlan {
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
    pub(in crate::slices) fn shape(&self) -> Vec<(String, Vec<i32>, Vec<String>)> {
        let slices = self.server.slices();
        slices.iter().map(|slice| shape_of(slice)).collect()
    }

    pub(in crate::slices) fn endpoints(&self) -> Vec<k8s_openapi::api::discovery::v1::Endpoint> {
        let slices = self.server.slices();
        slices
            .iter()
            .flat_map(|slice| slice.endpoints.clone().unwrap_or_default())
            .collect()
    }

    /// Edits the slice of this position, by name, as a stranger would.
    pub(in crate::slices) fn tamper(&mut self, position: usize, edit: impl FnOnce(&mut EndpointSlice)) {
        let mut slice = EndpointSlice::clone(&self.server.slices()[position]);
        edit(&mut slice);
        self.server.put(slice);
    }
}

pub(in crate::slices) fn shape_of(slice: &EndpointSlice) -> (String, Vec<i32>, Vec<String>) {
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
