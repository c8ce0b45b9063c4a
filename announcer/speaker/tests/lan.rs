// SPDX-License-Identifier: Apache-2.0
//! Speakers on a real LAN of network namespaces, asked by a host that knows nothing of them.
#![expect(clippy::expect_used, reason = "a test's own tools may fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use berth_announcer_core::election;
use berth_announcer_core::link::Selection;
use berth_announcer_core::membership::{Identity, Timing};
use berth_announcer_core::wire::arp::{Arp, Operation};
use berth_announcer_core::wire::ethernet::{Frame, MacAddr, TYPE_ARP, TYPE_IPV6};
use berth_announcer_core::wire::ndp::{Advertisement, Solicitation, solicited_node_group};
use berth_announcer_speaker::{AnnouncerMetrics, Cluster, Setup, Speaker};
use berth_model::NodeName;
use berth_runtime::shutdown::Shutdown;
use berth_runtime::sys::packet::PacketSocket;
use berth_testkit::in_sandbox_async;
use berth_testkit::lan::{CLIENT, INTERFACE, Lan};
use berth_testkit::netns::Netns;
use berth_testkit::process::{Process, Spec};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// Tells [`speaker_process`] for which node it is to speak.
const NODE: &str = "BERTH_TEST_SPEAKER_NODE";
/// Tells [`speaker_process`] after how many seconds of silence a peer is dead; the default otherwise.
const DEAD_AFTER: &str = "BERTH_TEST_SPEAKER_DEAD_AFTER";
const NODES: u8 = 3;
/// Generous: the machine may be busy. What is awaited comes within two seconds otherwise.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a question is listened to for second answers.
const WINDOW: Duration = Duration::from_millis(200);

fn addresses() -> BTreeSet<IpAddr> {
    let v4 = (200..206).map(|n| IpAddr::from([10, 77, 0, n]));
    let v6 = (0x200..0x206).map(|n| IpAddr::from([0xfd00, 0x77, 0, 0, 0, 0, 0, n]));
    v4.chain(v6).collect()
}

fn node(n: u8) -> NodeName {
    NodeName::new(format!("node-{n}"))
}

/// The speaker of one node, as a process of its own: started by the tests below, does nothing otherwise.
#[test]
fn speaker_process() {
    let Ok(name) = std::env::var(NODE) else { return };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let Err(error) = runtime.block_on(speak(NodeName::new(name))) {
        panic!("{error}");
    }
}

async fn speak(name: NodeName) -> Result<()> {
    let micros = jiff::Timestamp::now().as_microsecond().unsigned_abs();
    let setup = Setup {
        identity: Identity {
            node: name,
            instance: micros ^ u64::from(std::process::id()) << 40,
            incarnation: micros,
        },
        timing: timing()?,
        selection: Selection::default(),
        key: None,
        port: 7947,
    };
    let addresses_of = |n: u8| {
        vec![
            IpAddr::from([10, 77, 0, 10 + n]),
            IpAddr::from([0xfd00, 0x77, 0, 0, 0, 0, 0, 0x10 + u16::from(n)]),
        ]
    };
    let cluster = Cluster {
        addresses: addresses(),
        nodes: (1..=NODES).map(|n| (node(n), addresses_of(n))).collect(),
        uids: BTreeMap::new(),
    };
    let shutdown = Shutdown::on_signals()?;
    let speaker = Speaker::open(setup, AnnouncerMetrics::default())?;
    let (_cluster, cluster) = watch::channel(Some(cluster));
    let (reports, mut listener) = watch::channel(None);
    let said = tokio::spawn(async move {
        while listener.changed().await.is_ok() {
            let report = listener.borrow_and_update().clone();
            println!("{report:?}");
        }
    });
    speaker.run(cluster, reports, shutdown.token()).await?;
    Ok(said.await?)
}

fn timing() -> Result<Timing> {
    let mut timing = Timing::default();
    if let Ok(seconds) = std::env::var(DEAD_AFTER) {
        timing.dead_after = Duration::from_secs(seconds.parse()?);
    }
    Ok(timing)
}

