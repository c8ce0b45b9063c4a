// SPDX-License-Identifier: Apache-2.0
//! Requests with hardly a pause while endpoints roll over, the proxy is killed and restarted, and somebody flushes its rules:
//! real packets, and the proxy a process of its own with its run loop. This program is that process, too.
//!
//! Mode ipvs is not here: its kernel is the guest of `tests/ipvs`.

#![expect(clippy::unwrap_used, reason = "helpers of tests: constants that parse")]

mod modes;
mod proxy;
mod stream;
mod world;

use std::process::ExitCode;

use berth_testkit::cases::{self, Case};
use berth_testkit::sandbox::{Side, enter};

type Body = fn(&world::World) -> anyhow::Result<()>;

const CASES: [Case<Body>; 3] = [
    ("nftables", modes::nftables),
    ("iptables", modes::iptables),
    ("userspace", modes::userspace),
];

fn main() -> ExitCode {
    if std::env::var_os(proxy::IS_PROXY).is_some() {
        return proxy::run();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(chosen) = cases::chosen(&CASES, &arguments) else {
        return ExitCode::SUCCESS;
    };
    match enter() {
        Ok(Side::Inside) => cases::run(CASES.len(), &chosen, |body| {
            let world = world::World::new()?;
            let outcome = body(&world);
            world.end().and(outcome)
        }),
        Ok(Side::Finished(code)) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
