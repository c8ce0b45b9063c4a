// SPDX-License-Identifier: Apache-2.0
//! From what a message says to the Pod that is kept.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use super::{Class, LabelSet, NamedPort, Pod, Primary, Rare};
use crate::address::parse_lenient;
use crate::intern::Interner;
use crate::wire::Named;

/// The protocol where none is written (core/v1 default).
const TCP: &str = "TCP";

/// A time to the second, as Kubernetes keeps them, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct When(i64);

impl When {
    /// No time: far before the year 1.
    pub(crate) const NEVER: Self = Self(i64::MIN);

    pub(crate) fn of(time: Option<Timestamp>) -> Self {
        time.map_or(Self::NEVER, |time| Self(time.as_second()))
    }

    pub(crate) fn time(self) -> Option<Timestamp> {
        Timestamp::from_second(self.0).ok()
    }
}

impl Default for When {
    fn default() -> Self {
        Self::NEVER
    }
}

/// What Pods have in common: texts, port lists and whole classes.
#[derive(Debug, Default)]
pub struct Shared {
    pub(crate) texts: Interner<str>,
    ports: Interner<[NamedPort]>,
    classes: Interner<Class>,
}

/// A Pod's facts in the words of its message; what is absent is empty.
#[derive(Debug, Default)]
pub(crate) struct Facts<'a> {
    pub(crate) uid: &'a str,
    pub(crate) version: &'a str,
    pub(crate) labels: Vec<(&'a str, &'a str)>,
    pub(crate) deleted: When,
    pub(crate) node: &'a str,
    pub(crate) hostname: &'a str,
    pub(crate) subdomain: &'a str,
    /// Name, protocol, number.
    pub(crate) ports: Vec<(&'a str, &'a str, i32)>,
    pub(crate) sidecar_ports: Vec<(&'a str, &'a str, i32)>,
    pub(crate) phase: &'a str,
    pub(crate) ip: &'a str,
    pub(crate) ips: Vec<&'a str>,
    pub(crate) ready: bool,
    pub(crate) ready_since: When,
}

impl Facts<'_> {
    pub(crate) fn build(self, named: &Named, shared: &mut Shared) -> Pod {
        let uuid = uuid(self.uid);
        let number = number(self.version);
        let rare = Rare {
            deleted: self.deleted,
            hostname: some(self.hostname),
            subdomain: some(self.subdomain),
            uid: some(self.uid).filter(|_| uuid.is_none()),
            version: some(self.version).filter(|_| number.is_none()),
        };
        let (primary, others) = self.addresses();
        Pod {
            name: Arc::clone(&named.name),
            node: (!self.node.is_empty()).then(|| shared.texts.get(self.node)),
            rare: (rare != Rare::default()).then(|| Box::new(rare)),
            primary,
            others,
            uid: uuid.unwrap_or_default(),
            version: number.unwrap_or_default(),
            ready_since: self.ready_since,
            ready: self.ready,
            finished: matches!(self.phase, "Succeeded" | "Failed"),
            class: self.class(Arc::clone(&named.namespace), shared),
        }
    }

    fn addresses(&self) -> (Primary, Box<[IpAddr]>) {
        let address = parse_lenient(self.ip);
        let mut others: Vec<IpAddr> = self.ips.iter().filter_map(|ip| parse_lenient(ip)).collect();
        let listed = address.is_some() && others.first().copied() == address;
        if listed {
            others.remove(0);
        }
        let any = !self.ip.is_empty() || !self.ips.is_empty();
        let primary = Primary { address, listed, any };
        (primary, others.into())
    }

    fn class(self, namespace: Arc<str>, shared: &mut Shared) -> Arc<Class> {
        let texts = &mut shared.texts;
        let labels = self.labels.into_iter();
        let labels = labels.map(|(key, value)| (texts.get(key), texts.get(value)));
        let labels = LabelSet::of(labels.collect());
        let named = self.ports.into_iter().chain(self.sidecar_ports);
        let named = named.filter(|(name, ..)| !name.is_empty());
        let ports: Arc<[NamedPort]> = named
            .map(|(name, protocol, number)| NamedPort {
                name: texts.get(name),
                protocol: texts.get(if protocol.is_empty() { TCP } else { protocol }),
                number,
            })
            .collect();
        shared.classes.share(Arc::new(Class {
            namespace,
            labels,
            ports: shared.ports.share(ports),
        }))
    }
}

fn some(text: &str) -> Option<Box<str>> {
    (!text.is_empty()).then(|| text.into())
}

/// A UUID in the one form that Kubernetes writes, so that it can be written back.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let mut digits = text.bytes();
    let mut uuid = [0; 16];
    if digits.len() != 36 {
        return None;
    }
    for (index, byte) in uuid.iter_mut().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) && digits.next()? != b'-' {
            return None;
        }
        *byte = nibble(digits.next()?)? << 4 | nibble(digits.next()?)?;
    }
    (uuid != [0; 16]).then_some(uuid)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// A number in the one form that can be written back.
fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number != 0 && !text.starts_with(['0', '+'])).then_some(number)
}
