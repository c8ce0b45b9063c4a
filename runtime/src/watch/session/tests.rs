// SPDX-License-Identifier: Apache-2.0

use super::*;

fn key(name: &str) -> ObjectKey {
    ObjectKey {
        namespace: Some("shop".into()),
        name: name.into(),
    }
}

fn names(keys: &BTreeSet<ObjectKey>) -> Vec<&str> {
    keys.iter().map(|key| &*key.name).collect()
}

fn refusal(code: u16, cause: &str) -> Trouble {
    Trouble::Refused(Refusal {
        code,
        reason: "Reason".to_owned(),
        message: "text".to_owned(),
        causes: vec![cause.to_owned()],
    })
}

fn page(next: &str) -> Ask {
    Ask::Page {
        next: next.to_owned(),
    }
}

fn watch(version: &str) -> Ask {
    Ask::Watch {
        version: version.to_owned(),
    }
}

fn paused(fault: Fault) -> Reaction {
    Reaction::Pause(fault, format!("{} Reason: text", code(fault)))
}

fn code(fault: Fault) -> u16 {
    (400..600)
        .find(|code| Fault::of_code(*code) == fault)
        .unwrap_or_default()
}

fn listing() -> Session {
    let mut session = Session::new(Lists::default());
    assert_eq!(session.ask(), Ask::StreamList);
    session
}

fn paging(next: &str) -> Session {
    let mut session = listing();
    session.failed(refusal(422, ""));
    assert_eq!(session.ask(), page(""));
    assert_eq!(session.page("5", next), None);
    assert_eq!(session.ask(), page(next));
    session
}

fn watching(version: &str) -> Session {
    let mut session = listing();
    session.applied(&key("a"), "3");
    assert!(session.bookmark(version, true).is_some());
    assert_eq!(session.ask(), watch(version));
    session
}

#[test]
fn a_streaming_list_ends_with_its_bookmark_and_goes_on_as_a_watch() {
    let mut session = listing();
    session.applied(&key("b"), "9");
    session.applied(&key("a"), "4");
    assert_eq!(
        session.bookmark("9", false),
        None,
        "an ordinary bookmark ends no list"
    );
    session.applied(&key("c"), "10");
    session.deleted(&key("b"), "11");
    assert!(session.is_listing());
    let keys = session.bookmark("11", true).unwrap();
    assert_eq!(names(&keys), ["a", "c"], "what went meanwhile is not in the list");
    assert!(!session.is_listing());
    session.applied(&key("d"), "12");
    assert_eq!(session.ask(), watch("12"));
    session.deleted(&key("d"), "13");
    assert_eq!(session.ask(), watch("13"));
    assert_eq!(session.bookmark("20", false), None);
    assert_eq!(session.ask(), watch("20"), "bookmarks are remembered");
    assert_eq!(session.bookmark("21", true), None, "there is one list only");
    session.applied(&key("e"), "");
    assert_eq!(session.ask(), watch("21"), "no version is not a version");
}

#[test]
fn a_list_that_broke_off_starts_anew_and_forgets_what_it_saw() {
    let mut session = listing();
    session.applied(&key("gone"), "4");
    let reaction = session.failed(Trouble::Broken(Fault::Unreachable, "reset".to_owned()));
    assert_eq!(reaction, Reaction::Pause(Fault::Unreachable, "reset".to_owned()));
    assert_eq!(session.ask(), Ask::StreamList);
    session.applied(&key("a"), "5");
    assert_eq!(names(&session.bookmark("6", true).unwrap()), ["a"]);
}

#[test]
fn pages_follow_each_other_to_the_last_and_the_watch_starts_at_their_version() {
    let mut session = listing();
    let reaction = session.failed(refusal(422, ""));
    assert_eq!(reaction, Reaction::FallBack("422 Reason: text".to_owned()));
    assert_eq!(session.ask(), page(""));
    session.applied(&key("a"), "3");
    assert_eq!(session.page("7", "token"), None);
    assert_eq!(session.ask(), page("token"));
    session.applied(&key("b"), "2");
    assert_eq!(names(&session.page("7", "").unwrap()), ["a", "b"]);
    assert_eq!(session.ask(), watch("7"));
    session.failed(refusal(410, ""));
    assert_eq!(
        session.ask(),
        Ask::StreamList,
        "the server may have been upgraded"
    );
}

#[test]
fn a_whole_list_is_asked_for_until_it_comes_and_again_when_its_version_is_forgotten() {
    let mut session = Session::new(Lists::Whole);
    assert_eq!(session.ask(), Ask::List);
    session.applied(&key("gone"), "4");
    for trouble in [
        refusal(503, ""),
        refusal(422, ""),
        Trouble::Silent(LIST_STALLED),
        Trouble::Malformed("text".to_owned()),
        Trouble::Broken(Fault::Unreachable, "reset".to_owned()),
    ] {
        assert!(matches!(session.failed(trouble), Reaction::Pause(..)));
        assert_eq!(session.ask(), Ask::List);
    }
    session.applied(&key("a"), "5");
    assert_eq!(names(&session.page("7", "").unwrap()), ["a"]);
    assert_eq!(session.ask(), watch("7"));
    session.failed(refusal(410, ""));
    assert_eq!(session.ask(), Ask::List);
    assert_eq!(
        session.page("9", "token"),
        None,
        "whoever answers in pages all the same"
    );
    assert_eq!(session.ask(), page("token"));
}

