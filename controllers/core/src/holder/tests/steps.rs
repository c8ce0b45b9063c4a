// SPDX-License-Identifier: Apache-2.0
//! Single steps that random schedules found missing.

use std::collections::BTreeSet;
use std::time::Duration;

use super::world::Values;
use crate::holder::{Action, AskId, Event, LEASE_DURATION, Message, Record, Replica, ReplicaId};

const NOW: Duration = Duration::from_secs(100);

fn id(name: &str) -> ReplicaId {
    ReplicaId(name.into())
}

fn held_by(holder: &str) -> Record {
    Record {
        holder: Some(id(holder)),
        address: "there".into(),
        term: 7,
        in_sync: BTreeSet::from([id(holder)]),
        version: "40".into(),
    }
}

fn replica() -> Replica<Values> {
    Replica::new(id("b"), "here".into(), Values::of(10), NOW)
}

#[test]
fn whoever_joins_acknowledges_when_it_has_listed_what_is_in_use_and_not_before() {
    let mut replica = replica();
    replica.handle(Event::Tick, NOW);
    replica.handle(Event::Read(Some(Some(held_by("a")))), NOW);
    replica.handle(Event::Connected, NOW);
    let from = id("a");
    let welcome = Message::Welcome {
        sequence: 3,
        holds: Vec::new(),
    };
    let received = |message| Event::Received {
        from: from.clone(),
        message,
    };
    assert_eq!(
        replica.handle(received(welcome), NOW),
        [Action::Refresh(1)],
        "what the holder's watch has shown is no hold any more, and this replica's watch may not have shown it"
    );
    let ask = AskId {
        replica: id("a"),
        number: 1,
    };
    let hold = Message::Hold {
        sequence: 4,
        ask,
        grant: 5,
    };
    assert_eq!(replica.handle(received(hold), NOW), []);
    assert_eq!(replica.handle(Event::Refreshed(0), NOW), [], "an earlier list");
    let acknowledged = Action::Send {
        to: from,
        message: Message::Ack { sequence: 4 },
    };
    assert_eq!(replica.handle(Event::Refreshed(1), NOW), [acknowledged]);
}

#[test]
fn whoever_finds_itself_in_the_lease_takes_it_anew_before_it_grants() {
    let mut replica = replica();
    replica.handle(Event::Tick, NOW);
    let later = NOW + LEASE_DURATION;
    let actions = replica.handle(Event::Read(Some(Some(held_by("b")))), later);
    let claim = Record {
        term: 8,
        address: "here".into(),
        ..held_by("b")
    };
    assert_eq!(
        actions,
        [Action::Write(claim)],
        "others may take it at any moment"
    );
    assert!(!replica.is_holder());
}
