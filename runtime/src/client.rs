// SPDX-License-Identifier: Apache-2.0
//! The way to the API server: which one, as whom, with fail-over between several addresses.

mod error;
mod failover;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use http::Uri;
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, ServiceBuilder};

pub(crate) use error::status_text;
pub use error::{ClientError, Fault, explain};
use failover::{Failover, Timeouts};

use crate::backoff::{Backoff, jitter};

/// How the API server is found and spoken to.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "API server")]
pub struct ApiArgs {
    /// Kubeconfig file; without it the Pod's service account is used, then ~/.kube/config
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig, if not its current one
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,

    /// Real addresses of API servers (https://HOST:PORT), tried in order; credentials stay those of the
    /// kubeconfig or service account. Node agents need them: the ClusterIP works only once Berth runs
    #[arg(long, env = "BERTH_APISERVER", value_name = "URL", value_delimiter = ',', value_parser = parse_server)]
    pub apiserver: Vec<Uri>,

    /// Longest time for one request; watches are exempt
    #[arg(long, env = "BERTH_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "15s", value_parser = crate::duration::parse)]
    pub request_timeout: Duration,

    /// How long to wait at start for an API server that does not answer before giving up with exit
    /// code 4; each failure is logged. 0 waits for ever
    #[arg(long, env = "BERTH_API_WAIT", value_name = "DURATION", default_value = "2m", value_parser = crate::duration::parse)]
    pub api_wait: Duration,
}

impl Default for ApiArgs {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            apiserver: Vec::new(),
            request_timeout: Duration::from_secs(15),
            api_wait: Duration::from_secs(120),
        }
    }
}

/// Reads one `--apiserver`: a scheme is optional (https), a path is not accepted.
fn parse_server(text: &str) -> Result<Uri, String> {
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let wrong = |why: &str| format!("{text:?} is no API server address ({why}); write https://HOST:PORT");
    let uri: Uri = full
        .trim_end_matches('/')
        .parse()
        .map_err(|error: http::uri::InvalidUri| wrong(&error.to_string()))?;
    match uri.scheme_str() {
        Some("https" | "http") => {}
        _ => return Err(wrong("neither http nor https")),
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(wrong("no host"));
    }
    if !matches!(uri.path(), "" | "/") {
        return Err(wrong("it has a path"));
    }
    Ok(uri)
}

/// Where credentials and addresses came from; every error names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    source: Source,
    servers: Vec<Uri>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Kubeconfig { files: Vec<PathBuf>, context: String },
    InCluster,
}

impl Origin {
    /// Where API servers are, the one that is asked first first.
    pub fn servers(&self) -> &[Uri] {
        &self.servers
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<String> = self.servers.iter().map(server_text).collect();
        write!(f, "API server {}", servers.join(", "))?;
        match &self.source {
            Source::Kubeconfig { files, context } => {
                write!(f, " (kubeconfig {}, context {context:?})", file_list(files))
            }
            Source::InCluster => f.write_str(" (the Pod's service account)"),
        }
    }
}

/// A server without the slash that an empty path prints as.
fn server_text(server: &Uri) -> String {
    server.to_string().trim_end_matches('/').to_owned()
}

fn file_list(files: &[PathBuf]) -> String {
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    names.join(":")
}

/// A client together with where it points.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    origin: Origin,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.origin).finish()
    }
}

impl Connection {
    /// The client; clones share connections and the choice of server.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where it points.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Makes one request, for its error.
    ///
    /// # Errors
    /// What is wrong with the way to the API server, and the way out.
    pub async fn check(&self) -> Result<(), ClientError> {
        match self.client.apiserver_version().await {
            Ok(version) => {
                tracing::debug!(server = %self.origin, version = version.git_version, "API server answers");
                Ok(())
            }
            Err(error) => Err(ClientError::from_request(&self.origin, &error)),
        }
    }

    /// Waits until the API server answers, logging each failure, with back-off. A node agent may be up
    /// long before its API server (`patience` of `None`); a tool gives up after `patience`.
    /// Ends without an answer when `stop` is cancelled.
    ///
    /// # Errors
    /// The last failure, once `patience` has passed.
    pub async fn contact(
        &self,
        patience: Option<Duration>,
        stop: &CancellationToken,
    ) -> Result<(), ClientError> {
        let started = tokio::time::Instant::now();
        let mut failures = 0;
        loop {
            let error = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                outcome = self.check() => match outcome {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
            };
            failures += 1;
            let delay = jitter(Backoff::CONNECT.delay(failures), fastrand::u32(..));
            if patience.is_some_and(|patience| started.elapsed() + delay > patience) {
                return Err(error);
            }
            tracing::error!(%error, failures, retry_in = ?delay, "no contact with the API server");
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }
}

impl ApiArgs {
    /// The patience for [`Connection::contact`] that the flags ask for.
    pub fn patience(&self) -> Option<Duration> {
        (!self.api_wait.is_zero()).then_some(self.api_wait)
    }

