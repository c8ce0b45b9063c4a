// SPDX-License-Identifier: Apache-2.0
//! One API server, and nodes on which proxies in any mode are started, stopped and cleaned up after.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use berth_testkit::process::{Process, Spec, binary};
use berth_testkit::sandbox;
use serde_json::Value;

use super::Mode;
use super::expect::{self, Expected};
use super::shipped::Shipped;
use crate::bench::proxy::commits::Commits;
use crate::cluster::{CLUSTER_CIDRS, PATIENCE, with_capabilities};
use crate::metrics::http_get;
use crate::proxy_peer::answer::Endpoints;
use crate::proxy_peer::ground::stage_for;
use crate::proxy_peer::launch::{ProxyLaunch, Variant, path_with, wait_ready};
use crate::proxy_peer::objects::Request;
use crate::proxy_peer::world::{NODES, World};
use crate::stage::{BERTH_PROXY, Launch, Stage};

/// What the start has said once it has removed what other modes left.
const CLEAN: &str = "clean-up";

/// The API server and its nodes. Dropping it ends everything.
pub struct Ground {
    /// The API server.
    pub stage: Stage,
    /// The nodes, without proxies at first.
    pub nodes: Vec<ModeNode>,
}

/// A node with what is around it, and at most one proxy.
pub struct ModeNode {
    world: World,
    server: String,
    number: usize,
    running: Option<(Mode, Process)>,
    starts: usize,
    _endpoints: Endpoints,
}

impl Ground {
    /// Starts the API server and makes nodes. `name` is part of the log folder's path.
    ///
    /// # Errors
    /// Whatever did not come up, with the place of its log.
    pub async fn start(name: &str, nodes: usize) -> Result<Self> {
        sandbox::require_inside("Ground::start")?;
        let stage = stage_for(name, nodes).await?;
        let port = stage.control_plane().port();
        let node = |number| {
            let world = World::build(u8::try_from(number)?)?;
            anyhow::Ok(ModeNode {
                _endpoints: Endpoints::listen(&world)?,
                server: format!("https://{}:{port}", world.api_server()),
                world,
                number,
                running: None,
                starts: 0,
            })
        };
        let nodes: Result<Vec<ModeNode>> = (1..=nodes).map(node).collect();
        Ok(Self { stage, nodes: nodes? })
    }

    /// Asks the API server, in order.
    ///
    /// # Errors
    /// It refuses.
    pub async fn ask(&self, requests: &[Request]) -> Result<()> {
        for request in requests {
            request.send(&self.stage.client()).await?;
        }
        Ok(())
    }

    /// Starts a proxy on a node, with the rights that its manifests give it, and waits until its rules are written.
    ///
    /// # Errors
    /// With the end of its log.
    pub async fn run(&mut self, node: usize, mode: Mode, more: &[&str]) -> Result<()> {
        let shipped = Shipped::read(self.stage.control_plane(), mode).await?;
        let mut flags: Vec<String> = match mode {
            Mode::Userspace => vec!["--proxy-mode=userspace".to_owned()],
            Mode::Nftables | Mode::Iptables | Mode::Ipvs => {
                shipped.mode_flag().cloned().into_iter().collect()
            }
        };
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        let told = |flag: &&str| more.iter().any(|given| given.starts_with(*flag));
        let cidrs = if told(&"--detect-local-mode") {
            ""
        } else {
            CLUSTER_CIDRS
        };
        let at = &mut self.nodes[node];
        at.starts += 1;
        let launch = ProxyLaunch {
            cluster_cidrs: cidrs.to_owned(),
            capabilities: shipped.as_setpriv(),
            extra_flags: flags,
            ..ProxyLaunch::named(&at.name(mode), NODES[0].0, &at.server)
        };
        let proxy = mode.launched_as();
        let mut process = self.stage.launch_proxy(proxy, at.world.node(), &launch).await?;
        wait_ready(proxy, &mut process)?;
        process.wait_log(CLEAN, PATIENCE)?;
        at.running = Some((mode, process));
        Ok(())
    }

