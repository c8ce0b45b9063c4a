// SPDX-License-Identifier: Apache-2.0
//! Services, slices and Endpoints as they are kept: a fifth of what the API's types take, and whole again for a
//! plan. What does not fit the usual shape is kept as it is.
//!
//! Managed fields are not kept: nobody reads them, and an object is written without them.

mod address;
mod endpoints;
mod meta;
mod service;
mod slice;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use berth_model::ServiceKey;
use berth_snapshot::intern::Interner;
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use meta::Meta;

pub(super) use endpoints::PackedEndpoints;
pub(super) use service::PackedService;
pub(super) use slice::PackedSlice;

/// Texts that many objects share: names of Nodes, zones, labels.
pub(super) type Texts = Interner<str>;

/// Namespace and name of an object, in texts that its kin share.
pub(super) fn shared_key(meta: &ObjectMeta, texts: &mut Texts) -> ServiceKey {
    let mut text = |text: &Option<String>| texts.get(text.as_deref().unwrap_or_default());
    ServiceKey::new(text(&meta.namespace), text(&meta.name))
}

/// The short form of an API object.
pub(super) trait Packed: Sized {
    /// The API object.
    type Object: Metadata<Ty = ObjectMeta> + Clone;

    /// Packs an object of the usual shape. What comes out of [`Packed::unpack`] equals it.
    fn pack(object: &Self::Object, texts: &mut Texts) -> Option<Self>;

    /// The object again.
    fn unpack(&self) -> Self::Object;

    /// Its metadata.
    fn meta(&self) -> &Meta;
}

/// An object as it is kept.
#[derive(Clone, Debug)]
pub(super) enum Kept<P: Packed> {
    Packed(Box<P>),
    Whole(Arc<P::Object>),
}

impl<P: Packed> Kept<P> {
    /// Keeps an object.
    pub(super) fn of(mut object: P::Object, texts: &mut Texts) -> Self {
        object.metadata_mut().managed_fields = None;
        match P::pack(&object, texts) {
            Some(packed) => Self::Packed(Box::new(packed)),
            None => Self::Whole(Arc::new(object)),
        }
    }

    /// Its uid.
    pub(super) fn uid(&self) -> String {
        match self {
            Self::Packed(packed) => packed.meta().uid.text(),
            Self::Whole(object) => object.metadata().uid.clone().unwrap_or_default(),
        }
    }

    /// Its version.
    pub(super) fn version(&self) -> Option<&str> {
        match self {
            Self::Packed(packed) => Some(&*packed.meta().version),
            Self::Whole(object) => object.metadata().resource_version.as_deref(),
        }
    }

    /// Whether this is of the same write: a relist repeats what is known.
    pub(super) fn is_of(&self, meta: &ObjectMeta) -> bool {
        let version = self.version();
        version.is_some()
            && version == meta.resource_version.as_deref()
            && self.uid() == meta.uid.as_deref().unwrap_or_default()
    }

    /// The object, for a plan.
    pub(super) fn object(&self) -> Arc<P::Object> {
        match self {
            Self::Packed(packed) => Arc::new(packed.unpack()),
            Self::Whole(object) => Arc::clone(object),
        }
    }
}