    /// A client. Verifies nothing: see [`Connection::check`] and [`Connection::contact`].
    ///
    /// # Errors
    /// A kubeconfig that is missing or does not parse, or no configuration at all.
    pub async fn client(&self) -> Result<Client, ClientError> {
        Ok(self.connect().await?.client)
    }

    /// A client that remembers where it points. Verifies nothing.
    ///
    /// # Errors
    /// A kubeconfig that is missing or does not parse, or no configuration at all.
    pub async fn connect(&self) -> Result<Connection, ClientError> {
        install_crypto();
        let (mut config, source) = self.load().await?;
        config.default_retry = false;
        let servers = if self.apiserver.is_empty() {
            vec![config.cluster_url.clone()]
        } else {
            self.apiserver.clone()
        };
        let origin = Origin { source, servers };
        if config.proxy_url.is_some() {
            return Err(ClientError::Proxy { origin });
        }
        let client = build(&config, &origin.servers, self.request_timeout).map_err(|source| {
            ClientError::Credentials {
                origin: origin.clone(),
                source: Box::new(source),
            }
        })?;
        Ok(Connection { client, origin })
    }

    async fn load(&self) -> Result<(Config, Source), ClientError> {
        let named = self.kubeconfig_files();
        if named.is_empty() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
            let config = Config::incluster().map_err(|source| ClientError::InCluster { source })?;
            return Ok((config, Source::InCluster));
        }
        let files = if named.is_empty() {
            vec![home_kubeconfig().ok_or(ClientError::NoConfiguration)?]
        } else {
            named
        };
        self.load_files(files).await
    }

    async fn load_files(&self, files: Vec<PathBuf>) -> Result<(Config, Source), ClientError> {
        let failed = |source| ClientError::Kubeconfig {
            file: file_list(&files),
            source: Box::new(source),
        };
        let mut merged: Option<Kubeconfig> = None;
        for file in &files {
            let next = Kubeconfig::read_from(file).map_err(|source| ClientError::Kubeconfig {
                file: file.display().to_string(),
                source: Box::new(source),
            })?;
            merged = Some(match merged {
                Some(before) => before.merge(next).map_err(failed)?,
                None => next,
            });
        }
        let kubeconfig = merged.ok_or(ClientError::NoConfiguration)?;
        let context = self
            .context
            .clone()
            .or_else(|| kubeconfig.current_context.clone())
            .unwrap_or_default();
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(failed)?;
        Ok((config, Source::Kubeconfig { files, context }))
    }

    /// The files named by flag or environment; the environment may hold a list, an empty value is none.
    fn kubeconfig_files(&self) -> Vec<PathBuf> {
        self.kubeconfig
            .iter()
            .flat_map(|value| std::env::split_paths(value.as_os_str()).collect::<Vec<_>>())
            .filter(|path| path != Path::new(""))
            .collect()
    }
}

fn home_kubeconfig() -> Option<PathBuf> {
    let file = std::env::home_dir()?.join(".kube/config");
    file.exists().then_some(file)
}

/// rustls panics without a process-wide provider when more than one is compiled in.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::ring::default_provider()
            .install_default()
            .is_err()
        {
            tracing::debug!("a TLS provider was already installed");
        }
    });
}

/// kube's own stack retries 429, 503 and 504 for minutes inside one call, POST included, and knows one
/// server only; hence this one, which leaves retries to the callers' queues.
fn build(config: &Config, servers: &[Uri], request_timeout: Duration) -> Result<Client, kube::Error> {
    let connector = config.rustls_https_connector_with_connector(failover::connector())?;
    let transport = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(60))
        .build(connector);
    let timeouts = Timeouts {
        request: request_timeout,
    };
    let service = ServiceBuilder::new()
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(Failover::new(transport, servers.to_vec(), timeouts));
    Ok(Client::new(service, config.default_namespace.clone()))
}

#[cfg(test)]
mod tests;
