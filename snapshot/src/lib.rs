// SPDX-License-Identifier: Apache-2.0
//! The doorway: where the optionals of the Kubernetes API end.
//!
//! In: Services, EndpointSlices, Pods and Nodes as the API server sends them. Out: `berth_model::View`, the
//! keys that changed, and a typed reason for everything that was left out. Touches: nothing.
//!
//! ```text
//!  Service       --convert-->  model::Service  --+
//!                                                +--> Index --> View, dirty keys
//!  EndpointSlice --convert-->  slice's endpoints +
//! ```
#![forbid(unsafe_code)]

mod address;
mod convert;
mod index;
pub mod intern;
pub mod node;
pub mod pod;
pub mod service_cidr;
mod slice;
pub mod wire;

pub use address::parse_lenient;
pub use convert::{Converted, Skip, convert_service, parse_ip};
pub use index::Index;
pub use slice::{SERVICE_NAME_LABEL, SliceEndpoints, SliceSkip, convert_slice};
