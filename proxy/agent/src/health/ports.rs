// SPDX-License-Identifier: Apache-2.0
//! The health-check node ports: opens and closes what the plan says, answers from what is shared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use berth_model::{NodeName, ServiceKey, View};
use berth_proxy_core::NodePortAddresses;
use berth_proxy_core::health_check::{HealthChecks, Listener, ListenerPlan, WEIGHT_HEADER};
use berth_runtime::backoff::Backoff;
use berth_runtime::serve::{self, Answer};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::ProxyHealth;

/// Retries of ports that are taken.
const RETRY: Backoff = Backoff {
    first: Duration::from_secs(1),
    cap: Duration::from_secs(30),
};

/// A port that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Which.
    pub(crate) listener: Listener,
    /// Which Service of that name.
    pub(crate) uid: String,
    /// The kernel's answer.
    pub(crate) error: String,
}

impl Refusal {
    /// The reason of the event, upstream's.
    pub(crate) const REASON: &'static str = "FailedToStartServiceHealthcheck";
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Listener { address, service } = &self.listener;
        let Self { error, .. } = self;
        let port = address.port();
        write!(
            f,
            "failed to start healthcheck {service} on port {port} ({address}): {error}; tried again until the port is free"
        )
    }
}

/// A port that is open.
#[derive(Debug)]
struct Open {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The listeners of this node.
#[derive(Debug)]
pub(crate) struct HealthPorts {
    checks: Arc<RwLock<HealthChecks>>,
    health: ProxyHealth,
    open: BTreeMap<Listener, Open>,
    refused: BTreeMap<Listener, String>,
    failures: u32,
    retry_at: Option<Instant>,
}

impl HealthPorts {
    pub(crate) fn new(health: ProxyHealth) -> Self {
        Self {
            checks: Arc::default(),
            health,
            open: BTreeMap::new(),
            refused: BTreeMap::new(),
            failures: 0,
            retry_at: None,
        }
    }

    /// When ports that are taken are tried again.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.open.len()
    }

    /// Takes in what changed: the answers are right from here on.
    pub(crate) fn update(&self, view: &View, dirty: &BTreeSet<ServiceKey>, node: Option<&NodeName>) {
        let mut checks = self.checks.write().unwrap_or_else(PoisonError::into_inner);
        checks.update(view, dirty, node);
    }

