// SPDX-License-Identifier: Apache-2.0
//! Topology mode: zones get endpoints in proportion to the CPU of their Nodes (KEP-2433).
//!
//! ```text
//! Nodes -> ZoneShares --\
//! drafts of a family ----> hint -> zone hints, or why there are none
//! HintState (before) ----> turn -> HintState (after), events
//! Nodes changed -> TopologyBook::due -> Services to plan again
//! ```
//!
//! The arithmetic is upstream's, in the same order on the same floats, so equal clusters get equal
//! numbers of hints per zone. Which endpoint of a zone is lent, and to which of several zones in
//! need, depends on the iteration order of maps upstream; here it is the order of names.

mod allocate;
mod book;
mod cpu;
mod hint;
mod shares;
mod verdict;

#[cfg(test)]
mod tests;

pub use book::TopologyBook;
pub use cpu::Cpu;
pub use shares::ZoneShares;
pub use verdict::{HintState, HintsOff, TopologyEvent};

pub(crate) use hint::{Written, hint, is_ready};
pub(crate) use verdict::Verdict;
