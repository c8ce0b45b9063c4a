// SPDX-License-Identifier: Apache-2.0
//! What `examples/` promises, as attempts with real packets: the demo shows them, the tests assert them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_testkit::netns::Netns;
use berth_testkit::pods::{Pod, Serve, start_testpod};
use berth_testkit::probe::{How, Probe, ProbeError, Spread};
use berth_testkit::process::Process;
use berth_testkit::wait::eventually;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};

use crate::cluster::{Cluster, PATIENCE, cluster_ips, repository, socket};

/// The namespace of the examples.
pub const NAMESPACE: &str = "berth-examples";

/// Where the hand-written Endpoints of `selectorless.yaml` point: the outside client's port.
const PRINTER_PORT: u16 = 9080;

/// Connections made to see who answers: that one of two Pods gets none of them happens once in eight million.
const CONNECTIONS: usize = 24;
/// Refused ones are fewer: Linux sends about one ICMP error a second to a host once its burst of six is used up.
const REFUSALS: usize = 3;

/// Where an attempt is made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A Pod on this node.
    Pod(String),
    /// A process of this node's own.
    Node(String),
    /// The outside client on the LAN, no member of the cluster.
    LanClient,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(node) => write!(f, "Pod on {node}"),
            Self::Node(node) => write!(f, "{node} itself"),
            Self::LanClient => f.write_str("LAN client"),
        }
    }
}

/// What should come of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Each of these answers some of the connections, and nobody else does.
    Answers(BTreeSet<String>),
    /// Every connection is refused at once.
    Refused,
}

/// One thing to try.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The Service's name.
    pub service: &'static str,
    /// Its kind, as a newcomer would say it.
    pub kind: &'static str,
    /// From where.
    pub from: Place,
    /// By which protocol.
    pub how: How,
    /// To where.
    pub to: SocketAddr,
    /// With what outcome.
    pub expect: Expect,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The attempt.
    pub attempt: Attempt,
    /// From the moment the Service was there to the first outcome that was as expected.
    pub first: Duration,
    /// Who answered how often, after that.
    pub spread: Spread,
}

/// What is asked of each example: Service, port, protocol, who answers.
const ASKED: [(&str, u16, How, &[&str]); 6] = [
    ("web", 80, How::Http, &["web-1", "web-2"]),
    ("web", 7, How::Udp, &["web-1", "web-2"]),
    ("printer", 80, How::Http, &["printer"]),
    ("shop", 80, How::Http, &["shop-1", "shop-2"]),
    ("door", 80, How::Tcp, &["door-1", "door-2"]),
    ("nobody", 80, How::Tcp, &[]),
];

/// Places to try the examples from, and what is no cluster member.
pub struct Examples {
    /// A Pod on each node that no Service selects: the clients.
    pods: Vec<Pod>,
    lan_client: Netns,
    nodes: Vec<(String, Netns)>,
    _printer: Process,
}

impl Examples {
    /// Makes the places to try from, and the machine that hand-written Endpoints point to.
    ///
    /// # Errors
    /// A namespace cannot be made.
    pub fn prepare(cluster: &Cluster) -> Result<Self> {
        let nodes = cluster.lan.nodes();
        let pods = nodes
            .iter()
            .map(|node| Pod::create(node, &format!("client-{}", node.name()), None))
            .collect::<Result<Vec<_>, _>>()?;
        let serve = Serve {
            tcp: vec![PRINTER_PORT],
            ..Serve::default()
        };
        let printer = start_testpod(
            cluster.lan.client(),
            "printer",
            &serve,
            &cluster.logs().join("printer.log"),
        )?;
        let nodes = nodes
            .iter()
            .map(|node| (node.name().to_owned(), node.netns().clone()))
            .collect();
        Ok(Self {
            pods,
            lan_client: cluster.lan.client().clone(),
            nodes,
            _printer: printer,
        })
    }

