// SPDX-License-Identifier: Apache-2.0
//! The book's place among the watches: what they show goes in, in their order, and it says when it must have all of it anew.
//!
//! A refresh restarts the watches, instead of listing beside them: a list that overtakes a watch would be undone by what
//! the watch still has to show, and a value that is in use would be free for a moment.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_controllers_core::admission::ClusterFamilies;
use berth_controllers_core::enforcement::Observed;
use berth_controllers_core::values::Values;
use futures::FutureExt;
use kube::Client;
use tokio::sync::watch;

use crate::audit::{AddressAuditor, AuditMetrics, Auditor};
use crate::feed::Kind;
use crate::handout::{Change, Handout, Refresh};
use crate::upkeep::Upkeep;

/// The kinds that the book is made of.
pub(crate) const KINDS: [Kind; 7] = [
    Kind::ServiceCidrs,
    Kind::IpAddresses,
    Kind::Namespaces,
    Kind::AddressPools,
    Kind::NodePortPools,
    Kind::AddressClaims,
    Kind::Services,
];

/// What others go by, once everything was listed.
#[derive(Clone)]
pub(super) struct Ground {
    /// Those of the cluster: reviews are answered from then on.
    pub(super) families: watch::Sender<Option<ClusterFamilies>>,
    /// Whether there is anything to choose: as long as there is, the webhook is registered.
    pub(super) has_pools: watch::Sender<Option<bool>>,
    /// Whether any pool goes by the labels of namespaces.
    pub(super) goes_by_labels: watch::Sender<bool>,
    /// What API servers are to enforce follows from it.
    pub(super) observed: watch::Sender<Option<Observed>>,
}

impl Ground {
    pub(super) fn unknown() -> Self {
        Self {
            families: watch::Sender::new(None),
            has_pools: watch::Sender::new(None),
            goes_by_labels: watch::Sender::new(false),
            observed: watch::Sender::new(None),
        }
    }
}

/// How often each kind was listed anew.
type Lists = BTreeMap<Kind, u64>;

/// The lists that the book wants, and those that it has.
pub(super) struct Relisting {
    wanted: watch::Sender<u64>,
    listed: watch::Sender<Lists>,
}

impl Relisting {
    pub(super) fn new() -> Self {
        Self {
            wanted: watch::Sender::new(0),
            listed: watch::Sender::new(Lists::new()),
        }
    }

    /// Has every kind listed anew, and ends when the book has all of it.
    pub(super) fn refresh(&self) -> Refresh<Values> {
        let (wanted, listed) = (self.wanted.clone(), self.listed.clone());
        Box::new(move || {
            let mut number = 0;
            wanted.send_modify(|wanted| {
                *wanted += 1;
                number = *wanted;
            });
            let mut listed = listed.subscribe();
            async move {
                let complete = |lists: &Lists| {
                    KINDS
                        .iter()
                        .all(|kind| lists.get(kind).is_some_and(|of| *of >= number))
                };
                if listed.wait_for(complete).await.is_err() {
                    // The watches are gone, and the process with them.
                    std::future::pending::<()>().await;
                }
                // What was listed is in the book already.
                Box::new(|_: &mut _, _| ()) as Change<Values>
            }
            .boxed()
        })
    }

    pub(super) fn feed(&self, handout: Handout<Values>, ground: Ground) -> BookFeed {
        BookFeed {
            handout,
            wanted: self.wanted.subscribe(),
            listed: self.listed.clone(),
            ground,
            changes: watch::Sender::new(0),
        }
    }
}

/// Where watches tell the book what they see.
#[derive(Clone)]
pub(crate) struct BookFeed {
    handout: Handout<Values>,
    wanted: watch::Receiver<u64>,
    listed: watch::Sender<Lists>,
    ground: Ground,
    /// Goes up with all that the book is told.
    changes: watch::Sender<u64>,
}

impl BookFeed {
    /// The number of the list that is wanted now: to be taken before the watch is opened.
    pub(crate) fn wanted(&mut self) -> u64 {
        *self.wanted.borrow_and_update()
    }

    /// Ends when another list is wanted than the last one taken.
    pub(crate) async fn wants_another(&mut self) {
        if self.wanted.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The book, for whoever looks at it when it has changed.
    pub(super) fn auditor(&self, metrics: AuditMetrics) -> Auditor {
        Auditor::new(self.handout.clone(), self.changes.subscribe(), metrics)
    }

    /// The same, for whoever compares it with IPAddresses.
    pub(super) fn address_auditor(
        &self,
        client: &Client,
        period: Duration,
        metrics: AuditMetrics,
    ) -> AddressAuditor {
        let has_pools = self.ground.has_pools.subscribe();
        AddressAuditor::new(client.clone(), self.handout.clone(), has_pools, period, metrics)
    }

    /// What API servers are to enforce.
    pub(super) fn observed(&self) -> watch::Receiver<Option<Observed>> {
        self.ground.observed.subscribe()
    }

    /// The same, for whoever writes down what follows from it.
    pub(super) fn upkeep(&self) -> Upkeep {
        Upkeep::new(self.handout.clone(), self.changes.subscribe())
    }

    /// Tells the book what a watch shows.
    pub(crate) async fn tell(&self, kind: Kind, change: Change<Values>) {
        self.handout.change(change).await;
        self.changes.send_modify(|changes| *changes += 1);
        let is_ground = matches!(
            kind,
            Kind::ServiceCidrs | Kind::AddressPools | Kind::NodePortPools
        );
        if is_ground && self.is_complete() {
            self.show_ground().await;
        }
        if is_enforced(kind) && self.is_complete() {
            self.show_observed().await;
        }
    }

    /// The list of this number is complete, and all of it was told.
    pub(crate) async fn complete(&self, kind: Kind, number: u64) {
        // The book takes orders in turn: it has the list when it answers.
        self.handout.look(|_, _| ()).await;
        self.listed.send_modify(|listed| {
            listed.insert(kind, number);
        });
        if self.is_complete() {
            self.show_ground().await;
            self.show_observed().await;
        }
    }

    fn is_complete(&self) -> bool {
        self.listed.borrow().len() == KINDS.len()
    }

    async fn show_ground(&self) {
        let seen = self.handout.look(|replica, _| {
            let book = replica.book();
            (book.families(), book.has_pools(), book.goes_by_namespace_labels())
        });
        if let Some((families, has_pools, goes_by_labels)) = seen.await {
            show(&self.ground.goes_by_labels, goes_by_labels);
            show(&self.ground.families, families);
            show(&self.ground.has_pools, Some(has_pools));
        }
    }

    async fn show_observed(&self) {
        let seen = self.handout.look(|replica, _| replica.book().observed());
        if let Some(observed) = seen.await {
            self.ground.observed.send_replace(Some(observed));
        }
    }
}

/// Whether what API servers are to enforce follows from a kind.
fn is_enforced(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::AddressPools | Kind::NodePortPools | Kind::AddressClaims
    )
}

fn show<T: PartialEq>(shown: &watch::Sender<T>, value: T) {
    shown.send_if_modified(|shown| {
        let is_new = *shown != value;
        *shown = value;
        is_new
    });
}
