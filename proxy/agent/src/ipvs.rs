// SPDX-License-Identifier: Apache-2.0
//! The IPVS backend: virtual servers by generic netlink, addresses on a dummy link, sets and static rules by ipset and
//! iptables. Owns what is known of them.

mod glance;
mod iptables;
mod isolate;
mod link;
mod remove;
mod sets;
mod sysctl;
mod table;
mod wire;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_model::{IpFamily, Protocol};
use berth_proxy_core::conntrack::StaleFlows;
use berth_proxy_core::ipvs::names::SetName;
use berth_proxy_core::ipvs::{
    Change, Choice, Installed, MarkSpace, Scheduler, ServerKey, Socket, diff, wants,
};
use berth_proxy_core::{Frontend, Intent, Settings, Touched};
use ipnet::IpNet;

use self::glance::{Sizes, sizes};
use self::link::Link;
use self::table::Table;
use self::wire::Timeouts;
use crate::Error;
use crate::apply::nft::Counters;
use crate::backend::{Backend, Done, Turned};
use crate::refusals::Refusals;

pub use self::remove::{has_foreign_link, remove};

/// What kube-proxy's flags of this mode say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpvsOptions {
    /// `--ipvs-scheduler`.
    pub scheduler: Scheduler,
    /// `--ipvs-strict-arp`.
    pub strict_arp: bool,
    /// `--ipvs-exclude-cidrs`: servers there that nobody wants are left alone.
    pub exclude_cidrs: Vec<IpNet>,
    /// `--ipvs-tcp-timeout`, zero leaves the kernel's.
    pub tcp_timeout: Duration,
    /// `--ipvs-tcpfin-timeout`, zero leaves the kernel's.
    pub tcp_fin_timeout: Duration,
    /// `--ipvs-udp-timeout`, zero leaves the kernel's.
    pub udp_timeout: Duration,
    /// How long an endpoint that left may keep connections.
    pub drain_bound: Duration,
    /// How often those connections are counted.
    pub drain_poll: Duration,
}

impl Default for IpvsOptions {
    fn default() -> Self {
        Self {
            scheduler: Scheduler::Rr,
            strict_arp: false,
            exclude_cidrs: Vec::new(),
            tcp_timeout: Duration::ZERO,
            tcp_fin_timeout: Duration::ZERO,
            udp_timeout: Duration::ZERO,
            // kube-proxy waits for ever. An idle connection leaves the kernel's table after 15 minutes.
            drain_bound: Duration::from_secs(60 * 60),
            // kube-proxy counts once a minute; here only what drains is asked for.
            drain_poll: Duration::from_secs(15),
        }
    }
}

/// Keeps virtual servers, addresses, sets and rules as the intent wants them.
#[derive(Debug)]
pub struct Ipvs {
    table: Table,
    link: Link,
    options: IpvsOptions,
    settings: Settings,
    /// What the kernel holds; `None` when that is not known: at start and after an error.
    installed: Option<Installed>,
    /// Whether somebody else may have changed it since, so that it must be looked up.
    suspect: bool,
    /// The addresses of this machine on other links.
    own: BTreeSet<IpAddr>,
    /// How many servers the last glances at destinations have passed.
    glanced: usize,
    /// How large the tables of iptables were when our rules were last found in them.
    sizes: Option<Sizes>,
    /// Services that the kernel refused something of.
    refused: Refusals,
    started: Instant,
    /// When connections were last counted.
    counted: Instant,
}

impl Ipvs {
    /// Opens what it takes. Nothing is written yet.
    ///
    /// # Errors
    /// Missing privileges, or a kernel without IPVS.
    pub async fn open(settings: &Settings, options: IpvsOptions) -> Result<Self, Error> {
        let table = Table::open().await?;
        // Missing privileges show here, before anything else is waited for.
        table.servers().await?;
        let now = Instant::now();
        Ok(Self {
            table,
            link: Link::open()?,
            options,
            settings: settings.clone(),
            installed: None,
            suspect: true,
            own: BTreeSet::new(),
            glanced: 0,
            sizes: None,
            refused: Refusals::default(),
            started: now,
            counted: now,
        })
    }

