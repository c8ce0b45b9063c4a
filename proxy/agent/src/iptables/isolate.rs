// SPDX-License-Identifier: Apache-2.0
//! One Service whose rules are refused must not keep rules from the others. iptables-restore names the lines that it
//! cannot read, and in the nft variant those that the kernel refuses; where it names none that is a Service's, who it is
//! is found by halving.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::ServiceKey;
use berth_proxy_core::Intent;
use berth_proxy_core::iptables::{Installed, Plan, Wanted};

use super::halving::Halving;
use super::{Tables, choices, compared, unclaimed};
use crate::Error;
use crate::backend::{Done, Turned};

/// How often a turn tries: each try reads and writes tables, and other changes wait meanwhile. Two of 30,000 Services are
/// found with so many.
const MOST_TRIES: usize = 64;
/// What iptables says when somebody else holds the lock that its programs share: no refusal of what was to be written.
const LOCKED: &str = "xtables lock";

/// What was refused.
#[derive(Debug)]
struct Refusal {
    wanted: Wanted,
    plan: Plan,
    why: Error,
}

impl Refusal {
    /// The Services whose lines are named, each with what was said.
    fn named(&self) -> BTreeMap<ServiceKey, String> {
        let mut named = BTreeMap::new();
        if let Error::Refused {
            command,
            status,
            said,
            lines,
        } = &self.why
        {
            for line in lines {
                if let Some(service) = self.wanted.owner_of(line) {
                    let why = || format!("{command}: {status}: {said}; the line: {line}");
                    named.entry(service.clone()).or_insert_with(why);
                }
            }
        }
        named
    }
}

/// Whether an error may be about what was to be written.
fn is_about_rules(error: &Error) -> bool {
    match error {
        Error::Refused { said, .. } => !said.contains(LOCKED),
        Error::Privilege { .. }
        | Error::Kernel { .. }
        | Error::Unstable { .. }
        | Error::Program { .. }
        | Error::Missing { .. }
        | Error::Socket(_) => false,
    }
}

impl Tables {
    /// Writes what is not as it should be. A Service whose rules are refused is left as it is.
    pub(super) async fn read_and_write(&mut self, intent: &Intent, turned: &mut Turned) -> Result<(), Error> {
        self.look = None;
        let mut tries = 0;
        while let Some(refusal) = self.attempt(intent, &BTreeSet::new(), turned).await? {
            tries += 1;
            let named = refusal.named();
            if named.is_empty() || tries == MOST_TRIES {
                return self.halve(intent, refusal, turned).await;
            }
            self.leave_out(refusal, named)?;
        }
        Ok(())
    }

    /// Reads what is there and writes what is not as it should be, but for these Services and those that are known to be
    /// refused. Yields what was refused.
    async fn attempt(
        &mut self,
        intent: &Intent,
        but: &BTreeSet<ServiceKey>,
        turned: &mut Turned,
    ) -> Result<Option<Refusal>, Error> {
        let family = self.programs.family();
        let listed = self.programs.save().await?;
        self.foreign = false;
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
        let out = &self.refused.services() | but;
        let (wanted, plan) = Wanted::without(family, intent, choices(), &installed, &out);
        if let Err(why) = self.programs.restore(&plan).await {
            self.counts.refused += 1;
            return if is_about_rules(&why) {
                Ok(Some(Refusal { wanted, plan, why }))
            } else {
                Err(why)
            };
        }
        compared(family, &installed, &plan);
        self.counts.wrote(&plan);
        turned.done.merge(Done {
            rebuilt: usize::from(!installed.is_ours()),
            changes: plan.lines(),
            ..Done::default()
        });
        self.wanted = Some(wanted);
        Ok(None)
    }

    /// Leaves out the Services that the refusal names.
    ///
    /// # Errors
    /// The refusal, if there are several and no other Service: then it is hardly about them.
    fn leave_out(&mut self, refusal: Refusal, named: BTreeMap<ServiceKey, String>) -> Result<(), Error> {
        let out = &self.refused.services() | &named.keys().cloned().collect();
        if out.len() > 1 && !refusal.wanted.has_others(&out) {
            self.refused.clear();
            return Err(refusal.why);
        }
        for (service, why) in named {
            tracing::debug!(family = %refusal.wanted.family(), %service, why, "left out");
            self.refused.insert(service, why);
        }
        Ok(())
    }

    /// Writes what is not about any Service, and then the Services in groups; leaves out those that are refused alone, and
    /// when it takes too many tries those that are not told apart by then.
    ///
    /// # Errors
    /// What is not about any Service is refused, or there are several and none is taken: then it is hardly about them.
    async fn halve(&mut self, intent: &Intent, refusal: Refusal, turned: &mut Turned) -> Result<(), Error> {
        let mut services = refusal.wanted.written(&refusal.plan);
        // Otherwise those that are refused again and again would use up the tries of all others.
        services.sort_by_key(|service| self.blamed.contains(service));
        let all: BTreeSet<ServiceKey> = services.iter().cloned().collect();
        let mut halving = Halving::new(services);
        if halving.is_over() {
            return Err(refusal.why);
        }
        if let Some(refusal) = self.attempt(intent, &all, turned).await? {
            return Err(refusal.why);
        }
        let mut why = refusal.why;
        self.blame(halving.refused(), &why);
        for _ in 0..MOST_TRIES {
            if halving.is_over() {
                break;
            }
            let waiting = halving.waiting().cloned().collect();
            match self.attempt(intent, &waiting, turned).await? {
                None => halving.taken(),
                Some(refusal) => {
                    why = refusal.why;
                    self.blame(halving.refused(), &why);
                }
            }
        }
        self.give_up(halving.into_unknown().collect(), &why);
        if self.refused.len() > 1 && self.wanted.as_ref().is_none_or(Wanted::is_empty) {
            self.refused.clear();
            return Err(why);
        }
        // What was refused may have been written in part.
        let refusal = self.attempt(intent, &BTreeSet::new(), turned).await?;
        refusal.map_or(Ok(()), |refusal| Err(refusal.why))
    }

    fn blame(&mut self, service: Option<ServiceKey>, why: &Error) {
        if let Some(service) = service {
            tracing::debug!(family = %self.programs.family(), %service, %why, "left out");
            self.blamed.insert(service.clone());
            self.refused.insert(service, why.to_string());
        }
    }

    /// Those that are not told apart yet are tried again with those that are refused, and before them.
    fn give_up(&mut self, unknown: Vec<ServiceKey>, why: &Error) {
        if unknown.is_empty() {
            self.blamed.clear();
        }
        let count = unknown.len();
        for service in unknown {
            self.blamed.remove(&service);
            let why = format!("one or more of {count} Services, this among them, are refused: {why}");
            self.refused.insert(service, why);
        }
    }
}
