// SPDX-License-Identifier: Apache-2.0
//! One watch is behind the others: Services and Endpoints are seen in another order than they were written in.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use berth_e2e::cluster::PATIENCE;
use berth_e2e::interposer::{Interposer, Verb};
use berth_e2e::stage::{Contender, Launch, Stage, folder};
use berth_testkit::builders::{mk_map, mk_service, mk_service_port};
use berth_testkit::in_sandbox_async;
use berth_testkit::process::Process;
use berth_testkit::wait::eventually;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

const NAMESPACE: &str = "default";

/// Berth behind an interposer, and a Service of whose Endpoints it takes care.
struct Still {
    stage: Stage,
    interposer: Interposer,
    launch: Launch,
    berth: Process,
}

impl Still {
    async fn start(name: &str) -> Result<Self> {
        Self::start_with(name, false).await
    }

    /// `following`: somebody else holds the Lease, until [`Still::lead`].
    async fn start_with(name: &str, following: bool) -> Result<Self> {
        let stage = Stage::start_audited(Path::new(&folder(name)?), Vec::new()).await?;
        let interposer = Interposer::before(stage.control_plane()).await?;
        let launch = Launch {
            server: Some(interposer.url()),
            leader_elect: following,
            ..Launch::named("berth")
        };
        if following {
            let lease: Lease = serde_json::from_value(json!({
                "metadata": {"name": "berth-controllers"},
                "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 3600},
            }))?;
            let leases: Api<Lease> = Api::namespaced(stage.client(), "berth-system");
            leases.create(&PostParams::default(), &lease).await?;
        }
        let mut berth = stage.launch(Contender::Berth, &launch).await?;
        stage.wait_ready(Contender::Berth, &launch, &mut berth).await?;
        let this = Self {
            stage,
            interposer,
            launch,
            berth,
        };
        this.make("mark", &[("app", "nobody")]).await?;
        if !following {
            this.until("mark", true).await?;
        }
        Ok(this)
    }

    /// Somebody gives the Lease back.
    async fn lead(&mut self) -> Result<()> {
        let leases: Api<Lease> = Api::namespaced(self.stage.client(), "berth-system");
        let patch = json!({"spec": {"holderIdentity": ""}});
        leases
            .patch(
                "berth-controllers",
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await?;
        let turned = self.until("mark", true).await;
        turned.with_context(|| self.berth.log_end())
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.stage.client(), NAMESPACE)
    }

    fn endpoints(&self) -> Api<Endpoints> {
        Api::namespaced(self.stage.client(), NAMESPACE)
    }

    /// Its labels are its selector's: those of its Endpoints follow.
    async fn make(&self, name: &str, selector: &[(&str, &str)]) -> Result<Service> {
        let ports = [mk_service_port("http", 80, "80", "TCP")];
        let mut service = mk_service(NAMESPACE, name, selector, &ports);
        service.metadata.labels = Some(mk_map(selector));
        Ok(self.services().create(&PostParams::default(), &service).await?)
    }

    async fn unmake(&self, name: &str) -> Result<()> {
        self.services().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    async fn write_endpoints(&self, name: &str, ours: bool) -> Result<String> {
        let mut endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": {"name": name},
            "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"name": "http", "port": 80}]}],
        }))?;
        if ours {
            let label = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
            endpoints.metadata.labels = Some([label].map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        }
        let written = self
            .endpoints()
            .create(&PostParams::default(), &endpoints)
            .await?;
        written.metadata.uid.context("a uid")
    }

    async fn uid(&self, name: &str) -> Result<Option<String>> {
        let found = self.endpoints().get_opt(name).await?;
        Ok(found.and_then(|endpoints| endpoints.metadata.uid))
    }

    /// Waits until there are Endpoints of a name, or none.
    async fn until(&self, name: &str, there: bool) -> Result<()> {
        eventually(format!("Endpoints {name}: {there}"), PATIENCE, || async {
            let uid = self.uid(name).await?;
            ensure!(uid.is_some() == there, "{uid:?}");
            anyhow::Ok(())
        })
        .await?;
        Ok(())
    }

    /// Returns once everything that Berth has seen of Endpoints has had its turn: somebody deletes those of `mark`, and
    /// they come back.
    async fn turns_taken(&self) -> Result<()> {
        // Twice: a turn that began before may end after the first.
        for _ in 0..2 {
            let before = self.uid("mark").await?;
            self.endpoints().delete("mark", &DeleteParams::default()).await?;
            eventually("other Endpoints of mark", PATIENCE, || async {
                let now = self.uid("mark").await?;
                ensure!(now.is_some() && now != before, "{now:?}");
                anyhow::Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// How many events of a kind Berth's watch has seen.
    async fn seen(&self, kind: &str) -> Result<f64> {
        let page = self.stage.metrics(Contender::Berth, &self.launch).await?;
        Ok(page.sum("berth_watch_events_total", &format!("kind=\"{kind}\"")))
    }

    fn deletions(&self, name: &str) -> usize {
        let ledger = self.interposer.ledger();
        let of = |write: &&berth_e2e::interposer::Write| {
            write.call.verb == Verb::Delete && write.call.resource == "endpoints" && write.call.name == name
        };
        ledger.writes().iter().filter(of).count()
    }
}

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
        let mut still = Still::start_with("stale-late-turn", true).await?;
        still.make("web", &[]).await?;
        still.write_endpoints("web", false).await?;
        seen_beyond(&still, "endpoints", 0.0).await?;
        let services = still.seen("services").await?;
        still.interposer.hold_watches("endpoints");
        still.unmake("web").await?;
        seen_beyond(&still, "services", services).await?;
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

async fn seen_beyond(still: &Still, kind: &str, before: f64) -> Result<()> {
    eventually(format!("news of {kind}"), PATIENCE, || async {
        let seen = still.seen(kind).await?;
        ensure!(seen > before, "{seen} as before");
        anyhow::Ok(())
    })
    .await?;
    Ok(())
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
