// SPDX-License-Identifier: Apache-2.0
//! One child process with a log file. It never outlives its starter.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::ControlPlaneError;

/// How often a process that was asked to end is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Lines of a log that an error shows.
const TAIL_LINES: usize = 20;
/// Bytes of a log that are read for it.
const TAIL_BYTES: u64 = 64 * 1024;

/// A running child. Dropping it kills it and waits for its end.
pub(super) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
    /// The other end of the child's stdin: closes with this process, however that ends, and the child follows
    /// (e2e/controlplane/main.go). Programs of `KUBEBUILDER_ASSETS` do not watch it.
    _lifeline: Option<ChildStdin>,
}

impl Process {
    /// Starts `program` in `folder`, appending what it says to `log`.
    pub(super) fn spawn(
        name: &'static str,
        program: &Path,
        arguments: &[OsString],
        folder: &Path,
        log: PathBuf,
    ) -> Result<Self, ControlPlaneError> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(ControlPlaneError::io("open log", &log))?;
        let errors = output
            .try_clone()
            .map_err(ControlPlaneError::io("open log", &log))?;
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .env("CONTROLPLANE_LIFELINE", "stdin")
            // Ctrl-C on the terminal goes to the starter alone, which then ends things in its own order.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(ControlPlaneError::io("start", program))?;
        let lifeline = child.stdin.take();
        Ok(Self {
            name,
            child,
            log,
            _lifeline: lifeline,
        })
    }

    /// Process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error when it has ended by itself.
    pub(super) fn check(&mut self) -> Result<(), ControlPlaneError> {
        match self.status()? {
            None => Ok(()),
            Some(status) => Err(ControlPlaneError::Exited {
                name: self.name,
                status: status.to_string(),
                log: self.log.clone(),
                tail: log_tail(&self.log),
            }),
        }
    }

    /// SIGTERM, then SIGKILL when it is still there after `grace`.
    pub(super) async fn terminate(mut self, grace: Duration) -> Result<(), ControlPlaneError> {
        let id = i32::try_from(self.child.id()).unwrap_or_default();
        // 0 would signal our own process group. An error means that it has ended already.
        if id > 0 {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let started = Instant::now();
        while self.status()?.is_none() && started.elapsed() < grace {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn status(&mut self) -> Result<Option<ExitStatus>, ControlPlaneError> {
        self.child
            .try_wait()
            .map_err(ControlPlaneError::io("wait for the process of", &self.log))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a log, or why there are none.
pub(super) fn log_tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
        }
        Err(error) => format!("({}: {error})", log.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, folder: &Path) -> Process {
        let arguments = ["-c".into(), script.into()];
        Process::spawn(
            "sh",
            Path::new("/bin/sh"),
            &arguments,
            folder,
            folder.join("sh.log"),
        )
        .unwrap()
    }

    #[test]
    fn a_process_that_ended_is_an_error_with_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell("seq 1 100; echo no such flag >&2; exit 7", folder.path());
        process.child.wait().unwrap();
        let text = process.check().unwrap_err().to_string();
        assert!(text.contains("exit status: 7") && text.contains("no such flag") && text.contains("sh.log"));
        assert!(text.contains("\n100\n") && !text.contains("\n50\n"), "{text}");
    }

    #[test]
    fn dropping_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let process = shell("exec sleep 1000", folder.path());
        let entry = PathBuf::from(format!("/proc/{}", process.id()));
        assert!(entry.exists());
        drop(process);
        assert!(!entry.exists());
    }

    #[tokio::test]
    async fn a_process_that_ignores_sigterm_is_killed_after_the_grace() {
        let folder = tempfile::tempdir().unwrap();
        let process = shell(
            "trap '' TERM; echo ready; while :; do sleep 1; done",
            folder.path(),
        );
        let entry = PathBuf::from(format!("/proc/{}", process.id()));
        while !log_tail(&process.log).contains("ready") {
            tokio::time::sleep(POLL).await;
        }
        process.terminate(Duration::from_millis(100)).await.unwrap();
        assert!(!entry.exists());
    }

    #[test]
    fn the_child_sees_its_starter_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell("cat; exit 9", folder.path());
        drop(process._lifeline.take());
        assert_eq!(process.child.wait().unwrap().code(), Some(9));
    }
}
