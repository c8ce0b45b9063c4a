// SPDX-License-Identifier: Apache-2.0
//! One of the two Services of a history: what it may ask for, and what the API server has of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use http::Request;
use kube::Client;
use serde_json::Value;

use super::admitted::Write;

/// Where all Services of the test are.
pub(crate) const NAMESPACE: &str = "default";

/// The range of node ports. Its static band is the widest that there is.
pub(crate) const NODE_PORTS: (u16, u16) = (20_000, 32_767);

/// Values that nobody else takes: of the static bands, which the API server only turns to when all else is taken. The
/// band of node ports has 128 numbers, for eight lanes.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    /// What the user asks for.
    pub(crate) ports: Vec<u16>,
    pub(crate) v4: Vec<IpAddr>,
    pub(crate) v6: Vec<IpAddr>,
}

/// Of a lane's numbers the first twin has so many, and the second as many for the user and the rest to choose from.
const ASKED: u64 = 3;

impl Values {
    fn new(lane: u64, first: u64, count: u64) -> Self {
        let numbers =
            |base: u64, each: u64| (first..first + count).map(move |index| base + lane * each + index);
        let v4 = |number: u64| Ipv4Addr::from_bits(0x0a60_0002 + u32::try_from(number).unwrap_or(0)).into();
        let v6 = |number: u64| {
            Ipv6Addr::new(
                0xfd00,
                0x10,
                0x96,
                0,
                0,
                0,
                0,
                u16::try_from(number).unwrap_or(0) + 2,
            )
        };
        Self {
            ports: numbers(0, 16)
                .map(|number| NODE_PORTS.0 + u16::try_from(number).unwrap_or(0))
                .collect(),
            v4: numbers(0, 20).map(v4).collect(),
            v6: numbers(0, 20).map(|number| v6(number).into()).collect(),
        }
    }
}

/// What the API server said.
pub(crate) enum Answer {
    Stored(Value),
    Refused(String),
}

/// What hyper says when the API server gives up a request by a panic, which it does on a cluster of one family when an
/// update makes a Service headless, without selector and of two families: it looks for the allocator of the other one
/// (`allocIPs` of pkg/registry/core/service/storage, 1.37.2), before it would refuse the update.
pub(crate) const GIVEN_UP: &str = "connection closed before message completed";

/// A Service, or the place for one.
#[derive(Clone, Debug)]
pub(crate) struct Twin {
    pub(crate) name: String,
    /// What the user may ask for.
    pub(crate) asked: Values,
    /// What Berth may choose.
    pub(crate) free: Values,
    pub(crate) stored: Option<Value>,
    /// What the user sent at first.
    pub(crate) manifest: Option<Value>,
}

impl Twin {
    /// The two of a lane.
    pub(crate) fn pair(name: &str, lane: u64) -> [Self; 2] {
        let twin = |suffix: &str, first: u64, free: Values| Self {
            name: format!("{name}-{suffix}"),
            asked: Values::new(lane, first, ASKED),
            free,
            stored: None,
            manifest: None,
        };
        let none = Values::new(lane, 0, 0);
        [
            twin("bare", 0, none),
            twin("patched", ASKED, Values::new(lane, 2 * ASKED, 16 - 2 * ASKED)),
        ]
    }

    /// The name under which it is stored, which may be one that the API server made.
    pub(crate) fn stored_name(&self) -> Option<&str> {
        self.stored.as_ref()?["metadata"]["name"].as_str()
    }

    /// Sends a write and keeps what comes of it.
    pub(crate) async fn send(&mut self, client: &Client, write: &Write) -> Result<Answer> {
        let collection = format!("/api/v1/namespaces/{NAMESPACE}/services");
        let (request, body, kind) = match (write, self.stored_name()) {
            (Write::Whole(object), None) => (Request::post(collection), object, "application/json"),
            (Write::Whole(object), Some(name)) => (
                Request::put(format!("{collection}/{name}")),
                object,
                "application/json",
            ),
            (Write::Merge(patch), name) => {
                let name = name.context("a patch of nothing")?;
                let request = Request::patch(format!("{collection}/{name}"));
                (request, patch, "application/merge-patch+json")
            }
        };
        let request = request
            .header("content-type", kind)
            .body(serde_json::to_vec(body)?)?;
        match client.request::<Value>(request).await {
            Ok(stored) => {
                self.stored = Some(stored.clone());
                Ok(Answer::Stored(stored))
            }
            Err(kube::Error::Api(status)) => {
                Ok(Answer::Refused(format!("{} {}", status.code, status.message)))
            }
            Err(error) => {
                let error = anyhow::Error::from(error).context(self.name.clone());
                if error.chain().any(|part| part.to_string() == GIVEN_UP) {
                    Ok(Answer::Refused(GIVEN_UP.to_owned()))
                } else {
                    Err(error)
                }
            }
        }
    }

    /// Deletes it where it is.
    pub(crate) async fn end(&mut self, client: &Client) -> Result<()> {
        if let Some(name) = self.stored_name() {
            let path = format!("/api/v1/namespaces/{NAMESPACE}/services/{name}");
            client
                .request::<Value>(Request::delete(path).body(Vec::new())?)
                .await?;
        }
        self.stored = None;
        Ok(())
    }
}
