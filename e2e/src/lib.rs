// SPDX-License-Identifier: Apache-2.0
//! The real control plane for tests, and what the demo and the end-to-end tests share.

pub mod controlplane;
