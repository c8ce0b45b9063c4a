// SPDX-License-Identifier: Apache-2.0
//! What API servers themselves refuse, by the policies that the leader keeps: the webhook is nowhere here, so that every
//! value that no row asks for is the API server's own pick.

#![expect(
    clippy::indexing_slicing,
    reason = "a test fails by a panic, on a value that is not there too"
)]

mod ground;
mod random;
mod scale;

use anyhow::{Context, Result, ensure};
use berth_controllers_core::enforcement::Action;
use berth_controllers_manager::enforcement::remove;
use berth_e2e::controlplane::Binaries;
use berth_e2e::replicas::Replicas;
use berth_e2e::stage;
use berth_testkit::wait::eventually;
use berth_testkit::{in_sandbox_async, sandbox};
use ground::{Ground, OWN, PATIENCE, labelled, plain, with};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

#[expect(clippy::unwrap_used, reason = "a test fails by a panic, its helpers too")]
pub(crate) fn prepare() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().unwrap();
    }
}

/// The pools lie where the API server itself picks last (the lowest 256 addresses, the lowest 86 ports), so that its own picks
/// are outside of them for sure; but for `most`, which has all others.
async fn pools(ground: &Ground) -> Result<()> {
    let team = json!({"use": "ClusterIP", "addresses": ["10.96.0.64/26"], "selector": {"namespaces": ["a"]},
        "reservations": [{"address": "10.96.0.65", "namespace": "b", "name": "dns"}]});
    ground.pool("addresspools", "team-a", &team).await?;
    let gold = json!({"use": "ClusterIP", "addresses": ["10.96.0.133-10.96.0.139"], "selector": {
        "namespaceSelector": {"matchLabels": {"tier": "gold"}},
        "serviceSelector": {"matchExpressions": [{"key": "web", "operator": "Exists"},
            {"key": "stage", "operator": "NotIn", "values": ["test"]}]}}});
    ground.pool("addresspools", "gold", &gold).await?;
    let lan = json!({"use": "LoadBalancer", "addresses": ["10.96.0.0/16"]});
    ground.pool("addresspools", "lan", &lan).await?;
    let ports = json!({"ports": ["30000-30009"], "selector": {"namespaces": ["a"]},
        "reservations": [{"port": 30009, "namespace": "b", "name": "dns"}]});
    ground.pool("nodeportpools", "team-a", &ports).await?;
    let most = json!({"ports": ["30086-32767"], "selector": {"namespaces": ["x"]}});
    ground.pool("nodeportpools", "most", &most).await?;
    // On top of team-a, and by its name after it where both are of one second: it is left out.
    let late = json!({"use": "ClusterIP", "addresses": ["10.96.0.96/27"], "selector": {"namespaces": ["x"]}});
    ground.pool("addresspools", "x-late", &late).await
}

