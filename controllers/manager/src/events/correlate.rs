// SPDX-License-Identifier: Apache-2.0
//! Which events are worth a request: repeats are counted, similar ones combined, chatter is dropped.
//!
//! The limits are those of client-go's event correlator (tools/record), which operators are used to.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::{Note, Reporter};

/// Objects remembered at once.
const SUBJECTS: usize = 4096;
/// Different texts of one reason before they are combined.
const TEXTS: usize = 10;
/// Seconds without an event after which texts are forgotten.
const FORGET_AFTER: i64 = 600;
/// Events about one object at once.
const BURST: i64 = 25;
/// Seconds in which one more event about an object is earned.
const EARN: i64 = 300;

/// What is to be done about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Create it.
    Create(Posted),
    /// Write another count and time into the one that was created.
    Repeat(Posted),
    /// Nothing: the object has had enough events.
    Drop,
}

/// One event object, as it should read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Posted {
    /// The event's name.
    pub(super) name: String,
    /// How often it happened.
    pub(super) count: i32,
    /// When it happened first.
    pub(super) first: Timestamp,
    /// The text to show.
    pub(super) text: String,
}

/// About what, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    reporter: Reporter,
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    warning: bool,
}

#[derive(Clone, Debug, Default)]
struct Told {
    /// The second at which all that was said would be earned.
    earned: i64,
    last: i64,
    reasons: BTreeMap<&'static str, Reason>,
}

#[derive(Clone, Debug, Default)]
struct Reason {
    last: i64,
    by_text: BTreeMap<String, Posted>,
    combined: Option<Posted>,
}

/// What was said about which object.
#[derive(Debug, Default)]
pub(super) struct Correlator {
    subjects: BTreeMap<Subject, Told>,
}

impl Correlator {
    /// Judges one more event.
    pub(super) fn judge(&mut self, note: &Note, now: Timestamp) -> Verdict {
        let second = now.as_second();
        let subject = Subject {
            reporter: note.reporter,
            kind: note.about.kind.clone(),
            namespace: note.about.namespace.clone(),
            name: note.about.name.clone(),
            uid: note.about.uid.clone(),
            warning: note.warning,
        };
        self.make_room(&subject, second);
        let told = self.subjects.entry(subject).or_default();
        told.last = second;
        if told.earned > second + (BURST - 1) * EARN {
            return Verdict::Drop;
        }
        told.earned = told.earned.max(second) + EARN;
        let reason = told.reasons.entry(note.reason).or_default();
        if second - reason.last > FORGET_AFTER {
            *reason = Reason::default();
        }
        reason.last = second;
        reason.judge(note, now)
    }

    /// Forgets the event of this name: it is gone from the API server.
    pub(super) fn forget(&mut self, name: &str) {
        for told in self.subjects.values_mut() {
            for reason in told.reasons.values_mut() {
                reason.by_text.retain(|_, posted| posted.name != name);
                reason.combined = reason.combined.take().filter(|posted| posted.name != name);
            }
        }
    }

    fn make_room(&mut self, subject: &Subject, second: i64) {
        if self.subjects.len() < SUBJECTS || self.subjects.contains_key(subject) {
            return;
        }
        self.subjects
            .retain(|_, told| second - told.last <= FORGET_AFTER && told.last <= second);
        if self.subjects.len() >= SUBJECTS
            && let Some(oldest) = self
                .subjects
                .iter()
                .min_by_key(|(_, told)| told.last)
                .map(|(subject, _)| subject.clone())
        {
            self.subjects.remove(&oldest);
        }
    }
}

impl Reason {
    fn judge(&mut self, note: &Note, now: Timestamp) -> Verdict {
        let combine = !self.by_text.contains_key(&note.text) && self.by_text.len() + 1 >= TEXTS;
        let before = if combine {
            self.combined.as_mut()
        } else {
            self.by_text.get_mut(&note.text)
        };
        let text = if combine {
            format!("(combined from similar events): {}", note.text)
        } else {
            note.text.clone()
        };
        if let Some(posted) = before {
            posted.count = posted.count.saturating_add(1);
            posted.text = text;
            return Verdict::Repeat(posted.clone());
        }
        let posted = Posted {
            name: event_name(note.about.name.as_deref().unwrap_or_default(), now),
            count: 1,
            first: now,
            text,
        };
        if combine {
            self.combined = Some(posted.clone());
        } else {
            self.by_text.insert(note.text.clone(), posted.clone());
        }
        Verdict::Create(posted)
    }
}