    /// What the kernel holds, as far as known.
    pub fn installed(&self) -> Option<&Installed> {
        self.installed.as_ref()
    }

    fn choice(&self) -> Choice<'_> {
        Choice {
            own: &self.own,
            scheduler: self.options.scheduler,
            drain_bound: self.options.drain_bound,
        }
    }

    /// What does not depend on Services: settings of the kernel, the link, empty sets, rules.
    async fn ground(&mut self, done: &mut Done) -> Result<(), Error> {
        self.link.ensure().await?;
        sysctl::apply(self.options.strict_arp)?;
        let options = &self.options;
        self.table
            .set_timeouts(Timeouts {
                tcp: options.tcp_timeout,
                tcp_fin: options.tcp_fin_timeout,
                udp: options.udp_timeout,
            })
            .await?;
        sets::create().await?;
        for family in families() {
            if iptables::ensure(family, &self.settings).await? {
                tracing::info!(%family, "rules written");
                done.rebuilt += 1;
            }
        }
        self.sizes = Some(sizes()?);
        Ok(())
    }

    /// Reads what is ours.
    async fn observe(&mut self, intent: &Intent) -> Result<Installed, Error> {
        let now = self.started.elapsed();
        let addresses = self.link.addresses().await?;
        self.own = addresses.own;
        let mut installed = Installed::default();
        for (set, member) in sets::observe().await? {
            installed.apply(&Change::Join(set, member), now);
        }
        for ip in addresses.bound {
            installed.apply(&Change::Bind(ip), now);
        }
        let space = MarkSpace::beside(self.settings.mark);
        for (key, config) in self.table.servers().await? {
            if !self.is_ours(&key, &installed, intent, space) {
                continue;
            }
            installed.apply(&Change::AddServer(key, config), now);
            for seen in self.table.destinations(&key).await? {
                installed.observed(&key, seen.target, seen.weight, now);
            }
        }
        if let Some(earlier) = &self.installed {
            installed.drains_since(earlier);
        }
        Ok(installed)
    }

    /// Whose a server is: ours if our sets or marks have it, if it is wanted, or if it is on an address of our link.
    /// All others are left alone.
    fn is_ours(&self, key: &ServerKey, installed: &Installed, intent: &Intent, space: MarkSpace) -> bool {
        let socket = match key {
            ServerKey::Mark { mark, .. } => return space.has(*mark),
            ServerKey::Socket(socket) => socket,
        };
        let claimed = installed
            .socket(socket)
            .is_some_and(|state| state.sets.contains(&SetName::Sockets));
        let excluded = self
            .options
            .exclude_cidrs
            .iter()
            .any(|net| net.contains(&socket.ip));
        claimed || wants(intent, &self.choice(), socket) || (installed.is_bound(socket.ip) && !excluded)
    }

    /// Counts the connections of what drains, if it is time to.
    async fn count(&mut self) -> Result<(), Error> {
        if self.counted.elapsed() < self.options.drain_poll {
            return Ok(());
        }
        self.counted = Instant::now();
        let Some(installed) = &mut self.installed else {
            return Ok(());
        };
        let waiting: Vec<ServerKey> = installed.waiting().collect();
        for key in waiting {
            for seen in self.table.destinations(&key).await? {
                if seen.weight == 0 {
                    installed.counted(&key, &seen.target, seen.connections);
                }
            }
        }
        Ok(())
    }

    async fn write(&self, run: &[Change]) -> Result<(), Error> {
        match run {
            [Change::Bind(ip)] => self.link.bind(*ip).await,
            [Change::Unbind(ip)] => self.link.unbind(*ip).await,
            [Change::Join(..) | Change::Leave(..), ..] => sets::apply(run).await,
            [change, ..] => self.table.apply(change).await,
            [] => Ok(()),
        }
    }

    async fn try_turn(&mut self, intent: &Intent, touched: &Touched) -> Result<Turned, Error> {
        let mut turned = Turned::default();
        let mut scope = Some(touched);
        // What was in the way may be somebody else's.
        self.suspect |= self.refused.forgive(intent, touched);
        if self.suspect {
            self.ground(&mut turned.done).await?;
            let installed = self.observe(intent).await?;
            tracing::debug!(servers = installed.servers().count(), "servers found");
            turned.stale = unclaimed(&installed, intent);
            self.installed = Some(installed);
            self.suspect = false;
            scope = None;
        } else {
            self.count().await?;
        }
        let Some(installed) = &self.installed else {
            return Ok(turned);
        };
        let now = self.started.elapsed();
        let plan = diff(installed, intent, &self.choice(), scope, now);
        let had_waiting = installed.waiting().next().is_some();
        self.carry_out(&plan, intent, &mut turned.done).await?;
        turned.refused = self.refused.reasons().collect();
        let waits = self
            .installed
            .iter()
            .any(|installed| installed.waiting().next().is_some());
        if waits && !had_waiting {
            self.counted = Instant::now();
        }
        Ok(turned)
    }
}

