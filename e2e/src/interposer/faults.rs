// SPDX-License-Identifier: Apache-2.0
//! Which writes fail, and how; seeded, so that a run can be had again.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::request::{Call, Verb};

/// What a client is told about its write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// 409: `AlreadyExists` of a creation, else `Conflict`.
    Conflict,
    /// 429, with or without `Retry-After` (seconds).
    TooManyRequests(Option<u16>),
    /// 500.
    ServerError,
    /// The connection breaks.
    Nothing,
}

/// How a write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What the client is told.
    pub told: Told,
    /// Whether the write was carried out all the same.
    pub carried_out: bool,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::new(Told::Conflict, false),
        Self::new(Told::TooManyRequests(Some(1)), false),
        Self::new(Told::TooManyRequests(None), false),
        Self::new(Told::ServerError, false),
        Self::new(Told::ServerError, true),
        Self::new(Told::Nothing, false),
        Self::new(Told::Nothing, true),
        // A load balancer that repeats a request whose first answer got lost.
        Self::new(Told::Conflict, true),
    ];

    const fn new(told: Told, carried_out: bool) -> Self {
        Self { told, carried_out }
    }
}

/// An order to fail writes.
#[derive(Clone, Debug)]
pub struct WriteFaults {
    /// The same seed fails the same writes, as far as they come in the same order.
    pub seed: u64,
    /// How many of a thousand.
    pub per_mille: u16,
    /// Which faults take turns, at random.
    pub among: Vec<Fault>,
    /// Resources that are spared, as [`Call::resource`] has them.
    pub spared: Vec<String>,
}

impl WriteFaults {
    /// Some per mille of all writes, with every fault there is.
    pub fn some(seed: u64, per_mille: u16) -> Self {
        Self {
            seed,
            per_mille,
            among: Fault::ALL.to_vec(),
            spared: Vec::new(),
        }
    }

    /// Every write to a resource that is not spared, always in the same way.
    pub fn always(told: Told, carried_out: bool) -> Self {
        Self {
            seed: 0,
            per_mille: 1000,
            among: vec![Fault { told, carried_out }],
            spared: Vec::new(),
        }
    }

    /// The same, but without effect on a resource.
    #[must_use]
    pub fn sparing(mut self, resource: &str) -> Self {
        self.spared.push(resource.to_owned());
        self
    }
}

/// An order under way.
#[derive(Debug)]
pub(super) struct Dice {
    faults: WriteFaults,
    random: fastrand::Rng,
    failed: usize,
}

impl Dice {
    pub(super) fn new(faults: WriteFaults) -> Self {
        Self {
            random: fastrand::Rng::with_seed(faults.seed),
            faults,
            failed: 0,
        }
    }

    /// The fate of a call.
    pub(super) fn throw(&mut self, call: &Call) -> Option<Fault> {
        if !call.verb.is_write() || self.faults.spared.contains(&call.resource) {
            return None;
        }
        if self.random.u16(0..1000) >= self.faults.per_mille {
            return None;
        }
        let fault = self.random.choice(&self.faults.among).copied();
        self.failed += usize::from(fault.is_some());
        fault
    }

    pub(super) fn failed(&self) -> usize {
        self.failed
    }
}

/// The made-up answer; `None` where the connection is to break.
pub(super) fn answer(told: Told, verb: Verb) -> Option<Response<String>> {
    let (code, reason) = match told {
        Told::Conflict if verb == Verb::Create => (StatusCode::CONFLICT, "AlreadyExists"),
        Told::Conflict => (StatusCode::CONFLICT, "Conflict"),
        Told::TooManyRequests(_) => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
        Told::ServerError => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        Told::Nothing => return None,
    };
    let mut response = Response::new(status(code, reason, told).to_string());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Told::TooManyRequests(Some(seconds)) = told {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    Some(response)
}

/// A Status as the API server words it.
fn status(code: StatusCode, reason: &str, told: Told) -> Value {
    let details = match told {
        Told::TooManyRequests(Some(seconds)) => json!({"retryAfterSeconds": seconds}),
        Told::TooManyRequests(None) | Told::Conflict | Told::ServerError | Told::Nothing => json!({}),
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code.as_u16(),
        "reason": reason, "message": "failed on purpose by the interposer", "details": details,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(verb: Verb) -> impl Iterator<Item = Call> {
        (0..2000).map(move |index| Call {
            verb,
            resource: "endpoints".to_owned(),
            namespace: "shop".to_owned(),
            name: format!("e{index}"),
        })
    }

    #[test]
    fn the_asked_share_of_writes_fails_the_same_way_each_time_and_no_read_does() {
        let fates = |verb| {
            let mut dice = Dice::new(WriteFaults::some(7, 50));
            calls(verb).map(|call| dice.throw(&call)).collect::<Vec<_>>()
        };
        let fates_of_updates = fates(Verb::Update);
        assert_eq!(fates_of_updates, fates(Verb::Update));
        let failed = fates_of_updates.iter().flatten().count();
        assert!((60..=140).contains(&failed), "{failed} of 2000 at 5%");
        for fault in Fault::ALL {
            assert!(fates_of_updates.contains(&Some(fault)), "{fault:?} never came");
        }
        assert_eq!(fates(Verb::List).iter().flatten().count(), 0);
    }

    #[test]
    fn spared_resources_are_passed_on() {
        let mut dice = Dice::new(WriteFaults::always(Told::ServerError, false).sparing("endpoints"));
        assert!(calls(Verb::Create).all(|call| dice.throw(&call).is_none()));
        assert_eq!(dice.failed(), 0);
    }

    #[test]
    fn throttling_says_when_to_come_again_in_header_and_body() {
        let response = answer(Told::TooManyRequests(Some(3)), Verb::Update).unwrap();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "3");
        assert!(response.body().contains(r#""retryAfterSeconds":3"#));
        assert!(answer(Told::Nothing, Verb::Update).is_none());
        assert!(
            answer(Told::Conflict, Verb::Create)
                .unwrap()
                .body()
                .contains("AlreadyExists")
        );
    }
}
