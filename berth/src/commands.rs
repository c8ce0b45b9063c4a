// SPDX-License-Identifier: Apache-2.0
//! One file per subcommand.

pub(crate) mod crds;
pub(crate) mod plan;
