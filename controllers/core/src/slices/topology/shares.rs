// SPDX-License-Identifier: Apache-2.0
//! How the CPU of the cluster divides among its zones.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cpu::Cpu;
use super::verdict::HintsOff;
use crate::slices::Nodes;

/// Each zone's share of the allocatable CPU of all ready Nodes that are not control plane, or why
/// shares cannot be told. Compute it when a Node changes, not on every turn.
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneShares {
    shares: Result<BTreeMap<Arc<str>, f64>, HintsOff>,
}

impl Default for ZoneShares {
    /// Those of a cluster without Nodes.
    fn default() -> Self {
        Self::of(&Nodes::new())
    }
}

impl ZoneShares {
    /// Adds up the Nodes. One ready Node without zone or CPU spoils it for the whole cluster.
    pub fn of(nodes: &Nodes) -> Self {
        Self {
            shares: shares(nodes),
        }
    }

    /// The shares by zone, two zones at least; they add up to one.
    ///
    /// # Errors
    /// Why there are none.
    pub fn by_zone(&self) -> Result<&BTreeMap<Arc<str>, f64>, HintsOff> {
        self.shares.as_ref().map_err(|why| *why)
    }
}

fn shares(nodes: &Nodes) -> Result<BTreeMap<Arc<str>, f64>, HintsOff> {
    let mut by_zone: BTreeMap<Arc<str>, Cpu> = BTreeMap::new();
    let mut total: Option<Cpu> = None;
    for node in nodes.values().filter(|node| node.ready && !node.excluded) {
        let (Some(zone), Some(cpu)) = (&node.zone, node.cpu) else {
            return Err(HintsOff::InsufficientNodeInfo);
        };
        total = Some(total.map_or(cpu, |total| total.plus(cpu)));
        by_zone
            .entry(Arc::clone(zone))
            .and_modify(|sum| *sum = sum.plus(cpu))
            .or_insert(cpu);
    }
    let total = total.ok_or(HintsOff::InsufficientNodeInfo)?;
    if by_zone.len() < 2 {
        return Err(HintsOff::OneZone);
    }
    let share = |cpu: Cpu| cpu.millis() as f64 / total.millis() as f64;
    Ok(by_zone
        .into_iter()
        .map(|(zone, cpu)| (zone, share(cpu)))
        .collect())
}
