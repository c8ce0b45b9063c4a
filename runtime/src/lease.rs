// SPDX-License-Identifier: Apache-2.0
//! Leader election on a `coordination.k8s.io/v1` Lease.
//!
//! A Lease is no fence: a leader that is paused may wake up past its deadline. Writers check
//! [`Leadership::is_leading`], which looks at the clock, before each write, and every write carries a
//! precondition.

mod election;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{Fault, explain};
pub use election::Lost;
use election::{Claim, Election, Step, Timing};

/// Tells two runs of one identity apart.
const INSTANCE_ANNOTATION: &str = "berth.dev/instance";

/// Leader election, with the names and defaults of Kubernetes' own components.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Leader election")]
pub struct LeaseArgs {
    /// Elect a leader among the replicas; without it this process always acts
    #[arg(long, env = "BERTH_LEADER_ELECT", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub leader_elect: bool,

    /// Name of this replica in the Lease; stays the same over a restart. Default: $POD_NAME, else the host name
    #[arg(long, env = "BERTH_IDENTITY", value_name = "NAME")]
    pub identity: Option<String>,

    /// Namespace of the Lease. Default: the Pod's own, else kube-system
    #[arg(long, env = "BERTH_LEASE_NAMESPACE", value_name = "NAMESPACE")]
    pub lease_namespace: Option<String>,

    /// How long others wait without a renewal before they take over
    #[arg(long, env = "BERTH_LEADER_ELECT_LEASE_DURATION", value_name = "DURATION", default_value = "15s", value_parser = crate::duration::parse)]
    pub leader_elect_lease_duration: Duration,

    /// How long the leader acts without a successful renewal; less than the lease duration
    #[arg(long, env = "BERTH_LEADER_ELECT_RENEW_DEADLINE", value_name = "DURATION", default_value = "10s", value_parser = crate::duration::parse)]
    pub leader_elect_renew_deadline: Duration,

    /// How often the Lease is looked at and renewed; less than the renew deadline
    #[arg(long, env = "BERTH_LEADER_ELECT_RETRY_PERIOD", value_name = "DURATION", default_value = "2s", value_parser = crate::duration::parse)]
    pub leader_elect_retry_period: Duration,
}

/// Flags that make no sense together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The durations are not ordered.
    #[error(
        "--leader-elect-lease-duration {lease:?} must be longer than --leader-elect-renew-deadline {renew:?}, and \
         that longer than --leader-elect-retry-period {retry:?}, which must be above 0; the first is a whole \
         number of seconds"
    )]
    Timing {
        /// As given.
        lease: Duration,
        /// As given.
        renew: Duration,
        /// As given.
        retry: Duration,
    },
    /// No stable name can be had.
    #[error("neither --identity nor POD_NAME is set and the host has no name; give --identity NAME")]
    Identity,
}

impl LeaseArgs {
    /// Whether the flags make sense together; to be asked before anything is started.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), LeaseError> {
        self.timing()?;
        self.identity().map(|_| ())
    }

    fn timing(&self) -> Result<Timing, LeaseError> {
        let (lease, renew, retry) = (
            self.leader_elect_lease_duration,
            self.leader_elect_renew_deadline,
            self.leader_elect_retry_period,
        );
        if lease <= renew || renew <= retry || retry.is_zero() || lease.subsec_nanos() != 0 {
            return Err(LeaseError::Timing { lease, renew, retry });
        }
        Ok(Timing {
            lease_duration: lease,
            renew_deadline: renew,
            retry_period: retry,
        })
    }

    /// The stable name of this replica: `--identity`, else `POD_NAME`, else the host name.
    ///
    /// # Errors
    /// Where none of the three is there.
    pub fn identity(&self) -> Result<String, LeaseError> {
        let set = |value: &String| !value.is_empty();
        self.identity
            .clone()
            .filter(set)
            .or_else(|| std::env::var("POD_NAME").ok().filter(set))
            .or_else(|| {
                nix::unistd::gethostname()
                    .ok()
                    .and_then(|name| name.into_string().ok())
                    .filter(set)
            })
            .ok_or(LeaseError::Identity)
    }

    /// The namespace of the Lease, which is Berth's own: `--lease-namespace`, else the Pod's, else `kube-system`.
    pub fn namespace(&self, client: &kube::Client) -> String {
        self.lease_namespace.clone().unwrap_or_else(|| {
            if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
                client.default_namespace().to_owned()
            } else {
                "kube-system".to_owned()
            }
        })
    }
}

/// A view of whether this process leads; cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership {
    until: watch::Receiver<Term>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Term {
    Follower,
    Until(Instant),
    Forever,
    Over,
}

