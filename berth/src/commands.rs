// SPDX-License-Identifier: Apache-2.0
//! One file per subcommand; the daemons share one.

pub(crate) mod crds;
pub(crate) mod daemon;
pub(crate) mod plan;
pub(crate) mod pools;
pub(crate) mod uninstall;
