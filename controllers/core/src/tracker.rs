// SPDX-License-Identifier: Apache-2.0
//! Own writes that the cache does not show yet.
//!
//! A plan made from a cache that lags behind its own writes doubles slices or fights itself. The
//! trackers remember what was written and say when the cache is still behind: retry then, write nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

/// How the cache is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stale {
    /// A slice is cached in an older generation than was written.
    OlderGeneration {
        /// The slice's name.
        slice: String,
    },
    /// A slice that was deleted is still cached.
    Deleted {
        /// The slice's name.
        slice: String,
    },
    /// A slice that was written is not cached yet.
    Missing {
        /// The slice's uid.
        uid: String,
    },
    /// Endpoints are cached in the resource version that an update replaced.
    Replaced {
        /// That resource version.
        resource_version: String,
    },
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OlderGeneration { slice } => write!(f, "slice {slice} is cached in an older generation"),
            Self::Deleted { slice } => write!(f, "slice {slice} is deleted but still cached"),
            Self::Missing { uid } => write!(f, "the slice of uid {uid} is written but not cached yet"),
            Self::Replaced { resource_version } => {
                write!(f, "Endpoints are still cached in version {resource_version}")
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// At least this generation.
    Generation(i64),
    /// Gone.
    Deleted,
}

/// Slices written and deleted, per Service.
#[derive(Clone, Debug, Default)]
pub struct SliceTracker {
    services: BTreeMap<ServiceKey, BTreeMap<Box<str>, Expected>>,
}

fn uid_of(slice: &EndpointSlice) -> &str {
    slice.metadata.uid.as_deref().unwrap_or_default()
}

impl SliceTracker {
    /// Whether the cached slices of a Service, all of this controller's, are behind.
    ///
    /// Slices being deleted count as present and never as stale: a foreign finalizer may hold them
    /// for long (<https://github.com/kubernetes/kubernetes/issues/108779>).
    pub fn stale<'a>(
        &self,
        key: &ServiceKey,
        cached: impl IntoIterator<Item = &'a EndpointSlice>,
    ) -> Option<Stale> {
        let tracked = self.services.get(key)?;
        let mut present: Vec<&str> = Vec::new();
        for slice in cached {
            present.push(uid_of(slice));
            if slice.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let name = || slice.metadata.name.clone().unwrap_or_default();
            match tracked.get(uid_of(slice)) {
                Some(Expected::Deleted) => return Some(Stale::Deleted { slice: name() }),
                Some(Expected::Generation(least)) if slice.metadata.generation.unwrap_or(0) < *least => {
                    return Some(Stale::OlderGeneration { slice: name() });
                }
                Some(Expected::Generation(_)) | None => {}
            }
        }
        present.sort_unstable();
        tracked
            .iter()
            .find(|(uid, expected)| {
                **expected != Expected::Deleted && present.binary_search(&&***uid).is_err()
            })
            .map(|(uid, _)| Stale::Missing { uid: uid.to_string() })
    }

    /// Notes the API server's answer to a create or update: the metadata of what it stored.
    pub fn written(&mut self, key: &ServiceKey, stored: &ObjectMeta) {
        let generation = stored.generation.unwrap_or(0);
        let uid = stored.uid.as_deref().unwrap_or_default();
        let tracked = self.services.entry(key.clone()).or_default();
        tracked.insert(uid.into(), Expected::Generation(generation));
    }

    /// Notes that a deletion was accepted.
    pub fn deleted(&mut self, key: &ServiceKey, uid: &str) {
        let tracked = self.services.entry(key.clone()).or_default();
        tracked.insert(uid.into(), Expected::Deleted);
    }

    /// A slice appeared or changed in the cache: whether its Service needs a look, because this is
    /// not (only) what was written here.
    pub fn is_news(&self, key: &ServiceKey, slice: &EndpointSlice) -> bool {
        match self
            .services
            .get(key)
            .and_then(|tracked| tracked.get(uid_of(slice)))
        {
            Some(Expected::Generation(written)) => slice.metadata.generation.unwrap_or(0) > *written,
            Some(Expected::Deleted) => false,
            None => true,
        }
    }

    /// A slice left the cache: whether its Service needs a look, because nobody here deleted it.
    /// Upstream overlooks slices that it has not written since it started.
    pub fn vanished(&mut self, key: &ServiceKey, uid: &str) -> bool {
        let Some(tracked) = self.services.get_mut(key) else {
            return true;
        };
        let expected = tracked.remove(uid);
        if tracked.is_empty() {
            self.services.remove(key);
        }
        expected != Some(Expected::Deleted)
    }

    /// A complete list, begun after the last write, does not hold these uids: what is tracked beyond
    /// it was deleted unseen. Returns the Services that need a look.
    pub fn relisted(&mut self, exists: impl Fn(&str) -> bool) -> Vec<ServiceKey> {
        let mut changed = Vec::new();
        self.services.retain(|key, tracked| {
            let before = tracked.len();
            tracked.retain(|uid, _| exists(uid));
            if tracked.len() < before {
                changed.push(key.clone());
            }
            !tracked.is_empty()
        });
        changed
    }

    /// Forgets a Service that is gone.
    pub fn forget(&mut self, key: &ServiceKey) {
        self.services.remove(key);
    }
}