/// The object's name and the moment, as client-go names events; names have 253 characters at most, and no colon as those of
/// IPAddresses have.
fn event_name(object: &str, now: Timestamp) -> String {
    let moment = format!("{:x}", now.as_nanosecond());
    let room = 253 - 1 - moment.len();
    let object: String = object.chars().take(room).collect();
    let object = object.replace(':', "-");
    format!("{}.{moment}", object.trim_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;

    fn mk_note(name: &str, reason: &'static str, text: &str) -> Note {
        Note {
            reporter: crate::Controller::EndpointSlices.into(),
            about: ObjectReference {
                name: Some(name.to_owned()),
                ..ObjectReference::default()
            },
            warning: true,
            reason,
            text: text.to_owned(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Kind of verdict and count.
    fn told(verdict: &Verdict) -> (&'static str, i32) {
        match verdict {
            Verdict::Create(posted) => ("create", posted.count),
            Verdict::Repeat(posted) => ("repeat", posted.count),
            Verdict::Drop => ("drop", 0),
        }
    }

    #[test]
    fn the_same_event_again_is_counted_in_the_same_object() {
        let mut correlator = Correlator::default();
        let note = mk_note("web", "FailedToUpdateEndpointSlices", "no");
        let Verdict::Create(first) = correlator.judge(&note, at(100)) else {
            panic!("a first event is created");
        };
        let Verdict::Repeat(again) = correlator.judge(&note, at(130)) else {
            panic!("a second one is a repeat");
        };
        assert_eq!((&again.name, again.count, again.first), (&first.name, 2, at(100)));
        let other = mk_note("web", "InvalidIPAddress", "no");
        assert_eq!(told(&correlator.judge(&other, at(130))), ("create", 1));
        assert_eq!(
            told(&correlator.judge(&note, at(130 + FORGET_AFTER + 1))),
            ("create", 1)
        );
    }

    #[test]
    fn many_texts_of_one_reason_are_combined() {
        let mut correlator = Correlator::default();
        let mut judge = |n: usize| correlator.judge(&mk_note("web", "Failed", &format!("no {n}")), at(100));
        for n in 0..9 {
            assert_eq!(told(&judge(n)), ("create", 1), "{n}");
        }
        assert_eq!(told(&judge(9)), ("create", 1));
        let Verdict::Repeat(combined) = judge(10) else {
            panic!("further texts go into the combined event");
        };
        assert_eq!(combined.text, "(combined from similar events): no 10");
        assert_eq!(
            told(&judge(3)),
            ("repeat", 2),
            "a text of its own event stays there"
        );
    }

    #[test]
    fn an_object_has_25_events_and_one_more_every_five_minutes() {
        let mut correlator = Correlator::default();
        let mut judge = |name: &str, second| {
            let verdict = correlator.judge(&mk_note(name, "Failed", "no"), at(second));
            told(&verdict).0
        };
        let spoken = (0..100).filter(|_| judge("web", 1000) != "drop").count();
        assert_eq!(spoken, 25);
        assert_eq!(judge("other", 1000), "create");
        assert_eq!(judge("web", 1000 + EARN - 1), "drop");
        assert_eq!(judge("web", 1000 + EARN), "repeat");
        assert_eq!(judge("web", 1000 + EARN), "drop");
    }

    #[test]
    fn a_forgotten_event_is_created_anew() {
        let mut correlator = Correlator::default();
        let note = mk_note("web", "Failed", "no");
        let Verdict::Create(first) = correlator.judge(&note, at(100)) else {
            panic!("a first event is created");
        };
        correlator.forget(&first.name);
        assert_eq!(told(&correlator.judge(&note, at(101))), ("create", 1));
    }

    #[test]
    fn the_number_of_objects_remembered_is_bounded() {
        let mut correlator = Correlator::default();
        for n in 0..SUBJECTS + 50 {
            let second = 100 + i64::try_from(n).unwrap() / 100;
            correlator.judge(&mk_note(&format!("web-{n}"), "Failed", "no"), at(second));
        }
        assert_eq!(correlator.subjects.len(), SUBJECTS);
    }

    #[test]
    fn names_of_events_are_valid() {
        assert_eq!(event_name("web", at(1)), "web.3b9aca00");
        assert_eq!(event_name("fd00:10::a", at(1)), "fd00-10--a.3b9aca00");
        assert_eq!(event_name("fd00::", at(1)), "fd00.3b9aca00");
        let long = event_name(&"a".repeat(253), at(1));
        assert_eq!(long.len(), 253);
    }
}
