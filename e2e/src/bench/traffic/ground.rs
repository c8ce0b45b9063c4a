// SPDX-License-Identifier: Apache-2.0
//! A node for each contender, with the same Services.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_testkit::process::{Process, Spec, binary};
use berth_testkit::wait::eventually;
use serde_json::{Value, json};

use super::super::quiet::quiet;
use super::super::usage::Family;
use super::TrafficOptions;
use super::contender::{Contender, GUEST, NATIVE};
use super::load::{self, ANSWERS, READS};
use crate::cluster::PATIENCE;
use crate::proxy_peer::ground::stage_for;
use crate::proxy_peer::launch::{Proxy, ProxyLaunch, wait_ready};
use crate::proxy_peer::objects::Request;
use crate::proxy_peer::world::{NODE, NODES, Origin, Site, World};
use crate::stage::Stage;

const NAMESPACE: &str = "traffic";
/// The measured Service. It is the last to be written, so that whoever serves it serves the others, too.
const SERVICE: (&str, Ipv4Addr) = ("measured", Ipv4Addr::new(10, 96, 200, 1));

/// Where the guest's logs are.
pub(super) const GUEST_LOGS: &str = "bench-traffic-guest";
/// One CPU, and a kernel that is a process.
const GUEST_PATIENCE: Duration = Duration::from_secs(300);

/// Everything that is there while contenders take turns.
pub(super) struct Ground {
    logs: PathBuf,
    /// Before the API server: they end first.
    nodes: BTreeMap<Contender, (World, Option<Process>)>,
    _stage: Option<Stage>,
}

impl Ground {
    /// Starts the API server and every contender, and waits until each serves.
    pub(super) async fn start(options: &TrafficOptions, say: &impl Fn(&str)) -> Result<Self> {
        say("starting the API server and every contender");
        let stage = stage_for("bench-traffic", NATIVE.len()).await?;
        let mut nodes = BTreeMap::new();
        for (number, contender) in (1..).zip(NATIVE) {
            let world = World::build(number)?;
            load::serve(world.site(Site::B))?;
            let process = launch(&stage, contender, &world, options).await?;
            nodes.insert(contender, (world, process));
        }
        create(&stage, options).await?;
        say("waiting until all serve");
        for (contender, (world, process)) in &nodes {
            serves(*contender, world, process.as_ref(), PATIENCE).await?;
        }
        let processes = || nodes.values().filter_map(|(_, process)| process.as_ref());
        quiet(|| processes().map(used).sum()).await?;
        Ok(Self {
            logs: stage.logs().to_owned(),
            nodes,
            _stage: Some(stage),
        })
    }

    /// The same in the guest kernel, of contenders that are rules and nothing else: each writes them while the others wait,
    /// and ends, and so does the API server.
    pub(super) async fn of_rules_alone(options: &TrafficOptions, say: &impl Fn(&str)) -> Result<Self> {
        say("starting the API server");
        let stage = stage_for(GUEST_LOGS, GUEST.len()).await?;
        say("writing the Services");
        create(&stage, options).await?;
        let mut nodes = BTreeMap::new();
        for (number, contender) in (1..).zip(GUEST) {
            say(&format!("waiting until {} serves", contender.name()));
            let world = World::in_guest(number)?;
            load::serve(world.site(Site::B))?;
            let process = launch(&stage, contender, &world, options).await?;
            serves(contender, &world, process.as_ref(), GUEST_PATIENCE).await?;
            if let Some(process) = process {
                serves_all(&world, &process, options.others).await?;
                quiet(|| used(&process)).await?;
            }
            nodes.insert(contender, (world, None));
        }
        Ok(Self {
            logs: stage.logs().to_owned(),
            nodes,
            _stage: None,
        })
    }

    /// Where the logs are.
    pub(super) fn logs(&self) -> &Path {
        &self.logs
    }

    /// One contender's turn: connections a second, Gbit a second.
    pub(super) fn turn(&self, contender: Contender, duration: Duration) -> Result<(load::Connections, f64)> {
        let (world, _) = self.nodes.get(&contender).context("no such contender")?;
        let client = world.origin(Origin::IdlePod);
        tokio::task::block_in_place(|| {
            let connections = load::connections(client, contender.address(ANSWERS), duration)?;
            let throughput = load::throughput(client, contender.address(READS), duration)?;
            Ok((connections, throughput))
        })
    }
}

async fn create(stage: &Stage, options: &TrafficOptions) -> Result<()> {
    for request in objects(options.others) {
        request.send(&stage.client()).await?;
    }
    Ok(())
}

async fn launch(
    stage: &Stage,
    contender: Contender,
    world: &World,
    options: &TrafficOptions,
) -> Result<Option<Process>> {
    let (proxy, flags) = match contender {
        Contender::Nobody => return Ok(None),
        Contender::PlainRelay => return Ok(Some(plain_relay(world, stage.logs())?)),
        Contender::Rules(proxy) => (proxy, vec![]),
        Contender::Userspace => (Proxy::Berth, vec!["--proxy-mode=userspace".to_owned()]),
    };
    let server = format!("https://{}:{}", world.api_server(), stage.control_plane().port());
    let launch = ProxyLaunch {
        program: Some(options.berth.clone()),
        extra_flags: flags,
        ..ProxyLaunch::named(contender.name(), NODES[0].0, &server)
    };
    let mut process = stage.launch_proxy(proxy, world.node(), &launch).await?;
    wait_ready(proxy, &mut process)?;
    Ok(Some(process))
}

