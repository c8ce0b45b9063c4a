// SPDX-License-Identifier: Apache-2.0
//! What the manifests pass to Berth is what Berth takes.
//!
//! The end-to-end tests start Berth with command lines of their own, under the service accounts of
//! the manifests; so the command lines in the manifests are looked at here.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_e2e::controlplane::Binaries;
use berth_e2e::proxy_modes::Mode;
use berth_e2e::proxy_modes::shipped::Shipped;
use berth_e2e::stage::{self, Stage};
use berth_testkit::{in_sandbox_async, sandbox};

/// A workload of manifests/base: the arguments of its container and the variables set for it.
#[derive(Debug, PartialEq, Eq)]
struct CommandLine {
    arguments: Vec<String>,
    variables: BTreeSet<String>,
}

/// Reads `args:` and `env:` of a workload with one container, as the files here are laid out.
fn command_line(workload: &str) -> CommandLine {
    let mut found = CommandLine {
        arguments: Vec::new(),
        variables: BTreeSet::new(),
    };
    let mut section = "";
    for line in workload.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if indent == 10 && text.ends_with(':') {
            section = text.trim_end_matches(':');
        } else if indent < 10 {
            section = "";
        } else if let (12, Some(item)) = (indent, text.strip_prefix("- ")) {
            let item = item.split(" #").next().unwrap_or(item).trim();
            match (section, item.strip_prefix("name: ")) {
                ("args", _) => found.arguments.push(item.to_owned()),
                ("env", Some(name)) => _ = found.variables.insert(name.to_owned()),
                _ => {}
            }
        }
    }
    found
}

/// What is passed but not taken. A variable is taken by Berth itself, or by an argument as `$(NAME)`.
fn unknown(given: &CommandLine, help: &str) -> Vec<String> {
    let words: BTreeSet<&str> = help
        .split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'))
        .collect();
    let flags = given
        .arguments
        .iter()
        .skip(1)
        .map(|argument| argument.split('=').next().unwrap_or(argument));
    let expanded = |name: &str| {
        given
            .arguments
            .iter()
            .any(|argument| argument.contains(&format!("$({name})")))
    };
    let variables = given
        .variables
        .iter()
        .map(String::as_str)
        .filter(|name| !expanded(name));
    flags
        .chain(variables)
        .filter(|word| !words.contains(word))
        .map(str::to_owned)
        .collect()
}

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base")
}

/// The program beside this one: target/debug/deps/THIS and target/debug/berth.
fn berth() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let path = this.parent().unwrap().parent().unwrap().join("berth");
    assert!(
        path.is_file(),
        "{} is not there: build it with `make build`",
        path.display()
    );
    path
}

#[test]
fn berth_takes_every_flag_and_variable_that_the_manifests_pass() {
    for workload in ["controllers", "announcer", "proxy"] {
        let given = command_line(&std::fs::read_to_string(base().join(format!("{workload}.yaml"))).unwrap());
        assert_eq!(given.arguments.first().map(String::as_str), Some(workload));
        assert!(
            given.arguments.len() > 3 && !given.variables.is_empty(),
            "{workload}.yaml was misread: {given:?}"
        );
        let output = Command::new(berth()).args([workload, "--help"]).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "berth {workload} --help: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(unknown(&given, &help), Vec::<String>::new(), "{workload}.yaml");
    }
}

#[test]
fn the_folders_of_modes_are_taken_by_the_api_server_and_add_what_the_mode_needs() {
    if !sandbox::is_inside() {
        Binaries::find_or_build().unwrap();
    }
    in_sandbox_async!(async {
        let stage = Stage::start(&stage::folder("manifests")?, Vec::new()).await?;
        let output = Command::new(berth()).args(["proxy", "--help"]).output()?;
        let help = String::from_utf8(output.stdout)?;
        let plain = Shipped::read(stage.control_plane(), Mode::Nftables).await?;
        assert_eq!(plain.capabilities, Some(vec!["net_admin".to_owned()]));
        assert_eq!((plain.mode_flag(), plain.mounts.len()), (None, 0));
        let lock = ("/run/xtables.lock", ("/run/xtables.lock", false));
        let modules = ("/lib/modules", ("/lib/modules", true));
        let both = Some(vec!["net_admin".to_owned(), "net_raw".to_owned()]);
        for (mode, capabilities, mounts) in [
            (Mode::Iptables, both, vec![lock]),
            // Privileged: it has all.
            (Mode::Ipvs, None, vec![lock, modules]),
        ] {
            let shipped = Shipped::read(stage.control_plane(), mode).await?;
            let given = CommandLine {
                arguments: shipped.args.clone(),
                variables: BTreeSet::new(),
            };
            assert_eq!(unknown(&given, &help), Vec::<String>::new(), "{mode}");
            assert_eq!(shipped.mode_flag(), Some(&format!("--proxy-mode={mode}")));
            // What the base says stays said.
            assert_eq!(shipped.args[..plain.args.len()], plain.args[..], "{mode}");
            assert_eq!(shipped.capabilities, capabilities, "{mode}");
            let mounts: BTreeMap<String, (String, bool)> = mounts
                .into_iter()
                .map(|(at, (on_node, read_only))| (at.to_owned(), (on_node.to_owned(), read_only)))
                .collect();
            assert_eq!(shipped.mounts, mounts, "{mode}");
        }
        anyhow::Ok(())
    });
}

#[test]
fn flags_and_variables_that_nobody_takes_are_found() {
    let workload = "
      containers:
        - name: proxy
          args:
            - proxy
            - --node-name=$(NODE_NAME)
            - --no-such-flag # why
          env:
            - name: NODE_NAME
              value: a
            - name: NO_SUCH_VARIABLE
              value: b
            - name: BERTH_APISERVER
              value: c
          ports:
            - name: admin
";
    let given = command_line(workload);
    assert_eq!(
        given.arguments,
        ["proxy", "--node-name=$(NODE_NAME)", "--no-such-flag"]
    );
    let help = "      --node-name <NAME>  [env: NODE=]\n      --apiserver <URL>  [env: BERTH_APISERVER=]\n";
    assert_eq!(unknown(&given, help), ["--no-such-flag", "NO_SUCH_VARIABLE"]);
}
