// SPDX-License-Identifier: Apache-2.0
//! Planning without a cluster: files in, the same planners as the daemons', plans out.

mod assume;
mod input;
mod outcome;

pub(crate) use assume::Assumer;
pub(crate) use input::Objects;
pub(crate) use outcome::{Outcome, plan};