    /// Starts a proxy on a node by a KubeProxyConfiguration, to which the kubeconfig is added, and waits until it says
    /// on `ready` that its rules are written.
    ///
    /// # Errors
    /// With the end of its log.
    pub async fn run_by_file(&mut self, node: usize, mode: Mode, mut file: Value, ready: u16) -> Result<()> {
        let at = &mut self.nodes[node];
        at.starts += 1;
        let name = at.name(mode);
        let access = Launch {
            server: Some(at.server.clone()),
            ..Launch::named(&name)
        };
        let kubeconfig = self.stage.kubeconfig(BERTH_PROXY, &access).await?;
        file["clientConnection"]["kubeconfig"] = kubeconfig.display().to_string().into();
        file["mode"] = mode.name().into();
        let path = self.stage.logs().join(format!("{name}.json"));
        fs::write(&path, serde_json::to_string_pretty(&file)?).with_context(|| path.display().to_string())?;
        let log = self.stage.logs().join(format!("{name}.log"));
        let mut spec = Spec::new(&name, binary("berth", "berth")?, &log);
        spec.args = vec!["proxy".to_owned(), format!("--config={}", path.display())];
        let programs = path_with(Variant::Nft, self.stage.logs())?;
        spec.env.push(("PATH".to_owned(), programs.into()));
        let shipped = Shipped::read(self.stage.control_plane(), mode).await?;
        if let Some(only) = shipped.as_setpriv() {
            spec = with_capabilities(spec, &only);
        }
        let mut process = Process::start(at.world.node(), &spec)?;
        let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ready);
        process.wait_ready(admin, "/readyz", PATIENCE)?;
        at.running = Some((mode, process));
        Ok(())
    }

    /// Waits until packets meet on every node what is expected.
    ///
    /// # Errors
    /// At the deadline, with the end of the proxy's log.
    pub async fn expect(&self, expected: &[Expected]) -> Result<()> {
        let each = self.nodes.iter().map(|node| node.expect(expected));
        expect::all(futures::future::join_all(each).await)
    }

    /// Runs `berth proxy --cleanup` on a node, with the rights of a mode's manifests, to its end.
    ///
    /// # Errors
    /// It fails, with the end of its log.
    pub async fn cleanup(&mut self, node: usize, mode: Mode) -> Result<()> {
        let shipped = Shipped::read(self.stage.control_plane(), mode).await?;
        let at = &mut self.nodes[node];
        at.starts += 1;
        let name = format!("{}-cleanup", at.name(mode));
        let log: PathBuf = self.stage.logs().join(format!("{name}.log"));
        let mut spec = Spec::new(&name, binary("berth", "berth")?, &log);
        spec.args = vec!["proxy".to_owned(), "--cleanup".to_owned()];
        if let Some(only) = shipped.as_setpriv() {
            spec = with_capabilities(spec, &only);
        }
        let mut process = Process::start(at.world.node(), &spec)?;
        let status = process.wait(PATIENCE)?;
        ensure!(status.success(), "{status}: {}", process.log_end());
        Ok(())
    }
}

impl ModeNode {
    /// Where it is.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// GET from the node itself.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn get(&self, url: &str) -> Result<String> {
        self.world.node().run(|| http_get(url))?
    }

    /// What its kernel is told to write from now on, for [`Writes::count`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn writes(&self) -> Result<Writes> {
        Ok(Writes(Commits::subscribe(self.world.node())?))
    }

    /// Stops its proxy in order; what that wrote stays.
    ///
    /// # Errors
    /// It ends with a failure, or had ended before.
    pub fn stop(&mut self) -> Result<()> {
        let (mode, mut process) = self.running.take().context("no proxy runs here")?;
        let before = process.try_wait()?;
        ensure!(
            before.is_none(),
            "mode {mode} had ended ({before:?}): {}",
            process.log_end()
        );
        let status = process.terminate(PATIENCE)?;
        ensure!(status.success(), "mode {mode}: {status}: {}", process.log_end());
        Ok(())
    }

    /// As [`Ground::expect`], here alone.
    ///
    /// # Errors
    /// As there.
    pub async fn expect(&self, expected: &[Expected]) -> Result<()> {
        let (mode, process) = self.running.as_ref().context("no proxy runs here")?;
        let checked = expect::check(&self.world, *mode, expected).await;
        checked.with_context(|| format!("mode {mode}, log {}", process.log().display()))
    }

    /// As [`ModeNode::expect`], of a node on which nothing runs: nobody knows the Service range.
    ///
    /// # Errors
    /// As there.
    pub async fn expect_of_none(&self, expected: &[Expected]) -> Result<()> {
        ensure!(self.running.is_none(), "a proxy runs here");
        let expected: Vec<Expected> = expected.iter().map(|one| one.without_proxy()).collect();
        expect::check(&self.world, Mode::Nftables, &expected).await
    }

    /// One for each start: kubeconfig, log.
    fn name(&self, mode: Mode) -> String {
        format!("node-{}-{}-{mode}", self.number, self.starts)
    }
}

/// Transactions in a node's nftables, whoever makes them.
pub struct Writes(Commits);

impl Writes {
    /// How many there were since the last look.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn count(&self) -> Result<u32> {
        self.0.transactions()
    }
}