    /// Applies `examples/`, and from the moment each Service appears tries it from everywhere.
    ///
    /// # Errors
    /// kubectl refuses, or something does not come out as the examples promise.
    pub async fn apply_and_try(&self, cluster: &Cluster) -> Result<Vec<Outcome>> {
        let folder = repository().join("examples");
        let applied = async { anyhow::Ok(cluster.control_plane.apply(&folder).await.map(drop)?) };
        let names: BTreeSet<&'static str> = ASKED.iter().map(|(name, ..)| *name).collect();
        let tried = names.into_iter().map(|name| self.try_service(cluster, name));
        let ((), tried) = futures::try_join!(applied, async {
            anyhow::Ok(futures::future::join_all(tried).await)
        })?;
        let (mut outcomes, mut failures) = (Vec::new(), Vec::new());
        for (attempt, netns, first) in tried
            .into_iter()
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
        {
            match first {
                Ok(first) => outcomes.push(self.look_who_answers(attempt, &netns, first).await),
                Err(error) => failures.push(error),
            }
        }
        let (outcomes, wrong): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        failures.extend(wrong.into_iter().filter_map(Result::err));
        let failures: Vec<String> = failures.iter().map(|error| format!("{error:#}")).collect();
        ensure!(
            failures.is_empty(),
            "{} of the attempts failed:\n  {}",
            failures.len(),
            failures.join("\n  ")
        );
        outcomes.into_iter().collect()
    }

    /// Waits for one Service to appear, and then makes all its attempts at the same time until each comes out as
    /// expected for the first time.
    async fn try_service(&self, cluster: &Cluster, name: &'static str) -> Result<Vec<Tried>> {
        let services: Api<Service> = Api::namespaced(cluster.client(), NAMESPACE);
        let service = eventually(format!("Service {name}"), PATIENCE, || services.get(name)).await?;
        let appeared = Instant::now();
        let mut waiting = Vec::new();
        for attempt in self.inside(cluster, name, &service)? {
            let netns = self.place(&attempt.from)?.clone();
            waiting.push(spawn_attempt(attempt, netns, appeared));
        }
        if name == "shop" {
            for attempt in self.load_balancer(cluster).await? {
                let netns = self.place(&attempt.from)?.clone();
                waiting.push(spawn_attempt(attempt, netns, appeared));
            }
        }
        let mut tried = Vec::new();
        for task in waiting {
            tried.push(task.await?);
        }
        Ok(tried)
    }

    /// ClusterIPs from a Pod on each node and from a node, node ports from the LAN.
    fn inside(&self, cluster: &Cluster, name: &'static str, service: &Service) -> Result<Vec<Attempt>> {
        let mut attempts = Vec::new();
        let addresses = cluster_ips(service);
        ensure!(
            addresses.len() == 2,
            "Service {name} is not dual stack: {addresses:?}"
        );
        let (node, _) = self.nodes.first().context("a cluster has a node")?;
        for (_, port, how, who) in ASKED.iter().filter(|(of, ..)| *of == name) {
            for ip in &addresses {
                let pods = self
                    .pods
                    .iter()
                    .map(|pod| Place::Pod(pod.node().name().to_owned()));
                let places = pods.chain([Place::Node(node.clone())]);
                attempts.extend(
                    places.map(|from| attempt(name, kind_of(name), from, *how, socket(*ip, *port), who)),
                );
            }
        }
        if name == "door" {
            for ip in cluster.lan.nodes().iter().flat_map(|node| node.addresses()) {
                let to = socket(ip, 30_007);
                attempts.push(attempt(
                    "door",
                    "NodePort",
                    Place::LanClient,
                    How::Tcp,
                    to,
                    &["door-1", "door-2"],
                ));
            }
        }
        Ok(attempts)
    }

