// SPDX-License-Identifier: Apache-2.0
//! Services made while replicas are killed, admission is off, and the API server starts anew.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use berth_testkit::in_sandbox_async;
use berth_testkit::wait::eventually;
use serde_json::json;

use super::cluster::{Cluster, Made};
use super::{PATIENCE, octet, prepare};

/// Between two kills: the pace of the issue, not something that is waited for.
const KILLS: Duration = Duration::from_secs(1);
const CLIENTS: usize = 16;

/// What clients that never give up came by.
#[derive(Debug, Default)]
struct Tally {
    addresses: Vec<String>,
    retried: usize,
}

/// Creates Services of team-a until told to stop, each until it is stored. Whoever is told no may only be told so for now.
async fn keep_creating(
    cluster: &Cluster,
    client: usize,
    stop: &AtomicBool,
    made: &AtomicUsize,
) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let name = format!("web-{client}-{turn}");
        let began = Instant::now();
        loop {
            match cluster.create("team-a", &name, json!({})).await {
                Ok(stored @ Made::Stored(_)) => tally.addresses.push(stored.address()?),
                // An answer was lost, and the Service is there.
                Ok(Made::Refused(409, _)) if tally.retried > 0 => {
                    tally.addresses.push(cluster.address("team-a", &name).await?)
                }
                Ok(Made::Refused(code, text)) => {
                    let retriable = [429, 500, 503, 504].contains(&code);
                    ensure!(retriable, "{name} is refused for good: {code} {text}");
                    ensure!(began.elapsed() < PATIENCE, "{name} stays refused: {code} {text}");
                    tally.retried += 1;
                    continue;
                }
                // The API server is away.
                Err(error) => {
                    ensure!(began.elapsed() < PATIENCE, "{name}: {error:#}");
                    tally.retried += 1;
                    continue;
                }
            }
            break;
        }
        made.fetch_add(1, Ordering::Relaxed);
    }
    Ok(tally)
}

/// Runs clients beside `trouble`, and goes on until they made some more after it.
async fn storm(cluster: &Cluster, trouble: impl Future<Output = Result<()>>) -> Result<Tally> {
    let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let clients = futures::future::try_join_all(
        (0..CLIENTS).map(|client| keep_creating(cluster, client, &stop, &made)),
    );
    let watched = async {
        trouble.await?;
        let before = made.load(Ordering::Relaxed);
        let more = eventually("creates go on", PATIENCE, || async {
            let now = made.load(Ordering::Relaxed);
            ensure!(now >= before + 2 * CLIENTS, "{before} before, {now} now");
            anyhow::Ok(())
        });
        let outcome = more.await;
        stop.store(true, Ordering::Relaxed);
        anyhow::Ok(outcome?)
    };
    let (tallies, ()) = futures::try_join!(clients, watched)?;
    Ok(tallies.into_iter().fold(Tally::default(), |mut sum, tally| {
        sum.addresses.extend(tally.addresses);
        sum.retried += tally.retried;
        sum
    }))
}

async fn pool_of_team_a(cluster: &Cluster) -> Result<()> {
    let spec = json!({"addresses": ["10.96.16.0-10.96.31.255"], "selector": {"namespaces": ["team-a"]}});
    cluster.address_pool("team-a", &spec).await?;
    cluster.served("team-a", is_of_team_a).await
}

fn is_of_team_a(address: &str) -> bool {
    octet(address).is_ok_and(|octet| (16..32).contains(&octet))
}

fn each_once(addresses: &[String]) -> Result<()> {
    let distinct: BTreeSet<&String> = addresses.iter().collect();
    ensure!(
        distinct.len() == addresses.len(),
        "{} Services have {} addresses",
        addresses.len(),
        distinct.len()
    );
    Ok(())
}

/// A replica killed each second, another started in its place.
async fn kill_each_second(cluster: &Cluster, kills: usize) -> Result<()> {
    for _ in 0..kills {
        tokio::time::sleep(KILLS).await;
        let mut replicas = cluster.replicas()?;
        let place = fastrand::usize(..3);
        replicas.kill(place)?;
        replicas.launch()?;
    }
    Ok(())
}

