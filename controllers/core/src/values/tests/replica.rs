// SPDX-License-Identifier: Apache-2.0
//! A replica that hands out of this book.

use super::*;
use crate::holder::{ActionOf, Event, Outcome, RENEW_DEADLINE, Record, Replica, ReplicaId};

fn mk_replica() -> Replica<Values> {
    let mut values = cluster();
    values.apply_address_pool(&mk_addresses(
        "p",
        0,
        &json!({"addresses": ["10.0.0.4-10.0.0.5"], "strategy": "LowestFirst"}),
    ));
    Replica::new(ReplicaId("a".into()), "127.0.0.1:1".to_owned(), values, at(0))
}

/// The API server of a Lease that nobody else wants.
fn tell(replica: &mut Replica<Values>, event: Event<Values>, now: Duration) -> Vec<ActionOf<Values>> {
    use crate::holder::Action;
    let mut answers = Vec::new();
    let mut events = vec![event];
    while let Some(event) = events.pop() {
        for action in replica.handle(event, now) {
            match action {
                Action::Read => events.push(Event::Read(Some(None))),
                Action::Write(record) => events.push(Event::Written(Ok(Record {
                    version: format!("{}-", record.version),
                    ..record
                }))),
                Action::Refresh(number) => events.push(Event::Refreshed(number)),
                action @ Action::Answer { .. } => answers.push(action),
                Action::Connect { .. } | Action::Disconnect { .. } | Action::Send { .. } => {}
            }
        }
    }
    answers
}

fn asked(replica: &mut Replica<Values>, number: u64, name: &str, now: Duration) -> String {
    use crate::holder::Action;
    let event = Event::Asked {
        ask: ask(number),
        wish: plain("a", name),
        until: now + at(5),
    };
    match tell(replica, event, now).pop() {
        Some(Action::Answer { outcome, .. }) => match outcome {
            Outcome::Granted(grant) => format!("{:?}", grant.cluster_ips),
            Outcome::Refused(refused) => refused.as_str().to_owned(),
            Outcome::Unavailable => "unavailable".to_owned(),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_holder_grants_out_of_the_book_and_a_watch_settles_its_holds() {
    let mut replica = mk_replica();
    // There is no Lease, so that it waits for whoever may have had one.
    let now = RENEW_DEADLINE + at(1);
    for tick in 0..=now.as_millis() / 100 {
        let then = Duration::from_millis(100) * u32::try_from(tick).unwrap();
        tell(&mut replica, Event::Tick, then);
    }
    assert!(replica.is_holder());
    assert_eq!(asked(&mut replica, 0, "one", now), "{10.0.0.4}");
    assert_eq!(asked(&mut replica, 1, "two", now), "{10.0.0.5}");
    assert_eq!(asked(&mut replica, 2, "three", now), "PoolExhausted");
    assert_eq!(asked(&mut replica, 0, "one", now), "{10.0.0.4}", "asked again");
    let service = mk_service(&key("a/one"), 1, &[address("10.0.0.4")].into());
    for settled in replica.book_mut().apply_service(Shown::of(&service), now) {
        replica.settle(&settled);
    }
    assert_eq!(replica.holds().keys().collect::<Vec<_>>(), [&ask(1)]);
    replica.book_mut().remove_service(&key("a/one"), now);
    assert_eq!(asked(&mut replica, 3, "three", now), "{10.0.0.4}");
}
