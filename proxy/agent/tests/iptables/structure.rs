// SPDX-License-Identifier: Apache-2.0
//! What the tables hold: read back, repaired, removed.

use anyhow::{Context, ensure};
use berth_model::{
    Conditions, IpFamily, IpMode, LoadBalancerIngress, NodeName, ServiceKind, SessionAffinity, TrafficPolicy,
};
use berth_proxy_agent::Error;
use berth_proxy_agent::iptables::{Iptables, Variant, Whose, remove};
use berth_proxy_core::iptables::walk::Ruleset;
use berth_testkit::in_sandbox_async;

use crate::cluster::{Cluster, settings};
use crate::ground::{VARIANTS, installed, mk_syncer, path, program, run, save};
use crate::traffic::{HOST, OTHER_VIPS, VIPS, endpoints_on, ips};

/// Every kind of rule that there is.
pub(crate) fn everything(cluster: &mut Cluster) {
    let ranges = ["203.0.113.0/25", "10.77.0.0/16", "2001:db8::/64", "fd00:77::/64"];
    cluster.set(1, Some(&[1, 2, 3])).edit(1, |service, _| {
        service.kind = ServiceKind::LoadBalancer;
        let ingress = |ip| LoadBalancerIngress {
            ip,
            mode: IpMode::Vip,
        };
        service.load_balancer = ips(VIPS).map(ingress).into();
        service.external_ips = ips(OTHER_VIPS).into();
        service.source_ranges = Some(ranges.map(|net| net.parse().unwrap()).into());
        service.affinity = SessionAffinity::ClientIp {
            timeout_seconds: 10_800,
        };
        service.external_policy = TrafficPolicy::Local;
        service.health_check_node_port = Some(31_000.try_into().unwrap());
    });
    for (n, node) in [(2, "node-1"), (3, "node-2")] {
        cluster.set(n, Some(&[])).edit(n, |service, endpoints| {
            service.internal_policy = TrafficPolicy::Local;
            service.external_policy = TrafficPolicy::Local;
            *endpoints = endpoints_on(11, node, Conditions::READY).into();
        });
    }
    let many: Vec<u16> = (1..=40).collect();
    cluster.set(4, Some(&[])).set(5, Some(&many));
}

fn all(cluster: &Cluster) -> std::collections::BTreeSet<berth_model::ServiceKey> {
    cluster.view.services.keys().cloned().collect()
}

#[test]
fn a_restart_on_unchanged_state_writes_nothing_and_what_is_listed_is_understood() {
    in_sandbox_async!(async {
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            everything(&mut cluster);
            let settings = berth_proxy_core::Settings {
                node_ips: ips(HOST).into(),
                ..settings()
            };
            let mut syncer = mk_syncer(variant, &settings)?;
            cluster.sync(&mut syncer).await?;
            ensure!(syncer.turn().await?.is_nothing());
            for family in IpFamily::ALL {
                let listed = save(variant, family)?;
                Ruleset::read(family, &listed).with_context(|| listed.clone())?;
                for chain in ["SVC", "SVL", "EXT", "FW", "SEP"] {
                    ensure!(
                        listed.contains(&format!("\n:KUBE-{chain}-")),
                        "{variant}: no {chain}:\n{listed}"
                    );
                }
            }
            let mut restarted = mk_syncer(variant, &settings)?;
            restarted.take(&cluster.view, &all(&cluster));
            let done = restarted.turn().await?;
            ensure!(done.is_nothing(), "{variant}: {done:?}");
            ensure!(remove(&path(), Whose::Ours).await? > 0);
        }
        anyhow::Ok(())
    });
}

/// 6,400 endpoints in each family, one in eight of them here.
fn large(cluster: &mut Cluster) {
    for n in 1..=80 {
        let pods: Vec<u16> = (1..=40).map(|pod| 100 * n + pod).collect();
        cluster.set(n, Some(&pods)).edit(n, |_, endpoints| {
            for (number, endpoint) in endpoints.iter_mut().enumerate() {
                let node = if number < 10 { "node-1" } else { "node-2" };
                endpoint.node = Some(NodeName::new(node));
            }
        });
    }
}

