// SPDX-License-Identifier: Apache-2.0

use super::encode::{Message, event, framed, message, meta};
use crate::wire::{Frame, Frames, List, Malformed, Object, Refusal, read_frame, read_status};

fn pod(name: &str) -> Vec<u8> {
    message().message(1, meta(name)).enveloped("Pod")
}

fn object<'a>(raw: &'a [u8], name: &'a str) -> Object<'a> {
    Object {
        raw,
        namespace: "shop",
        name,
        version: "77",
    }
}

#[test]
fn watch_events_are_what_they_say() {
    let (raw, enveloped) = (message().message(1, meta("web-0")).0, pod("web-0"));
    for (type_, wanted) in [
        ("ADDED", Frame::Applied(object(&raw, "web-0"))),
        ("MODIFIED", Frame::Applied(object(&raw, "web-0"))),
        ("DELETED", Frame::Deleted(object(&raw, "web-0"))),
    ] {
        assert_eq!(read_frame(&event(type_, &enveloped), "Pod").unwrap(), wanted);
    }
    let mut within_envelope = event("ADDED", &enveloped);
    within_envelope = super::encode::Message(within_envelope).enveloped("WatchEvent");
    assert_eq!(
        read_frame(&within_envelope, "Pod").unwrap(),
        Frame::Applied(object(&raw, "web-0"))
    );
}

#[test]
fn a_bookmark_tells_whether_it_ends_the_initial_events() {
    for (value, initial_events_end) in [(None, false), (Some("true"), true), (Some("false"), false)] {
        let mut meta = message().text(1, "").text(6, "99").entry(12, "other", "true");
        if let Some(value) = value {
            meta = meta.entry(12, "k8s.io/initial-events-end", value);
        }
        let frame = event("BOOKMARK", &message().message(1, meta).enveloped("Pod"));
        assert_eq!(
            read_frame(&frame, "Pod").unwrap(),
            Frame::Bookmark {
                version: "99",
                initial_events_end
            }
        );
    }
}

#[test]
fn an_error_is_a_status_with_its_causes() {
    let details = message()
        .text(1, "n")
        .message(4, message().text(1, "ResourceVersionTooLarge").text(2, "m"))
        .int(5, 1);
    let status = message()
        .text(2, "Failure")
        .text(3, "too far")
        .text(4, "Timeout")
        .message(5, details)
        .int(6, 504)
        .enveloped("Status");
    let wanted = Refusal {
        code: 504,
        reason: "Timeout".to_owned(),
        message: "too far".to_owned(),
        causes: vec!["ResourceVersionTooLarge".to_owned()],
    };
    assert_eq!(read_status(&status).unwrap(), wanted);
    let frame = event("ERROR", &status);
    assert_eq!(read_frame(&frame, "Pod").unwrap(), Frame::Error(wanted));
}

/// Version and next page.
type Ended = Option<(String, String)>;

/// A list read in pieces of so many bytes: its objects' names, and how it ended.
fn read_list(body: &[u8], size: usize) -> Result<(Vec<String>, Ended), Malformed> {
    let (mut list, mut names) = (List::of("Pod"), Vec::new());
    for piece in body.chunks(size) {
        list.push(piece);
        while let Some(object) = list.next_object()? {
            names.push(object.name.to_owned());
        }
    }
    let ended = list.ended();
    Ok((
        names,
        ended.map(|(version, next)| (version.to_owned(), next.to_owned())),
    ))
}

fn three_pods() -> Vec<u8> {
    let raw = |name: &str| message().message(1, meta(name)).bytes(2, &[0x5a; 300]).0;
    message()
        .message(
            1,
            message().text(1, "").text(2, "500").text(3, "token").int(4, 12),
        )
        .bytes(2, &raw("a"))
        .int(7, 300)
        .fixed32(9)
        .bytes(2, &raw("b"))
        .fixed64(10)
        .bytes(8, b"of a later version")
        .bytes(2, &raw("c"))
        .enveloped("PodList")
}

