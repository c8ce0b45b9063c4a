// SPDX-License-Identifier: Apache-2.0
//! What to ask the API server next, after each thing that it said or failed to say. Pure.
//!
//! ```text
//!             +--- bookmark: initial events end ---+
//!  Streaming -+                                    +--> Watching --- 410, garbage --> anew
//!      |      +--- refused: Paged, to the end -----+      |  ^
//!      |                                           |      +--+ broken off: from the last version
//!      |                Whole, to the end ---------+
//!      +--------------- broken off: anew
//! ```
//! Anew is Streaming or Whole, as was chosen for the kind.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_snapshot::wire::Refusal;

use super::ObjectKey;
use crate::client::Fault;

/// A watch that has shown a bookmark shows one each minute (apiserver, `defaultBookmarkFrequency`).
const BOOKMARKS_MISSED: Duration = Duration::from_secs(180);
/// The first object of a streaming list comes as soon as the server's cache is fresh, which it waits
/// three seconds for (apiserver, `blockTimeout`).
const LIST_STALLED: Duration = Duration::from_secs(30);
/// What a server may take to end a watch that is over.
const GRACE: Duration = Duration::from_secs(10);
/// A watch that ends sooner, without a word, did not end in good order.
const SHORT: Duration = Duration::from_secs(1);

/// How what exists is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Lists {
    /// As the start of the watch, object by object.
    #[default]
    Streaming,
    /// As a list, in one answer.
    Whole,
}

/// The next request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// A watch that starts with every object that exists (KEP-3157).
    StreamList,
    /// A list of everything.
    List,
    /// A page of a list.
    Page {
        /// Where it starts; empty for the first.
        next: String,
    },
    /// A watch from where we are.
    Watch {
        /// The last version seen.
        version: String,
    },
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server says no, in its answer or within the watch.
    Refused(Refusal),
    /// The request or the stream failed on its way.
    Broken(Fault, String),
    /// Nothing came for this long.
    Silent(Duration),
    /// What came cannot be read.
    Malformed(String),
    /// The server ended the watch.
    Ended {
        /// How long it lasted.
        after: Duration,
        /// Whether it brought anything.
        useful: bool,
    },
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Ask again at once: this is how watches go.
    Again,
    /// Ask for pages from now on: this server has no streaming lists.
    FallBack(String),
    /// List anew at once: history has gone on without us, and each moment of it is old news for whoever plans from it.
    ListAnew(Fault, String),
    /// Ask again after a pause.
    Pause(Fault, String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Streaming,
    Whole,
    Paged { next: String },
    Watching { version: String },
}

/// Where a watch stands.
#[derive(Debug)]
pub(super) struct Session {
    lists: Lists,
    phase: Phase,
    /// The keys of the list under way.
    keys: BTreeSet<ObjectKey>,
    /// Whether a watch has brought anything since the last list.
    moved: bool,
    /// Whether this connection has brought a bookmark.
    bookmarked: bool,
}

impl Session {
    /// Nothing was asked for yet.
    pub(super) fn new(lists: Lists) -> Self {
        Self {
            lists,
            phase: anew(lists),
            keys: BTreeSet::new(),
            moved: true,
            bookmarked: false,
        }
    }

    /// The next request. A list starts from nothing.
    pub(super) fn ask(&mut self) -> Ask {
        self.bookmarked = false;
        match &self.phase {
            Phase::Streaming => {
                self.keys.clear();
                Ask::StreamList
            }
            Phase::Whole => {
                self.keys.clear();
                Ask::List
            }
            Phase::Paged { next } => {
                if next.is_empty() {
                    self.keys.clear();
                }
                Ask::Page { next: next.clone() }
            }
            Phase::Watching { version } => Ask::Watch {
                version: version.clone(),
            },
        }
    }

    /// Whether a list is under way.
    pub(super) fn is_listing(&self) -> bool {
        match self.phase {
            Phase::Streaming | Phase::Whole | Phase::Paged { .. } => true,
            Phase::Watching { .. } => false,
        }
    }

    /// An object was sent.
    pub(super) fn applied(&mut self, key: &ObjectKey, version: &str) {
        if self.is_listing() {
            self.keys.insert(key.clone());
        }
        self.reached(version);
    }

    /// An object went. This can happen while the initial events are still coming.
    pub(super) fn deleted(&mut self, key: &ObjectKey, version: &str) {
        self.keys.remove(key);
        self.reached(version);
    }

