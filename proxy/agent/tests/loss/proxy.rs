// SPDX-License-Identifier: Apache-2.0
//! The proxy, as a process that can be killed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use berth_proxy_agent::ProxyArgs;
use berth_runtime::client::ApiArgs;
use berth_runtime::log::LogArgs;
use berth_runtime::shutdown::Shutdown;
use berth_testkit::netns::Netns;
use berth_testkit::process::{Process, Spec};
use berth_testkit::sandbox::SCRATCH;
use berth_testkit::wait::eventually_blocking;
use clap::Parser;

/// Set for the process that is the proxy.
pub(crate) const IS_PROXY: &str = "BERTH_LOSS_PROXY";
const PATIENCE: Duration = Duration::from_secs(60);
const METRICS: &str = "127.0.0.1:10249";

/// What the process is started with.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    proxy: ProxyArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// The process itself.
pub(crate) fn run() -> ExitCode {
    let flags = Flags::parse();
    flags.log.install().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let outcome = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().unwrap();
        berth_proxy_agent::run(flags.proxy, ApiArgs::default(), shutdown).await
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The running process, seen by whoever kills it.
pub(crate) struct Proxy {
    process: Process,
}

impl Proxy {
    /// Starts it and waits until the rules are written.
    pub(crate) fn start(mode: &str, state: &Path) -> anyhow::Result<Self> {
        let flags = [
            format!("--proxy-mode={mode}"),
            format!("--state={}", state.display()),
            "--node-name=node-1".to_owned(),
            "--cluster-cidr=10.244.0.0/16".to_owned(),
            "--healthz-bind-address=".to_owned(),
            // No exchange takes as long, and there are thousands in a second.
            "--conntrack-udp-timeout=10s".to_owned(),
            "--conntrack-udp-timeout-stream=10s".to_owned(),
        ];
        let log = PathBuf::from(SCRATCH).join(format!("proxy-{mode}.log"));
        let spec = Spec {
            args: flags.into(),
            env: vec![(IS_PROXY.to_owned(), "1".into())],
            own_sysfs: false,
            ..Spec::new("proxy", std::env::current_exe()?, &log)
        };
        let mut process = Process::start(&Netns::current("node")?, &spec)?;
        process.wait_ready(METRICS.parse()?, "/readyz", PATIENCE)?;
        Ok(Self { process })
    }

    /// As `kill -9` does.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        Ok(())
    }

    /// Ends it in order.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        self.process.terminate(PATIENCE)?;
        Ok(())
    }

    /// Changes something, and waits until the rules reflect it.
    pub(crate) fn after(&self, change: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let before = metric("kubeproxy_sync_proxy_rules_endpoint_changes_total")?;
        change()?;
        let taken = || -> anyhow::Result<()> {
            let seen = metric("kubeproxy_sync_proxy_rules_endpoint_changes_total")?;
            let pending = metric("kubeproxy_sync_proxy_rules_endpoint_changes_pending")?;
            anyhow::ensure!(seen > before && pending == 0.0, "{seen} seen, {pending} pending");
            Ok(())
        };
        eventually_blocking("the change in the rules", PATIENCE, taken)
            .with_context(|| self.process.log_end())?;
        Ok(())
    }

    /// The end of its log.
    pub(crate) fn log_end(&self) -> String {
        self.process.log_end()
    }
}

fn metric(name: &str) -> anyhow::Result<f64> {
    let mut stream = TcpStream::connect(METRICS)?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nhost: {METRICS}\r\nconnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let (_, value) = lines.find(|(found, _)| *found == name).context(name.to_owned())?;
    Ok(value.trim().parse()?)
}
