// SPDX-License-Identifier: Apache-2.0
//! A restart on unchanged state.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use berth_testkit::process::Process;

use super::super::figures::{Key, Values};
use super::change::Seen;
use super::commits::Commits;
use super::run::{Ground, Subject};
use crate::metrics::{Page, http_get};
use crate::proxy_peer::launch::{Proxy, ProxyLaunch};

/// Both have it, under this name.
const SYNCED: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);
/// For the end of the old process, and for the first sync of the new one.
const PATIENCE: Duration = Duration::from_secs(900);

impl Ground {
    /// Ends the proxy, starts it again, and waits until it says that the rules are as wanted.
    pub(super) async fn restart(
        &self,
        subject: Subject<'_>,
        mut process: Process,
        launch: &ProxyLaunch,
        values: &mut Values,
    ) -> Result<()> {
        tokio::task::block_in_place(|| process.terminate(PATIENCE))?;
        self.ready(None).await?;
        let commits = match subject.seen {
            Seen::ByCommit => Some(Commits::subscribe(self.node.netns())?),
            Seen::ByTraffic => None,
        };
        let launch = ProxyLaunch {
            name: format!("{}-again", launch.name),
            ..launch.clone()
        };
        let mut process = self
            .stage
            .launch_proxy(subject.proxy, self.node.netns(), &launch)
            .await?;
        let started = Instant::now();
        let synced = tokio::task::block_in_place(|| self.synced(subject.proxy, &mut process))?;
        values.insert(Key::RestartWall, (synced - started).as_secs_f64());
        let pid = process.pid();
        self.quiet(Some(pid)).await?;
        values.insert(Key::RestartCpu, self.mark(Some(pid))?.proxy_cpu);
        if let Some(commits) = commits {
            values.insert(Key::RestartCommits, f64::from(commits.transactions()?));
        }
        Ok(())
    }

    /// When the proxy first said that it has synced. Blocks.
    fn synced(&self, proxy: Proxy, process: &mut Process) -> Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let page = self.node.netns().run(|| http_get(proxy.metrics()))?;
            let now = Instant::now();
            // Not there before it listens.
            if page.is_ok_and(|page| Page::new(page).sum(SYNCED, "") > 0.0) {
                return Ok(now);
            }
            if let Some(status) = process.try_wait()? {
                bail!("it has ended ({status}): {}", process.log_end());
            }
            ensure!(now < deadline, "not synced: {}", process.log_end());
            std::thread::sleep(LOOK);
        }
    }
}
