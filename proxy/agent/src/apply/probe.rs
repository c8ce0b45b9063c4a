// SPDX-License-Identifier: Apache-2.0
//! Looks at single objects of nf_tables by their names. A listing walks whatever everybody has in the family, and a
//! kube-proxy beside us has thousands of chains; what is asked for here costs a few microseconds an object.

use std::fmt;

use berth_model::IpFamily;
use berth_proxy_core::nft::Element;
use berth_proxy_core::nft::render::set_of;
use nlink::netlink::nftables::{NFT_MSG_GETCHAIN, NFT_MSG_GETSETELEM, NFT_MSG_GETTABLE};
use nlink::netlink::{AttrIter, MessageBuilder, MessageIter, NetlinkSocket, Protocol};

use super::attributes::{
    DATA_VALUE, ELEMENT_KEY, ELEMENTS_LIST, ELEMENTS_SET, ELEMENTS_TABLE, LIST_ELEMENT, attribute, text,
};
use super::{Place, elements};
use crate::Error;

/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type.
const SUBSYSTEM: u16 = 10 << 8;
/// `NFT_MSG_GETGEN` and `NFTA_GEN_ID`.
const GET_GENERATION: u8 = 16;
const GENERATION_ID: u16 = 1;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// The length of `struct nfgenmsg`.
const GENERIC_HEADER: usize = 4;
/// `NFTA_TABLE_*`.
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_USE: u16 = 3;
const TABLE_HANDLE: u16 = 4;
/// `NFTA_CHAIN_*`.
const CHAIN_TABLE: u16 = 1;
const CHAIN_HANDLE: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_USE: u16 = 6;
/// `NLA_TYPE_MASK`: without the flags of an attribute's type.
const TYPE: u16 = 0x3fff;

/// A netlink socket for questions, in the current network namespace.
pub(crate) struct Probe {
    socket: NetlinkSocket,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}

/// What a table and chains of it look like from outside, to be compared with what they looked like before: handles,
/// which no two objects ever share, and how many rules, jumps, chains and sets there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape(Vec<Option<Vec<u8>>>);

impl Shape {
    /// Whether nothing of it is missing.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.iter().all(Option::is_some)
    }
}

/// How much of a table counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owned {
    /// All of it is ours: its flags and the number of its chains, sets and counters, too.
    Whole,
    /// It is shared with others.
    Chains,
}

impl Probe {
    /// Opens the socket.
    ///
    /// # Errors
    /// The kernel has no nf_tables.
    pub(crate) fn open() -> Result<Self, Error> {
        let socket =
            NetlinkSocket::new(Protocol::Netfilter).map_err(Error::kernel("open a netlink socket"))?;
        Ok(Self { socket })
    }

    /// The number that every committed transaction in the namespace, anybody's, increases.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) async fn generation(&self) -> Result<u32, Error> {
        let answer = self.get(GET_GENERATION, 0, &[]).await;
        let answer = answer.map_err(Error::kernel("read the ruleset's generation"))?;
        let id = answer.as_deref().and_then(|answer| find(answer, GENERATION_ID));
        let id = id.and_then(|id| <[u8; 4]>::try_from(id).ok());
        Ok(id.map(u32::from_be_bytes).unwrap_or_default())
    }

    /// How a table and these chains of it look. What is not there is part of the answer.
    ///
    /// # Errors
    /// They cannot be looked at.
    pub(crate) async fn shape(
        &self,
        family: IpFamily,
        table: &str,
        owned: Owned,
        chains: impl IntoIterator<Item = String>,
    ) -> Result<Shape, Error> {
        let number = family_number(family);
        let failed = || Error::kernel(format!("look at table {table}"));
        let name = text(TABLE_NAME, table);
        let answer = self
            .get(NFT_MSG_GETTABLE, number, &name)
            .await
            .map_err(failed())?;
        let of_table: &[u16] = match owned {
            Owned::Whole => &[TABLE_HANDLE, TABLE_USE, TABLE_FLAGS],
            Owned::Chains => &[TABLE_HANDLE],
        };
        let mut shape = vec![answer.map(|answer| sight(&answer, of_table))];
        for chain in chains {
            let name = [text(CHAIN_TABLE, table), text(CHAIN_NAME, &chain)].concat();
            let answer = self
                .get(NFT_MSG_GETCHAIN, number, &name)
                .await
                .map_err(failed())?;
            shape.push(answer.map(|answer| sight(&answer, &[CHAIN_HANDLE, CHAIN_USE])));
        }
        Ok(Shape(shape))
    }

    /// Whether the table has all of these elements, as far as they are in sets without intervals.
    ///
    /// # Errors
    /// They cannot be looked for.
    pub(super) async fn has(&self, place: Place, wanted: &[Element]) -> Result<bool, Error> {
        for element in wanted {
            if is_of_interval(element) {
                continue;
            }
            let key = elements::encode(element)?;
            let key = attribute(ELEMENT_KEY, &attribute(DATA_VALUE, key.key()));
            let attributes = [
                text(ELEMENTS_TABLE, place.table),
                text(ELEMENTS_SET, &set_of(element)),
                attribute(ELEMENTS_LIST, &attribute(LIST_ELEMENT, &key)),
            ]
            .concat();
            let family = family_number(place.family);
            let answer = self.get(NFT_MSG_GETSETELEM, family, &attributes).await;
            if answer.map_err(Error::kernel("look for an element"))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One question and the attributes of its answer; `None` if there is no such thing.
    async fn get(&self, kind: u8, family: u8, attributes: &[u8]) -> nlink::Result<Option<Vec<u8>>> {
        let mut message = MessageBuilder::new(SUBSYSTEM | u16::from(kind), REQUEST);
        message.append_bytes(&[family, 0, 0, 0]);
        message.append_bytes(attributes);
        let sequence = self.socket.next_seq();
        message.set_seq(sequence);
        message.set_pid(self.socket.pid());
        self.socket.send(&message.finish()).await?;
        loop {
            let received = self.socket.recv_unicast().await?;
            for answer in MessageIter::new(&received) {
                let (header, payload) = answer?;
                if header.nlmsg_seq != sequence {
                    continue;
                }
                if header.is_error() {
                    return match refusal(header.nlmsg_flags, payload)? {
                        error if error.is_not_found() => Ok(None),
                        error => Err(error),
                    };
                }
                return Ok(Some(payload.get(GENERIC_HEADER..).unwrap_or_default().to_vec()));
            }
        }
    }
}

fn refusal(flags: u16, payload: &[u8]) -> nlink::Result<nlink::Error> {
    let error = nlink::netlink::message::NlMsgError::from_bytes(payload)?;
    Ok(error.to_error(flags, payload))
}

fn is_of_interval(element: &Element) -> bool {
    match element {
        Element::Member(set, _) => set.is_interval(),
        Element::Slot(..) | Element::Numbered(..) => false,
    }
}

/// `AF_INET` and `AF_INET6`.
fn family_number(family: IpFamily) -> u8 {
    match family {
        IpFamily::V4 => 2,
        IpFamily::V6 => 10,
    }
}

fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let found = AttrIter::new(attributes).find(|(kind, _)| kind & TYPE == wanted);
    found.map(|(_, value)| value)
}

/// The values of these attributes, one behind the other.
fn sight(attributes: &[u8], wanted: &[u16]) -> Vec<u8> {
    let values = wanted.iter().filter_map(|wanted| find(attributes, *wanted));
    values.flatten().copied().collect()
}