/// Waits until the measured Service answers.
async fn serves(
    contender: Contender,
    world: &World,
    process: Option<&Process>,
    patience: Duration,
) -> Result<()> {
    let to = contender.address(ANSWERS);
    let answered = eventually(format!("{}: {to}", contender.name()), patience, || async {
        // One at a time, and not by the Pod that will be measured: a SYN that came before the rules leaves an untranslated
        // flow for two minutes (nf_conntrack_tcp_timeout_syn_sent), and its port comes round again sooner.
        let client = world.origin(Origin::PodA);
        tokio::task::block_in_place(|| client.run(|| load::connect(to)))??;
        anyhow::Ok(())
    });
    let log = || process.map(Process::log_end).unwrap_or_default();
    answered.await.with_context(log)?;
    Ok(())
}

/// Waits until every port of every Service has its one endpoint, and the rules are there: kube-proxy carries Services out
/// in no order, calls ipset for each of them after that, and writes its rules last. Without them no connection is
/// tracked, which is faster.
async fn serves_all(world: &World, process: &Process, others: u16) -> Result<()> {
    let wanted = 2 * (usize::from(others) + 1);
    let complete = eventually("all Services in IPVS", GUEST_PATIENCE, || async {
        // Not /proc/net/ip_vs, which leaves some out where several namespaces have servers (seen with Linux 6.1).
        let saved = world.node().output("ipvsadm", &["--save", "--numeric"])?;
        let found = destinations(&saved);
        ensure!(found >= wanted, "{found} of {wanted} destinations");
        let rules = world.node().output("iptables-legacy-save", &["--table", "nat"])?;
        ensure!(masquerades(&rules), "no rule masquerades");
        anyhow::Ok(())
    });
    complete.await.with_context(|| process.log_end())?;
    Ok(())
}

/// How many there are in what ipvsadm saves.
fn destinations(saved: &str) -> usize {
    saved.lines().filter(|line| line.starts_with("-a ")).count()
}

/// Whether iptables' rules are more than names of chains: both proxies' do that, in one transaction with the others.
fn masquerades(saved: &str) -> bool {
    let mut rules = saved.lines().filter(|line| line.starts_with("-A "));
    rules.any(|rule| rule.contains(" -j MASQUERADE"))
}

/// CPU seconds.
fn used(process: &Process) -> Result<f64> {
    Ok(Family::of(process.pid())?.cpu_seconds)
}

fn plain_relay(world: &World, logs: &Path) -> Result<Process> {
    let program: PathBuf = binary("berth-e2e", "berth-e2e")?;
    let mut spec = Spec::new("plain-relay", program, &logs.join("plain-relay.log"));
    spec.args = vec!["relay".to_owned()];
    spec.args.extend([ANSWERS, READS].map(|port| {
        let pod = SocketAddr::new(Site::B.address().v4.into(), port);
        format!("--way={}={pod}", SocketAddr::new(NODE.v4.into(), port))
    }));
    Ok(Process::start(world.node(), &spec)?)
}

impl Contender {
    /// What a client connects to.
    fn address(self, port: u16) -> SocketAddr {
        let ip: IpAddr = match self {
            Self::Nobody => Site::B.address().v4.into(),
            Self::PlainRelay => NODE.v4.into(),
            Self::Rules(_) | Self::Userspace => SERVICE.1.into(),
        };
        SocketAddr::new(ip, port)
    }
}

/// The namespace, other Services, and last the measured one.
fn objects(others: u16) -> Vec<Request> {
    let namespace = json!({"metadata": {"name": NAMESPACE}});
    let mut requests = vec![Request::create("/api/v1/namespaces", namespace)];
    for index in 0..others {
        let [high, low] = index.to_be_bytes();
        // 10.96.0.0 and 10.96.0.1 are the range's and the API server's own.
        let ip = Ipv4Addr::new(10, 96, 1 + high, low);
        requests.extend(service(&format!("other-{index}"), ip, Site::A));
    }
    requests.extend(service(SERVICE.0, SERVICE.1, Site::B));
    requests
}

fn service(name: &str, ip: Ipv4Addr, endpoint: Site) -> [Request; 2] {
    let ports = || -> Vec<Value> {
        let ports = [("answers", ANSWERS), ("reads", READS)];
        ports
            .map(|(name, port)| json!({"name": name, "port": port, "protocol": "TCP"}))
            .into()
    };
    let slice = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": ports(),
        "endpoints": [{
            "addresses": [endpoint.address().v4], "nodeName": endpoint.node(),
            "conditions": {"ready": true, "serving": true, "terminating": false},
        }],
    });
    let service = json!({
        "metadata": {"name": name},
        "spec": {"clusterIP": ip, "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "ports": ports()},
    });
    let namespaced = |group: &str, kind: &str| format!("{group}/namespaces/{NAMESPACE}/{kind}");
    [
        Request::create(&namespaced("/apis/discovery.k8s.io/v1", "endpointslices"), slice),
        Request::create(&namespaced("/api/v1", "services"), service),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_counted_and_servers_are_not() {
        let saved = "-A -t 10.96.200.1:9000 -s rr\n-a -t 10.96.200.1:9000 -r 10.244.1.3:9000 -m -w 1\n\
            -A -t 10.96.200.1:9001 -s rr\n";
        assert_eq!(destinations(saved), 1);
        assert_eq!(destinations(""), 0);
    }
    #[test]
    fn chains_alone_masquerade_nothing() {
        let chains = "*nat\n:BERTH-MASQUERADE - [0:0]\n-A POSTROUTING -j BERTH-POSTROUTING\nCOMMIT\n";
        assert!(!masquerades(chains));
        assert!(masquerades("-A BERTH-MASQUERADE -j MASQUERADE --random-fully\n"));
    }
}
