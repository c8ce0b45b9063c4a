// SPDX-License-Identifier: Apache-2.0
//! Addresses that a status may list without our having seen it: those of writes on their way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::Service;

/// Per Service and address, the version on which a write that lists the address was planned.
///
/// A write names the version that it was planned on, so once a later version has been seen, the write is in it
/// or was refused; until then neither is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Offers {
    by_service: BTreeMap<ServiceKey, BTreeMap<IpAddr, String>>,
}

impl Offers {
    /// These addresses are in the status of this version, or in a write that is planned on it.
    pub(super) fn make(
        &mut self,
        key: &ServiceKey,
        service: &Service,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) {
        // Objects without a version come from files: nothing is on its way.
        let Some(version) = &service.metadata.resource_version else {
            return;
        };
        for address in addresses {
            let offers = self.by_service.entry(key.clone()).or_default();
            let known = offers.entry(address).or_insert_with(|| version.clone());
            if is_later(version, known) {
                version.clone_into(known);
            }
        }
    }

    /// What may be in the status beside what this version of the Service lists. Forgets what is settled.
    pub(super) fn open(&mut self, key: &ServiceKey, service: Option<&Service>) -> BTreeSet<IpAddr> {
        let seen = service.and_then(|service| service.metadata.resource_version.as_deref());
        let (Some(offers), Some(seen)) = (self.by_service.get_mut(key), seen) else {
            self.by_service.remove(key);
            return BTreeSet::new();
        };
        offers.retain(|_, version| !is_later(seen, version));
        let open: BTreeSet<IpAddr> = offers.keys().copied().collect();
        if open.is_empty() {
            self.by_service.remove(key);
        }
        open
    }
}

/// Versions of one object compare as numbers (KEP-5504); where they are none, another one is a later one.
fn is_later(seen: &str, than: &str) -> bool {
    match (seen.parse::<u128>(), than.parse::<u128>()) {
        (Ok(seen), Ok(than)) => seen > than,
        (Ok(_) | Err(_), Ok(_) | Err(_)) => seen != than,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Service {
        let mut service = Service::default();
        service.metadata.resource_version = Some(text.to_owned());
        service
    }

    #[test]
    fn an_offer_stands_until_a_later_version_is_seen() {
        let (key, address) = (ServiceKey::new("shop", "web"), "10.0.0.1".parse().unwrap());
        for (made_on, seen, stands) in [
            ("9", Some("9"), true),
            ("10", Some("9"), true),
            ("9", Some("10"), false),
            ("a", Some("a"), true),
            ("a", Some("b"), false),
            ("9", None, false),
        ] {
            let mut offers = Offers::default();
            offers.make(&key, &version(made_on), [address]);
            let seen = seen.map(version);
            let open = offers.open(&key, seen.as_ref());
            assert_eq!(open.contains(&address), stands, "{made_on} {seen:?}");
        }
    }
}