impl Leadership {
    /// Leads for good; for `--leader-elect=false` and tests.
    pub fn always() -> Self {
        let (sender, until) = watch::channel(Term::Forever);
        drop(sender);
        Self { until }
    }

    /// Whether this process leads at this moment, by the clock.
    pub fn is_leading(&self) -> bool {
        match *self.until.borrow() {
            Term::Forever => true,
            Term::Until(until) => Instant::now() < until,
            Term::Follower | Term::Over => false,
        }
    }

    /// Waits until this process leads. Never returns if it cannot any more.
    pub async fn acquired(&mut self) {
        let leads = |term: &Term| matches!(term, Term::Until(_) | Term::Forever);
        if self.until.wait_for(leads).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A candidate for one Lease. Does nothing before [`Elector::run`].
pub struct Elector {
    api: Api<Lease>,
    name: &'static str,
    namespace: String,
    identity: String,
    timing: Timing,
    election: Election,
    term: watch::Sender<Term>,
    enabled: bool,
    /// What went wrong last time, so that it is said once.
    trouble: Option<Fault>,
}

impl Elector {
    /// A candidate for the Lease called `name`.
    ///
    /// # Errors
    /// Where the flags make no sense.
    pub fn new(
        client: &kube::Client,
        args: &LeaseArgs,
        name: &'static str,
    ) -> Result<(Self, Leadership), LeaseError> {
        let timing = args.timing()?;
        let identity = args.identity()?;
        let namespace = args.namespace(client);
        let instance = format!("{}-{:08x}", std::process::id(), fastrand::u32(..));
        let (term, until) = watch::channel(Term::Follower);
        let elector = Self {
            api: Api::namespaced(client.clone(), &namespace),
            name,
            namespace,
            election: Election::new(identity.clone(), instance.clone(), timing),
            identity,
            timing,
            term,
            enabled: args.leader_elect,
            trouble: None,
        };
        Ok((elector, Leadership { until }))
    }

    /// Campaigns, leads and renews until `release` is cancelled, then gives the Lease back. Cancel
    /// `release` only once nothing writes any more.
    ///
    /// # Errors
    /// Why leadership was lost. The process should end: its caches may be behind the new leader's writes.
    pub async fn run(mut self, release: CancellationToken) -> Result<(), Lost> {
        if !self.enabled {
            self.term.send_replace(Term::Forever);
            release.cancelled().await;
            return Ok(());
        }
        tracing::info!(
            lease = %format_args!("{}/{}", self.namespace, self.name),
            identity = self.identity,
            "campaigning"
        );
        let campaign = async {
            loop {
                if let Some(lost) = self.turn().await {
                    return lost;
                }
                tokio::time::sleep(self.timing.retry_period).await;
            }
        };
        let lost = tokio::select! {
            lost = campaign => Some(lost),
            () = release.cancelled() => None,
        };
        let led = matches!(*self.term.borrow(), Term::Until(_));
        self.term.send_replace(Term::Over);
        match lost {
            Some(lost) => Err(lost),
            None => {
                if led {
                    self.release().await;
                }
                Ok(())
            }
        }
    }

    /// One look at the Lease and what follows from it. Never takes past the end of our term.
    async fn turn(&mut self) -> Option<Lost> {
        // Half the deadline, so that a server that hangs leaves time to try the next one; and while
        // leading no longer than the term lasts.
        let half = self.timing.renew_deadline / 2;
        let patience = self.election.leading_until().map_or(half, |until| {
            until.saturating_duration_since(Instant::now()).min(half)
        });
        let outcome = tokio::time::timeout(patience, self.look()).await;
        let error = match outcome {
            Ok(Ok(step)) => {
                self.trouble = None;
                return step;
            }
            Ok(Err(error)) => explain(&error),
            Err(_) => (Fault::Timeout, format!("no answer within {patience:?}")),
        };
        let (fault, error) = error;
        if self.trouble.replace(fault) == Some(fault) {
            tracing::debug!(lease = self.name, %fault, error, "the Lease could not be read or written");
        } else {
            tracing::warn!(lease = self.name, %fault, error, "the Lease could not be read or written");
        }
        self.election.tick(Instant::now())
    }

    async fn look(&mut self) -> Result<Option<Lost>, kube::Error> {
        let lease = self.api.get_opt(self.name).await?;
        let claim = lease.as_ref().map(claim_of);
        let sent = Instant::now();
        let written = match self.election.observe(claim, sent) {
            Step::Follow => return Ok(None),
            Step::Stop(lost) => return Ok(Some(lost)),
            Step::Create => {
                let lease = self.claim_on(None, true);
                self.api.create(&PostParams::default(), &lease).await
            }
            Step::Claim { transition, .. } => {
                let lease = self.claim_on(lease, transition);
                self.api.replace(self.name, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(lease) => {
                let led = self.election.leading_until().is_some();
                self.election.claimed(claim_of(&lease), sent, Instant::now());
                if !led {
                    tracing::info!(lease = self.name, identity = self.identity, "leading");
                }
                if let Some(until) = self.election.leading_until() {
                    self.term.send_replace(Term::Until(until));
                }
                Ok(None)
            }
            // Somebody was faster: the next look shows who.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                Ok(self.election.tick(Instant::now()))
            }
            Err(error) => Err(error),
        }
    }

    /// The Lease with our claim on it; keeps what others put into its metadata.
    fn claim_on(&self, lease: Option<Lease>, transition: bool) -> Lease {
        let mut lease = lease.unwrap_or_default();
        lease.metadata.name = Some(self.name.to_owned());
        lease.metadata.namespace = Some(self.namespace.clone());
        lease.metadata.annotations.get_or_insert_default().insert(
            INSTANCE_ANNOTATION.to_owned(),
            self.election.instance().to_owned(),
        );
        let now = MicroTime(jiff::Timestamp::now());
        let before = lease.spec.take().unwrap_or_default();
        let transitions = before.lease_transitions.unwrap_or(0);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.lease_duration.as_secs()).ok(),
            acquire_time: if transition {
                Some(now.clone())
            } else {
                before.acquire_time
            },
            renew_time: Some(now),
            lease_transitions: Some(if transition {
                transitions.saturating_add(1)
            } else {
                transitions
            }),
            ..before
        });
        lease
    }

