// SPDX-License-Identifier: Apache-2.0
//! Families and policy, inferred as the API server will infer them: nothing of this is patched, but which addresses a
//! Service needs follows from it.

use std::net::{IpAddr, Ipv6Addr};

use berth_model::IpFamily;

use super::draft::{Draft, FamilyPolicy, family_of, is_none, other};
use super::{ClusterFamilies, Invalid};

/// Completes families and policy, and drops the second address and family where the policy says so.
pub(super) fn infer(new: &mut Draft, old: Option<&Draft>, cluster: ClusterFamilies) -> Result<(), Invalid> {
    if new.is_external_name() {
        return external_name_has_none(new, old);
    }
    if old.is_some_and(|old| prefers_what_it_has(new, old)) {
        return Ok(());
    }
    let policy = inferred_policy(new, old);
    new.policy = Some(policy);
    addresses_and_families_agree(new, old)?;
    if let Some(old) = old {
        downgrade(new, old, policy)?;
    }
    if policy == FamilyPolicy::SingleStack && (new.cluster_ips.len() > 1 || new.families.len() > 1) {
        return Err(Invalid::SingleStackWithTwo);
    }
    families_of_addresses(new, cluster)?;
    if new.is_headless_without_selector() {
        // Whatever the cluster has: somebody else writes the endpoints, of one family or both.
        append(new, cluster.primary, policy != FamilyPolicy::SingleStack);
        return Ok(());
    }
    if policy == FamilyPolicy::RequireDualStack && !cluster.dual_stack {
        return Err(Invalid::DualStackNotConfigured);
    }
    if !new.families.iter().all(|family| cluster.has(*family)) {
        return Err(Invalid::FamilyNotConfigured);
    }
    let both = policy != FamilyPolicy::SingleStack && cluster.dual_stack;
    append(new, cluster.primary, both);
    Ok(())
}

/// The primary family where there is none, and the other one where both are due.
fn append(new: &mut Draft, primary: IpFamily, both: bool) {
    if new.families.is_empty() {
        new.families.push(primary);
    }
    if both && new.families.len() == 1 {
        new.families.push(other(new.families[0]));
    }
}

/// A Service that prefers two families and has one, from before the cluster had two, is left as it is by an update
/// that repeats its fields. One that omits the policy or the families is not such a repetition.
fn prefers_what_it_has(new: &Draft, old: &Draft) -> bool {
    let prefers = |draft: &Draft| draft.policy == Some(FamilyPolicy::PreferDualStack);
    new.kind == old.kind
        && prefers(new)
        && (prefers(old) || old.policy.is_none())
        && new.cluster_ips == old.cluster_ips
        && new.families == old.families
}

fn inferred_policy(new: &Draft, old: Option<&Draft>) -> FamilyPolicy {
    let kept = || old.and_then(|old| old.policy);
    new.policy
        .or_else(kept)
        .unwrap_or(if new.is_headless_without_selector() {
            FamilyPolicy::RequireDualStack
        } else {
            FamilyPolicy::SingleStack
        })
}

/// What an ExternalName has of the stored Service's goes by itself where it is all the same as there.
fn external_name_has_none(new: &Draft, old: Option<&Draft>) -> Result<(), Invalid> {
    let old = old.filter(|old| !old.is_external_name());
    let same = |same: fn(&Draft, &Draft) -> bool| old.is_some_and(|old| same(new, old));
    let no_addresses = new.cluster_ips.is_empty()
        || same(|new, old| new.cluster_ip == old.cluster_ip && new.cluster_ips == old.cluster_ips);
    let no_families = new.families.is_empty() || same(|new, old| new.families == old.families);
    let no_policy = new.policy.is_none() || same(|new, old| new.policy == old.policy);
    if no_addresses && no_families && no_policy {
        Ok(())
    } else {
        Err(Invalid::ExternalNameWithAddresses)
    }
}

fn addresses_and_families_agree(new: &Draft, old: Option<&Draft>) -> Result<(), Invalid> {
    match (new.cluster_ip.as_str(), new.cluster_ips.first()) {
        ("", None) => {}
        ("", Some(_)) => return Err(Invalid::PluralWithoutSingular),
        (singular, Some(first)) if first == singular => {}
        (_, None | Some(_)) => return Err(Invalid::PluralDiffersFromSingular),
    }
    if new.families.len() > 2 || (new.families.len() == 2 && new.families[0] == new.families[1]) {
        return Err(Invalid::FamilyTwice);
    }
    let known = old.map_or(&[][..], |old| &old.cluster_ips);
    for (index, text) in new.cluster_ips.iter().enumerate() {
        match is_none(text) {
            true if index == 0 && new.cluster_ips.len() == 1 => return Ok(()),
            true => return Err(Invalid::NoneBesideAddress),
            false if !known.contains(text) && !is_strict(text) => return Err(Invalid::MalformedClusterIp),
            false => {}
        }
    }
    let families: Vec<IpFamily> = new.cluster_ips.iter().map(|text| family_of(text)).collect();
    match families[..] {
        [_, _, _, ..] => return Err(Invalid::TooManyClusterIps),
        [first, second] if first == second => return Err(Invalid::ClusterIpsOfOneFamily),
        _ => {}
    }
    if families
        .iter()
        .zip(&new.families)
        .any(|(of_address, declared)| of_address != declared)
    {
        return Err(Invalid::ClusterIpOfOtherFamily);
    }
    Ok(())
}

/// Since 1.36 a new value is taken in one spelling only: no leading zeros, and no IPv4 inside IPv6 (KEP-4858).
fn is_strict(text: &str) -> bool {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => true,
        Ok(IpAddr::V6(addr)) => Ipv6Addr::to_ipv4_mapped(&addr).is_none(),
        Err(_) => false,
    }
}

/// Policy `SingleStack` alone is clear: it takes the second address and family with it where they are repeated.
fn downgrade(new: &mut Draft, old: &Draft, policy: FamilyPolicy) -> Result<(), Invalid> {
    if policy == FamilyPolicy::SingleStack {
        if new.cluster_ips == old.cluster_ips {
            new.cluster_ips.truncate(1);
        }
        if new.families == old.families {
            new.families.truncate(1);
        }
        return Ok(());
    }
    let reduced = |new: usize, old: usize| 0 < new && new < old;
    if reduced(new.cluster_ips.len(), old.cluster_ips.len())
        || reduced(new.families.len(), old.families.len())
    {
        return Err(Invalid::DowngradeWithoutPolicy);
    }
    Ok(())
}

fn families_of_addresses(new: &mut Draft, cluster: ClusterFamilies) -> Result<(), Invalid> {
    if new.is_headless() {
        return Ok(());
    }
    for text in new.cluster_ips.iter().skip(new.families.len()) {
        let family = family_of(text);
        if !cluster.has(family) {
            return Err(Invalid::FamilyNotConfigured);
        }
        new.families.push(family);
    }
    Ok(())
}