    /// Opens and closes ports. Returns those that could not be opened and were not said before.
    pub(crate) async fn sync(&mut self, on: &NodePortAddresses, now: Instant) -> Vec<Refusal> {
        let wanted = {
            let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner);
            checks.listeners(on)
        };
        self.refused.retain(|listener, _| wanted.contains(listener));
        let plan = ListenerPlan::new(self.open.keys(), &wanted);
        if plan.is_empty() {
            self.retry_at = None;
            return Vec::new();
        }
        for listener in plan.close {
            if let Some(Open { stop, task }) = self.open.remove(&listener) {
                stop.cancel();
                // Closed only then, and the next Service may want the port.
                if let Err(error) = task.await {
                    tracing::debug!(%listener, %error, "health check ended");
                }
                tracing::info!(%listener, "health check closed");
            }
        }
        let early = self.retry_at.is_some_and(|at| now < at);
        let mut news = Vec::new();
        let mut failed = false;
        for listener in plan.open {
            if early && self.refused.contains_key(&listener) {
                continue;
            }
            match self.open(&listener) {
                Ok(open) => {
                    tracing::info!(%listener, "health check opened");
                    self.refused.remove(&listener);
                    self.open.insert(listener, open);
                }
                Err(error) => {
                    failed = true;
                    let error = error.to_string();
                    if self.refused.insert(listener.clone(), error.clone()).as_ref() != Some(&error) {
                        news.push(self.refusal(listener, error));
                    }
                }
            }
        }
        if self.refused.is_empty() {
            self.failures = 0;
            self.retry_at = None;
        } else if failed {
            self.failures = self.failures.saturating_add(1);
            self.retry_at = Some(now + RETRY.delay(self.failures));
        }
        news
    }

    fn open(&self, listener: &Listener) -> std::io::Result<Open> {
        let socket = serve::bind(listener.address)?;
        let stop = CancellationToken::new();
        let (checks, health) = (Arc::clone(&self.checks), self.health.clone());
        let (service, family) = (listener.service.clone(), listener.family());
        // Any path and any method, as upstream: load balancers ask in many ways.
        let answer = move |_: &str, _: &str| {
            let healthy = health.is_healthy(Instant::now());
            let checks = checks.read().unwrap_or_else(PoisonError::into_inner);
            let answer = checks.answer(&service, family, healthy);
            Answer::json(answer.status, answer.body).with(WEIGHT_HEADER, answer.weight.to_string())
        };
        let task = tokio::spawn(serve::serve(socket, "health check", stop.clone(), answer));
        Ok(Open { stop, task })
    }

    fn refusal(&self, listener: Listener, error: String) -> Refusal {
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner);
        let uid = checks
            .get(&listener.service)
            .map(|check| check.uid.clone())
            .unwrap_or_default();
        Refusal { listener, uid, error }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::sync::Arc;

    use berth_model::{
        Conditions, Endpoint, EndpointHints, EndpointPort, IpFamily, Port, PortName, Protocol, Service,
        ServiceKind, SessionAffinity, TrafficPolicy,
    };
    use k8s_openapi::jiff::Timestamp;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn mk_view(port: u16, pods: &[u8]) -> View {
        let key = ServiceKey::new("shop", "web");
        let service = Service {
            key: key.clone(),
            uid: "uid-web".to_owned(),
            created: 0,
            kind: ServiceKind::LoadBalancer,
            cluster_ips: vec!["10.96.0.1".parse().unwrap()],
            external_ips: vec![],
            load_balancer: vec![],
            load_balancer_class: None,
            ports: vec![],
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Local,
            affinity: SessionAffinity::None,
            source_ranges: None,
            health_check_node_port: Port::new(port),
        };
        let endpoints = pods.iter().map(|pod| Endpoint {
            ip: Ipv4Addr::new(10, 244, 0, *pod).into(),
            port: 80.try_into().unwrap(),
            conditions: Conditions::READY,
            node: Some(NodeName::new("node-1")),
            zone: None,
            hints: EndpointHints::default(),
        });
        let port = EndpointPort {
            name: PortName::new("http"),
            protocol: Protocol::Tcp,
        };
        View {
            services: BTreeMap::from([(key.clone(), Arc::new(service))]),
            endpoints: BTreeMap::from([(key, Arc::new(BTreeMap::from([(port, endpoints.collect())])))]),
        }
    }

    /// Hands in a view, as if all of it had changed.
    async fn step(ports: &mut HealthPorts, view: &View, now: Instant) -> Vec<Refusal> {
        let dirty = BTreeSet::from([ServiceKey::new("shop", "web")]);
        ports.update(view, &dirty, Some(&NodeName::new("node-1")));
        let on = NodePortAddresses::all().only(IpFamily::V4, [LOOPBACK]);
        ports.sync(&on, now).await
    }

    async fn ask(port: u16) -> String {
        let mut stream = TcpStream::connect((LOOPBACK, port)).await.unwrap();
        let request = b"POST /whatever HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_refused_once_and_opened_when_it_is_free() {
        let health = ProxyHealth::new(Duration::from_secs(60));
        let mut ports = HealthPorts::new(health.clone());
        let blocker = serve::bind(SocketAddr::new(LOOPBACK, 0)).unwrap();
        let port = blocker.local_addr().unwrap().port();
        let start = Instant::now();

        let refused = step(&mut ports, &mk_view(port, &[1]), start).await;
        assert_eq!(refused.len(), 1);
        let text = refused[0].to_string();
        assert!(
            text.contains("shop/web") && text.contains(&port.to_string()),
            "{text}"
        );
        let retry_at = ports.retry_at().unwrap();
        assert_eq!(
            step(&mut ports, &mk_view(port, &[1]), retry_at).await,
            [],
            "said already"
        );
        assert!(ports.retry_at().unwrap() > retry_at, "still taken");

        drop(blocker);
        let retry_at = ports.retry_at().unwrap();
        step(&mut ports, &mk_view(port, &[1]), start).await;
        assert_eq!(ports.count(), 0, "not before its time");
        assert_eq!(step(&mut ports, &mk_view(port, &[1]), retry_at).await, []);
        assert_eq!((ports.count(), ports.retry_at()), (1, None));
        assert!(ask(port).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn answers_follow_endpoints_and_health_and_the_port_closes_with_the_service() {
        let timeout = Duration::from_secs(60);
        let health = ProxyHealth::new(timeout);
        health.updated(Timestamp::UNIX_EPOCH);
        let mut ports = HealthPorts::new(health.clone());
        let free = serve::bind(SocketAddr::new(LOOPBACK, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let now = Instant::now();
        for (pods, status) in [(&[][..], 503), (&[1, 2][..], 200)] {
            assert_eq!(step(&mut ports, &mk_view(port, pods), now).await, []);
            let answer = ask(port).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
            let weight = format!("x-load-balancing-endpoint-weight: {}\r\n", pods.len());
            assert!(answer.contains(&weight), "{answer}");
            assert!(answer.contains("\"namespace\": \"shop\""), "{answer}");
        }
        // A change that waits since long ago.
        health.queued(now.checked_sub(2 * timeout).unwrap());
        let answer = ask(port).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("\"serviceProxyHealthy\": false"), "{answer}");
        assert_eq!(step(&mut ports, &View::default(), now).await, []);
        assert_eq!(ports.count(), 0);
        assert!(TcpStream::connect((LOOPBACK, port)).await.is_err());
    }
}
