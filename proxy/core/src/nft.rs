// SPDX-License-Identifier: Apache-2.0
//! The nftables backend: typed objects, the static layout, text, and staged plans of elements.

pub mod bindings;
mod diff;
pub mod layout;
pub mod objects;
mod pieces;
pub mod plan;
pub mod render;
pub mod slots;
pub mod state;
mod wishes;

use std::time::Duration;

use berth_model::IpFamily;

use crate::Intent;

pub use diff::{Scope, diff};
pub use layout::Layout;
pub use objects::{
    Action, BINDING_KEY, BINDINGS_SIZE, BaseChain, Chain, Element, Entry, Field, Hook, Key, Match, Rule,
};
pub use pieces::{least_elements, pieces};
pub use plan::{Change, Plan, Stage, StageKind};
pub use render::{script, table_text};
pub use state::{EntryState, Installed};
pub use wishes::Wishes;

/// The complete tables of both families as one script for `nft -f`: what a node that starts from nothing comes to
/// have. For people: `berth plan -o nft` and `berth proxy --dry-run`.
pub fn full_script(intent: &Intent) -> String {
    let table = |family| {
        let mut installed = Installed::default();
        let plan = diff(
            family,
            &installed,
            intent,
            Scope::All,
            Duration::ZERO,
            Duration::ZERO,
        );
        let layout = Layout::new(family, intent.settings()).grown_for(&plan);
        for stage in &plan.stages {
            installed.apply(stage, Duration::ZERO);
        }
        script(&layout, &installed.elements())
    };
    IpFamily::ALL.into_iter().map(table).collect()
}

#[cfg(test)]
mod tests;
