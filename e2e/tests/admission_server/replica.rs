// SPDX-License-Identifier: Apache-2.0
//! A replica in the test's own process: certificates, port, registration. It ends when it is dropped.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_controllers_core::admission::Exemptions;
use berth_controllers_core::certificates::Rules;
use berth_controllers_manager::admission::{
    AdmissionMetrics, Credentials, FailurePolicy, Keeper, Names, PATH, Registrar, Registration, Settings,
    Target, UnavailablePolicy, Webhook, serve,
};
use berth_runtime::metrics::Metrics;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::chooser::Values;

/// How often the Secret is read.
const PERIOD: Duration = Duration::from_millis(500);

pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    credentials: watch::Receiver<Option<Arc<Credentials>>>,
    values: Arc<Values>,
    metrics: Metrics,
    stop: CancellationToken,
    client: Client,
    own_namespace: String,
    _guard: DropGuard,
}

impl Replica {
    /// Starts one, and waits for its certificate.
    pub(crate) async fn start(client: &Client, namespace: &str, rules: Rules) -> Result<Self> {
        let stop = CancellationToken::new();
        let metrics = Metrics::new("test", "0");
        let counted = metrics.register(AdmissionMetrics::register);
        let names = Names {
            dns: Vec::new(),
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
        };
        let keeper = Keeper::new(client.clone(), namespace, names, rules, PERIOD, counted.clone())?;
        let mut credentials = keeper.credentials();
        tokio::spawn(keeper.run(stop.clone()));

        let listener = berth_runtime::serve::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = listener.local_addr()?;
        let values = Arc::new(Values::default());
        let settings = Settings {
            exemptions: Exemptions::with([namespace.to_owned()]),
            unavailable: UnavailablePolicy::Admit,
            timeout: Duration::from_secs(5),
        };
        let webhook = Webhook::new(values.clone(), settings, counted);
        tokio::spawn(serve(listener, credentials.clone(), webhook, stop.clone()));
        credentials
            .wait_for(Option::is_some)
            .await
            .context("the certificates are not looked after")?;
        Ok(Self {
            address,
            credentials,
            values,
            metrics,
            client: client.clone(),
            own_namespace: namespace.to_owned(),
            _guard: stop.clone().drop_guard(),
            stop,
        })
    }

    /// Registers this replica, and keeps that.
    pub(crate) fn register(&self, failure_policy: FailurePolicy) {
        let registration = Registration {
            target: Target::Url(format!("https://{}{PATH}", self.address)),
            failure_policy,
            timeout_seconds: 5,
            exempt_namespaces: [self.own_namespace.clone()].into(),
        };
        let registrar = Registrar::new(self.client.clone(), registration, self.credentials.clone());
        let (_, wanted) = watch::channel(Some(true));
        tokio::spawn(registrar.run(wanted, self.stop.clone()));
    }

    /// The authorities that it trusts.
    pub(crate) fn bundle(&self) -> String {
        let credentials = self.credentials.borrow();
        credentials
            .as_ref()
            .map(|credentials| credentials.bundle().to_owned())
            .unwrap_or_default()
    }

    /// How many reviews it answered.
    pub(crate) fn requests(&self) -> u64 {
        self.counts("berth_admission_requests_total{")
    }

    /// The sum of the metrics whose line begins so.
    pub(crate) fn counts(&self, begin: &str) -> u64 {
        let page = self.metrics.render();
        let lines = page.lines().filter(|line| line.starts_with(begin));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        values.sum()
    }

    /// What it asked for last.
    pub(crate) fn last_asked(&self) -> String {
        self.values.last_asked()
    }
}
