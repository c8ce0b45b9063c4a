// SPDX-License-Identifier: Apache-2.0
//! Whatever comes, the reader says yes or no.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;

use super::encode::{Message, event, framed, message, meta};
use crate::node::Node;
use crate::pod::Pod;
use crate::service_cidr::ServiceCidr;
use crate::wire::{Frames, List, Named, Wire, read_frame, read_status};

fn read<K: Wire>(raw: &[u8]) -> bool {
    let named = Named {
        namespace: Arc::from("shop"),
        name: Arc::from("web"),
    };
    K::read(raw, &named, &mut K::Shared::default()).is_ok()
}

/// Every reader, on the same bytes.
fn read_all(bytes: &[u8]) -> [bool; 9] {
    let mut frames = Frames::default();
    frames.push(bytes);
    while let Ok(Some(_)) = frames.next_frame() {}
    let mut list = List::of("Pod");
    list.push(bytes);
    while let Ok(Some(_)) = list.next_object() {}
    [
        read_frame(bytes, "Pod").is_ok(),
        list.ended().is_some(),
        read_status(bytes).is_ok(),
        read::<Pod>(bytes),
        read::<Node>(bytes),
        read::<Service>(bytes),
        read::<Endpoints>(bytes),
        read::<EndpointSlice>(bytes),
        read::<ServiceCidr>(bytes),
    ]
}

/// Messages within messages, of field numbers that mean something.
fn any_message() -> impl Strategy<Value = Message> {
    let field = prop_oneof![
        any::<i64>().prop_map(|value| message().int(1, value)),
        "[a-zA-Z0-9.:]{0,12}".prop_map(|text| message().text(1, &text)),
        prop::collection::vec(any::<u8>(), 0..6).prop_map(|bytes| message().bytes(1, &bytes)),
        Just(message().fixed32(1)),
        Just(message().fixed64(1)),
    ];
    let leaf = prop::collection::vec((1_u32..25, field), 0..5).prop_map(numbered);
    leaf.prop_recursive(5, 64, 6, |inner| {
        prop::collection::vec(
            (1_u32..25, inner.prop_map(|inner| message().message(1, inner))),
            0..6,
        )
        .prop_map(numbered)
    })
}

/// Puts fields in a row, each under its number (below 25: a tag of one or two bytes).
fn numbered(fields: Vec<(u32, Message)>) -> Message {
    let mut all = Vec::new();
    for (number, Message(field)) in fields {
        let Some((tag, rest)) = field.split_first() else {
            continue;
        };
        let tag = u64::from(number) << 3 | u64::from(tag & 7);
        if tag < 0x80 {
            all.push(u8::try_from(tag).unwrap());
        } else {
            all.extend([
                u8::try_from(tag & 0x7f).unwrap() | 0x80,
                u8::try_from(tag >> 7).unwrap(),
            ]);
        }
        all.extend_from_slice(rest);
    }
    Message(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_all(&bytes);
    }

    #[test]
    fn well_formed_nonsense_is_no_panic(any in any_message(), kind in prop_oneof![Just("Pod"), Just("PodList"), Just("Status")]) {
        read_all(&any.0);
        read_all(&any.enveloped(kind));
        read_all(&event("ADDED", &any.enveloped(kind)));
    }

    #[test]
    fn a_flipped_byte_or_a_missing_end_is_no_panic(at in 0_usize..2000, with in any::<u8>(), any in any_message()) {
        let object = message().message(1, meta("web")).message(2, any.clone()).message(3, any);
        let mut frame = framed(&event("ADDED", &object.enveloped("Pod")));
        let at = at % frame.len();
        frame[at] ^= with;
        read_all(&frame[4..]);
        frame.truncate(at);
        read_all(frame.get(4..).unwrap_or_default());
    }
}

#[test]
fn every_cut_of_an_object_is_noticed_or_harmless() {
    let frame = event("ADDED", &message().message(1, meta("web")).enveloped("Pod"));
    assert!(read_frame(&frame, "Pod").is_ok());
    for end in 0..frame.len() {
        assert!(read_frame(&frame[..end], "Pod").is_err(), "{end}");
    }
}