    /// Gives the Lease back, so that another replica need not wait for its expiry.
    async fn release(&self) {
        let released = async {
            let Some(mut lease) = self.api.get_opt(self.name).await? else {
                return Ok(());
            };
            if claim_of(&lease).instance != self.election.instance() {
                return Ok(());
            }
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
            self.api
                .replace(self.name, &PostParams::default(), &lease)
                .await?;
            tracing::info!(lease = self.name, "released");
            Ok::<(), kube::Error>(())
        };
        match tokio::time::timeout(self.timing.retry_period, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(lease = self.name, error = explain(&error).1, "not released"),
            Err(_) => tracing::warn!(lease = self.name, error = "no answer in time", "not released"),
        }
    }
}

fn claim_of(lease: &Lease) -> Claim {
    let meta: &ObjectMeta = &lease.metadata;
    let spec = lease.spec.as_ref();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
    Claim {
        holder: spec
            .and_then(|spec| spec.holder_identity.clone())
            .unwrap_or_default(),
        instance: meta
            .annotations
            .as_ref()
            .and_then(|all| all.get(INSTANCE_ANNOTATION).cloned())
            .unwrap_or_default(),
        duration: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(lease: u64, renew: u64, retry: u64) -> LeaseArgs {
        LeaseArgs {
            leader_elect: true,
            identity: Some("node-1".to_owned()),
            lease_namespace: None,
            leader_elect_lease_duration: Duration::from_secs(lease),
            leader_elect_renew_deadline: Duration::from_secs(renew),
            leader_elect_retry_period: Duration::from_secs(retry),
        }
    }

    #[test]
    fn durations_that_could_let_two_lead_are_refused() {
        assert_eq!(args(15, 10, 2).check(), Ok(()));
        for (lease, renew, retry) in [(10, 10, 2), (9, 10, 2), (15, 2, 2), (15, 10, 0)] {
            let error = args(lease, renew, retry).check().unwrap_err();
            assert!(
                error.to_string().contains("--leader-elect-lease-duration"),
                "{error}"
            );
        }
        let fraction = LeaseArgs {
            leader_elect_lease_duration: Duration::from_millis(15_500),
            ..args(15, 10, 2)
        };
        assert!(fraction.check().is_err(), "the Lease holds whole seconds");
    }

    #[test]
    fn the_identity_given_is_the_identity() {
        assert_eq!(args(15, 10, 2).identity().as_deref(), Ok("node-1"));
        let unset = LeaseArgs {
            identity: Some(String::new()),
            ..args(15, 10, 2)
        };
        assert_ne!(unset.identity().as_deref(), Ok(""), "empty is unset");
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_ends_by_the_clock_even_if_nobody_says_so() {
        let (sender, until) = watch::channel(Term::Follower);
        let mut leadership = Leadership { until };
        assert!(!leadership.is_leading());
        sender.send_replace(Term::Until(Instant::now() + Duration::from_secs(10)));
        leadership.acquired().await;
        assert!(leadership.is_leading());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!leadership.is_leading());
        assert!(Leadership::always().is_leading());
    }
}
