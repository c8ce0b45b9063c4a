// SPDX-License-Identifier: Apache-2.0
//! What the API server fills into a Service from the Service itself and from the stored one: a manifest that is sent
//! again, or by a client that knows fewer fields, keeps what was allocated.

use std::collections::{BTreeMap, BTreeSet};

use super::draft::Draft;

/// Copies from the stored Service what an update omits.
pub(super) fn omitted(new: &mut Draft, old: &Draft) {
    if !old.is_external_name() && !new.is_external_name() {
        if new.cluster_ip.is_empty() {
            new.cluster_ip.clone_from(&old.cluster_ip);
        }
        if new.cluster_ips.is_empty() {
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
    }
    if old.allocates_node_ports() && new.allocates_node_ports() {
        omitted_node_ports(new, old);
    }
    if old.has_health_check() && new.has_health_check() && new.health_check == 0 {
        new.health_check = old.health_check;
    }
}

/// By the port's name, whatever else of it has changed; not where the number has gone to another port.
fn omitted_node_ports(new: &mut Draft, old: &Draft) {
    let before: BTreeSet<i32> = old.node_ports().collect();
    let moved: BTreeSet<i32> = new
        .node_ports()
        .filter(|number| before.contains(number))
        .collect();
    let by_name: BTreeMap<&str, i32> = old
        .ports
        .iter()
        .map(|port| (port.name.as_str(), port.node_port))
        .collect();
    for port in new.ports.iter_mut().filter(|port| port.node_port == 0) {
        let number = by_name.get(port.name.as_str()).copied().unwrap_or_default();
        if !moved.contains(&number) {
            port.node_port = number;
        }
    }
}

/// Lets `clusterIPs` follow `clusterIP` where a client knows the singular only.
pub(super) fn align_plural(new: &mut Draft, old: Option<&Draft>) {
    let Some(old) = old else {
        if !new.cluster_ip.is_empty() && new.cluster_ips.is_empty() {
            new.cluster_ips = vec![new.cluster_ip.clone()];
        }
        return;
    };
    let singular_changed = old.cluster_ip != new.cluster_ip;
    if new.cluster_ips.is_empty() && !singular_changed {
        new.cluster_ips.clone_from(&old.cluster_ips);
    }
    if singular_changed && old.cluster_ips == new.cluster_ips {
        let cleared = new.cluster_ip.is_empty();
        new.cluster_ips = if cleared {
            Vec::new()
        } else {
            vec![new.cluster_ip.clone()]
        };
    }
}
