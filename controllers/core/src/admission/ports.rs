// SPDX-License-Identifier: Apache-2.0
//! Which node ports a Service needs, and its health-check node port.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::Port;

use super::draft::{Draft, DraftPort, Kind, number};
use super::{Invalid, Need, PortNeed};

/// The node port of each port, in the order of `spec.ports`.
pub(super) fn needs(new: &Draft, old: Option<&Draft>) -> Result<Vec<PortNeed>, Invalid> {
    let needs = match new.kind {
        Kind::ClusterIp if named_by_the_user(new, old) => return Err(Invalid::NodePortWithoutType),
        Kind::ClusterIp | Kind::ExternalName => vec![PortNeed::Unneeded; new.ports.len()],
        Kind::NodePort | Kind::LoadBalancer => match old {
            None => on_create(new)?,
            Some(old) => on_update(new, old)?,
        },
    };
    no_port_twice(new, &needs)?;
    Ok(needs)
}

/// The numbers that a type without node ports carries go by themselves, if they come from the stored Service and its
/// type had them.
fn named_by_the_user(new: &Draft, old: Option<&Draft>) -> bool {
    let before: BTreeSet<i32> = old.into_iter().flat_map(Draft::held_node_ports).collect();
    new.node_ports().any(|number| !before.contains(&number))
}

/// On a create, ports with one `port` number share a node port: the first that any of them names, or a new one.
fn on_create(new: &Draft) -> Result<Vec<PortNeed>, Invalid> {
    let mut asked: BTreeSet<i32> = BTreeSet::new();
    // By `port`: the index that the node port is found at, and the number if it is known.
    let mut shared: BTreeMap<i32, (usize, i32)> = BTreeMap::new();
    let mut ask = |value: i32| {
        let fresh = asked.insert(value);
        let number = number(value)?;
        if fresh {
            Ok(PortNeed::Of(Need::Wanted(number)))
        } else {
            Err(Invalid::NodePortTwice)
        }
    };
    let mut needs = Vec::with_capacity(new.ports.len());
    for (index, port) in new.ports.iter().enumerate() {
        if port.node_port == 0 && !new.allocates_node_ports() {
            needs.push(PortNeed::Unneeded);
            continue;
        }
        let need = match shared.get(&port.port) {
            Some((first, value)) if port.node_port == 0 || port.node_port == *value => {
                PortNeed::SharedWith(*first)
            }
            Some(_) => ask(port.node_port)?,
            None => {
                let value = named_for(port.port, &new.ports);
                shared.insert(port.port, (index, value));
                if value == 0 {
                    PortNeed::Of(Need::Any)
                } else {
                    ask(value)?
                }
            }
        };
        needs.push(need);
    }
    Ok(needs)
}

/// The first node port that is named for a `port` number; 0 where there is none.
fn named_for(number: i32, ports: &[DraftPort]) -> i32 {
    let named = ports
        .iter()
        .find(|port| port.port == number && port.node_port != 0);
    named.map_or(0, |port| port.node_port)
}

/// On an update nothing is shared but what is named twice: each port without a node port gets one of its own.
fn on_update(new: &Draft, old: &Draft) -> Result<Vec<PortNeed>, Invalid> {
    let before: BTreeSet<i32> = old.held_node_ports().collect();
    let health_check = Some(old.health_check).filter(|_| old.has_health_check());
    let mut asked: BTreeMap<i32, usize> = BTreeMap::new();
    let mut needs = Vec::with_capacity(new.ports.len());
    for (index, port) in new.ports.iter().enumerate() {
        let value = port.node_port;
        let need = if value == 0 {
            match new.allocates_node_ports() {
                true => PortNeed::Of(Need::Any),
                false => PortNeed::Unneeded,
            }
        } else if before.contains(&value) {
            PortNeed::Of(Need::Kept(number(value)?))
        } else if health_check == Some(value) {
            // It is given back after the update, if at all.
            return Err(Invalid::NodePortTwice);
        } else if let Some(first) = asked.get(&value) {
            PortNeed::SharedWith(*first)
        } else {
            asked.insert(value, index);
            PortNeed::Of(Need::Wanted(number(value)?))
        };
        needs.push(need);
    }
    Ok(needs)
}

/// A number and protocol may be there once: of ports, and of node ports.
fn no_port_twice(new: &Draft, needs: &[PortNeed]) -> Result<(), Invalid> {
    let (mut ports, mut node_ports) = (BTreeSet::new(), BTreeSet::new());
    for (port, need) in new.ports.iter().zip(needs) {
        let named = *need != PortNeed::Unneeded && port.node_port != 0;
        if named && !node_ports.insert((port.node_port, port.protocol.as_str())) {
            return Err(Invalid::NodePortTwice);
        }
        if !ports.insert((port.port, port.protocol.as_str())) {
            return Err(Invalid::PortTwice);
        }
    }
    Ok(())
}

/// The health-check node port of a load balancer that keeps external traffic on the node it came to.
pub(super) fn health_check(
    new: &Draft,
    old: Option<&Draft>,
    needs: &[PortNeed],
) -> Result<Option<Need<Port>>, Invalid> {
    let before = old
        .filter(|old| old.has_health_check())
        .map(|old| old.health_check);
    let value = new.health_check;
    match (new.has_health_check(), before) {
        // Dropped by itself where it is the stored one.
        (false, _) if value == 0 || before == Some(value) => Ok(None),
        (false, _) => Err(Invalid::HealthCheckNodePortWithoutNeed),
        (true, Some(before)) if before == value => Ok(Some(Need::Kept(number(value)?))),
        (true, Some(_)) => Err(Invalid::HealthCheckNodePortChanged),
        (true, None) if value == 0 => Ok(Some(Need::Any)),
        (true, None) => {
            let wanted = number(value)?;
            let has = |need: &PortNeed| need.number() == Some(wanted);
            let had = |old: &Draft| old.held_node_ports().any(|held| held == value);
            if needs.iter().any(has) || old.is_some_and(had) {
                return Err(Invalid::HealthCheckNodePortTwice);
            }
            Ok(Some(Need::Wanted(wanted)))
        }
    }
}
