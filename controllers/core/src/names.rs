// SPDX-License-Identifier: Apache-2.0
//! Label keys, annotation keys and values that end up in the API, in one place.
//!
//! The spellings are upstream's (Kubernetes 1.37 api and controller sources), so that Berth and
//! kube-controller-manager can take over from each other without a write.

/// Slice label: the Service it belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Slice label: which controller writes it.
pub const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Value of [`SLICE_MANAGED_BY`] on slices made from a selector.
pub const SLICE_CONTROLLER: &str = "endpointslice-controller.k8s.io";
/// Value of [`SLICE_MANAGED_BY`] on slices mirrored from hand-written Endpoints.
pub const MIRROR_CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints label: which controller writes it.
pub const ENDPOINTS_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Value of [`ENDPOINTS_MANAGED_BY`], and the source of the events of that controller.
pub const ENDPOINTS_CONTROLLER: &str = "endpoint-controller";
/// Label on Endpoints and slices of a Service without ClusterIP.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Endpoints label: `"true"` keeps the object from being mirrored.
pub const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation: when the change that led to this write happened.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Endpoints annotation: not every address fitted.
pub const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Value of [`OVER_CAPACITY`].
pub const TRUNCATED: &str = "truncated";
/// Annotation of Endpoints that carry a legacy leader-election record: no Service, never ours.
pub const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotation that kubectl writes.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Node label: its zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Node label, with any value: a control-plane Node.
pub const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// The older name of [`CONTROL_PLANE`].
pub const MASTER: &str = "node-role.kubernetes.io/master";
/// Service annotation: topology mode.
pub const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
/// The older name of [`TOPOLOGY_MODE`], which wins where both are set.
pub const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
