// SPDX-License-Identifier: Apache-2.0
//! The replica that hands out values, and those that ask it: `berth_controllers_core::holder` at work.
//!
//! In: what this replica is asked, other replicas' messages, the Lease. Out: messages, the Lease, answers. Touches: the
//! API server (one Lease) and TCP connections between replicas; what to do is all the core's.
//!
//! ```text
//!   Handout (ask, tell, look) --> Shell: one task, owns the Replica --> LeaseStore    (read, compare-and-swap)
//!                                   ^  what comes back is an event      Peers         (dial, accept, frames)
//!                                   +---------------------------------- Refresh       (list what the book is made of)
//! ```

mod lease;
mod peers;
mod shell;
mod wire;

use std::time::Duration;

use berth_controllers_core::holder::{Book, Outcome, OutcomeOf, Replica, ReplicaId};
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub use lease::LeaseStore;
pub use peers::Secure;
pub use shell::{Shell, Sites};

/// A book whose questions and answers can travel.
pub trait TravellingBook: Book<Wish: Travels, Grant: Travels, Refusal: Travels> + Send + 'static {}

impl<B: Book<Wish: Travels, Grant: Travels, Refusal: Travels> + Send + 'static> TravellingBook for B {}

/// What a message may consist of.
pub trait Travels: Serialize + DeserializeOwned + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Send + 'static> Travels for T {}

/// A change of the replica's book, made where the book is, at this time of the replica's clock.
pub type Change<B> = Box<dyn FnOnce(&mut Replica<B>, Duration) + Send>;

/// Lists everything that the book is made of, however often that takes, and yields the change that brings it in.
pub type Refresh<B> = Box<dyn Fn() -> BoxFuture<'static, Change<B>> + Send + Sync>;

enum Order<B: Book> {
    Ask {
        wish: B::Wish,
        until: Instant,
        answer: oneshot::Sender<OutcomeOf<B>>,
    },
    Change(Change<B>),
}

/// The way to this process's replica; cheap to clone.
pub struct Handout<B: Book> {
    id: ReplicaId,
    orders: mpsc::Sender<Order<B>>,
}

impl<B: Book> Clone for Handout<B> {
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            orders: self.orders.clone(),
        }
    }
}

impl<B: TravellingBook> Handout<B> {
    /// This replica's name: another with each process.
    pub fn id(&self) -> &ReplicaId {
        &self.id
    }

    /// Asks whoever hands out values, and waits for the answer until then; [`Outcome::Unavailable`] if there is none.
    pub async fn ask(&self, wish: B::Wish, within: Duration) -> OutcomeOf<B> {
        let (answer, answered) = oneshot::channel();
        let until = Instant::now() + within;
        let order = Order::Ask { wish, until, answer };
        if self.orders.send(order).await.is_err() {
            return Outcome::Unavailable;
        }
        // The replica answers at its deadline by itself: this is for one that has ended.
        answered.await.unwrap_or(Outcome::Unavailable)
    }

    /// Changes the book, behind everything that was ordered before.
    pub async fn change(&self, change: impl FnOnce(&mut Replica<B>, Duration) + Send + 'static) {
        // A replica that has ended needs no news.
        let _ended = self.orders.send(Order::Change(Box::new(change))).await;
    }

    /// Reads something off the replica; nothing where it has ended.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Replica<B>, Duration) -> T + Send + 'static,
    ) -> Option<T> {
        let (seen, sees) = oneshot::channel();
        self.change(move |replica, now| {
            // Whoever asked may have gone.
            let _gone = seen.send(look(replica, now));
        })
        .await;
        sees.await.ok()
    }
}
