// SPDX-License-Identifier: Apache-2.0
//! Cluster IPs and node ports out of pools, on the real API server, by real replicas behind one address.

#![expect(
    clippy::indexing_slicing,
    reason = "a test fails by a panic, on a value that is not there too"
)]

mod breath;
mod cluster;
mod edits;
mod faults;
mod ip_addresses;
mod kubectl;
mod leaks;
mod load_balancer;
mod meddling;
mod node_port_range;
mod uninstall;
mod upkeep;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use berth_e2e::controlplane::Binaries;
use berth_testkit::wait::eventually;
use berth_testkit::{in_sandbox_async, sandbox};
use cluster::{Cluster, Made, TEAMS};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);

#[expect(clippy::unwrap_used, reason = "a test fails by a panic, its helpers too")]
fn prepare() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().unwrap();
    }
}

/// The third octet of an address in 10.96.0.0/16.
fn octet(address: &str) -> Result<u8> {
    Ok(address.parse::<Ipv4Addr>()?.octets()[2])
}

#[test]
fn without_a_pool_nobody_is_asked_and_with_the_first_one_everybody_is() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-first").await?;
        cluster.serve(1, &[]).await?;
        let registered = async || {
            let listed = cluster
                .kubectl(&["get", "mutatingwebhookconfigurations", "-o", "name"])
                .await?;
            anyhow::Ok(listed.contains("berth-services"))
        };
        ensure!(!registered().await?, "registered without a pool");
        cluster
            .address_pool(
                "team-a",
                &json!({"addresses": ["10.96.1.0/24"],
            "selector": {"namespaces": ["team-a"]}}),
            )
            .await?;
        cluster
            .served("team-a", |address| octet(address).is_ok_and(|octet| octet == 1))
            .await?;
        // What no pool is for is given outside every pool.
        for index in 0..40 {
            let made = cluster
                .create("team-b", &format!("plain-{index}"), json!({}))
                .await?;
            let address = made.address()?;
            ensure!(octet(&address)? != 1, "{address} is team-a's");
        }
        cluster.kubectl(&["delete", "addresspool", "team-a"]).await?;
        eventually("no registration", PATIENCE, || async {
            ensure!(!registered().await?, "still registered");
            anyhow::Ok(())
        })
        .await?;
        cluster.check()
    });
}

#[test]
fn a_pool_is_used_to_its_last_address_and_one_deletion_frees_exactly_one() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-last").await?;
        cluster.serve(3, &[]).await?;
        cluster
            .address_pool(
                "few",
                &json!({"addresses": ["10.96.1.0/28"],
            "selector": {"namespaces": ["team-a"]}}),
            )
            .await?;
        cluster
            .served("team-a", |address| octet(address).is_ok_and(|octet| octet == 1))
            .await?;
        // 40 at once, for the 14 that a /28 has.
        let names: Vec<String> = (0..40).map(|index| format!("web-{index}")).collect();
        let made =
            futures::future::join_all(names.iter().map(|name| cluster.create("team-a", name, json!({}))))
                .await;
        let made: Vec<Made> = made.into_iter().collect::<Result<_>>()?;
        let addresses: BTreeSet<String> = made.iter().filter_map(|made| made.address().ok()).collect();
        ensure!(
            addresses.len() == 14,
            "{} addresses given: {addresses:?}",
            addresses.len()
        );
        let refused: Vec<&Made> = made.iter().filter(|made| made.address().is_err()).collect();
        ensure!(refused.len() == 26, "{} refused", refused.len());
        for refusal in &refused {
            let (code, text) = refusal.refusal()?;
            ensure!(
                (code == 403 || code == 429) && text.contains("few") && text.contains("14 of 14"),
                "{code}: {text}"
            );
        }
        let settled = cluster.create("team-a", "late", json!({})).await?;
        let (code, text) = settled.refusal()?;
        ensure!(
            code == 403 && text.contains("is exhausted") && text.contains("delete a Service"),
            "{code}: {text}"
        );
        let gone = made
            .iter()
            .find_map(|made| made.stored_name())
            .unwrap_or_default();
        cluster
            .kubectl(&["-n", "team-a", "delete", "service", &gone])
            .await?;
        // The watches of the replicas show it within moments.
        eventually("one more", PATIENCE, || async {
            cluster.create("team-a", "late", json!({})).await?.address()
        })
        .await?;
        let next = cluster.create("team-a", "later", json!({})).await?;
        ensure!(next.address().is_err(), "two addresses for one");
        cluster.check()
    });
}

/// What a team has in the storm: 1,024 addresses and 600 node ports.
#[derive(Clone, Copy, Debug)]
struct Share {
    team: &'static str,
    octet: u8,
    port: i64,
}

impl Share {
    fn all() -> Vec<Self> {
        let teams = (0_u8..).zip(TEAMS);
        teams
            .map(|(index, team)| Self {
                team,
                octet: 16 * (index + 1),
                port: 30_000 + 600 * i64::from(index),
            })
            .collect()
    }

    async fn make_pools(self, cluster: &Cluster) -> Result<()> {
        let Self { team, octet, port } = self;
        let selector = json!({"namespaces": [team]});
        let range = format!("10.96.{octet}.0-10.96.{}.255", octet + 3);
        cluster
            .address_pool(team, &json!({"addresses": [range], "selector": selector}))
            .await?;
        let ports = format!("{port}-{}", port + 599);
        cluster
            .port_pool(team, &json!({"ports": [ports], "selector": selector}))
            .await
    }

    fn has(self, address: &str) -> bool {
        octet(address).is_ok_and(|octet| (self.octet..self.octet + 4).contains(&octet))
    }

    fn check(self, made: &Made) -> Result<[String; 2]> {
        let (address, port) = (made.address()?, made.node_port()?);
        ensure!(self.has(&address), "{address} is not of {}", self.team);
        ensure!(
            (self.port..self.port + 600).contains(&port),
            "{port} is not of {}",
            self.team
        );
        Ok([address, port.to_string()])
    }
}

#[test]
fn two_thousand_services_by_a_hundred_clients_are_each_in_their_pool() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-storm").await?;
        cluster.serve(3, &[]).await?;
        let shares = Share::all();
        for share in &shares {
            share.make_pools(&cluster).await?;
        }
        for share in &shares {
            cluster.served(share.team, |address| share.has(address)).await?;
        }
        let client = async |client: usize| {
            let mut values = Vec::new();
            for turn in 0..20 {
                let share = shares[(client + turn) % shares.len()];
                let name = format!("web-{client}-{turn}");
                let made = cluster
                    .create(share.team, &name, json!({"type": "NodePort"}))
                    .await?;
                values.extend(share.check(&made)?);
            }
            anyhow::Ok(values)
        };
        let values = futures::future::try_join_all((0..100).map(client)).await?;
        let values: Vec<String> = values.into_iter().flatten().collect();
        let distinct: BTreeSet<&String> = values.iter().collect();
        ensure!(
            (values.len(), distinct.len()) == (4_000, 4_000),
            "{} values, {} of them distinct",
            values.len(),
            distinct.len()
        );
        let unserved = cluster
            .metric("berth_admission_requests_total", "unserved")
            .await?;
        ensure!(unserved < 0.5, "{unserved} reviews were not served");
        cluster.check()
    });
}
