// SPDX-License-Identifier: Apache-2.0
//! What `berth proxy` does once, and what it refuses before it touches anything, as a user runs it.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic, its helpers too")]

use std::process::{Command, Output};

const STATE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ipFamilies: [IPv4], ports: [{name: http, port: 80, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.244.0.1], conditions: {ready: true}}]
ports: [{name: http, port: 8080, protocol: TCP}]
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16, 'fd00:96::/112']}
";

fn proxy(flags: &[&str]) -> Output {
    proxy_of(STATE, flags)
}

fn proxy_of(state: &str, flags: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.yaml");
    std::fs::write(&file, state).unwrap();
    Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["proxy", "--node-name=node-1", "--state"])
        .arg(&file)
        .args(flags)
        .output()
        .unwrap()
}

#[test]
fn the_rules_of_a_file_are_printed() {
    let output = proxy(&["--dry-run"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("10.96.0.1 . tcp . 80 . 0 : 10.244.0.1 . 8080"),
        "{text}"
    );
}

#[test]
fn a_dry_run_shows_service_cidrs_and_how_pods_are_told() {
    let output = proxy(&[
        "--dry-run",
        "--detect-local-mode=InterfaceNamePrefix",
        "--pod-interface-name-prefix=veth",
    ]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "elements = { 10.96.0.0/16 }",
        "elements = { fd00:96::/112 }",
        "iifname != \"veth*\"",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_is_missing_is_named_with_the_way_out() {
    for (flags, parts) in [
        (
            &["--count=shop/wbe", "--count-for=0"][..],
            &["--count shop/wbe", "no such Service", "kubectl get services"][..],
        ),
        (
            &["--dry-run", "--cluster-cidr=10.0.0.0/99"],
            &["--cluster-cidr", "10.0.0.0/99", "10.244.0.0/16"],
        ),
        (
            // A kube-proxy that runs beside serves the other Services.
            &["--dry-run", "--takeover", "--service-proxy-name=berth"],
            &["--takeover", "--service-proxy-name"],
        ),
        (&["--count=web"], &["--count", "web"]),
        (&["--dry-run", "-ojson"], &["--dry-run", "--output"]),
        (
            &["--dry-run", "--detect-local-mode=BridgeInterface"],
            &["--pod-bridge-interface", "missing", "another mode"],
        ),
        (
            &["--dry-run", "--pod-interface-name-prefix="],
            &["--pod-interface-name-prefix", "empty", "veth"],
        ),
    ] {
        let output = proxy(flags);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

#[test]
fn a_state_file_that_makes_no_sense_is_named_with_the_document() {
    let output = proxy_of("kind: Service", &["--dry-run"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in ["--state", "document 1", "apiVersion"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
