// SPDX-License-Identifier: Apache-2.0

mod canonical;
mod inclusion;
mod random;
mod takeover;
mod writes;

use super::*;
use crate::fixtures::mk_service;

/// One Service and its Endpoints on a server of one object.
pub(super) struct World {
    pub(super) service: Option<Service>,
    pub(super) pods: Vec<Arc<Pod>>,
    pub(super) current: Option<Endpoints>,
    pub(super) trigger_time: Option<Timestamp>,
    pub(super) leftovers: Leftovers,
    version: u32,
}

impl World {
    pub(super) fn new(service: Service, pods: Vec<Arc<Pod>>) -> Self {
        Self {
            service: Some(service),
            pods,
            current: None,
            trigger_time: None,
            leftovers: Leftovers::Keep,
            version: 0,
        }
    }

    pub(super) fn with(pods: Vec<Arc<Pod>>) -> Self {
        Self::new(mk_service(), pods)
    }

    pub(super) fn plan(&self) -> EndpointsPlan {
        plan_endpoints(&EndpointsInput {
            key: &ServiceKey::new("shop", "web"),
            service: self.service.as_ref(),
            pods: &self.pods,
            current: self.current.as_ref(),
            trigger_time: self.trigger_time,
            leftovers: self.leftovers,
        })
    }

    /// Stores an object as a server does.
    pub(super) fn put(&mut self, mut endpoints: Endpoints) {
        self.version += 1;
        endpoints.metadata.resource_version = Some(self.version.to_string());
        endpoints.metadata.uid = Some("uid-endpoints".to_owned());
        self.current = Some(endpoints);
    }

    /// Plans, applies, and checks that nothing is left to do.
    pub(super) fn converge(&mut self) -> EndpointsPlan {
        let plan = self.plan();
        let writes = &plan.writes;
        assert!(writes.len() <= 1, "at most one write");
        assert!(writes.create.is_empty() || self.current.is_none());
        for update in &writes.update {
            let before = self.current.as_ref().unwrap();
            assert_eq!(
                before.metadata.resource_version, update.metadata.resource_version,
                "conflict"
            );
        }
        for endpoints in writes.create.iter().chain(&writes.update) {
            self.put(endpoints.clone());
        }
        if !writes.delete.is_empty() {
            self.current = None;
        }
        let again = self.plan();
        assert!(
            again.writes.is_empty(),
            "planned twice:\n{}{}",
            plan.writes,
            again.writes
        );
        plan
    }

    /// Edits the object as a stranger would.
    pub(super) fn tamper(&mut self, edit: impl FnOnce(&mut Endpoints)) {
        let mut endpoints = self.current.clone().unwrap();
        edit(&mut endpoints);
        self.put(endpoints);
    }

    /// Ready addresses, not ready addresses and port numbers of every subset.
    pub(super) fn shape(&self) -> Vec<Row> {
        let current = self.current.as_ref().unwrap();
        current.subsets.iter().flatten().map(shape_of).collect()
    }
}

pub(super) type Row = (Vec<String>, Vec<String>, Vec<i32>);

pub(super) fn shape_of(subset: &EndpointSubset) -> Row {
    let ips = |list: &Option<Vec<EndpointAddress>>| {
        let addresses = list.iter().flatten();
        addresses.map(|address| address.ip.clone()).collect()
    };
    let ports = subset.ports.iter().flatten();
    (
        ips(&subset.addresses),
        ips(&subset.not_ready_addresses),
        ports.map(|port| port.port).collect(),
    )
}

pub(super) fn row(ready: &[&str], not_ready: &[&str], ports: &[i32]) -> Row {
    let list = |ips: &[&str]| ips.iter().map(|ip| (*ip).to_owned()).collect();
    (list(ready), list(not_ready), ports.to_vec())
}
