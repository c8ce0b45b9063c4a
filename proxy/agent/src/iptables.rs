// SPDX-License-Identifier: Apache-2.0
//! The iptables backend: kube-proxy's chains, written by `iptables-restore`.
//!
//! What the kernel holds is read when it is not known: at start, after a failure, and when the canaries are gone. After
//! that each turn writes what changed, without reading.

mod program;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_model::{IpFamily, Protocol};
use berth_proxy_core::conntrack::StaleFlows;
use berth_proxy_core::iptables::names::{Fixed, Table};
use berth_proxy_core::iptables::{Choices, Installed, Wanted};
use berth_proxy_core::{Intent, Settings, Touched};

pub use program::{Programs, Variant};

use crate::Error;
use crate::apply::nft::Counters;
use crate::backend::{Backend, Done, Turned};

/// Not 0 where conntrack takes packets out of a TCP window for good.
const BE_LIBERAL: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";
/// There where the kernel has IPv6.
const IPV6: &str = "/proc/net/if_inet6";
/// How many clients xt_recent remembers in a list, and there is one list per endpoint.
const CLIENTS: &str = "/sys/module/xt_recent/parameters/ip_list_tot";

/// One family's tables.
#[derive(Debug)]
struct Tables {
    programs: Programs,
    /// What the kernel holds; `None` when that is not known.
    wanted: Option<Wanted>,
}

/// Keeps kube-proxy's chains in both families.
#[derive(Debug)]
pub struct Iptables {
    families: Vec<Tables>,
    limit_said: bool,
}

impl Iptables {
    /// With the programs found in `path`, a value of PATH. A kernel without IPv6 has no such rules.
    ///
    /// # Errors
    /// A program is missing.
    pub fn open(path: &OsStr, variant: Variant) -> Result<Self, Error> {
        let families = families().map(|family| {
            let programs = Programs::find(path, variant, family)?;
            Ok(Tables {
                programs,
                wanted: None,
            })
        });
        Ok(Self {
            families: families.collect::<Result<_, Error>>()?,
            limit_said: false,
        })
    }

    /// Whether the kernel can be read, which takes the privileges that writing takes.
    ///
    /// # Errors
    /// It cannot.
    pub async fn check(&self) -> Result<(), Error> {
        for tables in &self.families {
            tables.programs.save().await?;
        }
        Ok(())
    }

    /// xt_recent's limit is no secret, and nobody notices when it is met.
    fn say_limit(&mut self, intent: &Intent) {
        let wished = intent
            .frontends()
            .any(|(_, found)| found.affinity != berth_model::SessionAffinity::None);
        if self.limit_said || !wished {
            return;
        }
        self.limit_said = true;
        let clients = fs::read_to_string(CLIENTS).unwrap_or_default();
        tracing::info!(
            clients_per_endpoint = clients.trim(),
            "session affinity: an endpoint remembers this many clients, and forgets the oldest for a new one; \
             the parameter ip_list_tot of the module xt_recent raises it"
        );
    }
}

impl Backend for Iptables {
    fn reconfigure(&mut self, _settings: &Settings) {
        for tables in &mut self.families {
            tables.wanted = None;
        }
    }

    async fn turn(&mut self, intent: &Intent, touched: &Touched) -> Result<Turned, Error> {
        self.say_limit(intent);
        let mut turned = Turned::default();
        let mut failed = None;
        // What goes wrong in one family is no reason to keep the other one waiting.
        for tables in &mut self.families {
            if let Err(error) = tables.turn(intent, touched, &mut turned).await {
                tables.wanted = None;
                match &failed {
                    None => failed = Some(error),
                    Some(_) => tracing::warn!(%error, "the other family's rules are not written either"),
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(turned),
        }
    }

    async fn audit(&mut self) -> Result<(), Error> {
        for tables in &mut self.families {
            for table in Table::ALL {
                if !tables.programs.has_chain(table, Fixed::Canary).await? {
                    tables.wanted = None;
                }
            }
        }
        Ok(())
    }

    fn next_wake(&self) -> Option<Duration> {
        None
    }

    fn elements(&self) -> Vec<(IpFamily, usize)> {
        let known = |tables: &Tables| Some((tables.programs.family(), tables.wanted.as_ref()?.len()));
        self.families.iter().filter_map(known).collect()
    }

    async fn counters(&self, _family: IpFamily) -> Result<Option<Counters>, Error> {
        Ok(None)
    }
}

impl Tables {
    async fn turn(&mut self, intent: &Intent, touched: &Touched, turned: &mut Turned) -> Result<(), Error> {
        let Some(wanted) = &mut self.wanted else {
            return self.read_and_write(intent, turned).await;
        };
        let plan = wanted.update(intent, touched);
        self.programs.restore(&plan).await?;
        turned.done.changes += plan.lines();
        Ok(())
    }

    async fn read_and_write(&mut self, intent: &Intent, turned: &mut Turned) -> Result<(), Error> {
        let family = self.programs.family();
        let listed = self.programs.save().await?;
        let installed = Installed::read(family, &listed);
        drop(listed);
        if !installed.is_empty() && !installed.is_ours() {
            tracing::warn!(
                %family,
                "the chains of a kube-proxy in iptables mode are here, and are taken over; it must not run beside \
                 berth proxy in this mode"
            );
        }
        turned.stale.merge(unclaimed(&installed, intent));
        let (wanted, plan) = Wanted::full(family, intent, choices(), &installed);
        self.programs.restore(&plan).await?;
        tracing::info!(%family, found = installed.len(), lines = plan.lines(), "rules compared");
        turned.done.merge(Done {
            rebuilt: usize::from(!installed.is_ours()),
            changes: plan.lines(),
            ..Done::default()
        });
        self.wanted = Some(wanted);
        Ok(())
    }
}

/// Those that the kernel has: without IPv6 there is nothing to write, nor anything that was left.
fn families() -> impl Iterator<Item = IpFamily> {
    let with = |family: &IpFamily| *family == IpFamily::V4 || Path::new(IPV6).exists();
    IpFamily::ALL.into_iter().filter(with)
}

fn choices() -> Choices {
    let liberal = fs::read_to_string(BE_LIBERAL).is_ok_and(|text| text.trim() != "0");
    Choices {
        drop_invalid: !liberal,
        ..Choices::default()
    }
}

/// UDP frontends of Services that went while nobody watched.
fn unclaimed(installed: &Installed, intent: &Intent) -> StaleFlows {
    let frontends = installed.frontends().into_iter();
    let unclaimed =
        frontends.filter(|frontend| frontend.protocol() == Protocol::Udp && intent.get(frontend).is_none());
    StaleFlows {
        allowed: unclaimed.map(|frontend| (frontend, Arc::from([]))).collect(),
    }
}

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
