// SPDX-License-Identifier: Apache-2.0
//! `berth proxy --state FILE --dry-run` as a user runs it, without any API server.
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
";

fn dry_run(state: &str, more: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.yaml");
    std::fs::write(&file, state).unwrap();
    Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["proxy", "--node-name=node-1", "--dry-run", "--state"])
        .arg(&file)
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn the_rules_of_a_file_are_printed() {
    let output = dry_run(STATE, &[]);
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
fn what_makes_no_sense_is_named_with_the_way_out() {
    for (state, flags, parts) in [
        (
            "kind: Service",
            &[][..],
            &["--state", "document 1", "apiVersion"][..],
        ),
        (
            STATE,
            &["--cluster-cidr=10.0.0.0/99"],
            &["--cluster-cidr", "10.0.0.0/99", "10.244.0.0/16"],
        ),
        (
            STATE,
            // A kube-proxy that runs beside serves the other Services.
            &["--takeover", "--service-proxy-name=berth"],
            &["--takeover", "--service-proxy-name"],
        ),
    ] {
        let output = dry_run(state, flags);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
