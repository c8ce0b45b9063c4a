// SPDX-License-Identifier: Apache-2.0
//! The nftables backend: typed objects, the static layout, text, and staged plans of elements.

pub mod diff;
pub mod layout;
pub mod objects;
pub mod plan;
pub mod render;
pub mod slots;
pub mod state;

pub use diff::{Scope, diff};
pub use layout::Layout;
pub use objects::{Action, BaseChain, Chain, Element, Field, Hook, Key, Match, Rule};
pub use plan::{Change, Plan, Stage, StageKind};
pub use render::{script, table_text};
pub use state::{FrontendState, Installed};

#[cfg(test)]
mod tests;
