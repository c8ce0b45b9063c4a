// SPDX-License-Identifier: Apache-2.0
//! Object metadata, short.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use super::Texts;

/// A uid: sixteen bytes where it is a UUID as Kubernetes writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cache) enum Uid {
    Uuid([u8; 16]),
    Text(Box<str>),
}

impl Uid {
    pub(super) fn of(text: &str) -> Self {
        let digits: String = text.split('-').collect();
        match u128::from_str_radix(&digits, 16) {
            Ok(number) if uuid(number) == text => Self::Uuid(number.to_be_bytes()),
            Ok(_) | Err(_) => Self::Text(text.into()),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Uuid(bytes) => uuid(u128::from_be_bytes(*bytes)),
            Self::Text(text) => text.to_string(),
        }
    }
}

/// RFC 9562, section 4.
fn uuid(number: u128) -> String {
    let digits = format!("{number:032x}");
    let (a, rest) = digits.split_at(8);
    let (b, rest) = rest.split_at(4);
    let (c, rest) = rest.split_at(4);
    let (d, e) = rest.split_at(4);
    format!("{a}-{b}-{c}-{d}-{e}")
}

#[derive(Clone, Debug)]
struct Owner {
    api_version: Arc<str>,
    kind: Arc<str>,
    name: Arc<str>,
    uid: Uid,
    controller: Option<bool>,
    block_owner_deletion: Option<bool>,
}

impl Owner {
    fn pack(owner: &OwnerReference, texts: &mut Texts) -> Self {
        Self {
            api_version: texts.get(&*owner.api_version),
            kind: texts.get(&*owner.kind),
            name: texts.get(&*owner.name),
            uid: Uid::of(&owner.uid),
            controller: owner.controller,
            block_owner_deletion: owner.block_owner_deletion,
        }
    }

    fn unpack(&self) -> OwnerReference {
        OwnerReference {
            api_version: self.api_version.to_string(),
            kind: self.kind.to_string(),
            name: self.name.to_string(),
            uid: self.uid.text(),
            controller: self.controller,
            block_owner_deletion: self.block_owner_deletion,
        }
    }
}

/// Pairs of texts, in order.
pub(super) type Pairs = Option<Box<[(Arc<str>, Arc<str>)]>>;

/// The metadata of an object.
#[derive(Clone, Debug)]
pub(in crate::cache) struct Meta {
    pub(super) namespace: Arc<str>,
    name: Arc<str>,
    generate_name: Option<Arc<str>>,
    pub(super) uid: Uid,
    pub(super) version: Box<str>,
    generation: Option<i64>,
    created: Option<Time>,
    deleted: Option<Time>,
    deletion_grace: Option<i64>,
    labels: Pairs,
    annotations: Pairs,
    owners: Option<Box<[Owner]>>,
}

impl Meta {
    pub(super) fn pack(meta: &ObjectMeta, texts: &mut Texts) -> Option<Self> {
        let ObjectMeta {
            annotations,
            creation_timestamp,
            deletion_grace_period_seconds,
            deletion_timestamp,
            finalizers: None,
            generate_name,
            generation,
            labels,
            managed_fields: None,
            name: Some(name),
            namespace: Some(namespace),
            owner_references,
            resource_version: Some(version),
            self_link: None,
            uid: Some(uid),
        } = meta
        else {
            return None;
        };
        let owners = owner_references.as_ref().map(|owners| {
            let owners = owners.iter().map(|owner| Owner::pack(owner, texts));
            owners.collect()
        });
        Some(Self {
            namespace: texts.get(&**namespace),
            name: name.as_str().into(),
            generate_name: generate_name.as_deref().map(|name| texts.get(name)),
            uid: Uid::of(uid),
            version: version.as_str().into(),
            generation: *generation,
            created: creation_timestamp.clone(),
            deleted: deletion_timestamp.clone(),
            deletion_grace: *deletion_grace_period_seconds,
            labels: pack_pairs(labels.as_ref(), texts),
            annotations: pack_pairs(annotations.as_ref(), texts),
            owners,
        })
    }

    pub(super) fn unpack(&self) -> ObjectMeta {
        let owners = self.owners.as_ref();
        ObjectMeta {
            annotations: unpack_pairs(&self.annotations),
            creation_timestamp: self.created.clone(),
            deletion_grace_period_seconds: self.deletion_grace,
            deletion_timestamp: self.deleted.clone(),
            finalizers: None,
            generate_name: self.generate_name.as_deref().map(str::to_owned),
            generation: self.generation,
            labels: unpack_pairs(&self.labels),
            managed_fields: None,
            name: Some(self.name.to_string()),
            namespace: Some(self.namespace.to_string()),
            owner_references: owners.map(|owners| owners.iter().map(Owner::unpack).collect()),
            resource_version: Some(self.version.to_string()),
            self_link: None,
            uid: Some(self.uid.text()),
        }
    }
}

pub(super) fn pack_pairs(pairs: Option<&BTreeMap<String, String>>, texts: &mut Texts) -> Pairs {
    pairs.map(|pairs| {
        pairs
            .iter()
            .map(|(key, value)| (texts.get(&**key), texts.get(&**value)))
            .collect()
    })
}

pub(super) fn unpack_pairs(pairs: &Pairs) -> Option<BTreeMap<String, String>> {
    pairs.as_ref().map(|pairs| {
        pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect()
    })
}
