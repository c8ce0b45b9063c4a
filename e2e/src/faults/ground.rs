// SPDX-License-Identifier: Apache-2.0
//! One Stage with Berth behind an interposer and users that do not rest.

use std::fmt::Debug;

use anyhow::{Context, Result, ensure};
use berth_testkit::builders::{mk_service, mk_service_port};
use berth_testkit::process::Process;
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::oracle::Observed;
use super::retry::persist;
use super::workload::{NAMESPACES, Workload};
use super::{MAX_ENDPOINTS, Report};
use crate::cluster::PATIENCE;
use crate::controlplane::ControlPlane;
use crate::interposer::{Interposer, Verb, Write};
use crate::stage::{Contender, Launch, Stage, folder};

/// Kinds that Berth writes here.
const WRITTEN: [&str; 2] = ["endpoints", "endpointslices"];

/// Everything that a scenario plays on.
pub struct Ground {
    /// The control plane.
    pub stage: Stage,
    /// Between Berth and the API server.
    pub interposer: Interposer,
    /// The users, straight at the API server.
    pub workload: Workload,
    launch: Launch,
    berth: Process,
    passed: usize,
    /// While a new API server did not yet know anyone's rights.
    starting: Vec<(Timestamp, Timestamp)>,
}

impl Ground {
    /// Starts everything; the users begin at once.
    ///
    /// # Errors
    /// Something did not come up.
    pub async fn start(name: &str, seed: u64) -> Result<Self> {
        let stage = Stage::start_audited(&folder(name)?, Vec::new()).await?;
        let interposer = Interposer::before(stage.control_plane()).await?;
        let launch = Launch {
            extra_flags: vec![format!("--max-endpoints-per-slice={MAX_ENDPOINTS}")],
            server: Some(interposer.url()),
            ..Launch::named("berth")
        };
        let mut berth = stage.launch(Contender::Berth, &launch).await?;
        stage.wait_ready(Contender::Berth, &launch, &mut berth).await?;
        let workload = Workload::begin(&stage.client(), seed).await?;
        Ok(Self {
            stage,
            interposer,
            workload,
            launch,
            berth,
            passed: 0,
            starting: Vec::new(),
        })
    }

