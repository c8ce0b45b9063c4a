// SPDX-License-Identifier: Apache-2.0
//! `berth plan` as a user runs it: the binary, files, exit codes.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic, its helpers too")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn berth(args: &[&str], stdin: &str) -> Output {
    use std::io::Write as _;
    let mut child = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn examples() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .display()
        .to_string()
}

#[test]
fn the_examples_are_planned_as_text() {
    insta::assert_snapshot!(out(&berth(&["plan", "-f", &examples()], "")));
}

#[test]
fn the_json_form_names_the_same_frontends() {
    let text = out(&berth(&["plan", "-f", &examples(), "-o", "json"], ""));
    let plan: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rules = plan["rules"].as_array().unwrap();
    let refused: Vec<_> = rules.iter().filter(|rule| !rule["reject"].is_null()).collect();
    assert!(refused.iter().all(|rule| {
        rule["owner"]
            .as_str()
            .unwrap()
            .starts_with("berth-examples/nobody")
    }));
    assert_eq!(refused.len(), 2, "{text}");
    assert_eq!(
        plan["loadBalancers"][0]["taken"],
        serde_json::json!(["10.77.0.200", "fd00:77::200"])
    );
}

#[test]
fn the_nft_form_is_one_script_for_both_families() {
    let text = out(&berth(&["plan", "-f", &examples(), "-o", "nft"], ""));
    assert!(text.contains("table ip berth-proxy {") && text.contains("table ip6 berth-proxy {"));
    assert!(text.contains("10.77.0.200 . tcp . 80"), "{text}");
}

#[test]
fn values_that_the_files_give_are_not_changed() {
    let yaml = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  loadBalancerClass: berth.dev/bare-metal
  clusterIP: 10.96.7.7
  clusterIPs: [10.96.7.7]
  selector: {app: web}
  ports: [{port: 80, nodePort: 31000}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.9, ipMode: VIP}]}}
---
apiVersion: berth.dev/v1alpha1
kind: AddressPool
metadata: {name: office}
spec: {addresses: [192.0.2.0/28]}
";
    let text = out(&berth(&["plan", "-f", "-"], yaml));
    assert!(!text.contains("Assumed"), "{text}");
    assert!(
        text.contains("10.96.7.7:80/TCP") && text.contains("node port 31000/TCP"),
        "{text}"
    );
    assert!(text.contains("192.0.2.9:80/TCP (LoadBalancer address"), "{text}");
}

#[test]
fn bad_input_names_file_document_object_and_way_out() {
    for (yaml, said) in [
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: 7}\n",
            "Service \"web\"",
        ),
        ("a: [", "not readable as YAML"),
        ("just: text\n", "apiVersion or kind is missing"),
        (
            "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\nspec: {cidrs: [10.97.0.0/99]}\n",
            "ServiceCIDR \"more\": spec.cidrs: \"10.97.0.0/99\"",
        ),
    ] {
        let output = berth(&["plan", "-f", "-"], yaml);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains("standard input") && stderr.contains(said),
            "{stderr}"
        );
    }
    let missing = berth(&["plan", "-f", "/nowhere/app.yaml"], "");
    assert!(
        String::from_utf8(missing.stderr)
            .unwrap()
            .contains("/nowhere/app.yaml")
    );
    assert_eq!(berth(&["plan"], "").status.code(), Some(2));
}

#[test]
fn addresses_of_a_service_cidr_that_no_service_has_are_in_the_rules() {
    let cidr = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\n\
                spec: {cidrs: [10.97.0.0/16]}\n";
    for (yaml, there) in [(cidr, true), ("", false)] {
        let output = berth(&["plan", "-f", "-", "-o", "nft"], yaml);
        let rules = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{rules}");
        assert_eq!(rules.contains("10.97.0.0/16"), there, "{rules}");
    }
}

#[test]
fn a_pool_that_cannot_be_read_is_a_remark_and_the_rest_is_planned() {
    let yaml = "
apiVersion: berth.dev/v1alpha1
kind: AddressPool
metadata: {name: office}
spec: {addresses: [192.0.2.9-192.0.2.1, 192.0.2.16/30]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, loadBalancerClass: berth.dev/bare-metal, ports: [{port: 80}]}
";
    let text = out(&berth(&["plan", "-f", "-"], yaml));
    assert!(
        text.contains("AddressPool office: spec.addresses[0]: \"192.0.2.9-192.0.2.1\""),
        "{text}"
    );
    assert!(text.contains("default/web"), "{text}");
}