#[test]
fn a_list_gives_its_objects_as_they_come_and_then_its_version_and_where_the_next_page_starts() {
    let body = three_pods();
    let ended = Some(("500".to_owned(), "token".to_owned()));
    for size in [1, 2, 3, 7, 100, body.len()] {
        let (names, end) = read_list(&body, size).unwrap();
        assert_eq!(
            (names.join(","), end),
            ("a,b,c".to_owned(), ended.clone()),
            "in pieces of {size}"
        );
    }
    let empty = message().message(1, message().text(2, "7")).enveloped("PodList");
    let (names, end) = read_list(&empty, 3).unwrap();
    assert_eq!((names.len(), end), (0, Some(("7".to_owned(), String::new()))));
}

#[test]
fn a_list_that_is_cut_short_has_no_end_and_one_that_is_wrong_says_why() {
    let body = three_pods();
    for length in 0..body.len() {
        let (names, end) = read_list(&body[..length], 50).unwrap();
        assert!(end.is_none() || names.len() == 3, "{length} of {}", body.len());
    }
    for (body, wanted) in [
        (b"k9s\0".to_vec(), "it does not start with \"k8s\\0\""),
        (message().enveloped("Pod"), "it is of kind \"Pod\""),
        (
            message().bytes(2, b"no metadata").enveloped("PodList"),
            "field 13 has wire type 6",
        ),
        (
            Message(vec![0x12, 100, 1, 2]).enveloped("PodList"),
            "it ends within a field",
        ),
        (
            message()
                .message(2, message().message(1, message().text(6, "7")))
                .enveloped("PodList"),
            "it has no name",
        ),
    ] {
        let fault = read_list(&body, 5).unwrap_err();
        assert_eq!(fault.to_string(), wanted, "{body:?}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let nameless = message().message(1, message().text(6, "7")).enveloped("Pod");
    for (frame, wanted) in [
        (
            event("ADDED", b"{\"kind\":\"Pod\"}"),
            "it does not start with \"k8s\\0\"",
        ),
        (event("ADDED", b""), "it does not start with \"k8s\\0\""),
        (
            event("ADDED", &message().enveloped("Node")),
            "it is of kind \"Node\"",
        ),
        (
            event("ERROR", &message().enveloped("Pod")),
            "it is of kind \"Pod\"",
        ),
        (event("ADDED", &nameless), "it has no name"),
        (
            event("RENAMED", &pod("a")),
            "there is no watch event of type \"RENAMED\"",
        ),
        (message().int(1, 5).0, "field 1 is no text or message"),
        (message().bytes(1, &[0xff]).0, "field 1 is not UTF-8"),
        (vec![0x0a, 0x05, b'A'], "it ends within a field"),
        (vec![0x0a], "it ends within a field"),
        (vec![0xff; 10], "a varint is longer than 64 bits"),
        (vec![0x80; 11], "a varint is longer than 64 bits"),
        (vec![0x80; 4], "it ends within a field"),
        (vec![0x02], "0 is no field number"),
        (vec![0x0b], "field 1 has wire type 3"),
        (
            event("ERROR", &message().int(6, 70_000).enveloped("Status")),
            "field 6 is out of range",
        ),
    ] {
        let fault = read_frame(&frame, "Pod").unwrap_err();
        assert_eq!(fault.to_string(), wanted, "{frame:?}");
    }
}

#[test]
fn frames_are_found_however_the_stream_is_cut() {
    let sent: Vec<Vec<u8>> = [0_usize, 1, 200, 70_000, 3]
        .map(|length| vec![0x5a; length])
        .to_vec();
    let stream: Vec<u8> = sent.iter().flat_map(|frame| framed(frame)).collect();
    for size in [1, 2, 3, 5, 7, 4096, 65_536, stream.len()] {
        let (mut frames, mut found) = (Frames::default(), Vec::new());
        for chunk in stream.chunks(size) {
            frames.push(chunk);
            while let Some(frame) = frames.next_frame().unwrap() {
                found.push(frame.to_vec());
            }
        }
        assert_eq!(found, sent, "in pieces of {size}");
        assert!(!frames.is_within_frame());
        frames.push(&[0]);
        assert_eq!(frames.next_frame(), Ok(None));
        assert!(frames.is_within_frame());
    }
}

#[test]
fn a_stream_of_something_else_is_refused() {
    let mut frames = Frames::default();
    frames.push(b"{\"type\":\"ADDED\"}");
    let fault = frames.next_frame().unwrap_err().to_string();
    assert!(fault.ends_with("bytes is longer than any object"), "{fault}");
}