    /// Everything up to this version was sent. Yields the keys of a list that is complete by that.
    pub(super) fn bookmark(
        &mut self,
        version: &str,
        initial_events_end: bool,
    ) -> Option<BTreeSet<ObjectKey>> {
        match self.phase {
            Phase::Streaming if initial_events_end => Some(self.complete(version)),
            Phase::Streaming | Phase::Whole | Phase::Paged { .. } => None,
            Phase::Watching { .. } => {
                self.bookmarked = true;
                self.reached(version);
                None
            }
        }
    }

    /// A list is read, or a page of it. Yields the keys of a list that is complete by that.
    pub(super) fn page(&mut self, version: &str, next: &str) -> Option<BTreeSet<ObjectKey>> {
        if next.is_empty() {
            return Some(self.complete(version));
        }
        self.phase = Phase::Paged {
            next: next.to_owned(),
        };
        None
    }

    /// How long the stream may be silent, on a watch that the server is asked to end after `timeout`.
    pub(super) fn patience(&self, timeout: Duration) -> Duration {
        if self.is_listing() {
            LIST_STALLED
        } else if self.bookmarked {
            BOOKMARKS_MISSED
        } else {
            timeout + GRACE
        }
    }

    /// Takes in what went wrong.
    pub(super) fn failed(&mut self, trouble: Trouble) -> Reaction {
        match trouble {
            Trouble::Refused(refusal) => self.refused(&refusal),
            Trouble::Broken(fault, text) => Reaction::Pause(fault, text),
            Trouble::Malformed(text) => {
                self.phase = anew(self.lists);
                Reaction::Pause(Fault::Malformed, text)
            }
            Trouble::Silent(after) => self.unfinished(format!("nothing came for {after:?}")),
            Trouble::Ended { after, useful } if !self.is_listing() && (useful || after >= SHORT) => {
                Reaction::Again
            }
            Trouble::Ended { after, .. } => self.unfinished(format!("the watch ended after {after:?}")),
        }
    }

    fn refused(&mut self, refusal: &Refusal) -> Reaction {
        let text = text_of(refusal);
        let invalid = matches!(refusal.code, 400 | 422);
        match &self.phase {
            Phase::Streaming if invalid => {
                self.phase = Phase::Paged { next: String::new() };
                return Reaction::FallBack(text);
            }
            Phase::Paged { .. } if refusal.code == 410 => self.phase = Phase::Paged { next: String::new() },
            Phase::Watching { .. } if refusal.code == 410 || invalid || is_ahead(refusal) => {
                self.phase = anew(self.lists);
                // A server that forgets what it has just listed is left in peace.
                if refusal.code == 410 && self.moved {
                    return Reaction::ListAnew(Fault::Expired, text);
                }
            }
            Phase::Streaming | Phase::Whole | Phase::Paged { .. } | Phase::Watching { .. } => {}
        }
        Reaction::Pause(Fault::of_code(refusal.code), text)
    }

    /// A streaming list that stalls is a server whose etcd does not report progress: pages work there.
    fn unfinished(&mut self, text: String) -> Reaction {
        if self.phase == Phase::Streaming {
            self.phase = Phase::Paged { next: String::new() };
        }
        Reaction::Pause(Fault::Timeout, text)
    }

    /// Objects of a list come in no order of their versions: only a watch's versions are remembered.
    fn reached(&mut self, reached: &str) {
        if let Phase::Watching { version } = &mut self.phase
            && !reached.is_empty()
        {
            self.moved = true;
            version.clear();
            version.push_str(reached);
        }
    }

    fn complete(&mut self, version: &str) -> BTreeSet<ObjectKey> {
        self.moved = false;
        self.phase = Phase::Watching {
            version: version.to_owned(),
        };
        std::mem::take(&mut self.keys)
    }
}

fn anew(lists: Lists) -> Phase {
    match lists {
        Lists::Streaming => Phase::Streaming,
        Lists::Whole => Phase::Whole,
    }
}

/// The server has not reached our version: it was restored from a backup, or lags far behind another.
fn is_ahead(refusal: &Refusal) -> bool {
    refusal
        .causes
        .iter()
        .any(|cause| cause == "ResourceVersionTooLarge")
}

fn text_of(refusal: &Refusal) -> String {
    let Refusal {
        code,
        reason,
        message,
        ..
    } = refusal;
    if *code == 404 {
        return "404: the API server does not serve this kind".to_owned();
    }
    format!("{code} {reason}: {message}")
}

#[cfg(test)]
mod tests;
