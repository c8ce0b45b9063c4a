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
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16, 'fd00:96::/112']}
";

fn proxy(flags: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.yaml");
    std::fs::write(&file, STATE).unwrap();
    Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["proxy", "--node-name=node-1", "--state"])
        .arg(&file)
        .args(flags)
        .output()
        .unwrap()
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
