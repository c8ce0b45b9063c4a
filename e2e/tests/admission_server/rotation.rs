// SPDX-License-Identifier: Apache-2.0
//! An authority is replaced under load, by rules that are a rotation's whole length in seconds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_controllers_core::certificates::Rules;
use berth_controllers_manager::admission::{CONFIGURATION, FailurePolicy, SECRET};
use berth_testkit::wait::eventually;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::replica::Replica;
use crate::{OWN, TEAM, address, chooser, served, service};

/// Of the first authority: its end is near for those who come after.
const BEFORE: Rules = Rules {
    authority_life: Duration::from_secs(20 * 60),
    ..QUICK
};
/// A rotation takes 26 s: 10 s of publication, and 16 s until the last leaf of the old authority has expired.
const QUICK: Rules = Rules {
    authority_life: Duration::from_secs(2 * 60 * 60),
    publication: Duration::from_secs(10),
    leaf_life: Duration::from_secs(18),
    skew: Duration::from_secs(1),
};
/// Clients that make Services.
const CLIENTS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(180);

/// The rotation, from its begin to the end of the old authority.
/// `berth` is what replicas speak with.
pub(crate) async fn run(client: &Client, berth: &Client) -> Result<()> {
    let before = Replica::start(berth, OWN, BEFORE).await?;
    let old = before.bundle();
    drop(before);

    let first = Replica::start(berth, OWN, QUICK).await?;
    let second = Replica::start(berth, OWN, QUICK).await?;
    ensure!(
        first.bundle().starts_with(&old),
        "the first authority is gone at once"
    );
    first.register(FailurePolicy::Fail);
    served(client, &first).await?;

    let stop = CancellationToken::new();
    let made = Arc::new(AtomicU32::new(0));
    let makers: Vec<_> = (0..CLIENTS)
        .map(|index| tokio::spawn(make(client.clone(), index, made.clone(), stop.clone())))
        .collect();
    let verified = tokio::spawn(verify(
        client.clone(),
        vec![first.address, second.address],
        stop.clone(),
    ));

    let gone = eventually("the old authority is dropped", PATIENCE, || async {
        let api: Api<Secret> = Api::namespaced(client.clone(), OWN);
        let data = api.get(SECRET).await?.data.unwrap_or_default();
        ensure!(!data.contains_key("authority-1.crt"), "it is there");
        let (first, second) = (first.bundle(), second.bundle());
        ensure!(
            !first.contains(&old) && first == second,
            "replicas still trust it"
        );
        let published = published(client).await?;
        ensure!(published == first.as_bytes(), "API servers still trust it");
        anyhow::Ok(())
    })
    .await;
    // One look at the last state, and one Service in it.
    served(client, &first).await?;
    stop.cancel();
    for maker in makers {
        maker.await??;
    }
    let handshakes = verified.await??;
    gone?;
    let made = made.load(Ordering::Relaxed);
    println!("{made} Services made, {handshakes} connections verified by what was published");
    ensure!(made > 30 && handshakes > 30, "too little happened");
    Ok(())
}

/// Makes and deletes Services: under failure policy Fail, so that every failed review is a failed create.
async fn make(client: Client, index: u32, made: Arc<AtomicU32>, stop: CancellationToken) -> Result<()> {
    let services: Api<Service> = Api::namespaced(client, TEAM);
    let name = format!("rotating-{index}");
    while !stop.is_cancelled() {
        let created = match services
            .create(&PostParams::default(), &service(&name, &[]))
            .await
        {
            // The API server's repair loop can make the IPAddress of a Service again that was deleted meanwhile: the
            // address was reviewed and given, and the next one is free.
            Err(kube::Error::Api(status)) if status.message.contains("provided IP is already allocated") => {
                continue;
            }
            created => created.with_context(|| format!("after {} Services", made.load(Ordering::Relaxed)))?,
        };
        ensure!(chooser::is_ours(&address(&created)), "{}", address(&created));
        services.delete(&name, &DeleteParams::default()).await?;
        made.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn published(client: &Client) -> Result<Vec<u8>> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let webhooks = api.get(CONFIGURATION).await?.webhooks.unwrap_or_default();
    let webhook = webhooks.into_iter().next().context("no webhook")?;
    Ok(webhook.client_config.ca_bundle.context("no caBundle")?.0)
}

/// Connects anew all the time, as an API server with no open connection would, and verifies by what is published.
async fn verify(client: Client, replicas: Vec<SocketAddr>, stop: CancellationToken) -> Result<u32> {
    let mut count = 0;
    while !stop.is_cancelled() {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&published(&client).await?) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        for replica in &replicas {
            let stream = TcpStream::connect(replica).await?;
            let name = ServerName::IpAddress(replica.ip().into());
            let connected = connector.connect(name, stream).await;
            connected.with_context(|| format!("{replica} after {count} connections"))?;
            count += 1;
        }
        tokio::task::yield_now().await;
    }
    Ok(count)
}
