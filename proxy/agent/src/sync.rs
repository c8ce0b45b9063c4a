// SPDX-License-Identifier: Apache-2.0
//! From the view to the kernel, one turn at a time, whatever the backend.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_model::{ServiceKey, View};
use berth_proxy_core::conntrack::{Flows, StaleFlows};
use berth_proxy_core::{Intent, Settings, Touched};

use crate::Error;
use crate::apply::conntrack::{Conntrack, Pass};
use crate::backend::{Backend, Done};

/// Keeps the kernel as the view wants it: intent and clean-up of conntrack; the rest is the backend's.
#[derive(Debug)]
pub struct Syncer<B> {
    backend: B,
    conntrack: Conntrack,
    intent: Intent,
    /// What the intent's updates touched and no turn has carried out yet.
    pending: Touched,
    flows: Flows,
    stale: StaleFlows,
    refused: BTreeMap<ServiceKey, String>,
}

impl<B: Backend> Syncer<B> {
    /// A syncer that wants nothing yet. The backend has the same settings.
    pub fn new(backend: B, settings: Settings) -> Self {
        Self {
            backend,
            conntrack: Conntrack::default(),
            intent: Intent::empty(settings),
            pending: Touched::default(),
            flows: Flows::default(),
            stale: StaleFlows::default(),
            refused: BTreeMap::new(),
        }
    }

    /// What is wanted, as of the last [`Syncer::take`].
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// What carries it out.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Services that the kernel refuses, each with its reason, as of the last turn.
    pub fn refused(&self) -> &BTreeMap<ServiceKey, String> {
        &self.refused
    }

    /// What clean-ups of conntrack did since the last call.
    pub fn take_passes(&mut self) -> Vec<Pass> {
        self.conntrack.take_passes()
    }

    /// Takes in what changed of the view. Writes nothing.
    pub fn take(&mut self, view: &View, dirty: &BTreeSet<ServiceKey>) {
        let touched = self.intent.update(view, dirty);
        self.touched(touched);
    }

    /// Takes in what changed of the settings: zone, node addresses, node-port addresses, Pod networks and the rest.
    /// Writes nothing.
    pub fn reconfigure(&mut self, settings: Settings, view: &View) {
        self.backend.reconfigure(&settings);
        let touched = self.intent.reconfigure(settings, view);
        self.touched(touched);
    }

    fn touched(&mut self, touched: Touched) {
        self.stale.merge(self.flows.changed(&touched, &self.intent));
        self.pending.merge(touched);
    }

    /// How long until something is left to do without any change; `None` if nothing is.
    pub fn next_wake(&self) -> Option<Duration> {
        self.backend.next_wake()
    }

    /// Looks whether somebody else changed what is ours, and has the next turn look closer if so; says whether it has.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub async fn glance(&mut self) -> Result<bool, Error> {
        self.backend.glance().await
    }

    /// Has the next turn look the kernel up anew if anybody else may have changed what is ours.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub async fn audit(&mut self) -> Result<(), Error> {
        self.backend.audit().await
    }

    /// Has what the kernel holds looked up ahead of the first turn.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub async fn prepare(&mut self) -> Result<(), Error> {
        self.backend.prepare().await
    }

    /// One turn: carries out what there is to do in both families.
    ///
    /// # Errors
    /// The kernel refused or could not be read. What was committed holds; the next turn looks the
    /// kernel up and goes on from there.
    pub async fn turn(&mut self) -> Result<Done, Error> {
        let turned = self.backend.turn(&self.intent, &self.pending).await?;
        self.pending = Touched::default();
        self.stale.merge(turned.stale);
        self.refused = turned.refused;
        let mut done = turned.done;
        if !self.stale.is_empty() {
            match self.conntrack.forget(&self.stale).await {
                Ok(forgotten) => {
                    done.forgotten = forgotten;
                    self.stale = StaleFlows::default();
                }
                // The rules are written, which is what matters; the next turn tries again.
                Err(error) => tracing::warn!(%error, "stale UDP flows not deleted"),
            }
        }
        Ok(done)
    }
}
