// SPDX-License-Identifier: Apache-2.0
//! Whether the range of node ports that Berth was told is the API server's (`--service-node-port-range` of both).
//!
//! In: the believed range, what the API server answered. Out: the Service to ask with, a [`Verdict`]. Touches: nothing.
//!
//! API servers tell nobody their range. But whoever asks for a node port outside it is refused with a text that names it. So a
//! Service is created, really, that asks for ports outside the believed range only: where Berth was told the truth, it is always
//! refused. A dry run would not do: the API server looks at no range then (kubernetes, pkg/registry/core/service/portallocator,
//! operation.go).

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use berth_model::{Port, PortRange};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The name of the Service; the shipped RBAC names it.
pub const NAME: &str = "berth-node-port-range";
/// The reason of events about a mismatch.
pub const MISMATCH: &str = "NodePortRangeMismatch";
/// How the Service is known as Berth's.
const LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "berth-controllers");
/// Before the range in the refusal (pkg/registry/core/service/portallocator, `ErrNotInRange`).
const BEFORE_RANGE: &str = "The range of valid ports is ";
/// In the refusal of a port within the range that somebody has (`ErrAllocated`).
const TAKEN: &str = "provided port is already allocated";

/// The Service to ask with; none where every port is in the believed range, so that nothing can be asked.
pub fn question(namespace: &str, believed: PortRange) -> Option<Service> {
    let ports: Vec<ServicePort> = (1..)
        .zip(outside(believed))
        .map(|(number, port)| ServicePort {
            name: Some(format!("p{number}")),
            port: number,
            node_port: Some(i32::from(port.get())),
            ..ServicePort::default()
        })
        .collect();
    let labels = BTreeMap::from([(LABEL.0.to_owned(), LABEL.1.to_owned())]);
    (!ports.is_empty()).then(|| Service {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some("NodePort".to_owned()),
            ports: Some(ports),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    })
}

/// Whether a Service is one that was made by asking.
pub fn is_ours(service: &Service) -> bool {
    let meta = &service.metadata;
    let labels = meta.labels.as_ref();
    let label = labels.and_then(|labels| labels.get(LABEL.0));
    meta.name.as_deref() == Some(NAME) && label.is_some_and(|value| value == LABEL.1)
}

/// The ends of all ports and the neighbours of the range, as far as they are outside it: a range that reaches further has one
/// of the neighbours, and one that is elsewhere lacks an end of all, or says so at the first port that it lacks.
fn outside(believed: PortRange) -> BTreeSet<Port> {
    let (first, last) = (believed.first().get(), believed.last().get());
    let numbers = [Some(1), first.checked_sub(1), last.checked_add(1), Some(u16::MAX)];
    let ports = numbers.into_iter().flatten().filter_map(Port::new);
    ports.filter(|port| !believed.contains(*port)).collect()
}

/// What the API server made of the Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It was created.
    Created,
    /// It was refused, with this text.
    Refused(&'a str),
}

/// What follows from an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The believed range is the API server's.
    Same,
    /// The API server's is this one.
    Other(PortRange),
    /// The API server gives ports outside the believed range; which is not said.
    Wider,
    /// The answer says nothing of ranges.
    Unknown(String),
    /// Every port is in the believed range.
    Unasked,
}

impl Verdict {
    /// Of an answer.
    pub fn of(believed: PortRange, answer: Answer<'_>) -> Self {
        let text = match answer {
            Answer::Created => return Self::Wider,
            Answer::Refused(text) => text,
        };
        match range_in(text) {
            Some(range) if range == believed => Self::Same,
            Some(range) => Self::Other(range),
            None if text.contains(TAKEN) => Self::Wider,
            None => Self::Unknown(text.to_owned()),
        }
    }

    /// The stable text form.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Same => "Same",
            Self::Other(_) => "Other",
            Self::Wider => "Wider",
            Self::Unknown(_) => "Unknown",
            Self::Unasked => "Unasked",
        }
    }

    /// Whether Berth was told another range than the API server has.
    pub fn is_mismatch(&self) -> bool {
        match self {
            Self::Other(_) | Self::Wider => true,
            Self::Same | Self::Unknown(_) | Self::Unasked => false,
        }
    }

    /// The verdict in words, for who believes in this range.
    pub fn told(&self, believed: PortRange) -> impl fmt::Display {
        Told {
            verdict: self.clone(),
            believed,
        }
    }
}

struct Told {
    verdict: Verdict,
    believed: PortRange,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, believed } = self;
        let flag = format!("--service-node-port-range={believed} of berth controllers");
        let harm = "Ports that only one of the two has are given to nobody, or given and then refused";
        match verdict {
            Verdict::Same => write!(f, "{flag} is the API server's range"),
            Verdict::Other(range) => write!(
                f,
                "{flag} is not the API server's range, which is {range}. {harm}: start the controllers with \
                 --service-node-port-range={range}, or the API server with {believed}"
            ),
            Verdict::Wider => write!(
                f,
                "{flag} is not the API server's range, which has ports outside {believed}. {harm}: start the controllers with the \
                 --service-node-port-range that kube-apiserver is started with"
            ),
            Verdict::Unknown(text) => write!(
                f,
                "{flag} could not be compared with the API server's range. Asked for node ports outside it, the API server said: {text}"
            ),
            Verdict::Unasked => write!(
                f,
                "{flag} can't be compared with the API server's range: no port is outside it to ask for. See that \
                 kube-apiserver is started with the same"
            ),
        }
    }
}

/// The first range that a refusal names.
fn range_in(text: &str) -> Option<PortRange> {
    let (_, rest) = text.split_once(BEFORE_RANGE)?;
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '-'));
    let range = rest.get(..end.unwrap_or(rest.len()))?;
    range.contains('-').then(|| range.parse().ok()).flatten()
}
