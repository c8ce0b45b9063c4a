// SPDX-License-Identifier: Apache-2.0
//! The seam between the webhook and whoever hands out values.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_controllers_core::admission::{Chosen, ClusterFamilies, Needs};
use berth_controllers_core::pools::Item;
use tokio::time::Instant;

/// What a review is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A Service is made: a PUT of a name that does not exist as well.
    Create,
    /// A Service is changed.
    Update,
}

/// What the webhook asks for. Every slot of `needs` is either to be chosen, or a wish that has to be allowed.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Whether the Service exists.
    pub operation: Operation,
    /// Of the request.
    pub namespace: &'a str,
    /// None where the API server makes it up later (`generateName`).
    pub name: Option<&'a str>,
    /// As the Service will have them, unless another webhook changes them.
    pub labels: &'a BTreeMap<String, String>,
    /// The same.
    pub annotations: &'a BTreeMap<String, String>,
    /// What is to be chosen and what is wished.
    pub needs: &'a Needs,
    /// The names of `spec.ports`, by index; empty where a port has none.
    pub ports: &'a [String],
    /// Of the stored Service. None on a create: the API server gives it after admission.
    pub old_uid: Option<&'a str>,
    /// What was chosen for it before, where it is reviewed once more: to be chosen again where it fits.
    pub had: &'a BTreeSet<Item>,
    /// Nothing may be held for it: there will be no Service.
    pub dry_run: bool,
    /// When an answer comes too late to be sent.
    pub deadline: Instant,
}

/// How a refusal is answered. What a client makes of it is written in the API conventions of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// 403: the pools do not allow it, and trying again does not help.
    Forbidden,
    /// 409: somebody else has the value.
    Conflict,
    /// 422: what the Service asks for makes no sense to the pools.
    Invalid,
    /// 429: nothing is left for now. client-go waits as long as it is told and tries again.
    Exhausted(Duration),
}

impl RefusalKind {
    /// The HTTP status.
    pub fn code(self) -> u16 {
        match self {
            Self::Forbidden => 403,
            Self::Conflict => 409,
            Self::Invalid => 422,
            Self::Exhausted(_) => 429,
        }
    }

    /// After how long it makes sense to try again.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Forbidden | Self::Conflict | Self::Invalid => None,
            Self::Exhausted(after) => Some(after),
        }
    }
}

/// Why a Service gets nothing, and is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The stable text form of the reason. It is the Status' reason too, which kubectl shows in parentheses.
    pub reason: &'static str,
    /// How it is answered.
    pub kind: RefusalKind,
    /// Which pool, why, and what would help.
    pub message: String,
    /// The field that it is about, as `spec.ports[0].nodePort`.
    pub field: Option<String>,
}

/// Nobody can say now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// The stable text form of the reason.
    pub reason: &'static str,
    /// Why, for logs.
    pub message: String,
}

/// What comes of an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// These values, and no objection to what is wished. What is missing is left to the API server.
    Chosen(Chosen),
    /// No.
    Refused(Refusal),
    /// Nobody can say now: [`UnavailablePolicy`](super::UnavailablePolicy) says what becomes of the Service.
    Unavailable(Unavailable),
}

/// Hands out values.
pub trait Chooser: Send + Sync + 'static {
    /// The families of the cluster's Service ranges; none as long as they are not known, and nothing is asked then.
    fn cluster(&self) -> Option<ClusterFamilies>;

    /// Which of these values were chosen for a Service of this name a moment ago, and not wished for; without a name, for any of
    /// the namespace that is yet to have one.
    fn chosen_before(
        &self,
        namespace: &str,
        name: Option<&str>,
        among: BTreeSet<Item>,
    ) -> impl Future<Output = BTreeSet<Item>> + Send {
        let _ = (namespace, name, among);
        std::future::ready(BTreeSet::new())
    }

    /// Chooses. May be dropped at `ask.deadline`, and has to be right then too: what it held lapses.
    fn choose(&self, ask: Ask<'_>) -> impl Future<Output = Choice> + Send;
}