#[test]
fn under_fail_every_service_is_in_its_pool_whoever_is_killed() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-kill-fail").await?;
        cluster.serve(3, &["--admission-failure-policy=Fail"]).await?;
        pool_of_team_a(&cluster).await?;
        let tally = storm(&cluster, kill_each_second(&cluster, 12)).await?;
        each_once(&tally.addresses)?;
        let outside: Vec<&String> = tally
            .addresses
            .iter()
            .filter(|address| !is_of_team_a(address))
            .collect();
        ensure!(outside.is_empty(), "{outside:?}");
        cluster.check()
    });
}

#[test]
fn under_ignore_every_service_is_made_whoever_is_killed() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-kill-ignore").await?;
        cluster.serve(3, &[]).await?;
        pool_of_team_a(&cluster).await?;
        let tally = storm(&cluster, kill_each_second(&cluster, 12)).await?;
        each_once(&tally.addresses)?;
        cluster.check()
    });
}

#[test]
fn while_admission_is_off_fail_refuses_for_now_and_ignore_lets_pass() {
    prepare();
    in_sandbox_async!(async {
        for (policy, passes) in [("Fail", false), ("Ignore", true)] {
            let mut cluster = Cluster::start(&format!("pools-off-{policy}")).await?;
            let flag = format!("--admission-failure-policy={policy}");
            cluster.serve(3, &[&flag]).await?;
            pool_of_team_a(&cluster).await?;
            cluster.replicas()?.kill_all()?;
            let mut made = Vec::new();
            for index in 0..20 {
                made.push(
                    cluster
                        .create("team-a", &format!("off-{index}"), json!({}))
                        .await?,
                );
            }
            let stored = made.iter().filter(|made| made.address().is_ok()).count();
            ensure!(
                stored == if passes { 20 } else { 0 },
                "{policy}: {stored} were stored: {made:?}"
            );
            for _ in 0..3 {
                cluster.replicas()?.launch()?;
            }
            cluster.replicas()?.ready()?;
            cluster.served("team-a", is_of_team_a).await?;
            // What came in meanwhile is known: a pool's address that the API server picked is not given again.
            let mut addresses: Vec<String> = made.iter().filter_map(|made| made.address().ok()).collect();
            for index in 0..20 {
                let address = cluster
                    .create("team-a", &format!("on-{index}"), json!({}))
                    .await?
                    .address()?;
                ensure!(is_of_team_a(&address), "{address}");
                addresses.push(address);
            }
            each_once(&addresses)?;
            if passes {
                astray_are_told(&cluster, &made).await?;
            }
        }
        anyhow::Ok(())
    });
}

/// Whatever the API server picked outside the pool is counted, and its owner is told.
async fn astray_are_told(cluster: &Cluster, made: &[Made]) -> Result<()> {
    let outside = made
        .iter()
        .filter(|made| made.address().is_ok_and(|address| !is_of_team_a(&address)));
    let names: BTreeSet<String> = outside.filter_map(Made::stored_name).collect();
    ensure!(
        !names.is_empty(),
        "the API server picked 20 times within the pool"
    );
    eventually("the audit", PATIENCE, || async {
        let label = "reason=\"ClusterIPOutsidePool\"";
        let counted = cluster.metric("berth_allocation_findings", label).await?;
        ensure!(
            (counted - names.len() as f64).abs() < 0.5,
            "{counted} counted of {}",
            names.len()
        );
        let selector = "--field-selector=reason=ClusterIPOutsidePool";
        let columns = "-o=jsonpath={range .items[*]}{.involvedObject.name}{\"\\n\"}{end}";
        let told = cluster
            .kubectl(&["-n", "team-a", "get", "events", selector, columns])
            .await?;
        let told: BTreeSet<String> = told.lines().map(str::to_owned).collect();
        ensure!(told == names, "told {told:?}, not {names:?}");
        anyhow::Ok(())
    })
    .await?;
    Ok(())
}

#[test]
fn an_api_server_that_starts_anew_is_served_as_before() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-restart").await?;
        cluster.serve(3, &["--admission-failure-policy=Fail"]).await?;
        pool_of_team_a(&cluster).await?;
        let mut all = Vec::new();
        for round in 0..2 {
            for index in 0..10 {
                let name = format!("before-{round}-{index}");
                all.push(cluster.create("team-a", &name, json!({})).await?.address()?);
            }
            cluster.restart_apiserver().await?;
            cluster.replicas()?.revive()?;
            cluster.served("team-a", is_of_team_a).await?;
        }
        each_once(&all)?;
        if let Some(outside) = all.iter().find(|address| !is_of_team_a(address)) {
            bail!("{outside}");
        }
        anyhow::Ok(())
    });
}