    /// The LoadBalancer address from the LAN and from a Pod.
    async fn load_balancer(&self, cluster: &Cluster) -> Result<Vec<Attempt>> {
        let pod = self.pods.first().context("a cluster has a node")?;
        let inside = Place::Pod(pod.node().name().to_owned());
        let mut attempts = Vec::new();
        for ip in cluster.load_balancer_addresses(NAMESPACE, "shop").await? {
            for (from, port, how) in [
                (Place::LanClient, 80, How::Http),
                (Place::LanClient, 7, How::Udp),
                (inside.clone(), 80, How::Http),
            ] {
                let who = &["shop-1", "shop-2"];
                attempts.push(attempt("shop", "LoadBalancer", from, how, socket(ip, port), who));
            }
        }
        Ok(attempts)
    }

    async fn look_who_answers(&self, attempt: Attempt, netns: &Netns, first: Duration) -> Result<Outcome> {
        let connections = match attempt.expect {
            Expect::Answers(_) => CONNECTIONS,
            Expect::Refused => REFUSALS,
        };
        let spread = Probe::from(netns)
            .spread_async(attempt.how, attempt.to, connections)
            .await?;
        judge(&attempt, &spread)?;
        Ok(Outcome {
            attempt,
            first,
            spread,
        })
    }

    /// The namespace of a place.
    ///
    /// # Errors
    /// No such node.
    pub fn place(&self, place: &Place) -> Result<&Netns> {
        match place {
            Place::LanClient => Ok(&self.lan_client),
            Place::Pod(node) => {
                let pod = self.pods.iter().find(|pod| pod.node().name() == node);
                pod.map(Pod::netns).with_context(|| format!("no Pod on {node}"))
            }
            Place::Node(node) => {
                let found = self.nodes.iter().find(|(name, _)| name == node);
                found
                    .map(|(_, netns)| netns)
                    .with_context(|| format!("no node {node}"))
            }
        }
    }
}

/// An attempt, where it was made, and how long it took to come out as expected.
type Tried = (Attempt, Netns, Result<Duration>);

fn spawn_attempt(attempt: Attempt, netns: Netns, since: Instant) -> tokio::task::JoinHandle<Tried> {
    tokio::task::spawn_blocking(move || {
        let first = first_success(&netns, &attempt, since);
        (attempt, netns, first)
    })
}

fn kind_of(service: &str) -> &'static str {
    match service {
        "printer" => "selector-less",
        "nobody" => "no endpoint",
        _ => "ClusterIP",
    }
}

fn attempt(
    service: &'static str,
    kind: &'static str,
    from: Place,
    how: How,
    to: SocketAddr,
    who: &[&str],
) -> Attempt {
    let expect = if who.is_empty() {
        Expect::Refused
    } else {
        Expect::Answers(who.iter().map(|name| (*name).to_owned()).collect())
    };
    Attempt {
        service,
        kind,
        from,
        how,
        to,
        expect,
    }
}

