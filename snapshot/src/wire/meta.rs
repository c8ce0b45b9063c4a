// SPDX-License-Identifier: Apache-2.0
//! `meta/v1` messages that several kinds carry (field numbers of Kubernetes 1.37).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;

use super::envelope::open;
use super::field::{Field, Fields, Malformed, entry};

/// Takes the metadata out of an answer of kind `PartialObjectMetadata`, in its envelope; all but `managedFields`.
///
/// # Errors
/// What is wrong with it.
pub fn partial_object_metadata(body: &[u8]) -> Result<ObjectMeta, Malformed> {
    let mut meta = ObjectMeta::default();
    for field in Fields::of(open(body, "PartialObjectMetadata")?) {
        let field = field?;
        if field.number == 1 {
            meta = object_meta(field.bytes()?)?;
        }
    }
    Ok(meta)
}

/// All of an object's metadata but `managedFields`.
pub(super) fn object_meta(bytes: &[u8]) -> Result<ObjectMeta, Malformed> {
    let mut meta = ObjectMeta::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => meta.name = field.filled()?,
            2 => meta.generate_name = field.filled()?,
            3 => meta.namespace = field.filled()?,
            4 => meta.self_link = field.filled()?,
            5 => meta.uid = field.filled()?,
            6 => meta.resource_version = field.filled()?,
            7 => meta.generation = Some(field.int64()?).filter(|generation| *generation != 0),
            8 => meta.creation_timestamp = time(field)?.map(Time),
            9 => meta.deletion_timestamp = time(field)?.map(Time),
            10 => meta.deletion_grace_period_seconds = Some(field.int64()?),
            11 => pair(&mut meta.labels, field)?,
            12 => pair(&mut meta.annotations, field)?,
            13 => push(&mut meta.owner_references, owner_reference(field.bytes()?)?),
            14 => push(&mut meta.finalizers, field.string()?),
            _ => {}
        }
    }
    Ok(meta)
}

fn owner_reference(bytes: &[u8]) -> Result<OwnerReference, Malformed> {
    let mut owner = OwnerReference::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => owner.kind = field.string()?,
            3 => owner.name = field.string()?,
            4 => owner.uid = field.string()?,
            5 => owner.api_version = field.string()?,
            6 => owner.controller = Some(field.bool()?),
            7 => owner.block_owner_deletion = Some(field.bool()?),
            _ => {}
        }
    }
    Ok(owner)
}

/// A `meta/v1` Condition.
pub(super) fn condition(bytes: &[u8]) -> Result<Condition, Malformed> {
    let mut condition = Condition {
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
        message: String::new(),
        observed_generation: None,
        reason: String::new(),
        status: String::new(),
        type_: String::new(),
    };
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => condition.type_ = field.string()?,
            2 => condition.status = field.string()?,
            3 => condition.observed_generation = Some(field.int64()?).filter(|generation| *generation != 0),
            4 => condition.last_transition_time = Time(time(field)?.unwrap_or_default()),
            5 => condition.reason = field.string()?,
            6 => condition.message = field.string()?,
            _ => {}
        }
    }
    Ok(condition)
}

/// A time, to the second as Kubernetes keeps it. Go's zero time has no bytes and is none.
pub(super) fn time(field: Field<'_>) -> Result<Option<Timestamp>, Malformed> {
    let bytes = field.bytes()?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut seconds = 0;
    for inner in Fields::of(bytes) {
        let inner = inner?;
        if inner.number == 1 {
            seconds = inner.int64()?;
        }
    }
    let time = Timestamp::from_second(seconds).map_err(|_| field.out_of_range())?;
    Ok(Some(time))
}

/// Adds an element to a list that is none while it is empty.
pub(super) fn push<T>(list: &mut Option<Vec<T>>, element: T) {
    list.get_or_insert_default().push(element);
}

/// Adds an entry to a map that is none while it is empty.
pub(super) fn pair(map: &mut Option<BTreeMap<String, String>>, field: Field<'_>) -> Result<(), Malformed> {
    let (key, value) = entry(field.bytes()?)?;
    map.get_or_insert_default()
        .insert(key.to_owned(), value.to_owned());
    Ok(())
}
