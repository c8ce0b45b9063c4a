// SPDX-License-Identifier: Apache-2.0
//! Pools that are in use are edited, well and badly: who has something of them keeps it, and can be changed, with everything
//! that refuses switched on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_testkit::in_sandbox_async;
use berth_testkit::wait::eventually;
use serde_json::{Value, json};

use super::cluster::{Cluster, Made};
use super::upkeep::{condition, get};
use super::{PATIENCE, octet, prepare};

/// API servers take up what the leader writes once a second, and the leader writes it within moments.
const CAUGHT_UP: Duration = Duration::from_secs(60);
const FEW: &str = "10.96.1.0/28";

/// What a Service gets that is made after an edit.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// An address whose third octet is this, and whose last is from the first to the second.
    Of(u8, u8, u8),
    /// One of no pool.
    Outside,
    /// Nothing, and the refusal says this.
    Refused(&'static str),
}

impl Next {
    fn fits(self, made: &Made) -> Result<()> {
        match self {
            Self::Of(third, first, last) => {
                let address = made.address()?;
                let own = address.rsplit('.').next().context("no address")?.parse()?;
                ensure!(octet(&address)? == third, "{address}");
                ensure!((first..=last).contains(&own), "{address}");
            }
            Self::Outside => {
                let address = made.address()?;
                // Every pool has the first sixteen of some octet.
                let own: u8 = address.rsplit('.').next().context("no address")?.parse()?;
                ensure!(own >= 16 || octet(&address)? > 3, "{address}");
            }
            Self::Refused(part) => {
                let (code, text) = made.refusal()?;
                ensure!(code == 403 && text.contains(part), "{code}: {text}");
            }
        }
        Ok(())
    }
}

/// An edit of the pool `few`, over a good spec; null takes a field out.
struct Edit {
    name: &'static str,
    fields: Value,
    /// A condition, and what it says.
    says: (&'static str, &'static str),
    next: Next,
}

fn edit(name: &'static str, fields: Value, says: (&'static str, &'static str), next: Next) -> Edit {
    Edit {
        name,
        fields,
        says,
        next,
    }
}

/// What becomes of what it has.
fn of_ranges() -> Vec<Edit> {
    let gives = ("Ready", "True InUse");
    vec![
        edit(
            "excludes",
            json!({"exclude": ["10.96.1.1-10.96.1.6"]}),
            gives,
            Next::Of(1, 7, 14),
        ),
        edit(
            "excludes-all",
            json!({"exclude": [FEW]}),
            ("Ready", "False Malformed"),
            Next::Refused("has faults in its spec"),
        ),
        edit(
            "shrinks",
            json!({"addresses": ["10.96.1.9-10.96.1.12"]}),
            gives,
            Next::Of(1, 9, 12),
        ),
        edit(
            "moves",
            json!({"addresses": ["10.96.3.0/28"]}),
            gives,
            Next::Of(3, 1, 14),
        ),
        edit(
            "inverts",
            json!({"addresses": ["10.96.1.14-10.96.1.1"]}),
            ("Ready", "False Malformed"),
            Next::Refused("has faults in its spec"),
        ),
        edit(
            "overlaps-itself",
            json!({"addresses": [FEW, "10.96.1.8/29"]}),
            ("Ready", "False Malformed"),
            Next::Refused("has faults in its spec"),
        ),
    ]
}

/// What becomes of whom it is for, and of what it gives.
fn of_rules() -> Vec<Edit> {
    let gives = ("Ready", "True InUse");
    vec![
        edit(
            "overlaps-an-older-one",
            json!({"addresses": [FEW, "10.96.2.8/29"]}),
            ("Overlapping", "True Overlapping"),
            Next::Refused("overlaps AddressPool an-older"),
        ),
        edit(
            "drains",
            json!({"draining": true}),
            ("Draining", "True Draining"),
            Next::Refused("is draining"),
        ),
        edit(
            "has-a-quota-that-is-used-up",
            json!({"quota": {"perNamespace": 1}}),
            gives,
            Next::Refused("of the 1 addresses that it may hold"),
        ),
        edit(
            "selects-others",
            json!({"selector": {"namespaces": ["team-d"]}}),
            gives,
            Next::Outside,
        ),
        edit(
            "loses-its-selector",
            json!({"selector": null}),
            gives,
            Next::Of(1, 1, 14),
        ),
        edit(
            "selects-by-an-operator-that-is-none",
            json!({"selector": {"serviceSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}}),
            ("Ready", "False Malformed"),
            // It selects nothing, and says so.
            Next::Outside,
        ),
    ]
}

async fn few(cluster: &Cluster, fields: &Value) -> Result<()> {
    let mut spec =
        json!({"addresses": [FEW], "strategy": "LowestFirst", "selector": {"namespaces": ["team-a"]}});
    for (field, value) in fields.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    cluster.address_pool("few", &spec).await
}

/// A working Service, and what it has.
struct Working {
    name: &'static str,
    has: Value,
}

impl Working {
    async fn make(cluster: &Cluster, name: &'static str) -> Result<Self> {
        let made = cluster
            .create("team-a", name, json!({"type": "NodePort"}))
            .await?;
        ensure!(octet(&made.address()?)? == 1, "{made:?}");
        let has = Self::look(cluster, name).await?;
        Ok(Self { name, has })
    }

    async fn look(cluster: &Cluster, name: &str) -> Result<Value> {
        let service = get(cluster, &["-n", "team-a", "service", name]).await?;
        let spec = &service["spec"];
        Ok(json!([spec["clusterIPs"], spec["ports"][0]["nodePort"]]))
    }

    /// It has what it had, and what else there is of it can be changed: in place, and by a manifest that omits what was given.
    async fn goes_on(&self, cluster: &Cluster, turn: &str) -> Result<()> {
        let patch = json!({"spec": {"selector": {"turn": turn}}}).to_string();
        let patch = ["-n", "team-a", "patch", "service", self.name, "-p", &patch];
        cluster.kubectl(&patch).await.context("patch")?;
        let manifest = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "team-a", "name": self.name},
            "spec": {"type": "NodePort", "selector": {"again": turn}, "ports": [{"port": 80}]}});
        cluster
            .kubectl_runner()
            .run_with_input(["replace", "-f", "-"], &manifest.to_string())
            .await
            .context("replace")?;
        let has = Self::look(cluster, self.name).await?;
        ensure!(
            has == self.has,
            "{turn}: {} had {}, has {has}",
            self.name,
            self.has
        );
        Ok(())
    }
}

