// SPDX-License-Identifier: Apache-2.0
//! One endpoint changed, again and again; and a number of endpoints that no Service had so far.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_testkit::process::Process;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::super::figures::{Key, Values};
use super::super::stats::percentile;
use super::commits::Commits;
use super::data::{Kinds, ProxyData};
use super::run::{Ground, Subject, megabytes};

/// How a change is seen to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The kernel's nftables tell of each transaction.
    ByCommit,
    /// A connection that was refused is taken: iptables tell nothing.
    ByTraffic,
}

/// Between two changes: kube-proxy rests for a second after each, and what waits for that measures the rest.
const APART: Duration = Duration::from_millis(1_300);
/// For one change.
const CHANGED: Duration = Duration::from_secs(120);
/// For each change of those that are timed, so many come in a row: what one costs the API server is less than what it
/// does anyway in the time between two that are timed.
const STEADY: u32 = 10;
/// Between two changes in a row, from the start of one to the start of the next.
pub(super) const PACE: Duration = Duration::from_millis(20);
/// So many endpoints a Service is given before more are added one by one: the numbers after it are new to everybody, and
/// among them is 65, the first that Berth has no rules for from the start.
const MANY: u32 = 60;
/// How many are added.
const ADDED: u32 = 10;

impl Ground {
    /// Changes one endpoint of one Service after the other.
    pub(super) async fn changes(
        &self,
        subject: Subject<'_>,
        process: &mut Process,
        values: &mut Values,
    ) -> Result<()> {
        let pid = process.pid();
        let start = self.mark(Some(pid))?;
        let latencies = match subject.seen {
            Seen::ByCommit => self.committed(subject, process).await?,
            Seen::ByTraffic => self.taken(subject, process).await?,
        };
        let used = self.mark(Some(pid))?.since(start);
        let each = |total: f64| total * 1_000.0 / f64::from(subject.changes * subject.seen.writes());
        values.insert(Key::ChangeP50, percentile(&latencies, 50).context("no changes")?);
        values.insert(Key::ChangeP99, percentile(&latencies, 99).context("no changes")?);
        values.insert(Key::ChangeCpu, each(used.proxy_cpu));
        Ok(())
    }

    /// Changes endpoints in a row at an even pace, until all is quiet again: what that costs others.
    pub(super) async fn steadily(
        &self,
        subject: Subject<'_>,
        process: &Process,
        values: &mut Values,
    ) -> Result<()> {
        let pid = process.pid();
        let start = self.mark(Some(pid))?;
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for change in subject.changes..subject.changes * (1 + STEADY) {
            pace.tick().await;
            self.patch(service_of(change, subject), &replaced(replacement(change)))
                .await?;
        }
        self.quiet(Some(pid)).await.with_context(|| process.log_end())?;
        let used = self.mark(Some(pid))?.since(start);
        values.insert(
            Key::ChurnCpu,
            used.proxy_cpu * 1_000.0 / f64::from(subject.changes * STEADY),
        );
        values.insert(Key::ChurnApiServerCpu, used.apiserver_cpu);
        values.insert(Key::ChurnReceived, megabytes(used.bytes.received));
        Ok(())
    }

    async fn committed(&self, subject: Subject<'_>, process: &Process) -> Result<Vec<f64>> {
        let commits = Commits::subscribe(self.node.netns())?;
        let mut latencies = Vec::new();
        for change in 0..subject.changes {
            let address = replacement(change);
            let service = service_of(change, subject);
            let latency = self
                .commit(subject, &commits, service, &replaced(address), address)
                .await;
            latencies.push(latency.with_context(|| process.log_end())?);
            tokio::time::sleep(APART).await;
        }
        Ok(latencies)
    }

    /// Milliseconds from the answer to a write until an address is in the kernel.
    async fn commit(
        &self,
        subject: Subject<'_>,
        commits: &Commits,
        service: u32,
        patch: &Value,
        address: Ipv4Addr,
    ) -> Result<f64> {
        let ports = subject.data.ports().iter();
        let endpoints: Vec<SocketAddrV4> = ports
            .map(|(_, _, target)| SocketAddrV4::new(address, *target))
            .collect();
        commits.drain()?;
        self.patch(service, patch).await?;
        let answered = Instant::now();
        let seen = tokio::task::block_in_place(|| commits.seen(&endpoints, CHANGED))?;
        Ok(milliseconds(seen.saturating_duration_since(answered)))
    }

    /// A Service whose only endpoint nobody can reach is given one that takes connections.
    async fn taken(&self, subject: Subject<'_>, process: &Process) -> Result<Vec<f64>> {
        let mut latencies = Vec::new();
        for change in 0..subject.changes {
            let service = service_of(change, subject);
            let only = |address: Ipv4Addr| json!([{"op": "replace", "path": "/endpoints", "value": [endpoint(address)]}]);
            let ports = subject.data.ports().iter();
            let frontends: Vec<SocketAddr> = ports
                .map(|(_, port, _)| SocketAddr::new(ProxyData::cluster_ip(service).into(), *port))
                .collect();
            self.patch(service, &only(replacement(change))).await?;
            self.served(&frontends, false)
                .with_context(|| process.log_end())?;
            tokio::time::sleep(APART).await;
            self.patch(service, &only(reachable(change))).await?;
            let answered = Instant::now();
            self.served(&frontends, true).with_context(|| process.log_end())?;
            latencies.push(milliseconds(answered.elapsed()));
            tokio::time::sleep(APART).await;
        }
        Ok(latencies)
    }

