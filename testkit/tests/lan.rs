// SPDX-License-Identifier: Apache-2.0
//! The test LAN itself: who reaches whom, what a cut does, and that nothing of it is seen outside.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use berth_testkit::lan::{CLIENT, Lan, Node, ROUTER};
use berth_testkit::pods::{Pod, Serve};
use berth_testkit::probe::{Answer, How, Probe, ProbeError};
use berth_testkit::process::Process;
use berth_testkit::stream::{Rate, Stream};
use berth_testkit::wait::eventually_blocking;
use berth_testkit::{Error, in_sandbox, sandbox};

const SERVE_PORT: u16 = 8080;
const DATAGRAM_PORT: u16 = 5353;
const DEADLINE: Duration = Duration::from_secs(20);

fn serve() -> Serve {
    Serve {
        tcp: vec![SERVE_PORT],
        udp: vec![DATAGRAM_PORT],
        linger: None,
    }
}

fn log(name: &str) -> std::path::PathBuf {
    Path::new(sandbox::SCRATCH).join(format!("{name}.log"))
}

/// One Pod on each node, named `pod-N`.
fn one_pod_each(lan: &Lan) -> Result<Vec<(Pod, Process)>, Error> {
    let start = |node: &Node| {
        let pod = Pod::create(node, &format!("pod-{}", node.number()), None)?;
        let process = pod.serve(&serve(), &log(pod.name()))?;
        Ok((pod, process))
    };
    lan.nodes().iter().map(start).collect()
}

fn quick(mut probe: Probe) -> Probe {
    probe.timeout = Duration::from_millis(300);
    probe
}

#[test]
fn pods_reach_each_other_over_nodes_in_both_families() {
    in_sandbox!({
        let lan = Lan::builder().nodes(3).build()?;
        let pods = one_pod_each(&lan)?;
        for (from, _) in &pods {
            for (to, _) in &pods {
                for (address, source) in to.addresses().both().into_iter().zip(from.addresses().both()) {
                    let probe = Probe::from(from.netns());
                    assert!(probe.ping(address)?, "{} pings {address}", from.name());
                    for (how, port) in [
                        (How::Tcp, SERVE_PORT),
                        (How::Http, SERVE_PORT),
                        (How::Udp, DATAGRAM_PORT),
                    ] {
                        let answer = probe.ask(how, SocketAddr::new(address, port));
                        let expected = Answer {
                            pod: to.name().to_owned(),
                            client: source,
                        };
                        assert_eq!(answer, Ok(expected), "{} asks {address} by {how}", from.name());
                    }
                }
            }
        }
        let router = Probe::from(lan.router());
        let [ipv4, ipv6] = pods[2].0.addresses().both();
        assert!(
            router.ping(ipv4)? && router.ping(ipv6)?,
            "the API server's host reaches Pods"
        );
        anyhow::Ok(())
    });
}

#[test]
fn client_reaches_nodes_and_router_but_no_pod() {
    in_sandbox!({
        let lan = Lan::builder().nodes(2).build()?;
        let pods = one_pod_each(&lan)?;
        let client = Probe::from(lan.client());
        let hosts: [IpAddr; 2] = [ROUTER.0.into(), ROUTER.1.into()];
        for host in lan.nodes().iter().flat_map(Node::addresses).chain(hosts) {
            assert!(client.ping(host)?, "client pings {host}");
        }
        for node in lan.nodes() {
            for address in [IpAddr::from(CLIENT.0), CLIENT.1.into()] {
                assert!(
                    Probe::from(node.netns()).ping(address)?,
                    "{} pings {address}",
                    node.name()
                );
            }
        }
        for address in pods[0].0.addresses().both() {
            let outcome = client.ask(How::Tcp, SocketAddr::new(address, SERVE_PORT));
            assert_eq!(outcome, Err(ProbeError::Unreachable), "client asks {address}");
        }
        let closed = SocketAddr::new(lan.nodes()[0].ipv4().into(), SERVE_PORT);
        for how in [How::Tcp, How::Udp] {
            assert_eq!(
                client.ask(how, closed),
                Err(ProbeError::Refused),
                "{how} to a closed port"
            );
        }
        anyhow::Ok(())
    });
}

/// Asserts whether others reach the first node and its Pod; the node itself always reaches its Pod.
fn assert_reached(lan: &Lan, pods: &[(Pod, Process)], expected: bool) -> Result<(), Error> {
    let node = &lan.nodes()[0];
    let client = quick(Probe::from(lan.client()));
    let across = quick(Probe::from(pods[1].0.netns()));
    for address in node.addresses() {
        eventually_blocking(
            format!("client reaches {address}: {expected}"),
            DEADLINE,
            || match client.ping(address) {
                Ok(reached) if reached == expected => Ok(()),
                other => Err(format!("{other:?}")),
            },
        )?;
    }
    for address in pods[0].0.addresses().both() {
        let target = SocketAddr::new(address, SERVE_PORT);
        eventually_blocking(format!("pod-2 reaches {target}: {expected}"), DEADLINE, || {
            let outcome = across.ask(How::Tcp, target);
            if outcome.is_ok() == expected {
                Ok(())
            } else {
                Err(format!("{outcome:?}"))
            }
        })?;
        assert!(
            Probe::from(node.netns()).ask(How::Tcp, target).is_ok(),
            "the node asks its own Pod {target}"
        );
    }
    Ok(())
}

