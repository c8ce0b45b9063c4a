// SPDX-License-Identifier: Apache-2.0
//! The trimmed ServiceCIDR: from which networks ClusterIPs are given.

use std::sync::Arc;

/// A ServiceCIDR of `networking.k8s.io/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Its name; that of the API server's own is `kubernetes`.
    pub name: Arc<str>,
    /// `spec.cidrs`, as they are written there.
    pub cidrs: Vec<String>,
}

impl k8s_openapi::Resource for ServiceCidr {
    const API_VERSION: &'static str = "networking.k8s.io/v1";
    const GROUP: &'static str = "networking.k8s.io";
    const KIND: &'static str = "ServiceCIDR";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "servicecidrs";
    type Scope = k8s_openapi::ClusterResourceScope;
}
