// SPDX-License-Identifier: Apache-2.0
//! Declarations of sets and maps, with the user data that nft needs to list them and that nlink does not write.

use berth_proxy_core::names::{MapName, SetName};
use berth_proxy_core::nft::Layout;
use nlink::netlink::nftables::{NFT_MSG_NEWSET, RawMessage, SetKeyType, Transaction};

use super::attributes::{CREATE, attribute, number, text};
use super::{Place, elements, family_of, set_userdata};

/// `NFTA_SET_*` and `NFT_SET_MAP`.
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
const FLAG_MAP: u32 = 8;
/// Ids of sets within a batch that are declared here; nlink counts its own from 1.
const RAW_IDS: u32 = 1 << 20;

/// Declares all that a table has.
pub(super) fn add_sets_and_maps(mut transaction: Transaction, layout: &Layout) -> Transaction {
    let place = Place::of(layout);
    let family = place.family;
    let mut ids = RAW_IDS..;
    for set in layout.sets() {
        transaction = add_set(transaction, place, set, &mut ids);
    }
    for (map, id) in MapName::all().zip(&mut ids) {
        let (types, userdata) = (
            elements::map_types(family, map),
            set_userdata::of_map(family, map),
        );
        transaction = transaction.raw(new_map(place, &map.to_string(), types, id, &userdata));
    }
    for (map, id) in layout.number_maps().zip(&mut ids) {
        let (types, userdata) = (elements::number_types(family, map), set_userdata::of_numbers());
        transaction = transaction.raw(new_map(place, &map.to_string(), types, id, &userdata));
    }
    if layout.number_maps().next().is_some() {
        transaction = transaction.add_set(elements::bindings(place));
    }
    transaction
}

/// Declares these sets.
pub(super) fn add_sets(
    mut transaction: Transaction,
    place: Place,
    sets: impl IntoIterator<Item = SetName>,
) -> Transaction {
    let mut ids = RAW_IDS..;
    for set in sets {
        transaction = add_set(transaction, place, set, &mut ids);
    }
    transaction
}

/// A map's declaration. nlink writes no user data, so the message is made here.
fn new_map(
    place: Place,
    name: &str,
    (key, data): (SetKeyType, SetKeyType),
    id: u32,
    userdata: &[u8],
) -> RawMessage {
    let data = [
        number(SET_DATA_TYPE, data.type_id()),
        number(SET_DATA_LEN, data.len()),
    ];
    new_set(place, name, FLAG_MAP, &key, id, &data.concat(), userdata)
}

fn new_set(
    place: Place,
    name: &str,
    flags: u32,
    key: &SetKeyType,
    id: u32,
    more: &[u8],
    userdata: &[u8],
) -> RawMessage {
    let attributes = [
        text(SET_TABLE, place.table),
        text(SET_NAME, name),
        number(SET_FLAGS, flags),
        number(SET_KEY_TYPE, key.type_id()),
        number(SET_KEY_LEN, key.len()),
        more.to_vec(),
        number(SET_ID, id),
        attribute(SET_USERDATA, userdata),
    ];
    RawMessage::new(NFT_MSG_NEWSET, family_of(place.family))
        .flags(CREATE)
        .attrs(attributes.concat())
}

/// A set's declaration. One whose key is a number of the host's byte order says so in its user data.
fn add_set(
    transaction: Transaction,
    place: Place,
    set: SetName,
    ids: &mut impl Iterator<Item = u32>,
) -> Transaction {
    match (set, ids.next()) {
        (SetName::AffinityTimeout(_), Some(id)) => transaction.raw(new_set(
            place,
            &set.to_string(),
            0,
            &elements::CLASS,
            id,
            &[],
            &set_userdata::of_number_key(),
        )),
        _ => transaction.add_set(elements::set(place, set)),
    }
}
