// SPDX-License-Identifier: Apache-2.0
//! One watch is behind the others: Services and Endpoints are seen in another order than they were written in.

use anyhow::ensure;
use berth_e2e::cluster::PATIENCE;
use berth_testkit::in_sandbox_async;
use berth_testkit::wait::eventually;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams};

use super::still::{NAMESPACE, Still};

#[test]
fn hand_written_endpoints_wait_for_their_service() {
    super::prepare();
    in_sandbox_async!(async {
        let still = Still::start("stale-by-hand").await?;
        still.interposer.hold_watches("services");
        let uid = still.write_endpoints("web", false).await?;
        still.turns_taken().await?;
        still.make("web", &[]).await?;
        still.turns_taken().await?;
        still.interposer.let_go();
        let slices: Api<EndpointSlice> = Api::namespaced(still.stage.client(), NAMESPACE);
        let of_web = ListParams::default().labels("kubernetes.io/service-name=web");
        eventually("its mirrored slice", PATIENCE, || async {
            ensure!(slices.list(&of_web).await?.items.len() == 1, "none");
            anyhow::Ok(())
        })
        .await?;
        still.turns_taken().await?;
        ensure!(still.uid("web").await? == Some(uid), "they were replaced");
        ensure!(still.deletions("web") == 0, "they were deleted");
        anyhow::Ok(())
    });
}

#[test]
fn endpoints_go_with_their_service_whoever_wrote_them() {
    super::prepare();
    in_sandbox_async!(async {
        let still = Still::start("stale-gone").await?;
        still.make("by-hand", &[]).await?;
        still.write_endpoints("by-hand", false).await?;
        still.make("web", &[("app", "nobody")]).await?;
        still.until("web", true).await?;
        still.turns_taken().await?;
        for name in ["by-hand", "web"] {
            still.unmake(name).await?;
            still.until(name, false).await?;
            ensure!(
                still.deletions(name) == 1,
                "{name}: {} deletions",
                still.deletions(name)
            );
        }
        anyhow::Ok(())
    });
}

#[test]
fn endpoints_written_after_the_service_was_deleted_stay() {
    super::prepare();
    in_sandbox_async!(async {
        let mut still = Still::start_with("stale-late-turn", true, &[]).await?;
        still.make("web", &[]).await?;
        still.write_endpoints("web", false).await?;
        still.seen_beyond("endpoints", 0.0).await?;
        let services = still.seen("services").await?;
        still.interposer.hold_watches("endpoints");
        still.unmake("web").await?;
        still.seen_beyond("services", services).await?;
        still.endpoints().delete("web", &DeleteParams::default()).await?;
        let uid = still.write_endpoints("web", false).await?;
        still.interposer.let_go();
        // A replica without the lead takes no turn: that of the deletion is late.
        still.lead().await?;
        still.turns_taken().await?;
        ensure!(
            still.uid("web").await? == Some(uid),
            "they were deleted or replaced"
        );
        ensure!(still.deletions("web") == 0, "they were deleted");
        anyhow::Ok(())
    });
}

#[test]
fn our_endpoints_without_a_service_go_once_the_api_server_knows_of_none() {
    super::prepare();
    in_sandbox_async!(async {
        let still = Still::start("stale-orphan").await?;
        still.interposer.hold_watches("services");
        still.make("web", &[("app", "nobody")]).await?;
        let uid = still.write_endpoints("web", true).await?;
        still.turns_taken().await?;
        ensure!(
            still.uid("web").await? == Some(uid),
            "deleted though the Service is there"
        );
        ensure!(still.deletions("web") == 0, "deleted though the Service is there");
        still.unmake("web").await?;
        still.until("web", false).await?;
        anyhow::Ok(())
    });
}

#[test]
fn a_service_made_again_before_its_endpoints_are_seen_to_go_costs_no_refused_write() {
    super::prepare();
    in_sandbox_async!(async {
        let still = Still::start("stale-again").await?;
        still.make("web", &[("app", "nobody")]).await?;
        still.until("web", true).await?;
        still.turns_taken().await?;
        still.interposer.hold_watches("endpoints");
        still.unmake("web").await?;
        still.until("web", false).await?;
        let again = still.make("web", &[("app", "somebody")]).await?;
        let slices: Api<EndpointSlice> = Api::namespaced(still.stage.client(), NAMESPACE);
        let of_web = ListParams::default().labels("kubernetes.io/service-name=web");
        // The new Service has been seen, and with it the turn of its Endpoints taken.
        eventually("slices of the new Service", PATIENCE, || async {
            let all = slices.list(&of_web).await?.items;
            let owned = all.iter().filter(|slice| {
                let owners = slice.metadata.owner_references.iter().flatten();
                owners
                    .into_iter()
                    .any(|owner| Some(&owner.uid) == again.metadata.uid.as_ref())
            });
            ensure!(owned.count() == 2, "not yet");
            anyhow::Ok(())
        })
        .await?;
        still.interposer.let_go();
        still.until("web", true).await?;
        let ledger = still.interposer.ledger();
        let refused: Vec<String> = ledger
            .writes()
            .iter()
            .filter(|write| write.answered.is_some_and(|code| code >= 400))
            .map(ToString::to_string)
            .collect();
        ensure!(refused.is_empty(), "{refused:?}");
        anyhow::Ok(())
    });
}