#[test]
fn cut_takes_the_carrier_isolate_does_not_and_mend_heals_both() {
    in_sandbox!({
        let lan = Lan::builder().nodes(2).build()?;
        let pods = one_pod_each(&lan)?;
        let node = &lan.nodes()[0];
        let link = || node.netns().output("ip", &["-o", "link", "show", "dev", "eth0"]);
        assert_reached(&lan, &pods, true)?;
        for round in 1..=2 {
            lan.cut(node)?;
            assert!(
                link()?.contains("NO-CARRIER"),
                "round {round}: cut loses the carrier"
            );
            assert_reached(&lan, &pods, false)?;
            lan.mend(node)?;
            assert_reached(&lan, &pods, true)?;
            lan.isolate(node)?;
            assert!(
                !link()?.contains("NO-CARRIER"),
                "round {round}: isolate keeps the carrier"
            );
            assert_reached(&lan, &pods, false)?;
            lan.mend(node)?;
            assert_reached(&lan, &pods, true)?;
        }
        let before = lan.counters(node)?;
        assert!(Probe::from(lan.client()).ping(node.ipv4().into())?);
        let after = lan.counters(node)?;
        assert!(
            after.sent > before.sent && after.received > before.received,
            "{before:?} {after:?}"
        );
        anyhow::Ok(())
    });
}

#[test]
fn a_stream_sees_the_gap_of_a_cut() {
    in_sandbox!({
        let lan = Lan::builder().nodes(1).build()?;
        let node = &lan.nodes()[0];
        let serve = Serve {
            udp: vec![DATAGRAM_PORT],
            ..Serve::default()
        };
        let _server = berth_testkit::pods::start_testpod(node.netns(), "server", &serve, &log("server"))?;
        let target = SocketAddr::new(node.ipv4().into(), DATAGRAM_PORT);
        for new_ports in [true, false] {
            let stream = Stream::start(
                lan.client(),
                target,
                Rate {
                    new_ports,
                    ..Rate::default()
                },
            )?;
            let answered = |more: usize| {
                let wanted = stream.answers() + more;
                eventually_blocking("answers", DEADLINE, || {
                    if stream.answers() >= wanted {
                        Ok(())
                    } else {
                        Err(stream.answers().to_string())
                    }
                })
            };
            answered(10)?;
            lan.cut(node)?;
            let cut = Instant::now();
            eventually_blocking("silence", DEADLINE, || {
                if cut.elapsed() > Duration::from_millis(150) {
                    Ok(())
                } else {
                    Err("cut for too short")
                }
            })?;
            lan.mend(node)?;
            answered(10)?;
            let report = stream.stop();
            assert!(report.longest_gap() >= Duration::from_millis(100), "{report}");
            assert_eq!(report.pods.keys().collect::<Vec<_>>(), ["server"], "{report}");
            assert!(report.answered >= 20 && report.answered < report.sent, "{report}");
        }
        anyhow::Ok(())
    });
}

#[test]
fn pod_addresses_rest_before_reuse_and_are_kept_on_request() {
    in_sandbox!({
        let lan = Lan::builder().nodes(1).build()?;
        let node = &lan.nodes()[0];
        let first = Pod::create(node, "first", None)?.addresses();
        let second = Pod::create(node, "second", None)?;
        assert_ne!(
            first,
            second.addresses(),
            "the address of a Pod just gone is not given at once"
        );
        let again = Pod::create(node, "first", Some(first.ipv4))?;
        assert_eq!(again.addresses(), first, "asked for and free");
        let taken = Pod::create(node, "third", Some(first.ipv4))?;
        assert_ne!(taken.addresses(), first, "asked for and taken");
        let links = node
            .netns()
            .output("ip", &["-o", "link", "show", "type", "veth"])?;
        let listed = links.lines().filter(|line| line.contains(": pod")).count();
        assert_eq!(listed, 3, "the links of Pods that are gone are gone");
        anyhow::Ok(())
    });
}

#[test]
fn testpod_ends_on_sigterm_at_once_or_after_lingering() {
    in_sandbox!({
        let lan = Lan::builder().nodes(1).build()?;
        let pod = Pod::create(&lan.nodes()[0], "pod", None)?;
        let target = SocketAddr::new(pod.addresses().ipv4.into(), SERVE_PORT);
        let probe = Probe::from(pod.netns());
        let mut process = pod.serve(&serve(), &log("pod"))?;
        assert!(process.terminate(DEADLINE)?.success());
        assert_eq!(probe.ask(How::Tcp, target), Err(ProbeError::Refused));

        let lingering = Serve {
            linger: Some(Duration::from_secs(600)),
            ..serve()
        };
        let mut process = pod.serve(&lingering, &log("pod"))?;
        process.signal(nix::sys::signal::Signal::SIGTERM)?;
        for _ in 0..50 {
            assert!(probe.ask(How::Tcp, target).is_ok(), "goes on serving");
        }
        assert!(process.try_wait()?.is_none());
        assert!(!process.kill()?.success());
        anyhow::Ok(())
    });
}