    /// Waits until connections to all of these are taken, or to none.
    fn served(&self, frontends: &[SocketAddr], wanted: bool) -> Result<()> {
        let started = Instant::now();
        tokio::task::block_in_place(|| {
            for frontend in frontends {
                while self.node.serves(*frontend)? != wanted {
                    ensure!(
                        started.elapsed() < CHANGED,
                        "{frontend} is as before after {CHANGED:?}"
                    );
                }
            }
            Ok(())
        })
    }

    /// Gives the last Service one endpoint after the other, beyond what any has had.
    pub(super) async fn first_uses(
        &self,
        subject: Subject<'_>,
        process: &Process,
        values: &mut Values,
    ) -> Result<()> {
        // Whatever it is, it is no Service with affinity, whose endpoints upstream writes in another form.
        let service = match subject.data.kinds {
            Kinds::Plain => subject.data.services - 1,
            Kinds::Mixed => 0,
        };
        let commits = Commits::subscribe(self.node.netns())?;
        let added = |address| json!({"op": "add", "path": "/endpoints/-", "value": endpoint(address)});
        let filling: Vec<Ipv4Addr> = (subject.data.endpoints..MANY).map(further).collect();
        if let Some(last) = filling.last() {
            let patch = filling.iter().copied().map(added).collect();
            self.commit(subject, &commits, service, &patch, *last).await?;
        }
        let mut latencies = Vec::new();
        for number in MANY..MANY + ADDED {
            tokio::time::sleep(APART).await;
            let address = further(number);
            let latency = self
                .commit(subject, &commits, service, &json!([added(address)]), address)
                .await;
            latencies.push(latency.with_context(|| process.log_end())?);
        }
        values.insert(
            Key::FirstUseP50,
            percentile(&latencies, 50).context("no changes")?,
        );
        values.insert(
            Key::FirstUseMost,
            percentile(&latencies, 100).context("no changes")?,
        );
        Ok(())
    }

    async fn patch(&self, service: u32, patch: &Value) -> Result<()> {
        let path = ProxyData::slice_path(service);
        let request = http::Request::patch(&path)
            .header("content-type", "application/json-patch+json")
            .body(serde_json::to_vec(patch)?)?;
        self.client.request_text(request).await.context(path)?;
        Ok(())
    }
}

impl Seen {
    /// How many writes a change takes.
    fn writes(self) -> u32 {
        match self {
            Self::ByCommit => 1,
            Self::ByTraffic => 2,
        }
    }
}

fn replaced(address: Ipv4Addr) -> Value {
    json!([{"op": "replace", "path": "/endpoints/0/addresses", "value": [address]}])
}

fn endpoint(address: Ipv4Addr) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false}})
}

/// An address that no endpoint of the data has and to which there is no route, another one for each change.
fn replacement(change: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 127, 1, 0)) + change)
}

/// The same, beside those of [`replacement`].
fn further(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 127, 128, 0)) + number)
}

/// An address behind which connections are taken and that no endpoint of the data has.
fn reachable(change: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 255, 1, 0)) + change)
}

/// Evenly over all Services; of mixed ones, over those without affinity.
fn service_of(change: u32, subject: Subject<'_>) -> u32 {
    let round = change / subject.changes;
    let even = (change * (subject.data.services / subject.changes).max(1) + round) % subject.data.services;
    match subject.data.kinds {
        Kinds::Plain => even,
        Kinds::Mixed => even - even % 4 + change % 3,
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::proxy_peer::launch::Proxy;

    fn subject(kinds: Kinds) -> Subject<'static> {
        Subject {
            proxy: Proxy::Berth,
            berth: Path::new("berth"),
            name: "x",
            data: ProxyData {
                services: 2_000,
                ports: 2,
                endpoints: 10,
                kinds,
            },
            changes: 100,
            seen: Seen::ByCommit,
        }
    }

    #[test]
    fn changes_are_spread_over_the_services_and_bring_an_address_each() {
        let services: BTreeSet<u32> = (0..100)
            .map(|change| service_of(change, subject(Kinds::Plain)))
            .collect();
        assert_eq!((services.len(), services.last().copied()), (100, Some(1_980)));
        let all = 100 * (1 + STEADY);
        let addresses: BTreeSet<Ipv4Addr> = (0..all).map(replacement).collect();
        assert_eq!(addresses.len(), all as usize);
        let services = (0..all).map(|change| service_of(change, subject(Kinds::Plain)));
        assert_eq!(
            services.collect::<BTreeSet<_>>().len(),
            all as usize,
            "one after the other"
        );
        assert!(addresses.is_disjoint(&(0..100).map(further).collect()));
    }

    #[test]
    fn of_mixed_services_every_kind_is_changed_but_affinity() {
        let kinds: BTreeSet<u32> = (0..100)
            .map(|change| service_of(change, subject(Kinds::Mixed)) % 4)
            .collect();
        assert_eq!(kinds, BTreeSet::from([0, 1, 2]));
    }
}
