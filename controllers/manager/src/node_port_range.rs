// SPDX-License-Identifier: Apache-2.0
//! Asks the API server for its range of node ports, the only way there is, on the replica that leads, while there is a
//! NodePortPool: when it begins to lead, and each hour.
//!
//! In: the believed range, the names of the pools. Out: a Service that is refused, or deleted at once; logs, a metric, events on
//! the pools. Touches: the API server. `berth_controllers_core::node_port_range` says what to ask and what follows.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_controllers_core::enforcement::Observed;
use berth_controllers_core::node_port_range::{Answer, MISMATCH, NAME, Verdict, is_ours, question};
use berth_model::PortRange;
use berth_runtime::backoff::jitter;
use berth_runtime::client::explain;
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Client, Error};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::events::{Events, Note, Reporter};

/// Until the API server is asked again: it may have been started anew, and events are forgotten after an hour.
const AGAIN: Duration = Duration::from_secs(60 * 60);
/// The same where it gave no answer, or where something is left to be deleted.
const RETRY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
}

/// Clones count into the same place.
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeMetrics {
    mismatch: Gauge,
    checks: Family<VerdictLabel, Counter>,
}

impl RangeMetrics {
    /// Registers all of it.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register(
            "berth_node_port_range_mismatch",
            "1 where --service-node-port-range is known not to be the API server's; of the replica that leads",
            this.mismatch.clone(),
        );
        registry.register(
            "berth_node_port_range_checks",
            "Questions for the API server's range of node ports, by what followed from the answer",
            this.checks.clone(),
        );
        this
    }
}

/// Asks and says.
pub(crate) struct RangeCheck {
    services: Api<Service>,
    namespace: String,
    believed: PortRange,
    /// None until everything was listed.
    observed: watch::Receiver<Option<Observed>>,
    metrics: RangeMetrics,
    /// What was said last.
    verdict: Option<Verdict>,
    /// The pools that know of it.
    told: BTreeSet<String>,
}

impl RangeCheck {
    /// `namespace`: Berth's own, which pools don't apply to.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        believed: PortRange,
        observed: watch::Receiver<Option<Observed>>,
        metrics: RangeMetrics,
    ) -> Self {
        Self {
            services: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            believed,
            observed,
            metrics,
            verdict: None,
            told: BTreeSet::new(),
        }
    }

    /// Goes on from when `leads` ends until `stop` is cancelled.
    pub(crate) async fn run(
        mut self,
        events: Events,
        leads: impl Future<Output = ()>,
        stop: CancellationToken,
    ) {
        let work = async {
            leads.await;
            let mut due = Instant::now();
            loop {
                let pools = self.pools();
                if pools.is_empty() {
                    self.forget();
                    due = Instant::now();
                } else if due <= Instant::now() {
                    let pause = self.ask().await;
                    due = Instant::now() + jitter(pause, fastrand::u32(..));
                }
                self.tell(&pools, &events);
                self.wait((!pools.is_empty()).then_some(due)).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    fn pools(&mut self) -> BTreeSet<String> {
        let observed = self.observed.borrow_and_update();
        let pools = observed.iter().flat_map(|observed| observed.port_pools.keys());
        pools.cloned().collect()
    }

    /// Until then, or until pools change.
    async fn wait(&mut self, due: Option<Instant>) {
        let late = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = late => {}
            changed = self.observed.changed() => if changed.is_err() { std::future::pending().await },
        }
    }

    /// Nobody has to know.
    fn forget(&mut self) {
        self.verdict = None;
        self.told.clear();
        self.metrics.mismatch.set(0);
    }

    /// Asks, says what is new in the log, and when to ask again.
    async fn ask(&mut self) -> Duration {
        let mut pause = AGAIN;
        let verdict = match question(&self.namespace, self.believed) {
            None => Verdict::Unasked,
            Some(service) => match self.services.create(&PostParams::default(), &service).await {
                Ok(_) => Verdict::of(self.believed, Answer::Created),
                Err(Error::Api(status)) => Verdict::of(self.believed, Answer::Refused(&status.message)),
                Err(error) => Verdict::Unknown(explain(&error).1),
            },
        };
        if let Verdict::Unknown(_) = verdict {
            pause = RETRY;
        }
        // There may be one of before, too: who made it was ended before it was deleted.
        let left = !matches!(verdict, Verdict::Same | Verdict::Unasked);
        if left && !self.clear().await {
            pause = RETRY;
        }
        let metrics = &self.metrics;
        metrics.mismatch.set(i64::from(verdict.is_mismatch()));
        let verdict_label = VerdictLabel {
            verdict: verdict.as_str(),
        };
        metrics.checks.get_or_create(&verdict_label).inc();
        // Whoever was told is told again: API servers forget events.
        self.told.clear();
        if self.verdict.as_ref() != Some(&verdict) {
            log(&verdict, self.believed);
            self.verdict = Some(verdict);
        }
        pause
    }

    /// Deletes what was made by asking; `false` where that failed.
    async fn clear(&self) -> bool {
        let named = ListParams::default().fields(&format!("metadata.name={NAME}"));
        let listed = match self.services.list(&named).await {
            Ok(listed) => listed.items,
            Err(error) => return not_cleared(&error),
        };
        for service in listed.iter().filter(|service| is_ours(service)) {
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: service.metadata.uid.clone(),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match self.services.delete(NAME, &params).await {
                Ok(_) => {}
                Err(Error::Api(status)) if status.code == 404 => {}
                Err(error) => return not_cleared(&error),
            }
        }
        true
    }

    /// Tells the pools that don't know yet of a mismatch.
    fn tell(&mut self, pools: &BTreeSet<String>, events: &Events) {
        let Some(verdict) = self.verdict.as_ref().filter(|verdict| verdict.is_mismatch()) else {
            return;
        };
        for pool in pools.difference(&self.told) {
            events.note(Note {
                reporter: Reporter::Audit,
                about: ObjectReference {
                    api_version: Some("berth.dev/v1alpha1".to_owned()),
                    kind: Some("NodePortPool".to_owned()),
                    name: Some(pool.clone()),
                    ..ObjectReference::default()
                },
                warning: true,
                reason: MISMATCH,
                text: verdict.told(self.believed).to_string(),
            });
        }
        self.told.clone_from(pools);
    }
}

fn not_cleared(error: &Error) -> bool {
    let (fault, error) = explain(error);
    tracing::warn!(service = NAME, %fault, error, "what was made to ask for the node port range is not deleted yet");
    false
}

fn log(verdict: &Verdict, believed: PortRange) {
    let (told, verdict) = (verdict.told(believed), verdict);
    let kind = verdict.as_str();
    match verdict {
        Verdict::Other(_) | Verdict::Wider => tracing::error!(verdict = kind, "{told}"),
        Verdict::Unknown(_) => tracing::warn!(verdict = kind, "{told}"),
        Verdict::Unasked => tracing::info!(verdict = kind, "{told}"),
        Verdict::Same => tracing::debug!(verdict = kind, "{told}"),
    }
}
