// SPDX-License-Identifier: Apache-2.0
//! Berth behind an interposer on an else quiet control plane.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use berth_e2e::cluster::PATIENCE;
use berth_e2e::interposer::{Interposer, Verb, Write};
use berth_e2e::stage::{Contender, Launch, Stage, folder};
use berth_testkit::builders::{mk_map, mk_service, mk_service_port};
use berth_testkit::process::Process;
use berth_testkit::wait::eventually;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

/// Where all of it happens.
pub(super) const NAMESPACE: &str = "default";

/// Berth behind an interposer, and a Service of whose Endpoints it takes care.
pub(super) struct Still {
    pub(super) stage: Stage,
    pub(super) interposer: Interposer,
    launch: Launch,
    pub(super) berth: Process,
}

impl Still {
    pub(super) async fn start(name: &str) -> Result<Self> {
        Self::start_with(name, false, &[]).await
    }

    /// `following`: somebody else holds the Lease, until [`Still::lead`].
    pub(super) async fn start_with(name: &str, following: bool, flags: &[&str]) -> Result<Self> {
        let stage = Stage::start_audited(Path::new(&folder(name)?), Vec::new()).await?;
        let interposer = Interposer::before(stage.control_plane()).await?;
        let launch = Launch {
            server: Some(interposer.url()),
            leader_elect: following,
            extra_flags: flags.iter().map(ToString::to_string).collect(),
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

    /// Berth ends, and begins anew. It may be kept from getting ready.
    pub(super) async fn restart(&mut self, between: impl AsyncFnOnce(&Self) -> Result<()>) -> Result<()> {
        self.berth.terminate(PATIENCE)?;
        between(self).await?;
        self.berth = self.stage.launch(Contender::Berth, &self.launch).await?;
        Ok(())
    }

    /// Somebody gives the Lease back.
    pub(super) async fn lead(&mut self) -> Result<()> {
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

    pub(super) fn services(&self) -> Api<Service> {
        Api::namespaced(self.stage.client(), NAMESPACE)
    }

    pub(super) fn endpoints(&self) -> Api<Endpoints> {
        Api::namespaced(self.stage.client(), NAMESPACE)
    }

    /// Its labels are its selector's: those of its Endpoints follow.
    pub(super) async fn make(&self, name: &str, selector: &[(&str, &str)]) -> Result<Service> {
        let ports = [mk_service_port("http", 80, "80", "TCP")];
        let mut service = mk_service(NAMESPACE, name, selector, &ports);
        service.metadata.labels = Some(mk_map(selector));
        Ok(self.services().create(&PostParams::default(), &service).await?)
    }

    pub(super) async fn unmake(&self, name: &str) -> Result<()> {
        self.services().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    pub(super) async fn write_endpoints(&self, name: &str, ours: bool) -> Result<String> {
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

    pub(super) async fn uid(&self, name: &str) -> Result<Option<String>> {
        let found = self.endpoints().get_opt(name).await?;
        Ok(found.and_then(|endpoints| endpoints.metadata.uid))
    }

    /// Waits until there are Endpoints of a name, or none.
    pub(super) async fn until(&self, name: &str, there: bool) -> Result<()> {
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
    pub(super) async fn turns_taken(&self) -> Result<()> {
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
    pub(super) async fn seen(&self, kind: &str) -> Result<f64> {
        let page = self.stage.metrics(Contender::Berth, &self.launch).await?;
        Ok(page.sum("berth_watch_events_total", &format!("kind=\"{kind}\"")))
    }

    pub(super) fn deletions(&self, name: &str) -> usize {
        let ledger = self.interposer.ledger();
        let of = |write: &&Write| {
            write.call.verb == Verb::Delete && write.call.resource == "endpoints" && write.call.name == name
        };
        ledger.writes().iter().filter(of).count()
    }

    /// Waits until Berth's watch has seen more events of a kind.
    pub(super) async fn seen_beyond(&self, kind: &str, before: f64) -> Result<()> {
        eventually(format!("news of {kind}"), PATIENCE, || async {
            let seen = self.seen(kind).await?;
            ensure!(seen > before, "{seen} as before");
            anyhow::Ok(())
        })
        .await?;
        Ok(())
    }
}
