// SPDX-License-Identifier: Apache-2.0
//! Keeps the registration as it should be, from when there is somebody to answer.

use std::sync::Arc;
use std::time::Duration;

use berth_runtime::backoff::{Backoff, jitter};
use berth_runtime::client::explain;
use futures::StreamExt;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Error};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{CONFIGURATION, Registration};
use crate::admission::Credentials;

const FIELD_MANAGER: &str = "berth-controllers";
/// Between two writes: replicas with different flags, as during an upgrade, must not write against each other faster.
const PAUSE: Duration = Duration::from_secs(1);
/// After a failure.
const RETRY: Backoff = Backoff {
    first: Duration::from_millis(250),
    cap: Duration::from_secs(10),
};

/// Keeps the MutatingWebhookConfiguration [`CONFIGURATION`].
pub struct Registrar {
    api: Api<MutatingWebhookConfiguration>,
    registration: Registration,
    credentials: watch::Receiver<Option<Arc<Credentials>>>,
}

impl Registrar {
    /// With the authorities that the credentials trust.
    pub fn new(
        client: Client,
        registration: Registration,
        credentials: watch::Receiver<Option<Arc<Credentials>>>,
    ) -> Self {
        Self {
            api: Api::all(client),
            registration,
            credentials,
        }
    }

    /// Keeps the registration while it is `wanted` and there are credentials, whoever changes it, and takes it away when it is
    /// not; until `stop` is cancelled. What is registered stays then: other replicas serve it.
    pub async fn run(mut self, wanted: watch::Receiver<Option<bool>>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow(wanted) => {}
        }
    }

    async fn follow(&mut self, mut wanted: watch::Receiver<Option<bool>>) {
        loop {
            let now = *wanted.borrow_and_update();
            let act = async {
                match now {
                    Some(true) => self.keep().await,
                    Some(false) => self.take_away().await,
                    None => {}
                }
                // Done, until it is wanted otherwise.
                std::future::pending::<()>().await;
            };
            let changed = async {
                if wanted.changed().await.is_err() {
                    // Nobody is left to want it otherwise.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = act => {}
                () = changed => {}
            }
        }
    }

    async fn take_away(&self) {
        let mut failures = 0;
        while let Err(error) = delete(&self.api).await {
            let (fault, error) = explain(&error);
            tracing::warn!(configuration = CONFIGURATION, %fault, error, "cannot take the registration away");
            failures += 1;
            tokio::time::sleep(jitter(RETRY.delay(failures), fastrand::u32(..))).await;
        }
    }

    async fn keep(&mut self) {
        let changes = watcher::watch_object(self.api.clone(), CONFIGURATION).default_backoff();
        let mut changes = std::pin::pin!(changes);
        let mut written: Option<String> = None;
        let mut failures = 0;
        loop {
            let bundle = self
                .credentials
                .borrow_and_update()
                .as_ref()
                .map(|credentials| credentials.bundle().to_owned());
            if let Some(bundle) = bundle {
                match self.apply(&bundle).await {
                    Ok(version) => {
                        failures = 0;
                        if written != version {
                            tracing::info!(configuration = CONFIGURATION, "registered");
                        }
                        written = version;
                    }
                    Err(error) => {
                        let (fault, error) = explain(&error);
                        tracing::warn!(configuration = CONFIGURATION, %fault, error, "cannot register");
                        failures += 1;
                        tokio::time::sleep(jitter(RETRY.delay(failures), fastrand::u32(..))).await;
                        continue;
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
            loop {
                tokio::select! {
                    changed = self.credentials.changed() => match changed {
                        Ok(()) => break,
                        // Whoever keeps the certificates has ended, so that nothing is there to publish.
                        Err(_) => return,
                    },
                    Some(seen) = changes.next() => match seen {
                        Ok(Some(seen)) if seen.metadata.resource_version == written => {}
                        Ok(_) => break,
                        Err(error) => tracing::debug!(%error, "registration is not watched for now"),
                    },
                }
            }
        }
    }

    /// Server-side apply; says the version that came of it, which stays the same where nothing changed.
    async fn apply(&self, bundle: &str) -> Result<Option<String>, Error> {
        let configuration = self.registration.configuration(bundle);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&configuration);
        let applied = self.api.patch(CONFIGURATION, &params, &patch).await?;
        Ok(applied.metadata.resource_version)
    }
}

/// Takes the registration away, so that no API server asks any more; for the end of Berth on a cluster.
///
/// # Errors
/// The API server does not do it. That there is none is no error.
pub async fn remove(client: Client) -> Result<(), Error> {
    delete(&Api::all(client)).await
}

async fn delete(api: &Api<MutatingWebhookConfiguration>) -> Result<(), Error> {
    match api.delete(CONFIGURATION, &DeleteParams::default()).await {
        Ok(_) => {
            tracing::info!(configuration = CONFIGURATION, "no longer registered");
            Ok(())
        }
        Err(Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}