/// Waits until a new Service fares as it should, with the webhook and after it.
async fn next_is(cluster: &Cluster, edit: &str, next: Next) -> Result<()> {
    let metadata = json!({"name": format!("next-{edit}")});
    let object = json!({"metadata": metadata, "spec": {}});
    eventually(format!("{edit}: {next:?}"), CAUGHT_UP, || async {
        // Each of the replicas answers in turn, more or less.
        for _ in 0..4 {
            next.fits(&cluster.send("team-a", object.clone(), true).await?)?;
        }
        // For some seconds API servers hold the rules of the pool that was.
        let made = cluster.send("team-a", object.clone(), false).await?;
        if let Some(name) = made.stored_name() {
            cluster
                .kubectl(&["-n", "team-a", "delete", "service", &name])
                .await?;
        }
        next.fits(&made)
    })
    .await?;
    Ok(())
}

#[test]
fn whatever_is_done_to_a_pool_whoever_has_an_address_of_it_keeps_it_and_works_on() {
    prepare();
    in_sandbox_async!(async {
        let mut cluster = Cluster::start("pools-edits").await?;
        cluster.serve(2, &["--admission-failure-policy=Fail"]).await?;
        let older = json!({"addresses": ["10.96.2.0/28"], "selector": {"namespaces": ["team-b"]}});
        cluster.address_pool("an-older", &older).await?;
        // API servers note whole seconds, and of two pools of one the name decides.
        few(&cluster, &json!({})).await?;
        let ports = json!({"ports": ["30100-30109"], "selector": {"namespaces": ["team-a"]}});
        cluster.port_pool("ports", &ports).await?;
        next_is(&cluster, "nothing-yet", Next::Of(1, 1, 14)).await?;
        let working = [
            Working::make(&cluster, "one").await?,
            Working::make(&cluster, "two").await?,
        ];
        let policies = [
            "get",
            "validatingadmissionpolicybinding",
            "berth-cluster-ips",
            "berth-node-ports",
        ];
        eventually("the rules are enforced", PATIENCE, || cluster.kubectl(&policies)).await?;
        for edit in of_ranges().into_iter().chain(of_rules()) {
            few(&cluster, &edit.fields).await.context(edit.name)?;
            let (kind, expected) = edit.says;
            eventually(format!("{}: {expected}", edit.name), PATIENCE, || async {
                let pool = get(&cluster, &["addresspool", "few"]).await?;
                ensure!(condition(&pool, kind) == expected, "{pool}");
                anyhow::Ok(())
            })
            .await?;
            next_is(&cluster, edit.name, edit.next).await?;
            for service in &working {
                service.goes_on(&cluster, edit.name).await.context(edit.name)?;
            }
        }
        let changed = json!({"use": "LoadBalancer"}).to_string();
        let refused = format!(r#"{{"spec": {changed}}}"#);
        let refused = cluster
            .kubectl(&["patch", "addresspool", "few", "--type=merge", "-p", &refused])
            .await;
        let refused = refused.err().context("the use was changed")?.to_string();
        ensure!(refused.contains("spec.use"), "{refused}");
        cluster.kubectl(&["delete", "addresspool", "few"]).await?;
        next_is(&cluster, "is-deleted", Next::Outside).await?;
        for service in &working {
            service.goes_on(&cluster, "is-deleted").await?;
        }
        the_ports_too(&cluster, &working).await?;
        cluster.check()
    });
}

async fn the_ports_too(cluster: &Cluster, working: &[Working]) -> Result<()> {
    let given = |made: &Made, first: i64, last: i64| {
        let port = made.node_port()?;
        ensure!((first..=last).contains(&port), "{port}");
        anyhow::Ok(())
    };
    let moved = ["30120-30129"];
    for (name, fields, refusal) in [
        ("port-moves", json!({"ports": moved}), None),
        (
            "port-drains",
            json!({"ports": moved, "draining": true}),
            Some("NodePortPool ports is draining"),
        ),
        (
            "port-excludes-all",
            json!({"ports": moved, "exclude": moved}),
            Some("NodePortPool ports has faults in its spec"),
        ),
    ] {
        let mut spec = json!({"selector": {"namespaces": ["team-a"]}});
        for (field, value) in fields.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        cluster.port_pool("ports", &spec).await?;
        eventually(name, CAUGHT_UP, || async {
            let made = cluster
                .create("team-a", name, json!({"type": "NodePort"}))
                .await?;
            if let Some(stored) = made.stored_name() {
                cluster
                    .kubectl(&["-n", "team-a", "delete", "service", &stored])
                    .await?;
            }
            match refusal {
                Some(part) => Next::Refused(part).fits(&made),
                None => given(&made, 30_120, 30_129),
            }
        })
        .await?;
        for service in working {
            service.goes_on(cluster, name).await?;
        }
    }
    cluster.kubectl(&["delete", "nodeportpool", "ports"]).await?;
    for service in working {
        service.goes_on(cluster, "ports-are-deleted").await?;
    }
    Ok(())
}
