// SPDX-License-Identifier: Apache-2.0
//! Programs in namespaces: started with a log file, asked or forced to end, never left behind.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::Error;
use crate::netns::Netns;
use crate::sandbox;
use crate::wait::eventually_blocking;

/// A program to start.
#[derive(Clone, Debug)]
pub struct Spec {
    /// For messages.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables added to this process's environment.
    pub env: Vec<(String, OsString)>,
    /// Takes both outputs; appended to, its folder is made.
    pub log: PathBuf,
    /// Gives it a /sys with the namespace's interfaces.
    pub own_sysfs: bool,
}

impl Spec {
    /// A program without arguments, with a /sys of its own.
    pub fn new(name: &str, program: PathBuf, log: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program,
            args: Vec::new(),
            env: Vec::new(),
            log: log.to_owned(),
            own_sysfs: true,
        }
    }
}

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    netns: Netns,
    child: Child,
    log: PathBuf,
    /// Where in the log this start begins: a restarted program appends.
    log_start: u64,
}

impl Process {
    /// Starts a program in a namespace.
    ///
    /// # Errors
    /// Outside the sandbox; when the program or its log cannot be opened.
    pub fn start(netns: &Netns, spec: &Spec) -> Result<Self, Error> {
        sandbox::require_inside("Process::start")?;
        let opened = || -> std::io::Result<(File, File)> {
            spec.log.parent().map_or(Ok(()), fs::create_dir_all)?;
            let log = File::options().create(true).append(true).open(&spec.log)?;
            Ok((log.try_clone()?, log))
        };
        let (stdout, stderr) = opened().map_err(Error::io(format!("log {}", spec.log.display())))?;
        let log_start = stderr.metadata().map_or(0, |metadata| metadata.len());
        let mut command = Command::new(&spec.program);
        command
            .args(&spec.args)
            .envs(spec.env.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = if spec.own_sysfs {
            netns.spawn_with_sysfs(&mut command)
        } else {
            netns.spawn(&mut command)
        }?;
        Ok(Self {
            name: spec.name.clone(),
            netns: netns.clone(),
            child,
            log: spec.log.clone(),
            log_start,
        })
    }

    /// The name given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id, inside the sandbox.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file with its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child
            .try_wait()
            .map_err(Error::io(format!("wait for {}", self.name)))
    }

    /// Sends a signal and returns at once.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<(), Error> {
        if self.try_wait()?.is_some() {
            return Err(Error::errno(format!("{signal} to {}", self.name))(
                nix::errno::Errno::ESRCH,
            ));
        }
        kill(sandbox::pid_of(self.child.id()), signal)
            .map_err(Error::errno(format!("{signal} to {}", self.name)))
    }

    /// Kills it, as `kill -9` does, and waits for its end.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<ExitStatus, Error> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map_err(Error::io(format!("kill {}", self.name)))
    }

    /// Asks it by SIGTERM to end and waits for that.
    ///
    /// # Errors
    /// When it has not ended by the deadline; it then still runs.
    pub fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus, Error> {
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        self.wait(deadline)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it has not ended by the deadline.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus, Error> {
        let what = format!("end of {}", self.name);
        eventually_blocking(what, deadline, || match self.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// What it wrote since this start.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn output(&self) -> Result<String, Error> {
        let bytes = fs::read(&self.log).map_err(Error::io(format!("log {}", self.log.display())))?;
        let start = usize::try_from(self.log_start)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[start..]).into_owned())
    }

    /// Waits until its output holds a text.
    ///
    /// # Errors
    /// At the deadline, or as soon as it has ended without; with the end of the log.
    pub fn wait_log(&mut self, text: &str, deadline: Duration) -> Result<(), Error> {
        self.wait_until(&format!("{text:?} in the log"), deadline, |process| {
            Ok(process.output()?.contains(text))
        })
    }

    /// Waits until an HTTP GET, made in its namespace, gets a 200: `wait_ready("127.0.0.1:9440", "/readyz", ..)`.
    ///
    /// # Errors
    /// At the deadline, or as soon as it has ended without; with the end of the log.
    pub fn wait_ready(&mut self, address: SocketAddr, path: &str, deadline: Duration) -> Result<(), Error> {
        self.wait_until(&format!("200 from {address}{path}"), deadline, |process| {
            Ok(process.netns.run(|| http_status(address, path))? == Some(200))
        })
    }

    fn wait_until(
        &mut self,
        what: &str,
        deadline: Duration,
        mut holds: impl FnMut(&Self) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let what = format!("{}: {what}", self.name);
        let ended = eventually_blocking(&what, deadline, || {
            // The order matters: what it wrote just before its end counts.
            let ended = self.try_wait().map_err(|error| error.to_string())?;
            if holds(self).map_err(|error| error.to_string())? {
                return Ok(None);
            }
            match ended {
                Some(status) => Ok(Some(status)),
                None => Err(format!("not yet; {}", self.log_end())),
            }
        })?;
        match ended {
            None => Ok(()),
            Some(status) => Err(Error::Command {
                command: self.name.clone(),
                status: format!("ended ({status}) before {what}"),
                stderr: self.log_end(),
            }),
        }
    }

    /// The last lines of the log with its path, for messages.
    pub fn log_end(&self) -> String {
        const LINES: usize = 15;
        let output = self.output().unwrap_or_default();
        let lines: Vec<&str> = output.lines().collect();
        let end = lines[lines.len().saturating_sub(LINES)..].join("\n  ");
        format!("end of {}:\n  {end}", self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_)))
            && let Err(error) = self.kill()
        {
            tracing::warn!(process = %self.name, %error, "not killed");
        }
    }
}

/// A binary of this workspace, beside the running one (tests run one folder further down, in deps).
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str, package: &str) -> Result<PathBuf, Error> {
    let running = std::env::current_exe().map_err(Error::io("path of the current program"))?;
    let searched: Vec<PathBuf> = running
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .collect();
    match searched.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(Error::MissingBinary {
            name: name.to_owned(),
            package: package.to_owned(),
            searched,
        }),
    }
}

/// The status of one GET from the calling thread's namespace; `None` where nothing answers.
fn http_status(address: SocketAddr, path: &str) -> Option<u16> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )
    .ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head)
        .ok()?
        .strip_prefix("HTTP/1.1 ")?
        .parse()
        .ok()
}
