// SPDX-License-Identifier: Apache-2.0

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::*;
use crate::fixtures::{at, mk_meta};

fn key() -> ServiceKey {
    ServiceKey::new("shop", "web")
}

fn mk_slice(name: &str, generation: i64) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generation: Some(generation),
            ..mk_meta(name)
        },
        ..EndpointSlice::default()
    }
}

fn deleting(name: &str, generation: i64) -> EndpointSlice {
    let mut slice = mk_slice(name, generation);
    slice.metadata.deletion_timestamp = Some(Time(at(300)));
    slice
}

#[test]
fn a_cache_is_stale_until_it_shows_what_was_written() {
    let older = Stale::OlderGeneration {
        slice: "a".to_owned(),
    };
    let deleted = Stale::Deleted {
        slice: "b".to_owned(),
    };
    let missing = Stale::Missing {
        uid: "uid-a".to_owned(),
    };
    let rows = [
        ("shown", vec![mk_slice("a", 2)], None),
        ("a newer generation", vec![mk_slice("a", 3)], None),
        ("with a stranger", vec![mk_slice("a", 2), mk_slice("c", 1)], None),
        ("an older generation", vec![mk_slice("a", 1)], Some(older)),
        ("a slice not there yet", vec![], Some(missing)),
        (
            "a deleted slice still there",
            vec![mk_slice("a", 2), mk_slice("b", 1)],
            Some(deleted),
        ),
        (
            "a deleted slice that a finalizer holds",
            vec![mk_slice("a", 2), deleting("b", 2)],
            None,
        ),
        (
            "a written slice that someone deletes",
            vec![deleting("a", 3)],
            None,
        ),
    ];
    for (name, cached, expected) in rows {
        let mut tracker = SliceTracker::default();
        tracker.written(&key(), &mk_slice("a", 2).metadata);
        tracker.deleted(&key(), "uid-b");
        assert_eq!(tracker.stale(&key(), &cached), expected, "{name}");
    }
}

#[test]
fn a_service_that_nothing_was_written_for_is_never_stale() {
    let tracker = SliceTracker::default();
    assert_eq!(tracker.stale(&key(), &[mk_slice("a", 1)]), None);
}

#[test]
fn own_writes_are_no_news_and_others_are() {
    let mut tracker = SliceTracker::default();
    tracker.written(&key(), &mk_slice("a", 2).metadata);
    tracker.deleted(&key(), "uid-b");
    for (slice, news) in [
        (mk_slice("a", 1), false),
        (mk_slice("a", 2), false),
        (mk_slice("a", 3), true),
        (mk_slice("b", 9), false),
        (mk_slice("c", 1), true),
    ] {
        assert_eq!(tracker.is_news(&key(), &slice), news, "{:?}", slice.metadata.name);
    }
    assert!(tracker.is_news(&ServiceKey::new("shop", "other"), &mk_slice("a", 2)));
}

#[test]
fn a_slice_that_vanishes_is_news_unless_it_was_deleted_here() {
    let mut tracker = SliceTracker::default();
    tracker.written(&key(), &mk_slice("a", 2).metadata);
    tracker.deleted(&key(), "uid-b");
    assert!(!tracker.vanished(&key(), "uid-b"));
    assert!(tracker.vanished(&key(), "uid-a"));
    assert!(tracker.vanished(&key(), "uid-never-written-here"));
    assert_eq!(tracker.stale(&key(), &[]), None, "nothing is expected any more");
}

#[test]
fn a_relist_drops_what_was_deleted_unseen() {
    let mut tracker = SliceTracker::default();
    tracker.written(&key(), &mk_slice("a", 2).metadata);
    let other = ServiceKey::new("shop", "other");
    tracker.written(&other, &mk_slice("c", 1).metadata);
    assert_eq!(tracker.relisted(|uid| uid == "uid-c"), [key()]);
    assert_eq!(tracker.stale(&key(), &[]), None);
    assert!(tracker.stale(&other, &[]).is_some());
}

#[test]
fn a_forgotten_service_expects_nothing() {
    let mut tracker = SliceTracker::default();
    tracker.written(&key(), &mk_slice("a", 2).metadata);
    tracker.forget(&key());
    assert_eq!(tracker.stale(&key(), &[]), None);
}

fn mk_endpoints(version: &str) -> Endpoints {
    Endpoints {
        metadata: ObjectMeta {
            resource_version: Some(version.to_owned()),
            ..mk_meta("web")
        },
        subsets: None,
    }
}

#[test]
fn endpoints_are_stale_in_versions_before_that_which_an_update_led_to() {
    // Sent, answered, cached: stale?
    for (sent, answered, cached, stale) in [
        ("1", "2", "1", true),
        ("1", "2", "2", false),
        ("1", "2", "3", false),
        ("1", "1", "1", false),
        ("9", "11", "8", true),
        ("9", "11", "10", true),
        ("9", "11", "11", false),
        ("9", "11", "100", false),
        ("a", "b", "a", true),
        ("a", "b", "c", false),
    ] {
        let mut tracker = EndpointsTracker::default();
        tracker.updated(
            &key(),
            &mk_endpoints(sent).metadata,
            &mk_endpoints(answered).metadata,
        );
        let found = tracker.stale(&key(), Some(&mk_endpoints(cached)));
        assert_eq!(
            found.is_some(),
            stale,
            "sent {sent}, answered {answered}, cached {cached}"
        );
    }
}

#[test]
fn endpoints_that_were_created_gone_or_forgotten_are_not_stale() {
    let mut tracker = EndpointsTracker::default();
    let mut fresh = mk_endpoints("1");
    fresh.metadata.resource_version = None;
    tracker.updated(&key(), &fresh.metadata, &mk_endpoints("1").metadata);
    assert_eq!(tracker.stale(&key(), Some(&mk_endpoints("1"))), None);
    tracker.updated(&key(), &mk_endpoints("1").metadata, &mk_endpoints("2").metadata);
    assert_eq!(tracker.stale(&key(), None), None);
    tracker.forget(&key());
    assert_eq!(tracker.stale(&key(), Some(&mk_endpoints("1"))), None);
}

#[test]
fn a_conflict_rests_until_the_cache_shows_another_version_or_patience_ends() {
    let after = |seconds: i64| Timestamp::from_second(1_000 + seconds).unwrap();
    let start = after(0);
    let mut conflicts = Conflicts::default();
    assert!(!conflicts.rests(&key(), None, start));
    for cached in [None, Some("5")] {
        conflicts.met(&key(), cached, start);
        assert!(conflicts.rests(&key(), cached, start), "{cached:?}");
        assert!(
            !conflicts.rests(&key(), Some("6"), start),
            "the cache has moved on"
        );
        assert!(!conflicts.rests(&key(), cached, after(1)), "it is tried again");
        conflicts.met(&key(), cached, after(1));
        assert!(conflicts.rests(&key(), cached, after(2)), "for twice as long");
        assert!(!conflicts.rests(&key(), cached, after(3)));
        for _ in 0..100 {
            conflicts.met(&key(), cached, start);
        }
        assert!(!conflicts.rests(&key(), cached, after(60)), "but not for ever");
        conflicts.over(&key());
        assert!(!conflicts.rests(&key(), cached, start));
    }
}
