// SPDX-License-Identifier: Apache-2.0
//! The sandbox: however its run ends, nothing is left of it and nothing outside has changed.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "functions of a test file are tests"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use berth_testkit::lan::Lan;
use berth_testkit::pods::{Pod, Serve, start_testpod};
use berth_testkit::wait::eventually_blocking;
use berth_testkit::{in_sandbox, sandbox};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Carried by every process of a run, so that survivors can be found.
const MARK: &str = "BERTH_TESTKIT_VICTIM";
const DEADLINE: Duration = Duration::from_secs(20);

/// Links, namespaces, addresses, routes and forwarding of wherever this runs.
fn state_outside() -> Vec<String> {
    let mut state: Vec<String> = ["-o link", "netns", "-o addr", "route", "-6 route"]
        .iter()
        .map(|what| {
            let output = Command::new("ip")
                .args(what.split(' '))
                .output()
                .expect("ip runs");
            without_lifetimes(&String::from_utf8_lossy(&output.stdout))
        })
        .collect();
    for file in [
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/net/ipv6/conf/all/accept_dad",
        "/proc/self/mounts",
    ] {
        state.push(fs::read_to_string(file).unwrap_or_default());
    }
    state
}

/// Leased addresses and advertised routes count down: their remaining seconds are no change.
fn without_lifetimes(listed: &str) -> String {
    let mut words = Vec::new();
    let mut all = listed.split_whitespace();
    while let Some(word) = all.next() {
        if matches!(word, "valid_lft" | "preferred_lft" | "expires") {
            all.next();
        } else {
            words.push(word);
        }
    }
    words.join(" ")
}

/// The processes, wherever they run, that carry this mark.
fn marked(mark: &str) -> Vec<String> {
    let wanted = format!("{MARK}={mark}");
    let processes = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    processes
        .filter(|entry| {
            fs::read(entry.path().join("environ")).is_ok_and(|environ| {
                environ
                    .split(|byte| *byte == 0)
                    .any(|pair| pair == wanted.as_bytes())
            })
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Starts a program and waits until it has printed `up`.
fn start(command: &mut Command, mark: &str) -> Child {
    let mut child = command
        .env(MARK, mark)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("program starts");
    let stdout = child.stdout.take().expect("a pipe");
    let (line, lines) = mpsc::channel();
    // Goes on reading to the end: a broken pipe would change how the program ends.
    thread::spawn(move || {
        BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .for_each(|text| {
                // Nobody listens any more once it is up.
                let _unheard = line.send(text);
            })
    });
    let next = || match lines.recv_timeout(DEADLINE) {
        Ok(text) => text,
        Err(error) => panic!("{command:?} did not come up: {error}"),
    };
    // libtest begins the line with the test's name.
    while !next().ends_with("up") {}
    child
}

fn assert_gone(mark: &str) {
    eventually_blocking("all processes gone", DEADLINE, || {
        let left = marked(mark);
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("left: {left:?}"))
        }
    })
    .expect("nothing is left");
}

#[test]
fn a_program_ends_in_order_on_signals_and_leaves_nothing() {
    let before = state_outside();
    for (signal, code) in [
        (Signal::SIGINT, Some(7)),
        // It handles only Ctrl-C: process 1 of a namespace would ignore the others.
        (Signal::SIGTERM, Some(137)),
        (Signal::SIGKILL, None),
    ] {
        for user in [false, true] {
            let mark = format!("{}-{signal}-{user}", std::process::id());
            let mut command = Command::new(env!("CARGO_BIN_EXE_berth-testlan"));
            if user {
                command.env("BERTH_SANDBOX_USER", "1");
            }
            let mut child = start(&mut command, &mark);
            // The outer program, setpriv turned unshare, the inner one, three Pods.
            assert!(marked(&mark).len() >= 6, "{:?}", marked(&mark));
            kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), signal).expect("signal sent");
            let status = child.wait().expect("it ends");
            assert_eq!(status.code(), code, "{signal}, user namespace: {user}");
            assert_gone(&mark);
        }
    }
    assert_eq!(state_outside(), before);
}

#[test]
fn a_killed_test_leaves_nothing() {
    const NAME: &str = "a_killed_test_leaves_nothing";
    if std::env::var_os(MARK).is_some() {
        in_sandbox!({
            let lan = Lan::builder().nodes(1).build()?;
            let pod = Pod::create(&lan.nodes()[0], "pod", None)?;
            let serve = Serve {
                tcp: vec![80],
                ..Serve::default()
            };
            let _process = start_testpod(pod.netns(), "pod", &serve, &sandbox_log())?;
            println!("up");
            loop {
                std::thread::park();
            }
            #[expect(unreachable_code, reason = "gives the block its type")]
            anyhow::Ok(())
        });
    }
    let before = state_outside();
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let mark = format!("{}-test-{signal}", std::process::id());
        let test = std::env::current_exe().expect("path of the test");
        // A run in the background of a script inherits that SIGINT is ignored.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT").arg(test);
        let mut child = start(command.args(["--exact", NAME, "--nocapture"]), &mark);
        kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), signal).expect("signal sent");
        assert!(!child.wait().expect("it ends").success());
        assert_gone(&mark);
    }
    assert_eq!(state_outside(), before);
}

fn sandbox_log() -> PathBuf {
    PathBuf::from(sandbox::SCRATCH).join("pod.log")
}

#[test]
fn a_failing_test_and_a_wrong_name_fail_outside_too() {
    let outcome = std::panic::catch_unwind(|| {
        sandbox::run_test("no_test_has_this_name", || anyhow::Ok(()));
    });
    let message = *outcome
        .expect_err("a wrong name fails")
        .downcast::<String>()
        .expect("a message");
    assert!(message.contains("passed no test of this name"), "{message}");
}

#[test]
fn errors_and_panics_inside_fail_the_test() {
    if sandbox::is_inside() {
        in_sandbox!({ Err::<(), _>(anyhow::anyhow!("on purpose")) });
    }
    let outcome = std::panic::catch_unwind(|| {
        sandbox::run_test("errors_and_panics_inside_fail_the_test", || anyhow::Ok(()));
    });
    let message = *outcome
        .expect_err("the inner failure fails")
        .downcast::<String>()
        .expect("a message");
    assert!(message.contains("failed in the sandbox"), "{message}");
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    let error = sandbox::require_tools(&["nft-that-is-not-there"])
        .expect_err("no such tool")
        .to_string();
    assert!(error.contains("nft-that-is-not-there"), "{error}");
}

#[test]
fn a_kernel_that_refuses_is_named_with_the_setting_and_the_way_out() {
    const FORBID: &str = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\"";
    let output = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "sh",
            "-c",
            FORBID,
            env!("CARGO_BIN_EXE_berth-testlan"),
        ])
        .env("BERTH_SANDBOX_USER", "1")
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    for part in [
        "user.max_user_namespaces is 0",
        "sudo sysctl -w user.max_user_namespaces=",
        "run as root",
    ] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
}
