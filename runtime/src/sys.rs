// SPDX-License-Identifier: Apache-2.0
//! The one place for system calls that no safe wrapper offers.

pub mod packet;
pub mod xtables;