/// Namespace, name, Service, and what the refusal says; none where it is made.
type Row = (&'static str, &'static str, Value, Option<&'static str>);

fn addresses() -> Vec<Row> {
    let at = |address: &str| with(&json!({"clusterIP": address}));
    let web = |address: &str| labelled(&json!({"clusterIP": address}), &[("web", "yes")]);
    let test = labelled(
        &json!({"clusterIP": "10.96.0.135"}),
        &[("web", "yes"), ("stage", "test")],
    );
    let external = with(&json!({"type": "ExternalName", "externalName": "example.test"}));
    let of_team = Some("is of AddressPool team-a, which does not give it");
    let of_gold = Some("is of AddressPool gold, which does not give it");
    let not_in_team = Some("is not in AddressPool team-a, which is for Service a/");
    vec![
        ("a", "inside", at("10.96.0.70"), None),
        ("a", "picked", plain(), not_in_team),
        ("a", "outside", at("10.96.3.3"), not_in_team),
        ("a", "reserved", at("10.96.0.65"), of_team),
        ("b", "dns", at("10.96.0.65"), None),
        ("b", "intruder", at("10.96.0.71"), of_team),
        ("b", "free", plain(), None),
        ("c", "claimed", at("10.96.0.72"), None),
        ("x", "overlapping", at("10.96.0.97"), of_team),
        ("x", "free", plain(), None),
        ("gold", "web", web("10.96.0.133"), None),
        ("gold", "edge", web("10.96.0.139"), None),
        (
            "gold",
            "below",
            web("10.96.0.132"),
            Some("is not in AddressPool gold"),
        ),
        (
            "gold",
            "above",
            web("10.96.0.140"),
            Some("is not in AddressPool gold"),
        ),
        ("gold", "unlabelled", at("10.96.0.134"), of_gold),
        ("gold", "test", test, of_gold),
        ("gold", "free", plain(), None),
        ("a", "headless", at("None"), None),
        ("a", "external", external, None),
        ("kube-system", "system", at("10.96.0.73"), None),
        (OWN, "own", at("10.96.0.74"), None),
    ]
}

fn ports() -> Vec<Row> {
    let node_port = |address: &str, port: Value| {
        with(&json!({"type": "NodePort", "clusterIP": address,
            "ports": [{"name": "http", "port": 80, "nodePort": port}]}))
    };
    let local = |address: &str, port: u16, check: Value| {
        with(
            &json!({"type": "LoadBalancer", "clusterIP": address, "externalTrafficPolicy": "Local",
            "healthCheckNodePort": check, "ports": [{"name": "http", "port": 80, "nodePort": port}]}),
        )
    };
    let not_in_team = Some("is not in NodePortPool team-a, which is for Service a/");
    let of_team = Some("is of NodePortPool team-a, which does not give it");
    // What the API server picks is of somebody's pool.
    let of_most = Some("is of NodePortPool most, which does not give it");
    vec![
        ("a", "port-inside", node_port("10.96.0.75", json!(30000)), None),
        ("a", "port-picked", node_port("10.96.0.76", json!(null)), of_most),
        (
            "a",
            "port-outside",
            node_port("10.96.0.76", json!(30050)),
            not_in_team,
        ),
        (
            "a",
            "port-reserved",
            node_port("10.96.0.76", json!(30009)),
            of_team,
        ),
        (
            "b",
            "port-intruder",
            node_port("10.96.3.4", json!(30001)),
            of_team,
        ),
        ("b", "port-picked", node_port("10.96.3.4", json!(null)), of_most),
        ("b", "port-free", node_port("10.96.3.5", json!(30050)), None),
        (
            "a",
            "check-inside",
            local("10.96.0.77", 30002, json!(30003)),
            None,
        ),
        (
            "a",
            "check-picked",
            local("10.96.0.78", 30004, json!(null)),
            of_most,
        ),
    ]
}

async fn rows_hold(ground: &Ground, rows: Vec<Row>) -> Result<()> {
    for (namespace, name, service, refusal) in rows {
        let answer = ground.create(namespace, name, &service).await?;
        match refusal {
            None => ensure!(answer.status == 201, "{namespace}/{name}: {answer:?}"),
            Some(text) => {
                ensure!(answer.status == 403, "{namespace}/{name}: {answer:?}");
                for part in [text, "berth-", "try again"] {
                    ensure!(
                        answer.message().contains(part),
                        "{namespace}/{name}: {}",
                        answer.message()
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn what_is_of_the_wrong_pool_is_denied_and_nothing_else() {
    prepare();
    in_sandbox_async!(async {
        let mut ground = Ground::start("enforcement").await?;
        pools(&ground).await?;
        ground.observe(&[("team-a", "c")]).await?;
        ground.lead(Action::Deny).await?;
        ground.is_denied().await?;
        rows_hold(&ground, addresses()).await?;
        rows_hold(&ground, ports()).await?;
        updates_hold(&ground).await?;
        a_dry_run_passes(&ground).await?;
        an_edit_of_a_pool_refuses_no_update_of_what_it_gave(&mut ground).await
    });
}

async fn updates_hold(ground: &Ground) -> Result<()> {
    // What it has stays, whatever else changes.
    let labels =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"ports": [{"name": "http", "port": 81}]}});
    let answer = ground.patch("a", "inside", &labels).await?;
    ensure!(answer.status == 200, "{answer:?}");
    // What it gets anew is looked at.
    let picked = json!({"spec": {"type": "NodePort"}});
    let answer = ground.patch("a", "inside", &picked).await?;
    ensure!(
        answer.status == 403 && answer.message().contains("NodePortPool most"),
        "{answer:?}"
    );
    let asked =
        json!({"spec": {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30005}]}});
    let answer = ground.patch("a", "inside", &asked).await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

async fn a_dry_run_passes(ground: &Ground) -> Result<()> {
    let mut service = plain();
    service["metadata"]["name"] = json!("dry");
    let path = "/api/v1/namespaces/a/services?dryRun=All";
    let answer = ground.send("POST", path, &service).await?;
    ensure!(answer.status == 201, "{answer:?}");
    Ok(())
}

async fn an_edit_of_a_pool_refuses_no_update_of_what_it_gave(ground: &mut Ground) -> Result<()> {
    let moved =
        json!({"use": "ClusterIP", "addresses": ["10.96.0.192/29"], "selector": {"namespaces": ["a"]}});
    ground.pool("addresspools", "team-a", &moved).await?;
    ground.observe(&[]).await?;
    let new = with(&json!({"clusterIP": "10.96.0.193"}));
    eventually("the new addresses are the pool's", PATIENCE, || async {
        let answer = ground.create("a", "moved", &new).await?;
        ensure!(answer.status == 201, "{answer:?}");
        anyhow::Ok(())
    })
    .await?;
    ground.is_denied().await?;
    // The Service from before has none of the pool's addresses now, and works on.
    let ports = json!({"spec": {"ports": [{"name": "http", "port": 82, "nodePort": 30005}]}});
    let answer = ground.patch("a", "inside", &ports).await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

#[test]
fn what_is_only_reported_is_made_with_a_warning() {
    prepare();
    in_sandbox_async!(async {
        let mut ground = Ground::start("enforcement-report").await?;
        pools(&ground).await?;
        ground.observe(&[]).await?;
        ground.lead(Action::Report).await?;
        let warned = |answer: &ground::Answer| {
            answer.status == 201 && answer.warning.contains("is not in AddressPool team-a")
        };
        ground.until("a", "a warning", warned).await?;
        // Whoever leads next decides anew.
        ground.lead(Action::Deny).await?;
        ground.is_denied().await
    });
}

#[test]
fn what_somebody_changes_is_put_right_and_without_pools_nothing_is_left() {
    prepare();
    in_sandbox_async!(async {
        let mut ground = Ground::start("enforcement-repair").await?;
        pools(&ground).await?;
        ground.observe(&[]).await?;
        ground.lead(Action::Deny).await?;
        ground.is_denied().await?;
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(ground.client.clone());
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(ground.client.clone());
        let soft = json!({"spec": {"validationActions": ["Warn"]}});
        let params = PatchParams::default();
        bindings
            .patch("berth-cluster-ips", &params, &Patch::Merge(&soft))
            .await?;
        policies
            .delete("berth-node-ports", &DeleteParams::default())
            .await?;
        eventually("it is put right", PATIENCE, || async {
            let binding = bindings.get("berth-cluster-ips").await?;
            ensure!(binding.spec.validation_actions == ["Deny"], "{:?}", binding.spec);
            policies.get("berth-node-ports").await?;
            anyhow::Ok(())
        })
        .await?;
        ground.observe_nothing();
        let none_left = || async {
            let left = (
                policies.list(&Default::default()).await?,
                bindings.list(&Default::default()).await?,
            );
            ensure!(left.0.items.is_empty() && left.1.items.is_empty(), "{left:?}");
            anyhow::Ok(())
        };
        eventually("nothing is left", PATIENCE, none_left).await?;
        ground.is_made().await?;
        ground.observe(&[]).await?;
        ground.is_denied().await?;
        ground.stop_leading();
        remove(ground.client.clone()).await?;
        // Twice is no error.
        remove(ground.client.clone()).await?;
        none_left().await
    });
}

#[test]
fn pools_and_kinds_that_are_gone_stop_nothing_even_when_nobody_leads() {
    prepare();
    in_sandbox_async!(async {
        let mut ground = Ground::start("enforcement-gone").await?;
        pools(&ground).await?;
        ground.observe(&[]).await?;
        ground.lead(Action::Deny).await?;
        ground.is_denied().await?;
        ground.stop_leading();
        ground
            .control_plane
            .kubectl(&["delete", "addresspool", "--all"])
            .await?;
        ground.is_made().await?;
        let definitions: Api<CustomResourceDefinition> = Api::all(ground.client.clone());
        for name in ["addresspools.berth.dev", "nodeportpools.berth.dev"] {
            definitions.delete(name, &DeleteParams::default()).await?;
        }
        ground.is_made().await?;
        // An API server that never saw the kinds comes up, with its own Service, and takes Services.
        ground.control_plane.restart_apiserver().await?;
        ground.is_made().await?;
        let port = with(&json!({"type": "NodePort"}));
        let answer = ground.create("b", "port", &port).await?;
        ensure!(answer.status == 201, "{answer:?}");
        let own = ground
            .control_plane
            .kubectl(&["get", "service", "kubernetes", "-o", "name"])
            .await?;
        ensure!(own.contains("kubernetes"), "{own}");
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(ground.client.clone());
        policies
            .get("berth-cluster-ips")
            .await
            .context("it is still there")?;
        Ok::<_, anyhow::Error>(())
    });
}

/// The program itself, under the flags that matter here.
#[test]
fn the_leading_replica_enforces_as_its_flags_say_while_there_are_pools() {
    prepare();
    in_sandbox_async!(async {
        let ground = Ground::start("enforcement-program").await?;
        let folder = stage::folder("enforcement-program")?;
        let flags = ["--admission-failure-policy=Fail"];
        let _replicas = Replicas::start(&ground.control_plane, &folder, 2, &flags).await?;
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(ground.client.clone());
        ensure!(
            bindings.get_opt("berth-cluster-ips").await?.is_none(),
            "without a pool"
        );
        pools(&ground).await?;
        eventually("both are enforced", PATIENCE, || async {
            for name in ["berth-cluster-ips", "berth-node-ports"] {
                let binding = bindings.get(name).await?;
                ensure!(binding.spec.validation_actions == ["Deny"], "{:?}", binding.spec);
            }
            anyhow::Ok(())
        })
        .await?;
        ground
            .control_plane
            .kubectl(&["delete", "nodeportpool", "--all"])
            .await?;
        eventually("one is left", PATIENCE, || async {
            ensure!(
                bindings.get_opt("berth-node-ports").await?.is_none(),
                "still there"
            );
            bindings.get("berth-cluster-ips").await?;
            anyhow::Ok(())
        })
        .await?;
        anyhow::Ok(())
    });
}
