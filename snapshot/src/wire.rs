// SPDX-License-Identifier: Apache-2.0
//! Kubernetes objects in protobuf: as watches deliver them, read straight into the types that planners use, and as
//! controllers send them.
//!
//! ```text
//!  body of a watch --Frames--> frame --read_frame--> Applied(Object), Deleted(Object), Bookmark, Error
//!  body of a list  --List-->                         Object
//!  Object          --Wire::read--> Pod, Node, Service, Endpoints, EndpointSlice, ServiceCidr
//!  Endpoints, EndpointSlice --enveloped--> body of a request
//!  its answer --partial_object_metadata--> ObjectMeta
//! ```
//!
//! The reader is our own and not generated: what it does not know it skips by length, texts that repeat go
//! into a table without having been copied first, and there is no second set of types to convert from.

mod endpoints;
mod envelope;
mod field;
mod message;
mod meta;
mod node;
mod pod;
mod service;
mod service_cidr;
mod stream;
mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use envelope::{Frame, Object, Refusal, identify, open, read_frame, read_status};
pub use field::Malformed;
pub use message::Message;
pub use meta::partial_object_metadata;
pub use stream::{Frames, List};
pub use write::{Compose, enveloped};

/// Namespace and name of an object, as texts that its consumers share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// A kind that is read from protobuf.
pub trait Wire: k8s_openapi::Resource + Sized {
    /// What the objects of one watch have in common, kept between them.
    type Shared: Default + Send;

    /// Reads an object off its message, without envelope. `managedFields` are never read.
    ///
    /// # Errors
    /// What is wrong with the message.
    fn read(raw: &[u8], named: &Named, shared: &mut Self::Shared) -> Result<Self, Malformed>;

    /// The path of the kind, all namespaces.
    fn path() -> String {
        match Self::GROUP {
            "" => format!("/api/{}/{}", Self::VERSION, Self::URL_PATH_SEGMENT),
            group => format!("/apis/{group}/{}/{}", Self::VERSION, Self::URL_PATH_SEGMENT),
        }
    }
}