fn start(netns: &Netns, name: &NodeName) -> Result<Process> {
    start_with(netns, name, vec![])
}

fn start_with(netns: &Netns, name: &NodeName, env: Vec<(String, OsString)>) -> Result<Process> {
    let folder = Path::new(berth_testkit::sandbox::SCRATCH);
    let log = folder.join(format!("speaker-{name}-in-{}.log", netns.name()));
    let mut spec = Spec::new(&format!("speaker of {name}"), std::env::current_exe()?, &log);
    spec.args = ["--exact", "speaker_process", "--nocapture"]
        .map(str::to_owned)
        .into();
    spec.env = env;
    spec.env.push((NODE.to_owned(), name.as_str().into()));
    Ok(Process::start(netns, &spec)?)
}

/// A host that asks who has an address, and hears everything.
struct Asker {
    mac: MacAddr,
    arp: PacketSocket,
    ipv6: PacketSocket,
}

fn mac_of(text: &str) -> Result<MacAddr> {
    let bytes = text
        .trim()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<Vec<_>, _>>()?;
    let bytes = <[u8; 6]>::try_from(bytes).map_err(|_| anyhow::anyhow!("{text:?} is no MAC address"))?;
    Ok(MacAddr(bytes))
}

impl Asker {
    fn on(netns: &Netns) -> Result<Self> {
        let link = netns.output("ip", &["-o", "link", "show", "dev", INTERFACE])?;
        let mut words = link.split_whitespace();
        let index: u32 = words.next().context("an index")?.trim_end_matches(':').parse()?;
        let mac = words
            .skip_while(|word| *word != "link/ether")
            .nth(1)
            .context("a MAC address")?;
        let runtime = tokio::runtime::Handle::current();
        let open = |ether_type| -> Result<PacketSocket> {
            let socket = netns.run(|| {
                let _guard = runtime.enter();
                let socket = PacketSocket::open()?;
                socket.bind(index, ether_type)?;
                std::io::Result::Ok(socket)
            })?;
            Ok(socket?)
        };
        Ok(Self {
            mac: mac_of(mac)?,
            arp: open(TYPE_ARP)?,
            ipv6: open(TYPE_IPV6)?,
        })
    }

    /// All stations that answer one question within the window.
    async fn ask(&self, address: IpAddr) -> Result<BTreeSet<MacAddr>> {
        match address {
            IpAddr::V4(target) => self
                .arp
                .send(&Arp::request(self.mac, CLIENT.0, target).to_frame(MacAddr::BROADCAST))?,
            IpAddr::V6(target) => {
                let group = solicited_node_group(target);
                let question = Solicitation {
                    source: CLIENT.1,
                    destination: group,
                    target,
                    source_link: Some(self.mac),
                };
                self.ipv6
                    .send(&question.to_frame(self.mac, MacAddr::of_ipv6_group(group)))?;
            }
        }
        let mut answering = BTreeSet::new();
        let end = Instant::now() + WINDOW;
        while let Ok(heard) = timeout_at(end, self.hear(address)).await {
            let (station, unasked) = heard?;
            if !unasked {
                answering.insert(station);
            }
        }
        Ok(answering)
    }

    /// Forgets what was heard so far, the announcements of the start among it.
    async fn forget(&self) -> Result<()> {
        let mut buffer = [0; 256];
        for socket in [&self.arp, &self.ipv6] {
            while let Ok(heard) = timeout(Duration::ZERO, socket.receive(&mut buffer)).await {
                heard?;
            }
        }
        Ok(())
    }

