// SPDX-License-Identifier: Apache-2.0
//! Carries plans out. What the kernel refuses of a server is one Service's matter: that one is left as far as it got, and
//! the others are served.

use std::collections::BTreeMap;

use berth_model::{IpFamily, ServiceKey};
use berth_proxy_core::ipvs::{Change, Installed, Member, Plan, ServerKey, Socket};
use berth_proxy_core::{Frontend, Intent};

use super::{Ipvs, families};
use crate::Error;
use crate::backend::Done;

/// Whose changes are.
struct Owners<'a> {
    intent: &'a Intent,
    /// Which socket's second server a mark leads to.
    steered: BTreeMap<(IpFamily, u32), Socket>,
}

impl<'a> Owners<'a> {
    fn of(plan: &Plan, installed: Option<&Installed>, intent: &'a Intent) -> Self {
        let known = installed.into_iter().flat_map(Installed::steered);
        let new = plan.changes().filter_map(|change| match change {
            Change::Join(_, Member::Steered(socket, mark)) => Some(((socket.family(), *mark), *socket)),
            Change::Join(..)
            | Change::Leave(..)
            | Change::AddServer(..)
            | Change::EditServer(..)
            | Change::RemoveServer(_)
            | Change::AddDestination(..)
            | Change::Weigh(..)
            | Change::RemoveDestination(..)
            | Change::Bind(_)
            | Change::Unbind(_) => None,
        });
        Self {
            intent,
            steered: known.chain(new).collect(),
        }
    }

    /// The Service that a change is about; `None` if it is about all, or about one that is gone.
    fn owner(&self, change: &Change) -> Option<&ServiceKey> {
        let socket = match change {
            Change::AddServer(key, _)
            | Change::EditServer(key, _)
            | Change::RemoveServer(key)
            | Change::AddDestination(key, _)
            | Change::Weigh(key, ..)
            | Change::RemoveDestination(key, _) => match key {
                ServerKey::Socket(socket) => socket,
                ServerKey::Mark { family, mark } => self.steered.get(&(*family, *mark))?,
            },
            Change::Join(_, member) | Change::Leave(_, member) => match member {
                Member::Socket(socket) | Member::Steered(socket, _) | Member::Source(socket, _) => socket,
                Member::Address(_) | Member::Net(_) | Member::Pair(_) => return None,
            },
            Change::Bind(_) | Change::Unbind(_) => return None,
        };
        let vip = Frontend::Vip {
            ip: socket.ip,
            protocol: socket.protocol,
            port: socket.port,
        };
        let node_port = Frontend::NodePort {
            family: socket.family(),
            protocol: socket.protocol,
            port: socket.port,
        };
        let found = self.intent.get(&vip).or_else(|| self.intent.get(&node_port))?;
        Some(&found.owner.service)
    }
}

impl Ipvs {
    /// Carries the plan out, but for what is about Services that are left alone.
    pub(super) async fn carry_out(
        &mut self,
        plan: &Plan,
        intent: &Intent,
        done: &mut Done,
    ) -> Result<(), Error> {
        let families = families();
        let owners = Owners::of(plan, self.installed.as_ref(), intent);
        let mut nobodys: Option<Error> = None;
        let mut refused: BTreeMap<ServiceKey, Error> = BTreeMap::new();
        let mut taken = 0;
        for stage in &plan.stages {
            let is_served = |change: &&Change| {
                let owner = owners.owner(change);
                let left = |owner| self.refused.contains(owner) || refused.contains_key(owner);
                families.contains(&change.family()) && !owner.is_some_and(left)
            };
            let served: Vec<Change> = stage.changes.iter().filter(is_served).copied().collect();
            for run in runs(&served) {
                let owner = run.first().and_then(|change| owners.owner(change));
                if owner.is_some_and(|owner| refused.contains_key(owner)) {
                    continue;
                }
                match self.write(run).await {
                    Ok(()) => {
                        done.changes += run.len();
                        taken += run.iter().filter(|change| change.is_of_server()).count();
                        let now = self.started.elapsed();
                        if let Some(installed) = &mut self.installed {
                            run.iter().for_each(|change| installed.apply(change, now));
                        }
                    }
                    Err(error @ (Error::Kernel { .. } | Error::Missing { .. }))
                        if run.iter().all(Change::is_of_server) =>
                    {
                        match owner {
                            Some(owner) if matches!(error, Error::Kernel { .. }) => {
                                refused.insert(owner.clone(), error);
                            }
                            // A scheduler that the kernel lacks is missing to all.
                            Some(_) | None => {
                                tracing::warn!(%error, "refused; the rest goes on");
                                nobodys.get_or_insert(error);
                            }
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        self.leave_out(refused, taken)?;
        nobodys.map_or(Ok(()), Err)
    }

    /// # Errors
    /// Nothing was taken of several Services: not one of them is at fault.
    fn leave_out(&mut self, refused: BTreeMap<ServiceKey, Error>, taken: usize) -> Result<(), Error> {
        if taken == 0 && refused.len() > 1 {
            return refused.into_values().next().map_or(Ok(()), Err);
        }
        for (service, error) in refused {
            self.refused.insert(service, error.to_string());
        }
        Ok(())
    }
}

/// Elements of sets that follow each other go together; everything else goes by itself.
fn runs(changes: &[Change]) -> impl Iterator<Item = &[Change]> {
    let of_sets = |change: &Change| matches!(change, Change::Join(..) | Change::Leave(..));
    changes.chunk_by(move |a, b| of_sets(a) && of_sets(b))
}