/// The moment of the first outcome as expected, counted from `since`.
fn first_success(netns: &Netns, attempt: &Attempt, since: Instant) -> Result<Duration> {
    // Short, so that a datagram lost before the rules were there costs little. A refusal needs longer: Linux sends
    // ICMP errors at a limited rate (net.ipv4.icmp_ratelimit), and takes notice of an ICMPv6 one that arrives
    // within the connect call itself, as from a node to its own Pod, only when it retransmits after 1 s.
    let mut probe = Probe::from(netns);
    probe.timeout = match attempt.expect {
        Expect::Answers(_) => Duration::from_millis(250),
        Expect::Refused => Duration::from_secs(2),
    };
    let mut last = String::new();
    while since.elapsed() < PATIENCE {
        match (probe.ask(attempt.how, attempt.to), &attempt.expect) {
            (Ok(answer), Expect::Answers(who)) if who.contains(&name_of(&answer.pod)) => {
                return Ok(since.elapsed());
            }
            (Err(ProbeError::Refused), Expect::Refused) => return Ok(since.elapsed()),
            (Ok(answer), _) => last = format!("{} answers", answer.pod),
            (Err(error), _) => last = error.to_string(),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!(
        "{}: {} by {} from {}: {last}",
        attempt.service,
        attempt.to,
        attempt.how,
        attempt.from
    )
}

/// Pods introduce themselves as `namespace/name` or by their bare name.
fn name_of(pod: &str) -> String {
    pod.rsplit('/').next().unwrap_or(pod).to_owned()
}

fn judge(attempt: &Attempt, spread: &Spread) -> Result<()> {
    let who: BTreeSet<String> = spread.answers.keys().map(|pod| name_of(pod)).collect();
    let as_expected = match &attempt.expect {
        Expect::Answers(expected) => spread.failures.is_empty() && who == *expected,
        Expect::Refused => {
            who.is_empty() && spread.failures.keys().all(|error| *error == ProbeError::Refused)
        }
    };
    ensure!(
        as_expected,
        "{}: {} by {} from {}: {spread}; expected {:?}",
        attempt.service,
        attempt.to,
        attempt.how,
        attempt.from,
        attempt.expect
    );
    Ok(())
}

/// Headless and ExternalName Services have no packets without DNS: their objects are what can be looked at.
///
/// # Errors
/// The objects are not as the examples promise.
pub async fn objects_without_packets(cluster: &Cluster) -> Result<()> {
    let slices: Api<EndpointSlice> = Api::namespaced(cluster.client(), NAMESPACE);
    let of = |name: &str| ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    eventually("slices of the headless Service", PATIENCE, || async {
        let found = slices.list(&of("peers")).await?.items;
        let mut hosts: Vec<_> = found
            .iter()
            .flat_map(|s| s.endpoints.iter().flatten())
            .filter_map(|e| e.hostname.as_deref())
            .collect();
        hosts.sort_unstable();
        ensure!(hosts == ["one", "one", "two", "two"], "host names {hosts:?}");
        ensure!(
            found.iter().all(|slice| slice
                .metadata
                .labels
                .as_ref()
                .is_some_and(|labels| labels.contains_key("service.kubernetes.io/headless"))),
            "no headless label"
        );
        anyhow::Ok(())
    })
    .await?;
    let of_mail = slices.list(&of("mail")).await?.items;
    ensure!(
        of_mail.is_empty(),
        "an ExternalName Service has slices: {of_mail:?}"
    );
    Ok(())
}

/// Whether `default/kubernetes` answers at its ClusterIP from a Pod: a TLS request to the real API server
/// through Berth's rules.
///
/// # Errors
/// It does not answer `ok`.
pub async fn kubernetes_default(cluster: &Cluster, from: &Netns) -> Result<IpAddr> {
    let services: Api<Service> = Api::namespaced(cluster.client(), "default");
    let service = services.get("kubernetes").await?;
    let ip = *cluster_ips(&service)
        .first()
        .context("default/kubernetes has no ClusterIP")?;
    let runner = cluster.control_plane.kubectl_runner();
    let program = runner
        .program()
        .context("the control plane has no kubectl")?
        .display()
        .to_string();
    let kubeconfig = format!(
        "--kubeconfig={}",
        cluster.control_plane.admin_kubeconfig().display()
    );
    let server = format!("--server=https://{ip}:443");
    let from = from.clone();
    eventually("default/kubernetes from a Pod", PATIENCE, || {
        let (from, program, kubeconfig, server) =
            (from.clone(), program.clone(), kubeconfig.clone(), server.clone());
        async move {
            let arguments = [
                kubeconfig.as_str(),
                server.as_str(),
                "--request-timeout=5s",
                "get",
                "--raw",
                "/readyz",
            ];
            let said = from.output(&program, &arguments)?;
            ensure!(said.trim() == "ok", "said {said:?}");
            anyhow::Ok(())
        }
    })
    .await?;
    Ok(ip)
}