    /// kill -9, and the next one at once.
    ///
    /// # Errors
    /// It had ended before, or cannot be started.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        ensure!(
            self.berth.try_wait()?.is_none(),
            "Berth has ended by itself: {}",
            self.berth.log_end()
        );
        self.berth.kill()?;
        self.berth = self.stage.launch(Contender::Berth, &self.launch).await?;
        Ok(())
    }

    /// Ends the API server as an upgrade does or, `crash`, as a crash does; does `meanwhile` and starts it again.
    ///
    /// # Errors
    /// It does not come up again.
    pub async fn restart_apiserver<T>(
        &mut self,
        crash: bool,
        meanwhile: impl AsyncFnOnce(&ControlPlane) -> Result<T>,
    ) -> Result<T> {
        let control_plane = self.stage.control_plane_mut();
        if crash {
            control_plane.kill_apiserver();
        } else {
            control_plane.stop_apiserver().await?;
        }
        let begin = Timestamp::now();
        let value = meanwhile(control_plane).await?;
        control_plane.start_apiserver().await?;
        control_plane.settle_rbac().await?;
        self.starting.push((begin, Timestamp::now()));
        Ok(value)
    }

    /// One of Berth's metrics, summed over the label sets that hold `labels`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        let page = self.stage.metrics(Contender::Berth, &self.launch).await?;
        Ok(page.sum(name, labels))
    }

    /// Everything, straight from the API server.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn observe(&self) -> Result<Observed> {
        observe(&self.stage.client()).await
    }

    /// Waits until all changes are made and everything is as the oracle says.
    ///
    /// # Errors
    /// What is not, at the deadline.
    pub async fn settle(&mut self) -> Result<()> {
        self.workload.done().await?;
        let settled = eventually("everything as the oracle says", PATIENCE * 5, || async {
            let faults = self.observe().await?.faults();
            ensure!(
                faults.is_empty(),
                "{} faults:\n{}",
                faults.len(),
                faults[..faults.len().min(12)].join("\n")
            );
            anyhow::Ok(())
        });
        settled.await.context(self.berth.log_end())?;
        self.berth_lives()
    }

    /// Fails if Berth has ended by itself.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn berth_lives(&mut self) -> Result<()> {
        ensure!(
            self.berth.try_wait()?.is_none(),
            "Berth has ended: {}",
            self.berth.log_end()
        );
        Ok(())
    }

    /// What was written so far, of all kinds that count.
    pub fn writes(&self) -> Vec<Write> {
        let ledger = self.interposer.ledger();
        let counts = |write: &&Write| WRITTEN.contains(&write.call.resource.as_str());
        ledger.writes().iter().filter(counts).cloned().collect()
    }

    /// Waits until Berth is ready and whatever waited before has had its turn, by Services that pass through.
    /// Yields how many writes that took beyond those of the Services themselves.
    ///
    /// # Errors
    /// A Service does not get its Endpoints and slices.
    pub async fn pass_through(&mut self) -> Result<usize> {
        // Endpoints, and a placeholder slice for each family.
        const EACH: usize = 3;
        let before = self.writes().len();
        self.stage
            .wait_ready(Contender::Berth, &self.launch, &mut self.berth)
            .await?;
        // Turns that began before the first one's may end after it, but not after the second one's begin.
        for _ in 0..2 {
            self.pass_one().await?;
        }
        let expected = before + 2 * EACH;
        // An object is there before the answer to its write has come back through the interposer and into its ledger.
        eventually("the answers to all writes", PATIENCE, || async {
            let written = self.writes().len();
            ensure!(written >= expected, "{written} of {expected} writes");
            Ok(())
        })
        .await?;
        let written = self.writes();
        for write in &written[before..] {
            tracing::info!(%write, "while passing through");
        }
        Ok(written.len() - expected)
    }

    async fn pass_one(&mut self) -> Result<()> {
        self.passed += 1;
        let (namespace, name) = (NAMESPACES[0], format!("pass-{}", self.passed));
        let client = self.stage.client();
        let services: Api<Service> = Api::namespaced(client.clone(), namespace);
        let ports = [mk_service_port("http", 80, "80", "TCP")];
        let service = mk_service(namespace, &name, &[("app", "nobody")], &ports);
        persist(|| async { services.create(&Default::default(), &service).await }).await?;
        let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), namespace);
        let slices: Api<EndpointSlice> = Api::namespaced(client, namespace);
        let of_it = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
        eventually(format!("Endpoints and slices of {name}"), PATIENCE, || async {
            ensure!(endpoints.get_opt(&name).await?.is_some(), "no Endpoints");
            let count = slices.list(&of_it).await?.items.len();
            ensure!(count == 2, "{count} slices");
            Ok(())
        })
        .await
        .context(self.berth.log_end())?;
        Ok(())
    }

    /// Fails on any refusal for lack of rights, but for those by an API server that had not read the roles yet: it
    /// serves before that.
    fn nothing_was_forbidden(&self) -> Result<()> {
        let early = |at: Timestamp| {
            self.starting
                .iter()
                .any(|(begin, end)| *begin <= at && at <= *end)
        };
        for request in self.stage.audit()?.requests()? {
            ensure!(
                !matches!(request.code(), Some(401 | 403)) || early(request.received.0),
                "{request}"
            );
        }
        Ok(())
    }

    /// What everything cost, once settled. `at_rest` as [`Ground::pass_through`] yields it.
    ///
    /// # Errors
    /// A write was refused in a way that nothing explains.
    pub async fn report(&self, at_rest: usize) -> Result<Report> {
        self.nothing_was_forbidden()?;
        let writes = self.writes();
        for write in &writes {
            let explained = match write.answered {
                // Those of an API server that starts: looked at above.
                None | Some(200..=299 | 401 | 403 | 500..=599) => true,
                Some(404) => write.call.verb == Verb::Delete || met_another_state(write),
                Some(_) => met_another_state(write),
            };
            ensure!(explained, "unexplained: {write}");
        }
        Ok(Report {
            changes: self.workload.changes(),
            objects: self.observe().await?.objects(),
            needed: self.workload.needed(),
            writes: writes.len(),
            failed_on_purpose: writes.iter().filter(|write| write.failed_on_purpose).count(),
            conflicts: writes
                .iter()
                .filter(|write| met_another_state(write))
                .map(ToString::to_string)
                .collect(),
            writes_at_rest: at_rest,
        })
    }
}

/// Whether the object was not what the write took it for: somebody changed it first, or deleted it under an update.
/// Each is to be had only where a scenario's bound on conflicts leaves room for it.
fn met_another_state(write: &Write) -> bool {
    match write.answered {
        Some(409) => true,
        Some(404) => write.call.verb == Verb::Update,
        _ => false,
    }
}

/// Everything in the namespaces of the workload.
pub(super) async fn observe(client: &Client) -> Result<Observed> {
    let nodes: Api<Node> = Api::all(client.clone());
    Ok(Observed {
        nodes: nodes.list(&ListParams::default()).await?.items,
        services: everywhere(client).await?,
        pods: everywhere(client).await?,
        endpoints: everywhere(client).await?,
        slices: everywhere(client).await?,
    })
}

async fn everywhere<K>(client: &Client) -> Result<Vec<K>>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let mut all = Vec::new();
    for namespace in NAMESPACES {
        let api: Api<K> = Api::namespaced(client.clone(), namespace);
        all.extend(api.list(&ListParams::default()).await?.items);
    }
    Ok(all)
}
