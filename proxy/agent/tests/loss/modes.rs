// SPDX-License-Identifier: Apache-2.0
//! What happens while requests stream.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use berth_testkit::wait::eventually_blocking;

use crate::proxy::Proxy;
use crate::stream::{Request, Stream, Transport};
use crate::world::{Is, World, service};

/// How many requests pass at least between two events.
const SOME: usize = 300;
/// Well below the period of the full audit (15 s): what is repaired by then was seen at a glance.
const PATIENCE: Duration = Duration::from_secs(10);

/// When a Pod was out of the rules.
type Left = BTreeMap<u16, Instant>;

pub(crate) fn nftables(world: &World) -> anyhow::Result<()> {
    let listing = &["nft", "-s", "list", "table", "ip", "berth-proxy"];
    let flushes: [&[&str]; 2] = [
        &["nft", "flush", "ruleset"],
        &["nft", "delete", "table", "ip", "berth-proxy"],
    ];
    a_roll_over_and_kills_of_the_proxy_cost_no_request(world, "nftables")?;
    flushed(world, "nftables", listing, &flushes)
}

pub(crate) fn iptables(world: &World) -> anyhow::Result<()> {
    let listing = &["iptables", "-t", "nat", "-S"];
    let flushes: [&[&str]; 2] = [&["nft", "flush", "ruleset"], &["iptables", "-t", "nat", "-F"]];
    a_roll_over_and_kills_of_the_proxy_cost_no_request(world, "iptables")?;
    flushed(world, "iptables", listing, &flushes)
}

/// A restart is not here: relays, and connections with them, end with their process.
pub(crate) fn userspace(world: &World) -> anyhow::Result<()> {
    let listing = &["nft", "-s", "list", "table", "ip", "berth-relay"];
    let flushes: [&[&str]; 1] = [&["nft", "flush", "ruleset"]];
    let mut pods = first_pods();
    world.write(&pods)?;
    let proxy = Proxy::start("userspace", &world.state)?;
    let stream = Stream::start(&world.client, service())?;
    let left = roll_over(world, &proxy, &stream, &mut pods)?;
    nothing_failed("userspace: roll-over", &stream.finish()?, &left)?;
    proxy.end()?;
    flushed(world, "userspace", listing, &flushes)
}

fn first_pods() -> BTreeMap<u16, Is> {
    (1..=3).map(|n| (n, Is::Ready)).collect()
}

/// Endpoints roll over and the proxy is killed and restarted: no request fails, and none meets a Pod that left.
fn a_roll_over_and_kills_of_the_proxy_cost_no_request(world: &World, mode: &str) -> anyhow::Result<()> {
    let mut pods = first_pods();
    world.write(&pods)?;
    let proxy = Proxy::start(mode, &world.state)?;
    let stream = Stream::start(&world.client, service())?;
    let left = roll_over(world, &proxy, &stream, &mut pods)?;
    proxy.kill()?;
    stream.more(SOME)?;
    let proxy = Proxy::start(mode, &world.state)?;
    stream.more(SOME)?;
    proxy.kill()?;
    // It changes while nobody watches, and the next process finds that out.
    pods.remove(&6);
    world.write(&pods)?;
    stream.more(SOME)?;
    let proxy = Proxy::start(mode, &world.state)?;
    stream.more(SOME)?;
    world.stop(6)?;
    stream.more(SOME)?;
    let requests = stream.finish()?;
    let overflowed = world.overflowed()?;
    ensure!(
        overflowed == 0,
        "the kernel had no room for {overflowed} flows: fewer requests, please"
    );
    nothing_failed(&format!("{mode}: roll-over and kills"), &requests, &left)?;
    proxy.end()
}

/// One by one a new Pod comes, an old one turns terminating, and goes.
fn roll_over(
    world: &World,
    proxy: &Proxy,
    stream: &Stream,
    pods: &mut BTreeMap<u16, Is>,
) -> anyhow::Result<Left> {
    let mut left = Left::new();
    for old in 1..=3 {
        pods.insert(old + 3, Is::Ready);
        proxy.after(|| world.write(pods))?;
        stream.more(SOME)?;
        pods.insert(old, Is::Terminating);
        proxy.after(|| world.write(pods))?;
        left.insert(old, Instant::now());
        stream.more(SOME)?;
        pods.remove(&old);
        proxy.after(|| world.write(pods))?;
        stream.more(SOME)?;
        world.stop(old)?;
        stream.more(SOME)?;
    }
    Ok(left)
}

fn nothing_failed(what: &str, requests: &[Request], left: &Left) -> anyhow::Result<()> {
    let failed: Vec<&Request> = requests
        .iter()
        .filter(|request| request.answer.is_err())
        .collect();
    println!("{what}: {}, {} failed", rate(requests)?, failed.len());
    ensure!(
        failed.is_empty(),
        "{what}: {} failed: {:?}",
        failed.len(),
        failed.first()
    );
    let late = requests.iter().find(|request| {
        let times = request.answer.ok().and_then(|pod| left.get(&pod));
        times.is_some_and(|left| request.begun > *left)
    });
    ensure!(
        late.is_none(),
        "{what}: answered by a Pod that had left: {late:?}"
    );
    Ok(())
}

fn rate(requests: &[Request]) -> anyhow::Result<String> {
    let (first, last) = (requests.first(), requests.last());
    let took = last.context("requests")?.begun - first.context("requests")?.begun;
    let of = |transport| {
        requests
            .iter()
            .filter(|request| request.transport == transport)
            .count()
    };
    Ok(format!(
        "{} connections, {} exchanges, {:.0} requests/s",
        of(Transport::Tcp),
        of(Transport::Udp),
        requests.len() as f64 / took.as_secs_f64()
    ))
}

fn said(world: &World, command: &[&str]) -> anyhow::Result<String> {
    let (program, arguments) = command.split_first().context("a command")?;
    Ok(world.node.output(program, arguments)?)
}

/// Somebody flushes the rules: they come back without any event, and from then on nothing fails.
fn flushed(world: &World, mode: &str, listing: &[&str], flushes: &[&[&str]]) -> anyhow::Result<()> {
    world.write(&[(4, Is::Ready), (5, Is::Ready)].into())?;
    // What an earlier process left and no Service needs goes after a while, and is not to come back.
    said(world, &["nft", "flush", "ruleset"])?;
    let proxy = Proxy::start(mode, &world.state)?;
    for flush in flushes {
        let before = said(world, listing)?;
        let stream = Stream::start(&world.client, service())?;
        stream.more(SOME)?;
        let gone = Instant::now();
        said(world, flush)?;
        let back = || match said(world, listing) {
            Ok(listed) if listed == before => Ok(Instant::now()),
            Ok(listed) => Err(format!("different: {listed}\nfrom: {before}")),
            Err(error) => Err(error.to_string()),
        };
        let back = eventually_blocking("the rules back", PATIENCE, back).with_context(|| proxy.log_end())?;
        stream.more(SOME)?;
        let requests = stream.finish()?;
        let failed: Vec<&Request> = requests
            .iter()
            .filter(|request| request.answer.is_err())
            .collect();
        println!(
            "{mode}: {}: {}, {} failed, rules back after {:?}",
            flush.join(" "),
            rate(&requests)?,
            failed.len(),
            back - gone
        );
        let outside = failed
            .iter()
            .find(|request| request.begun > back || request.ended < gone);
        ensure!(
            outside.is_none(),
            "{mode} {flush:?}: failed although the rules were there: {outside:?}"
        );
    }
    proxy.end()
}