impl Backend for Ipvs {
    fn reconfigure(&mut self, settings: &Settings) {
        self.settings = settings.clone();
        self.suspect = true;
    }

    async fn turn(&mut self, intent: &Intent, touched: &Touched) -> Result<Turned, Error> {
        let turned = self.try_turn(intent, touched).await;
        if turned.is_err() {
            self.suspect = true;
        }
        turned
    }

    async fn glance(&mut self) -> Result<bool, Error> {
        if self.suspect {
            return Ok(self.installed.is_some());
        }
        let same = self.looks_as_left().await?;
        if !same {
            tracing::info!("servers, their destinations, addresses or rules are not as they were left");
            self.suspect = true;
        }
        Ok(!same)
    }

    /// Addresses of this machine that came or went count as a change, too: node ports are served on them.
    async fn audit(&mut self) -> Result<(), Error> {
        if let Some(installed) = &self.installed
            && !self.suspect
            && !self.is_as_left(installed).await?
        {
            tracing::info!("servers, addresses, sets or rules are not as they were left");
            self.suspect = true;
        }
        Ok(())
    }

    fn next_wake(&self) -> Option<Duration> {
        let waits = self.installed.as_ref()?.waiting().next().is_some();
        let poll = waits.then(|| self.options.drain_poll.saturating_sub(self.counted.elapsed()));
        poll.into_iter().chain(self.refused.next_wake()).min()
    }

    fn elements(&self) -> Vec<(IpFamily, usize)> {
        let counted = |installed: &Installed| IpFamily::ALL.map(|family| (family, installed.count(family)));
        self.installed.iter().flat_map(counted).collect()
    }

    /// IPVS answers for a server without destinations: there is nothing to count.
    async fn counters(&self, _: IpFamily) -> Result<Option<Counters>, Error> {
        Ok(None)
    }
}

/// IPv6 only where the kernel has it and it is not switched off; what Services have of it is left out otherwise.
fn families() -> Vec<IpFamily> {
    let off = fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    let has_v6 = Path::new("/proc/net/if_inet6").exists() && off.is_ok_and(|off| off.trim() == "0");
    IpFamily::ALL
        .into_iter()
        .filter(|family| *family == IpFamily::V4 || has_v6)
        .collect()
}

/// UDP sockets that are there and that nobody claims: their Services went while nobody watched.
fn unclaimed(installed: &Installed, intent: &Intent) -> StaleFlows {
    let udp = installed
        .sockets()
        .filter(|(socket, _)| socket.protocol == Protocol::Udp);
    let gone = udp.filter_map(|(Socket { ip, protocol, port }, _)| {
        let vip = Frontend::Vip {
            ip: *ip,
            protocol: *protocol,
            port: *port,
        };
        let node_port = Frontend::NodePort {
            family: IpFamily::of(*ip),
            protocol: *protocol,
            port: *port,
        };
        let claimed = intent.get(&vip).is_some() || intent.get(&node_port).is_some();
        (!claimed).then_some((vip, Arc::from([])))
    });
    StaleFlows {
        allowed: gone.collect(),
        ..StaleFlows::default()
    }
}