#[test]
fn a_large_cluster_is_written_in_short_rules_and_becomes_small_again() {
    in_sandbox_async!(async {
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            let mut syncer = mk_syncer(variant, &settings())?;
            large(&mut cluster);
            cluster.sync(&mut syncer).await?;
            for family in IpFamily::ALL {
                let listed = save(variant, family)?;
                let count = |part: &str| listed.lines().filter(|line| line.contains(part)).count();
                let chains = [count(":KUBE-SVC-"), count(":KUBE-SEP-")];
                // `endpoints` is of both families.
                ensure!(chains == [160, 160 * 5], "{variant} {family}: {chains:?}");
                ensure!(count("DNAT") == 160 * 40, "{variant} {family}");
                ensure!(count("-A PREROUTING") == 1, "{variant} {family}");
            }
            let mut restarted = mk_syncer(variant, &settings())?;
            restarted.take(&cluster.view, &all(&cluster));
            ensure!(restarted.turn().await?.is_nothing(), "{variant}");
            (2..=80).for_each(|n| {
                cluster.set(n, None);
            });
            cluster.sync(&mut restarted).await?;
            let listed = save(variant, IpFamily::V4)?;
            let picks = listed.lines().filter(|line| line.starts_with("-A KUBE-SVC-"));
            let inline = picks.filter(|line| line.contains("DNAT")).count();
            ensure!(inline == 0, "{variant}: still short");
            ensure!(listed.matches("\n:KUBE-SEP-").count() == 2 * 40, "{variant}");
            ensure!(remove(&path(), Whose::Ours).await? > 0);
        }
        anyhow::Ok(())
    });
}

#[test]
fn removal_leaves_what_is_not_ours() {
    in_sandbox_async!(async {
        const FOREIGN: &str = "*nat\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\nCOMMIT\n\
             *filter\n:KUBE-FIREWALL - [0:0]\n-A INPUT -j KUBE-FIREWALL\n-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP\nCOMMIT\n";
        for variant in VARIANTS {
            for family in IpFamily::ALL {
                run(&program(variant, family, "-restore"), &["--noflush"], FOREIGN)?;
            }
            // Mangle's chains come into being with the first look.
            for family in IpFamily::ALL {
                run(&program(variant, family, ""), &["-t", "mangle", "-S"], "")?;
            }
            let before = [save(variant, IpFamily::V4)?, save(variant, IpFamily::V6)?];
            let mut cluster = Cluster::new();
            everything(&mut cluster);
            cluster.sync(&mut mk_syncer(variant, &settings())?).await?;
            ensure!(save(variant, IpFamily::V4)? != before[0]);
            ensure!(remove(&path(), Whose::Ours).await? > 0);
            for (family, before) in IpFamily::ALL.into_iter().zip(before) {
                let after = save(variant, family)?;
                // Chains that the kernel made for us stay; they are nobody's.
                let lines = |text: &str| -> Vec<String> {
                    let lines = text
                        .lines()
                        .filter(|line| line.starts_with("-A") || line.contains("KUBE"));
                    lines.map(str::to_owned).collect()
                };
                ensure!(
                    lines(&after) == lines(&before),
                    "{variant} {family}:\n{after}\ninstead of\n{before}"
                );
                ensure!(after.contains(":DOCKER") && after.contains(":KUBE-FIREWALL"));
            }
            ensure!(remove(&path(), Whose::Ours).await? == 0);
        }
        anyhow::Ok(())
    });
}

#[test]
fn chains_of_a_kube_proxy_are_not_removed_and_a_chain_that_others_use_stays_empty() {
    in_sandbox_async!(async {
        for variant in VARIANTS {
            let family = IpFamily::V4;
            let restore = program(variant, family, "-restore");
            let theirs = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:CNI-DN - [0:0]\n\
                          -A CNI-DN -s 10.244.0.0/16 -j KUBE-MARK-MASQ\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n";
            run(&restore, &["--noflush"], theirs)?;
            ensure!(remove(&path(), Whose::Ours).await? == 0, "{variant}");
            ensure!(save(variant, family)?.contains("-A PREROUTING -j KUBE-SERVICES"));
            let mut cluster = Cluster::new();
            cluster
                .set(1, Some(&[1]))
                .sync(&mut mk_syncer(variant, &settings())?)
                .await?;
            let listed = save(variant, family)?;
            ensure!(listed.matches("-A PREROUTING").count() == 1, "{listed}");
            ensure!(!listed.contains("-A PREROUTING -j KUBE-SERVICES"), "{listed}");
            ensure!(remove(&path(), Whose::Ours).await? > 0);
            let listed = save(variant, family)?;
            let left: Vec<&str> = listed.lines().filter(|line| line.contains("KUBE")).collect();
            let wanted = [
                ":KUBE-MARK-MASQ -",
                "-A CNI-DN -s 10.244.0.0/16 -j KUBE-MARK-MASQ",
            ];
            ensure!(left == wanted, "{variant}: {left:?}");
            run(&restore, &[], "*nat\nCOMMIT\n")?;
        }
        anyhow::Ok(())
    });
}

