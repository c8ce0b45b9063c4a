// SPDX-License-Identifier: Apache-2.0
//! Outside: starts the inner program, passes signals on, returns its exit code.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, geteuid};

use super::{FORCE_USER, MARKER};
use crate::Error;

/// What the inner program may take to end after a signal.
const GRACE: Duration = Duration::from_secs(10);

/// The programs that the testkit calls, and the Debian packages that carry them.
const TOOLS: &[(&str, &str)] = &[
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("tcpdump", "tcpdump"),
    ("conntrack", "conntrack"),
    ("nsenter", "util-linux"),
];

/// Checks that programs are installed, in the folders of PATH and the system ones.
///
/// # Errors
/// Names the first missing one and its Debian package.
pub fn require_tools(names: &[&str]) -> Result<(), Error> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), "/usr/bin".into()])
        .collect();
    for name in names {
        if !folders.iter().any(|folder| folder.join(name).is_file()) {
            let package = TOOLS
                .iter()
                .find(|(tool, _)| tool == name)
                .map_or("(unknown)", |(_, package)| package);
            return Err(Error::MissingTool {
                tool: (*name).to_owned(),
                package,
            });
        }
    }
    Ok(())
}

/// The command that runs this very program in fresh namespaces, checked to be allowed.
pub(super) fn command(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    require_tools(&["unshare", "setpriv", "ip", "bridge"])?;
    let namespaces = namespaces()?;
    let program = env::current_exe().map_err(Error::io("path of the current program"))?;
    let mut command = Command::new("setpriv");
    // Ties the chain to the calling thread: however that ends, unshare is killed, and by
    // --kill-child process 1 inside, and by its end everything else in there.
    command
        .args(["--pdeathsig", "KILL", "--", "unshare"])
        .args(namespaces);
    command
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(program)
        .args(arguments);
    command
        .env(MARKER, std::process::id().to_string())
        .env("PATH", system_path());
    Ok(command)
}

/// Ordinary users often lack the folders where `ip` and `nft` are.
fn system_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin:/usr/bin:/bin");
    path
}

fn namespaces() -> Result<&'static [&'static str], Error> {
    const PLAIN: &[&str] = &["--net", "--mount"];
    const USER: &[&str] = &["--user", "--map-root-user", "--net", "--mount"];
    if geteuid().is_root() && env::var_os(FORCE_USER).is_none() && try_unshare(PLAIN)?.is_ok() {
        return Ok(PLAIN);
    }
    match try_unshare(USER)? {
        Ok(()) => Ok(USER),
        Err(said) => Err(refusal(&said)),
    }
}

fn try_unshare(namespaces: &[&str]) -> Result<Result<(), String>, Error> {
    let output = Command::new("unshare")
        .args(namespaces)
        .args(["--pid", "--fork", "--mount-proc", "--", "true"])
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io("unshare"))?;
    Ok(if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    })
}

/// The settings by which distributions forbid user namespaces: name, the value that forbids, one that allows.
const FORBIDDING: &[(&str, &str, &str)] = &[
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ("user.max_user_namespaces", "0", "10000"),
];

fn refusal(said: &str) -> Error {
    let found = FORBIDDING.iter().find(|(key, forbids, _)| {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        fs::read_to_string(path).is_ok_and(|value| value.trim() == *forbids)
    });
    match found {
        Some((key, value, allows)) => Error::NamespacesRefused {
            evidence: format!("sysctl {key} is {value}"),
            way_out: format!("run as root, or `sudo sysctl -w {key}={allows}`"),
        },
        None => Error::NamespacesRefused {
            evidence: said.to_owned(),
            way_out: "run as root; in a container, give it CAP_SYS_ADMIN (for example --privileged)"
                .to_owned(),
        },
    }
}

/// Runs the program inside, with this one's arguments, until it ends.
pub(super) fn run_program() -> Result<ExitCode, Error> {
    let mut command = command(env::args_os().skip(1))?;
    // A group of its own: Ctrl-C reaches the inner program once, from here.
    command.process_group(0);
    let mut child = command.spawn().map_err(Error::io("start setpriv"))?;
    // Not before the start: the inner program would inherit it. A signal until then ends both.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block().map_err(Error::errno("block signals"))?;
    let mut asked = false;
    loop {
        if let Some(status) = child.try_wait().map_err(Error::io("wait for the sandbox"))? {
            return Ok(exit_code(status));
        }
        let signal = signals.wait().map_err(Error::errno("wait for a signal"))?;
        if signal == Signal::SIGCHLD {
            continue;
        } else if asked || !pass_on(&child, signal) {
            child.kill().map_err(Error::io("end the sandbox"))?;
        } else {
            asked = true;
            kill_later(&child);
        }
    }
}

fn kill_later(child: &Child) {
    let pid = pid_of(child.id());
    thread::spawn(move || {
        thread::sleep(GRACE);
        // It is not reaped while this process lives, so the number cannot have passed to another.
        kill(pid, Signal::SIGKILL)
    });
}

/// False where the inner program has no handler: process 1 of a namespace then ignores the signal.
fn pass_on(child: &Child, signal: Signal) -> bool {
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let Some(inner) = fs::read_to_string(children).ok().and_then(|list| {
        list.split_whitespace()
            .next()
            .and_then(|pid| pid.parse::<u32>().ok())
    }) else {
        return false;
    };
    handles(inner, signal) && kill(pid_of(inner), signal).is_ok()
}

fn handles(pid: u32, signal: Signal) -> bool {
    let caught = fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("SigCgt:").map(str::trim).map(str::to_owned))?;
            u64::from_str_radix(&line, 16).ok()
        });
    caught.is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0)
}

/// Process ids fit: the kernel's largest is 2^22 (include/linux/threads.h, PID_MAX_LIMIT).
pub(crate) fn pid_of(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap_or(i32::MAX))
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
