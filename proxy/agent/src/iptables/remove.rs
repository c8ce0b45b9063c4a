// SPDX-License-Identifier: Apache-2.0
//! Removes our chains.

use std::ffi::OsStr;

use berth_proxy_core::iptables::Installed;

use super::{Programs, Variant, families};
use crate::Error;

/// Whose chains are removed: kube-proxy's have the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Ours: where our mark is missing they are kube-proxy's and stay.
    Ours,
    /// Ours and kube-proxy's.
    Anybody,
}

/// Removes chains from both families and both variants' tables. Programs that are missing have left nothing behind.
/// Yields how many there were.
///
/// # Errors
/// The kernel refused.
pub async fn remove(path: &OsStr, whose: Whose) -> Result<usize, Error> {
    let mut removed = 0;
    for variant in Variant::ALL {
        for family in families() {
            let programs = match Programs::find(path, variant, family) {
                Ok(programs) => programs,
                Err(missing) => {
                    tracing::debug!(%variant, %family, %missing, "nothing to remove");
                    continue;
                }
            };
            match (remove_family(&programs, whose).await, variant) {
                (Ok(chains), _) => removed += chains,
                (Err(error), Variant::Default) => return Err(error),
                // The kernel may lack that variant's tables, which then hold nothing.
                (Err(error), Variant::Nft | Variant::Legacy) => {
                    tracing::debug!(%variant, %family, %error, "not looked at");
                }
            }
        }
    }
    Ok(removed)
}

async fn remove_family(programs: &Programs, whose: Whose) -> Result<usize, Error> {
    let family = programs.family();
    let installed = Installed::read(family, &programs.save().await?);
    if installed.is_empty() || (whose == Whose::Ours && !installed.is_ours()) {
        return Ok(0);
    }
    programs.restore(&installed.removal(family)).await?;
    for (table, chain) in installed.referred() {
        tracing::warn!(%family, %table, %chain, "emptied and left: a rule of somebody else's refers to it");
    }
    Ok(installed.len())
}