    /// The next claim for an address, and whether it came unasked.
    async fn hear(&self, address: IpAddr) -> Result<(MacAddr, bool)> {
        let mut buffer = [0; 256];
        loop {
            let heard = match address {
                IpAddr::V4(target) => {
                    let length = self.arp.receive(&mut buffer).await?;
                    claim_v4(&buffer[..length], target)
                }
                IpAddr::V6(target) => {
                    let length = self.ipv6.receive(&mut buffer).await?;
                    claim_v6(&buffer[..length], target)
                }
            };
            if let Some(heard) = heard.filter(|(mac, _)| *mac != self.mac) {
                return Ok(heard);
            }
        }
    }

    /// Asks until exactly the one station expected answers.
    async fn await_owner(&self, address: IpAddr, expected: MacAddr) -> Result<()> {
        let mut last = BTreeSet::new();
        let settle = async {
            loop {
                last = self.ask(address).await?;
                if last == [expected].into() {
                    return anyhow::Ok(());
                }
            }
        };
        match timeout(PATIENCE, settle).await {
            Ok(result) => result,
            Err(_) => bail!("{address}: {last:?} answer instead of {expected}"),
        }
    }

    async fn await_owners(&self, lan: &Lan, living: &[u8]) -> Result<()> {
        for address in addresses() {
            self.await_owner(address, owner_mac(lan, address, living)?)
                .await?;
        }
        Ok(())
    }
}

fn claim_v4(bytes: &[u8], target: Ipv4Addr) -> Option<(MacAddr, bool)> {
    let arp = Arp::parse(Frame::parse(bytes)?.payload).ok()?;
    let unasked = arp.is_gratuitous();
    (arp.sender_ip == target && (unasked || arp.operation == Operation::Reply))
        .then_some((arp.sender_mac, unasked))
}

fn claim_v6(bytes: &[u8], target: Ipv6Addr) -> Option<(MacAddr, bool)> {
    let said = Advertisement::parse(Frame::parse(bytes)?.payload).ok()?;
    (said.target == target).then_some((said.target_link?, !said.solicited))
}

fn owner(address: IpAddr, living: &[u8]) -> u8 {
    let names: Vec<NodeName> = living.iter().map(|n| node(*n)).collect();
    let owner = election::owner(address, &names).expect("somebody lives");
    living
        .iter()
        .copied()
        .find(|n| node(*n) == *owner)
        .expect("one of them")
}

fn owner_mac(lan: &Lan, address: IpAddr, living: &[u8]) -> Result<MacAddr> {
    mac_of(&lan.nodes()[usize::from(owner(address, living)) - 1].mac())
}

fn start_all(lan: &Lan) -> Result<Vec<Process>> {
    lan.nodes()
        .iter()
        .map(|at| start(at.netns(), &NodeName::new(at.name())))
        .collect()
}

#[test]
fn each_address_is_answered_by_one_node_and_moves_when_that_node_dies() {
    in_sandbox_async!(async {
        let lan = Lan::builder().nodes(NODES).build()?;
        let asker = Asker::on(lan.client())?;
        let mut speakers = start_all(&lan)?;
        asker.await_owners(&lan, &[1, 2, 3]).await?;
        the_kernel_learns_the_owner(&lan).await?;

        let victim = owner("10.77.0.200".parse()?, &[1, 2, 3]);
        let heirs: Vec<u8> = (1..=NODES).filter(|n| *n != victim).collect();
        let moved: Vec<IpAddr> = addresses()
            .into_iter()
            .filter(|address| owner(*address, &[1, 2, 3]) == victim)
            .collect();
        let both = |family: fn(&IpAddr) -> bool| moved.iter().copied().find(family);
        let watched = [both(IpAddr::is_ipv4), both(IpAddr::is_ipv6)];
        asker.forget().await?;
        speakers[usize::from(victim) - 1].kill()?;
        let killed = Instant::now();
        for address in watched.into_iter().flatten() {
            let heir = owner_mac(&lan, address, &heirs)?;
            let unasked = async {
                loop {
                    if asker.hear(address).await? == (heir, true) {
                        return anyhow::Ok(());
                    }
                }
            };
            timeout(PATIENCE, unasked)
                .await
                .with_context(|| format!("no unasked announcement of {address}"))??;
            println!(
                "{address}: the heir is heard {:?} after the kill",
                killed.elapsed()
            );
        }
        asker.await_owners(&lan, &heirs).await?;

        let place = usize::from(victim) - 1;
        speakers[place] = start(lan.nodes()[place].netns(), &node(victim))?;
        asker.await_owners(&lan, &[1, 2, 3]).await
    });
}