/// Versions of Endpoints that updates replaced, and those that they led to.
#[derive(Clone, Debug, Default)]
pub struct EndpointsTracker {
    updates: BTreeMap<ServiceKey, Update>,
}

#[derive(Clone, Debug)]
struct Update {
    replaced: Box<str>,
    /// As a number, where it is one.
    answered: Option<u64>,
}

impl EndpointsTracker {
    /// Whether the cached Endpoints are behind: older than what the last update led to. Versions are
    /// compared as numbers (KEP-5504); of versions that are none only the replaced one is known to be
    /// older. A watch that starts over may show several older ones.
    pub fn stale(&self, key: &ServiceKey, cached: Option<&Endpoints>) -> Option<Stale> {
        let version = cached?.metadata.resource_version.as_deref()?;
        let update = self.updates.get(key)?;
        let older = match (version.parse::<u64>(), update.answered) {
            (Ok(version), Some(answered)) => version < answered,
            (Ok(_) | Err(_), _) => *update.replaced == *version,
        };
        older.then(|| Stale::Replaced {
            resource_version: version.to_owned(),
        })
    }

    /// Notes an update: the metadata as sent, and as the API server answered. An update that changed
    /// nothing keeps its version and is not noted: no newer version will ever come
    /// (<https://github.com/kubernetes/kubernetes/issues/126578>).
    pub fn updated(&mut self, key: &ServiceKey, sent: &ObjectMeta, answered: &ObjectMeta) {
        let before = sent.resource_version.as_deref();
        let after = answered.resource_version.as_deref();
        if let Some(before) = before.filter(|_| before != after) {
            let update = Update {
                replaced: before.into(),
                answered: after.and_then(|version| version.parse().ok()),
            };
            self.updates.insert(key.clone(), update);
        }
    }

    /// The cache moved on, or the Service is gone: nothing to remember.
    pub fn forget(&mut self, key: &ServiceKey) {
        self.updates.remove(key);
    }
}

/// Endpoints whose write met a conflict, with the cached version that the plan was made from.
///
/// What is cached is known to be outdated, so every plan made from it would meet the same conflict, however often
/// Pods and the Service ask for one. A watch that starts over after a restart of the API server can be behind for
/// seconds.
#[derive(Clone, Debug, Default)]
pub struct Conflicts {
    met: BTreeMap<ServiceKey, Conflict>,
}

#[derive(Clone, Debug)]
struct Conflict {
    /// Absent where nothing was cached.
    version: Option<Box<str>>,
    times: u32,
    until: Timestamp,
}

impl Conflicts {
    /// How long a first conflict rests at most; each further one over the same version rests twice as long.
    pub const FIRST: Duration = Duration::from_secs(1);
    /// How long any conflict rests at most: news that never comes must not end a Service's Endpoints.
    pub const LONGEST: Duration = Duration::from_secs(60);

    /// Notes a conflict of a plan made from this cached version.
    pub fn met(&mut self, key: &ServiceKey, cached: Option<&str>, now: Timestamp) {
        let before = self.met.get(key).filter(|met| met.version.as_deref() == cached);
        let times = before.map_or(0, |met| met.times.saturating_add(1));
        let rest = Self::FIRST.saturating_mul(1 << times.min(10)).min(Self::LONGEST);
        let conflict = Conflict {
            version: cached.map(Into::into),
            times,
            until: now.saturating_add(rest).unwrap_or(now),
        };
        self.met.insert(key.clone(), conflict);
    }

    /// Whether a plan made from this cached version would meet the conflict again.
    pub fn rests(&self, key: &ServiceKey, cached: Option<&str>, now: Timestamp) -> bool {
        let met = self.met.get(key);
        met.is_some_and(|met| met.version.as_deref() == cached && now < met.until)
    }

    /// A write went well, or the cache moved on.
    pub fn over(&mut self, key: &ServiceKey) {
        self.met.remove(key);
    }
}

#[cfg(test)]
mod tests;