#[test]
fn what_others_flush_or_change_is_repaired() {
    in_sandbox_async!(async {
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            everything(&mut cluster);
            let mut syncer = mk_syncer(variant, &settings())?;
            cluster.sync(&mut syncer).await?;
            let before = save(variant, IpFamily::V4)?;
            syncer.audit().await?;
            ensure!(syncer.turn().await?.is_nothing(), "{variant}");
            for table in ["nat", "filter", "mangle"] {
                let restore = program(variant, IpFamily::V4, "-restore");
                run(&restore, &[], &format!("*{table}\nCOMMIT\n"))?;
                syncer.audit().await?;
                ensure!(!syncer.turn().await?.is_nothing(), "{variant} {table}");
                ensure!(save(variant, IpFamily::V4)? == before, "{variant} {table}");
            }
            // Whatever else is different is found when it is looked at.
            let list = program(variant, IpFamily::V4, "");
            run(&list, &["-t", "nat", "-F", "KUBE-MARK-MASQ"], "")?;
            run(&list, &["-t", "nat", "-I", "KUBE-SERVICES", "-j", "RETURN"], "")?;
            run(&list, &["-t", "nat", "-D", "PREROUTING", "1"], "")?;
            run(&list, &["-t", "nat", "-N", "KUBE-SVC-AAAAAAAAAAAAAAAA"], "")?;
            let mut restarted = mk_syncer(variant, &settings())?;
            restarted.take(&cluster.view, &all(&cluster));
            ensure!(!restarted.turn().await?.is_nothing());
            ensure!(save(variant, IpFamily::V4)? == before, "{variant}");
            ensure!(remove(&path(), Whose::Ours).await? > 0);
        }
        anyhow::Ok(())
    });
}

#[test]
fn a_refused_restore_says_what_was_refused_and_the_next_turn_goes_on() {
    in_sandbox_async!(async {
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            let mut syncer = mk_syncer(variant, &settings())?;
            cluster
                .set(1, Some(&[1]))
                .set(2, Some(&[2]))
                .sync(&mut syncer)
                .await?;
            // A chain that goes is held by somebody.
            let listed = save(variant, IpFamily::V4)?;
            let held = listed.lines().find_map(|line| line.strip_prefix(":KUBE-SEP-"));
            let held = format!("KUBE-SEP-{}", &held.context("a chain")?[..16]);
            let list = program(variant, IpFamily::V4, "");
            run(
                &list,
                &["-t", "nat", "-A", "PREROUTING", "-s", "192.0.2.1", "-g", &held],
                "",
            )?;
            cluster.set(1, None).set(2, None);
            let refused = cluster.sync(&mut syncer).await.err().context("refused")?;
            let refused = refused.downcast_ref::<Error>();
            ensure!(
                matches!(refused, Some(Error::Refused { .. })),
                "{variant}: {refused:?}"
            );
            // Reading again finds the jump, and the family that worked is left alone.
            let done = syncer.turn().await?;
            ensure!(!done.is_nothing(), "{variant}");
            ensure!(!save(variant, IpFamily::V4)?.contains("KUBE-SEP-"));
            ensure!(syncer.turn().await?.is_nothing());
            ensure!(remove(&path(), Whose::Ours).await? > 0);
            ensure!(installed(variant, IpFamily::V6)?.is_empty());
        }
        anyhow::Ok(())
    });
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let error = Iptables::open("/nowhere".as_ref(), Variant::Default).map(drop);
    let text = error.map_err(|error| error.to_string()).unwrap_err();
    for part in [
        "iptables is not in PATH",
        "apt-get install iptables",
        "--proxy-mode=nftables",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn rules_are_counted_as_they_are_listed() {
    in_sandbox_async!(async {
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            everything(&mut cluster);
            let mut syncer = mk_syncer(variant, &settings())?;
            cluster.sync(&mut syncer).await?;
            for step in 0..2 {
                for (family, counts) in syncer.backend().counts() {
                    let listed = save(variant, family)?;
                    let listed = listed.lines().filter(|line| line.starts_with("-A KUBE-"));
                    let counted: usize = counts.rules.values().sum();
                    ensure!(
                        listed.clone().count() == counted,
                        "{variant} {family}: {counts:?}"
                    );
                    let last: usize = counts.last.values().sum();
                    ensure!(
                        if step == 0 {
                            last == counted
                        } else {
                            (1..counted / 2).contains(&last)
                        },
                        "{variant} {family}: {counts:?}"
                    );
                    ensure!((counts.refused, counts.refused_changes) == (0, 0));
                }
                cluster.set(7, Some(&[1])).sync(&mut syncer).await?;
            }
            remove(&path(), Whose::Ours).await?;
        }
        anyhow::Ok(())
    });
}