/// The client's own kernel asks, with its own kind of question, and keeps the answer.
async fn the_kernel_learns_the_owner(lan: &Lan) -> Result<()> {
    for address in ["10.77.0.201", "fd00:77::201"] {
        let expected = owner_mac(lan, address.parse()?, &[1, 2, 3])?.to_string();
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Nobody answers the ping: the address is on no node. The neighbour entry is what counts.
            let _ = lan.client().output("ping", &["-c1", "-W1", address]);
            let entry = lan.client().output("ip", &["neigh", "show", "to", address])?;
            if entry.contains(&expected) {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "neighbour entry of {address}: {entry:?}, expected {expected}"
            );
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

#[test]
fn an_announcer_that_is_stopped_cleanly_hands_over() {
    in_sandbox_async!(async {
        let lan = Lan::builder().nodes(NODES).build()?;
        let asker = Asker::on(lan.client())?;
        // Silence proves nothing before everybody's patience has ended: only the farewell can hand over.
        let never = (PATIENCE * 60).as_secs().to_string();
        let patient = |n: usize| {
            let env = vec![(DEAD_AFTER.to_owned(), OsString::from(&never))];
            start_with(lan.nodes()[n].netns(), &NodeName::new(lan.nodes()[n].name()), env)
        };
        let mut speakers = (0..lan.nodes().len()).map(patient).collect::<Result<Vec<_>>>()?;
        asker.await_owners(&lan, &[1, 2, 3]).await?;
        let status = speakers[0].terminate(PATIENCE)?;
        ensure!(status.success(), "{status}: {}", speakers[0].output()?);
        asker.await_owners(&lan, &[2, 3]).await
    });
}

#[test]
fn a_node_whose_cable_is_pulled_loses_its_addresses_and_gets_them_back() {
    in_sandbox_async!(async {
        let lan = Lan::builder().nodes(NODES).build()?;
        let asker = Asker::on(lan.client())?;
        let _speakers = start_all(&lan)?;
        asker.await_owners(&lan, &[1, 2, 3]).await?;
        lan.cut(&lan.nodes()[1])?;
        asker.await_owners(&lan, &[1, 3]).await?;
        lan.mend(&lan.nodes()[1])?;
        asker.await_owners(&lan, &[1, 2, 3]).await
    });
}

#[test]
fn a_second_announcer_for_a_node_ends_and_the_first_goes_on() {
    in_sandbox_async!(async {
        let lan = Lan::builder().nodes(NODES).build()?;
        let asker = Asker::on(lan.client())?;
        let mut speakers = start_all(&lan)?;
        asker.await_owners(&lan, &[1, 2, 3]).await?;
        let same_machine = start(lan.nodes()[0].netns(), &node(1))?;
        expect_end(same_machine, &["--heartbeat-port 7947", "is taken"])?;
        let other_machine = start(lan.client(), &node(1))?;
        expect_end(
            other_machine,
            &["another announcer", ":7947) is running for node node-1"],
        )?;
        asker.await_owners(&lan, &[1, 2, 3]).await?;
        for speaker in &mut speakers {
            ensure!(
                speaker.try_wait()?.is_none(),
                "{} has ended: {}",
                speaker.name(),
                speaker.output()?
            );
        }
        anyhow::Ok(())
    });
}

fn expect_end(mut process: Process, said: &[&str]) -> Result<()> {
    let status = process.wait(PATIENCE)?;
    let output = process.output()?;
    ensure!(!status.success(), "it ended well: {output}");
    for text in said {
        ensure!(output.contains(text), "{text:?} is not in: {output}");
    }
    Ok(())
}
