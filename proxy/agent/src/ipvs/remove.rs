// SPDX-License-Identifier: Apache-2.0
//! Takes all of ours away.

use std::collections::BTreeSet;

use berth_proxy_core::Settings;
use berth_proxy_core::ipvs::names::SetName;
use berth_proxy_core::ipvs::{Change, MarkSpace, Member, ServerKey};

use super::link::Link;
use super::table::Table;
use super::{families, iptables, sets};
use crate::Error;

/// Removes everything of ours: servers that our sets or marks know or that are on our link, the link with its
/// addresses, rules and sets. Says whether there was anything. Our sets come first and go last: where there are none,
/// nothing is ours, nor is a link of that name.
///
/// # Errors
/// Missing privileges, or the kernel refused.
pub async fn remove() -> Result<bool, Error> {
    let ours = match sets::names().await {
        Ok(ours) => ours,
        // Without the program there never were any.
        Err(Error::Missing { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    if ours.is_empty() {
        return Ok(false);
    }
    let mut link = Link::open()?;
    link.find().await?;
    let bound = link.addresses().await?.bound;
    let claims = claims(sets::observe().await?);
    // Servers that drain and that no set leads to any more have the marks of the usual bit, if not of another.
    let space = MarkSpace::beside(Settings::default().mark);
    let table = Table::open().await?;
    for (key, _) in table.servers().await? {
        let is_ours = match &key {
            ServerKey::Mark { mark, .. } => space.has(*mark),
            ServerKey::Socket(socket) => bound.contains(&socket.ip),
        };
        if is_ours || claims.contains(&key) {
            table.apply(&Change::RemoveServer(key)).await?;
        }
    }
    link.remove().await?;
    for family in families() {
        iptables::remove(family).await?;
    }
    sets::destroy(&ours).await?;
    Ok(true)
}

/// Whether there is a link of the name that kube-proxy and we use, and it is not ours.
///
/// # Errors
/// The kernel cannot be asked.
pub async fn has_foreign_link() -> Result<bool, Error> {
    let ours = match sets::names().await {
        Ok(ours) => !ours.is_empty(),
        Err(Error::Missing { .. }) => false,
        Err(error) => return Err(error),
    };
    Ok(!ours && Link::open()?.find().await?.is_some())
}

/// The servers that our sets know: the bit of the mark that they were made with need not be known.
fn claims(members: Vec<(SetName, Member)>) -> BTreeSet<ServerKey> {
    let claim = |(set, member)| match (set, member) {
        (SetName::Sockets, Member::Socket(socket)) => Some(ServerKey::Socket(socket)),
        (_, Member::Steered(socket, mark)) => Some(ServerKey::Mark {
            family: socket.family(),
            mark,
        }),
        (
            _,
            Member::Socket(_) | Member::Source(..) | Member::Address(_) | Member::Net(_) | Member::Pair(_),
        ) => None,
    };
    members.into_iter().filter_map(claim).collect()
}
