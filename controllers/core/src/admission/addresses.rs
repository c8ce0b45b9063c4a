// SPDX-License-Identifier: Apache-2.0
//! Which cluster IPs a Service needs.

use super::draft::{Draft, is_none};
use super::{AddressNeed, ClusterIp, ClusterIps, Invalid, Need};
use crate::address;

/// The cluster IPs, one a family, once families and policy are inferred.
pub(super) fn needs(new: &Draft, old: Option<&Draft>) -> Result<ClusterIps, Invalid> {
    if new.is_external_name() {
        return Ok(ClusterIps::None);
    }
    if new.is_headless() && new.has_node_ports() {
        return Err(Invalid::HeadlessWithNodePorts);
    }
    // Coming from ExternalName, it is as new.
    let old = old.filter(|old| !old.is_external_name());
    if let Some(old) = old {
        keeps_addresses(new, old)?;
        keeps_families(new, old)?;
    }
    if new.is_headless() {
        return Ok(ClusterIps::Headless);
    }
    let kept = old.map_or(&[][..], |old| &old.cluster_ips);
    let mut needs = Vec::with_capacity(new.families.len());
    for (index, family) in new.families.iter().enumerate() {
        let need = match new.cluster_ips.get(index) {
            None => Need::Any,
            Some(text) if kept.get(index) == Some(text) => Need::Kept(read(text)?),
            Some(text) => Need::Wanted(read(text)?),
        };
        needs.push(AddressNeed {
            family: *family,
            need,
        });
    }
    Ok(ClusterIps::Addresses(needs))
}

fn read(text: &str) -> Result<ClusterIp, Invalid> {
    let address = address::parse(text).ok_or(Invalid::MalformedClusterIp)?;
    Ok(ClusterIp {
        text: text.to_owned(),
        address,
    })
}

/// The first address stays for the life of the Service; so does the second, unless it goes.
fn keeps_addresses(new: &Draft, old: &Draft) -> Result<(), Invalid> {
    if new.is_headless() && old.is_headless() {
        return Ok(());
    }
    let (before, after) = (&old.cluster_ips, &new.cluster_ips);
    let same = before.iter().zip(after).all(|(before, after)| before == after);
    let emptied = after.is_empty() && !before.is_empty();
    if same && !emptied {
        Ok(())
    } else {
        Err(Invalid::ClusterIpChanged)
    }
}

/// Headless Services may change theirs.
fn keeps_families(new: &Draft, old: &Draft) -> Result<(), Invalid> {
    if new.is_headless() || old.is_headless() {
        return Ok(());
    }
    if old
        .families
        .iter()
        .zip(&new.families)
        .all(|(before, after)| before == after)
    {
        Ok(())
    } else {
        Err(Invalid::FamilyChanged)
    }
}

/// The cluster IPs that the API server holds for a Service.
pub(super) fn held(draft: &Draft) -> Vec<ClusterIp> {
    if draft.is_external_name() {
        return Vec::new();
    }
    let addresses = draft.cluster_ips.iter().filter(|text| !is_none(text));
    addresses.filter_map(|text| read(text).ok()).collect()
}
