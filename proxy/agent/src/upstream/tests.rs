// SPDX-License-Identifier: Apache-2.0
//! Names, labels and values as a dashboard reads them.

use berth_proxy_core::iptables::names::Table;
use berth_runtime::metrics::Metrics;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn names_and_labels_are_kube_proxys() {
    let metrics = Metrics::new("proxy", "0");
    let upstream = metrics.register(|registry| Upstream::register(registry, ProxyMode::Nftables));
    upstream.healthz(200);
    upstream.livez(503);
    let seen = Seen {
        services: 2,
        slices: 3,
        causes: vec![(IpFamily::V4, at(101)), (IpFamily::V6, at(103))],
    };
    upstream.queued(at(104));
    upstream.seen(&seen, &seen);
    assert!(
        metrics
            .render()
            .contains("\nkubeproxy_sync_proxy_rules_endpoint_changes_pending 3\n")
    );
    upstream.wrote(Duration::from_millis(3), true);
    upstream.synced(at(105), &seen);
    upstream.failed();
    upstream.cleaned(vec![Pass {
        family: IpFamily::V4,
        took: Duration::from_millis(1),
        deleted: 4,
    }]);
    let text = metrics.render();
    for line in [
        r#"kubeproxy_proxy_healthz_total{code="200"} 1"#,
        r#"kubeproxy_proxy_livez_total{code="503"} 1"#,
        r#"kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1"#,
        r#"kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv6"} 1"#,
        r#"kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} 105.0"#,
        r#"kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"} 104.0"#,
        r#"kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv4"} 1"#,
        "kubeproxy_sync_proxy_rules_endpoint_changes_total 3",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
        "kubeproxy_sync_proxy_rules_service_changes_total 2",
        "kubeproxy_sync_proxy_rules_service_changes_pending 0",
        r#"kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 1"#,
        r#"kubeproxy_network_programming_duration_seconds_sum{ip_family="IPv6"} 2.0"#,
        r#"kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"} 4"#,
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
    }
}

#[test]
fn rules_are_counted_in_mode_iptables_only() {
    let counts = Counts {
        rules: [(Table::Filter, 7), (Table::Nat, 40)].into(),
        last: [(Table::Filter, 0), (Table::Nat, 3)].into(),
        refused: 2,
        refused_changes: 1,
    };
    for (mode, is_there) in [
        (ProxyMode::Iptables, true),
        (ProxyMode::Nftables, false),
        (ProxyMode::Ipvs, false),
        (ProxyMode::Userspace, false),
    ] {
        let metrics = Metrics::new("proxy", "0");
        let upstream = metrics.register(|registry| Upstream::register(registry, mode));
        upstream.rules(&[(IpFamily::V6, counts.clone())]);
        upstream.failed();
        // The same again is no news.
        upstream.rules(&[(IpFamily::V6, counts.clone())]);
        let text = metrics.render();
        for line in [
            r#"kubeproxy_sync_proxy_rules_iptables_total{table="nat",ip_family="IPv6"} 40"#,
            r#"kubeproxy_sync_proxy_rules_iptables_total{table="filter",ip_family="IPv6"} 7"#,
            r#"kubeproxy_sync_proxy_rules_iptables_last{table="nat",ip_family="IPv6"} 3"#,
            r#"kubeproxy_sync_proxy_rules_iptables_last{table="filter",ip_family="IPv6"} 0"#,
            r#"kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family="IPv6"} 2"#,
            r#"kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total{ip_family="IPv6"} 1"#,
        ] {
            let found = text.lines().any(|found| found == line);
            assert!(found == is_there, "{mode}: {line} in:\n{text}");
        }
        assert_eq!(text.contains("_iptables_"), is_there, "{mode}");
        assert_eq!(text.contains("_nftables_"), mode == ProxyMode::Nftables, "{mode}");
    }
}