#[test]
fn a_page_that_fails_is_asked_for_again() {
    let mut session = paging("token");
    session.failed(refusal(503, ""));
    assert_eq!(session.ask(), page("token"));
    session.failed(refusal(410, ""));
    assert_eq!(session.ask(), page(""), "the token has expired");
}

#[test]
fn what_a_refusal_leads_to() {
    let streaming = Ask::StreamList;
    for (code, cause, after_list, after_page, after_watch) in [
        (400, "", page(""), page("next"), streaming.clone()),
        (422, "", page(""), page("next"), streaming.clone()),
        (410, "", streaming.clone(), page(""), streaming.clone()),
        (
            504,
            "ResourceVersionTooLarge",
            streaming.clone(),
            page("next"),
            streaming.clone(),
        ),
        (504, "", streaming.clone(), page("next"), watch("8")),
        (401, "", streaming.clone(), page("next"), watch("8")),
        (403, "", streaming.clone(), page("next"), watch("8")),
        (404, "", streaming.clone(), page("next"), watch("8")),
        (429, "", streaming.clone(), page("next"), watch("8")),
        (500, "", streaming.clone(), page("next"), watch("8")),
        (0, "", streaming.clone(), page("next"), watch("8")),
    ] {
        for (mut session, next) in [
            (listing(), after_list),
            (paging("next"), after_page),
            (watching("8"), after_watch),
        ] {
            let before = format!("{session:?}");
            session.failed(refusal(code, cause));
            assert_eq!(session.ask(), next, "{code} {cause} after {before}");
        }
    }
}

#[test]
fn history_that_is_gone_is_listed_anew_at_once_but_not_again_and_again() {
    let mut session = watching("7");
    session.applied(&key("a"), "8");
    let text = "410 Reason: text".to_owned();
    assert_eq!(
        session.failed(refusal(410, "")),
        Reaction::ListAnew(Fault::Expired, text)
    );
    assert_eq!(session.ask(), Ask::StreamList);
    session.bookmark("9", true);
    assert_eq!(session.ask(), watch("9"));
    assert_eq!(session.failed(refusal(410, "")), paused(Fault::Expired));
}

#[test]
fn refusals_wait_except_for_a_list_that_the_server_does_not_know() {
    assert_eq!(watching("8").failed(refusal(403, "")), paused(Fault::Forbidden));
    assert_eq!(listing().failed(refusal(403, "")), paused(Fault::Forbidden));
    assert_eq!(paging("next").failed(refusal(400, "")), paused(Fault::Invalid));
    assert_eq!(
        watching("8").failed(refusal(404, "")),
        Reaction::Pause(
            Fault::NotFound,
            "404: the API server does not serve this kind".to_owned()
        )
    );
}

#[test]
fn how_a_watch_may_end() {
    let ended = |millis, useful| Trouble::Ended {
        after: Duration::from_millis(millis),
        useful,
    };
    let pause = |text: &str| Reaction::Pause(Fault::Timeout, text.to_owned());
    for (mut session, trouble, reaction, next) in [
        (watching("8"), ended(300_000, true), Reaction::Again, watch("8")),
        (watching("8"), ended(300_000, false), Reaction::Again, watch("8")),
        (watching("8"), ended(10, true), Reaction::Again, watch("8")),
        (
            watching("8"),
            ended(10, false),
            pause("the watch ended after 10ms"),
            watch("8"),
        ),
        (
            watching("8"),
            Trouble::Silent(Duration::from_secs(180)),
            pause("nothing came for 180s"),
            watch("8"),
        ),
        (
            listing(),
            ended(300_000, true),
            pause("the watch ended after 300s"),
            page(""),
        ),
        (
            listing(),
            Trouble::Silent(Duration::from_secs(30)),
            pause("nothing came for 30s"),
            page(""),
        ),
        (
            watching("8"),
            Trouble::Malformed("odd".to_owned()),
            Reaction::Pause(Fault::Malformed, "odd".to_owned()),
            Ask::StreamList,
        ),
    ] {
        assert_eq!(session.failed(trouble.clone()), reaction, "{trouble:?}");
        assert_eq!(session.ask(), next, "{trouble:?}");
    }
}

#[test]
fn silence_is_judged_by_what_the_connection_has_shown() {
    let (timeout, minute) = (Duration::from_secs(400), Duration::from_secs(60));
    assert_eq!(listing().patience(timeout), minute / 2);
    let mut session = watching("8");
    assert_eq!(session.patience(timeout), timeout + Duration::from_secs(10));
    session.bookmark("9", false);
    assert_eq!(session.patience(timeout), 3 * minute);
    session.ask();
    assert_eq!(
        session.patience(timeout),
        timeout + Duration::from_secs(10),
        "another server may not send any"
    );
}
