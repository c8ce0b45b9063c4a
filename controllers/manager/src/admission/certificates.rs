// SPDX-License-Identifier: Apache-2.0
//! Keeps the Secret with Berth's own certificate authority as `berth_controllers_core::certificates` wants it, and this
//! replica's certificate in time.
//!
//! Every replica does this, leader or not: the Secret is written by compare-and-swap, so that it does not matter who is
//! first. The replica's own key and certificate are never written anywhere.

mod credentials;
mod document;
mod store;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_controllers_core::certificates::{Rules, RulesFault, leaf, signer};
use berth_runtime::backoff::{Backoff, jitter};
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::metrics::AdmissionMetrics;
pub use credentials::{Credentials, Names, replica_name};
use document::Document;
pub(crate) use store::Store;

/// The name of the Secret, in Berth's own namespace; the shipped RBAC names it.
pub const SECRET: &str = "berth-admission-ca";
/// How often the Secret is read: how long it takes at most until a replica knows what another one, or a person, did.
pub const READ_PERIOD: Duration = Duration::from_secs(10);
/// After a failure.
const RETRY: Backoff = Backoff {
    first: Duration::from_millis(250),
    cap: Duration::from_secs(10),
};
/// No more often than this, however soon something is due.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The rules contradict themselves.
    #[error("certificate lifetimes do not go together: {0}")]
    Rules(RulesFault),
    /// The Secret can't be read or written.
    #[error("Secret {namespace}/{name} can't be {action}: {source}")]
    Api {
        /// Of the Secret.
        namespace: String,
        /// Of the Secret.
        name: String,
        /// `read`, `created` or `updated`.
        action: &'static str,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Others wrote each time that we wanted to.
    #[error("Secret {namespace}/{name} is written by others all the time; only replicas of Berth should")]
    Contended {
        /// Of the Secret.
        namespace: String,
        /// Of the Secret.
        name: String,
    },
    /// A certificate can't be made.
    #[error("certificate can't be made: {0}")]
    Make(#[from] rcgen::Error),
    /// A certificate can't be used.
    #[error("certificate can't be used: {0}")]
    Tls(#[from] rustls::Error),
    /// A set of authorities can't be used to verify others.
    #[error("authorities can't be used to verify others: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// Nothing in the Secret can sign.
    #[error("no authority can sign now")]
    NoSigner,
}

/// Keeps the Secret and this replica's credentials.
pub struct Keeper {
    store: Store,
    names: Names,
    rules: Rules,
    period: Duration,
    metrics: AdmissionMetrics,
    current: watch::Sender<Option<Arc<Credentials>>>,
    /// What was read last, to be put back when the Secret is destroyed.
    remembered: Document,
}

impl Keeper {
    /// For the Secret [`SECRET`] of a namespace; certificates will be for `names`. The Secret is read every `period`
    /// ([`READ_PERIOD`]), or as often as the rules need it.
    ///
    /// # Errors
    /// The rules contradict themselves.
    pub fn new(
        client: Client,
        namespace: &str,
        names: Names,
        rules: Rules,
        period: Duration,
        metrics: AdmissionMetrics,
    ) -> Result<Self, CertificateError> {
        rules.check().map_err(CertificateError::Rules)?;
        Ok(Self {
            store: Store::new(client, namespace, rules, metrics.clone()),
            names,
            rules,
            period: period.min(rules.longest_lag() / 2),
            metrics,
            current: watch::Sender::new(None),
            remembered: Document::default(),
        })
    }

    /// The credentials, and every change of them. None before the Secret was read for the first time.
    pub fn credentials(&self) -> watch::Receiver<Option<Arc<Credentials>>> {
        self.current.subscribe()
    }

    /// Goes on until `stop` is cancelled. Failures are logged and retried: what there is stays in use.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0;
        loop {
            let pause = match self.turn().await {
                Ok(pause) => {
                    failures = 0;
                    pause
                }
                Err(error) => {
                    tracing::warn!(%error, "admission certificates could not be looked after");
                    failures += 1;
                    jitter(RETRY.delay(failures), fastrand::u32(..))
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Looks after the Secret and the credentials once; says when to do it again.
    async fn turn(&mut self) -> Result<Duration, CertificateError> {
        let (document, again) = self.store.settle(&self.remembered, now).await?;
        self.remembered = document;
        let due = self.renew()?;
        let until = |at: Duration| at.saturating_sub(now());
        let first = again.map_or(self.period, until).min(until(due));
        Ok(first.clamp(SHORTEST_PAUSE, self.period.max(SHORTEST_PAUSE)))
    }

    /// Makes new credentials if something about them is due; says when something will be.
    fn renew(&self) -> Result<Duration, CertificateError> {
        let now = now();
        let row = self.remembered.row();
        let signer = signer(&row, now, &self.rules).ok_or(CertificateError::NoSigner)?;
        let held = self
            .remembered
            .get(signer.number)
            .ok_or(CertificateError::NoSigner)?;
        let bundle = self.remembered.bundle();
        let present = self.current.borrow().clone();
        if let Some(present) = &present
            && present.is_of(held.certificate(), &bundle)
            && now < present.leaf().renew_at
        {
            return Ok(present.leaf().renew_at);
        }
        let leaf = leaf(&signer, now, &self.rules);
        let credentials = Credentials::make(held, leaf, &self.names, self.remembered.certificates(), bundle)?;
        tracing::info!(
            authority = signer.number,
            trusted = row.len(),
            seconds = leaf.not_after.saturating_sub(now).as_secs(),
            "admission certificate"
        );
        self.metrics.leaf_ends(leaf.not_after);
        self.current.send_replace(Some(Arc::new(credentials)));
        Ok(leaf.renew_at)
    }
}

/// Since 1970. A clock that stands before is broken, and then nothing is valid.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Credentials of an authority that nobody else knows.
#[cfg(test)]
pub(crate) fn self_made(names: &Names, rules: &Rules) -> Result<Credentials, CertificateError> {
    let mut document = Document::default();
    let new = berth_controllers_core::certificates::plan(None, &[], now(), rules).new;
    document.add(document::Held::make(&new.ok_or(CertificateError::NoSigner)?)?);
    let row = document.row();
    let signer = signer(&row, now(), rules).ok_or(CertificateError::NoSigner)?;
    let held = document.get(signer.number).ok_or(CertificateError::NoSigner)?;
    let leaf = leaf(&signer, now(), rules);
    Credentials::make(held, leaf, names, document.certificates(), document.bundle())
}
