// SPDX-License-Identifier: Apache-2.0
//! Named network namespaces, entered by threads of their own.
//!
//! A namespace belongs to a thread, not to a process: each call here starts a short-lived thread,
//! moves it, and lets it end. What such a thread opens or spawns stays in the namespace: sockets can
//! be used from anywhere afterwards.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::Error;
use crate::sandbox;

const FOLDER: &str = "/run/netns";

/// A network namespace. Clones refer to the same one; `ip netns` shows it by its name.
#[derive(Clone, Debug)]
pub struct Netns {
    name: Arc<str>,
    file: Arc<File>,
}

impl Netns {
    /// Creates a namespace. Its loopback is still down and its sysctls are the kernel's defaults.
    ///
    /// # Errors
    /// Outside the sandbox; when a namespace of this name exists; when the kernel refuses.
    pub fn create(name: &str) -> Result<Self, Error> {
        sandbox::require_inside("Netns::create")?;
        let path = path_of(name);
        fs::create_dir_all(FOLDER).map_err(Error::io(FOLDER))?;
        File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(Error::io(format!("namespace {name}: {}", path.display())))?;
        let made = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
        });
        if let Err(errno) = made {
            fs::remove_file(&path).map_err(Error::io(path.display().to_string()))?;
            return Err(Error::errno(format!("create namespace {name}"))(errno));
        }
        Self::open(name)
    }

    /// Refers to a namespace that was made earlier.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn open(name: &str) -> Result<Self, Error> {
        let path = path_of(name);
        let file = File::open(&path).map_err(Error::io(format!("namespace {name}: {}", path.display())))?;
        Ok(Self {
            name: name.into(),
            file: Arc::new(file),
        })
    }

    /// Refers to the namespace of the calling thread under a name for messages.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn current(name: &str) -> Result<Self, Error> {
        let file = File::open("/proc/thread-self/ns/net").map_err(Error::io("/proc/thread-self/ns/net"))?;
        Ok(Self {
            name: name.into(),
            file: Arc::new(file),
        })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a closure on a new thread in the namespace and returns its value; a panic goes on in the caller.
    /// Blocks: keep the closure short where an async runtime calls this.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_thread(|| setns(&*self.file, CloneFlags::CLONE_NEWNET).map(|()| body()))
            .map_err(Error::errno(format!("enter namespace {}", self.name)))
    }

    /// Starts a program in the namespace. It sees the machine's /sys; see [`Netns::spawn_with_sysfs`].
    ///
    /// # Errors
    /// When the namespace cannot be entered or the program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child, Error> {
        let what = format!("start {:?} in {}", command.get_program(), self.name);
        self.run(|| command.spawn())?.map_err(Error::io(what))
    }

    /// Starts a program in the namespace with a /sys of its own, so that /sys/class/net holds the
    /// namespace's interfaces. Where the kernel refuses the mount, /sys stays the machine's.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the program cannot be started.
    pub fn spawn_with_sysfs(&self, command: &mut Command) -> Result<Child, Error> {
        let what = format!("start {:?} in {}", command.get_program(), self.name);
        self.run(|| {
            if let Err(errno) = own_sysfs() {
                tracing::debug!(namespace = %self.name, %errno, "no sysfs of its own");
            }
            command.spawn()
        })?
        .map_err(Error::io(what))
    }

    /// Runs `ip -batch` in the namespace: one command a line, without the leading `ip`.
    ///
    /// # Errors
    /// When a line fails; the lines before it stay applied.
    pub fn ip(&self, batch: &str) -> Result<(), Error> {
        self.run(|| feed("ip", &["-batch", "-"], batch))?
    }

    /// Runs a program in the namespace to its end and returns its standard output.
    ///
    /// # Errors
    /// When it cannot be started or ends with another status than 0.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String, Error> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = self.spawn(&mut command)?;
        finish(child, &format!("{program} {}", arguments.join(" ")))
    }

    /// Writes settings under /proc/sys; keys as paths, `net/ipv4/ip_forward`. Keys that this kernel lacks are skipped.
    ///
    /// # Errors
    /// When a setting exists and cannot be written.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<(), Error> {
        self.run(|| {
            settings
                .iter()
                .try_for_each(|(key, value)| write_sysctl(key, value))
        })?
    }

    /// Removes the name. The namespace itself ends with its last process and socket.
    ///
    /// # Errors
    /// When it is not there any more.
    pub fn delete(&self) -> Result<(), Error> {
        let path = path_of(&self.name);
        umount2(&path, MntFlags::MNT_DETACH).map_err(Error::errno(format!("unmount {}", path.display())))?;
        fs::remove_file(&path).map_err(Error::io(format!("remove {}", path.display())))
    }
}

fn path_of(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Runs on a thread of its own, because a thread keeps what `unshare` and `setns` did to it.
fn on_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(body).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn own_sysfs() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )?;
    mount(
        Some("sysfs"),
        "/sys",
        Some("sysfs"),
        MsFlags::empty(),
        None::<&str>,
    )
}

/// Writes one setting of the calling thread's namespace.
pub(crate) fn write_sysctl(key: &str, value: &str) -> Result<(), Error> {
    let path = Path::new("/proc/sys").join(key);
    match fs::write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written.map_err(Error::io(format!("{key} = {value}"))),
    }
}

/// Runs a program that takes its commands from standard input, in the calling thread's namespace.
pub(crate) fn feed(program: &str, arguments: &[&str], input: &str) -> Result<(), Error> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::io(program))?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // It stopped reading because a line failed: its own message says more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.map_err(Error::io(format!("standard input of {program}")))?,
        }
    }
    finish(
        child,
        &format!("{program} {} <<< {}", arguments.join(" "), input.trim()),
    )
    .map(|_| ())
}

fn finish(child: Child, command: &str) -> Result<String, Error> {
    let output = child.wait_with_output().map_err(Error::io(command))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Command {
        command: command.to_owned(),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
