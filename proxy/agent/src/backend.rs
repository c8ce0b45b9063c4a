// SPDX-License-Identifier: Apache-2.0
//! The seam between the sync loop and what carries its intent out: one trait, and the backend that was chosen.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use berth_model::{IpFamily, ServiceKey};
use berth_proxy_core::conntrack::StaleFlows;
use berth_proxy_core::{Intent, Settings, Touched};
use tokio::runtime::Handle;

use crate::Error;
use crate::apply::nft::{Counters, Nft};
use crate::iptables::{self, Counts, Iptables, Variant};
use crate::ipvs::{self, Ipvs};
use crate::nftables::Nftables;
use crate::options::{Options, ProxyMode};
use crate::userspace::{Capacity, Refusal, Userspace};

/// How long a Service that was refused is left alone: what the kernel does not take now, it will hardly take in a moment.
pub(crate) const REFUSED_FOR: Duration = Duration::from_secs(30);

/// What a turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Tables written as a whole.
    pub rebuilt: usize,
    /// Tables whose sets of networks were written.
    pub networks: usize,
    /// Elements added, replaced, removed.
    pub changes: usize,
    /// UDP flows forgotten.
    pub forgotten: usize,
    /// Bindings of clients to endpoints that their Services do not have any more, removed.
    pub unbound: usize,
}

impl Done {
    /// Whether the kernel was left alone.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what another family's turn did.
    pub fn merge(&mut self, other: Self) {
        let Self {
            rebuilt,
            networks,
            changes,
            forgotten,
            unbound,
        } = other;
        self.rebuilt += rebuilt;
        self.networks += networks;
        self.changes += changes;
        self.forgotten += forgotten;
        self.unbound += unbound;
    }
}

/// What a backend's turn brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turned {
    /// What it did.
    pub done: Done,
    /// Flows of frontends that it found and that nobody claims: no update will ever touch them.
    pub stale: StaleFlows,
    /// Services that the kernel refuses, each with its reason: they are left as they are, and the others are served.
    pub refused: BTreeMap<ServiceKey, String>,
}

/// Brings an intent about and keeps it. It owns what is known of the kernel, reads that when it starts, and touches
/// nothing that is not its own.
pub trait Backend: fmt::Debug + Send {
    /// Takes in other settings. Writes nothing; the next turn, which is told of all frontends, does.
    fn reconfigure(&mut self, settings: &Settings);

    /// Begins to look up what the kernel holds, where that takes long, so that the first turn need not. Does not wait for it,
    /// writes nothing, and nothing depends on it.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    fn prepare(&mut self) -> impl Future<Output = Result<(), Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// Carries out what the intent wants and the kernel does not have. `touched` is all that may differ since the last
    /// turn that succeeded: the rest need not be looked at, unless something was found changed by somebody else.
    ///
    /// # Errors
    /// Something was refused or could not be read. What was carried out holds; the next turn goes on from there.
    fn turn(
        &mut self,
        intent: &Intent,
        touched: &Touched,
    ) -> impl Future<Output = Result<Turned, Error>> + Send;

    /// Looks, at a cost that hardly depends on how much there is, whether somebody else changed what is ours, and has the
    /// next turn look closer if so; says whether it has. Not every change shows: [`Backend::audit`] is for the rest.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    fn glance(&mut self) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Has the next turn look closer at all that somebody else may have changed.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    fn audit(&mut self) -> impl Future<Output = Result<(), Error>> + Send;

    /// How long until something is left to do without any change of the intent; `None` if nothing is.
    fn next_wake(&self) -> Option<Duration>;

    /// How many elements (nftables), or chains and rules of frontends (iptables), as far as known, by family.
    fn elements(&self) -> Vec<(IpFamily, usize)>;

    /// What was counted of the family's packets since its rules were written first; `None` where the backend counts
    /// nothing.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    fn counters(&self, family: IpFamily) -> impl Future<Output = Result<Option<Counters>, Error>> + Send;
}

/// The backend that `--proxy-mode` names.
#[derive(Debug)]
pub enum Chosen {
    /// Rules in nftables.
    Nftables(Box<Nftables>),
    /// kube-proxy's chains in iptables.
    Iptables(Iptables),
    /// Virtual servers in IPVS.
    Ipvs(Box<Ipvs>),
    /// Relays in this process.
    Userspace(Box<Userspace>),
}

impl Chosen {
    /// Opens what the mode needs.
    ///
    /// # Errors
    /// Missing privileges, or a kernel without what it takes.
    pub(crate) async fn open(
        options: &Options,
        settings: &Settings,
        retire_delay: Duration,
    ) -> Result<Self, Error> {
        match options.mode {
            ProxyMode::Nftables => {
                let nft = Nft::open()?;
                // Missing privileges show here, before anything else is waited for.
                nft.has_table(IpFamily::V4).await?;
                let backend = Nftables::new(nft, settings, retire_delay);
                Ok(Self::Nftables(Box::new(backend)))
            }
            ProxyMode::Iptables => {
                let backend = Iptables::open(&program_path(), Variant::Default)?;
                backend.check().await?;
                Ok(Self::Iptables(backend))
            }
            ProxyMode::Ipvs => {
                let backend = Ipvs::open(settings, options.ipvs.clone()).await?;
                Ok(Self::Ipvs(Box::new(backend)))
            }
            ProxyMode::Userspace => {
                let nft = Userspace::nft()?;
                nft.has_table(IpFamily::V4).await?;
                let (capacity, runtime) = (Capacity::of_process(), Handle::current());
                let backend = Userspace::new(
                    nft,
                    settings,
                    retire_delay,
                    options.proxy_ports,
                    capacity,
                    runtime,
                );
                Ok(Self::Userspace(Box::new(backend)))
            }
        }
    }
}

impl Chosen {
    /// What is counted of rules in iptables; nothing in other modes.
    pub(crate) fn rule_counts(&self) -> Vec<(IpFamily, Counts)> {
        match self {
            Self::Iptables(backend) => backend.counts().collect(),
            Self::Nftables(_) | Self::Ipvs(_) | Self::Userspace(_) => Vec::new(),
        }
    }

    /// What was not relayed, by reason; nothing where nothing is relayed.
    pub(crate) fn refusals(&self) -> BTreeMap<Refusal, u64> {
        match self {
            Self::Nftables(_) | Self::Iptables(_) | Self::Ipvs(_) => BTreeMap::new(),
            Self::Userspace(backend) => backend.refusals(),
        }
    }
}

impl Backend for Chosen {
    fn reconfigure(&mut self, settings: &Settings) {
        match self {
            Self::Nftables(backend) => backend.reconfigure(settings),
            Self::Iptables(backend) => backend.reconfigure(settings),
            Self::Ipvs(backend) => backend.reconfigure(settings),
            Self::Userspace(backend) => backend.reconfigure(settings),
        }
    }

    async fn prepare(&mut self) -> Result<(), Error> {
        match self {
            Self::Nftables(backend) => backend.prepare().await,
            Self::Iptables(backend) => backend.prepare().await,
            Self::Ipvs(backend) => backend.prepare().await,
            Self::Userspace(backend) => backend.prepare().await,
        }
    }

    async fn turn(&mut self, intent: &Intent, touched: &Touched) -> Result<Turned, Error> {
        match self {
            Self::Nftables(backend) => backend.turn(intent, touched).await,
            Self::Iptables(backend) => backend.turn(intent, touched).await,
            Self::Ipvs(backend) => backend.turn(intent, touched).await,
            Self::Userspace(backend) => backend.turn(intent, touched).await,
        }
    }

    async fn glance(&mut self) -> Result<bool, Error> {
        match self {
            Self::Nftables(backend) => backend.glance().await,
            Self::Iptables(backend) => backend.glance().await,
            Self::Ipvs(backend) => backend.glance().await,
            Self::Userspace(backend) => backend.glance().await,
        }
    }

    async fn audit(&mut self) -> Result<(), Error> {
        match self {
            Self::Nftables(backend) => backend.audit().await,
            Self::Iptables(backend) => backend.audit().await,
            Self::Ipvs(backend) => backend.audit().await,
            Self::Userspace(backend) => backend.audit().await,
        }
    }

    fn next_wake(&self) -> Option<Duration> {
        match self {
            Self::Nftables(backend) => backend.next_wake(),
            Self::Iptables(backend) => backend.next_wake(),
            Self::Ipvs(backend) => backend.next_wake(),
            Self::Userspace(backend) => backend.next_wake(),
        }
    }

    fn elements(&self) -> Vec<(IpFamily, usize)> {
        match self {
            Self::Nftables(backend) => backend.elements(),
            Self::Iptables(backend) => backend.elements(),
            Self::Ipvs(backend) => backend.elements(),
            Self::Userspace(backend) => backend.elements(),
        }
    }

    async fn counters(&self, family: IpFamily) -> Result<Option<Counters>, Error> {
        match self {
            Self::Nftables(backend) => backend.counters(family).await,
            Self::Iptables(backend) => backend.counters(family).await,
            Self::Ipvs(backend) => backend.counters(family).await,
            Self::Userspace(backend) => backend.counters(family).await,
        }
    }
}

/// Where programs are looked for.
pub(crate) fn program_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into())
}

/// Removes everything of every backend's from this node, and nothing else; or what backends other than that of a
/// mode left behind. A mode that fails, say for a kernel without what it takes, keeps no other one from being removed.
///
/// # Errors
/// The first one: missing privileges, or the kernel refused. Further ones are logged.
pub(crate) async fn remove(but: Option<ProxyMode>) -> Result<(), Error> {
    let mut failed = None;
    for mode in ProxyMode::ALL {
        if Some(mode) == but {
            continue;
        }
        if let Err(error) = remove_mode(mode).await {
            match &failed {
                None => failed = Some(error),
                Some(_) => tracing::warn!(%mode, %error, "clean-up"),
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn remove_mode(mode: ProxyMode) -> Result<(), Error> {
    match mode {
        ProxyMode::Nftables => remove_tables(mode, &Nft::open()?).await,
        ProxyMode::Iptables => {
            let chains = iptables::remove(&program_path(), iptables::Whose::Ours).await?;
            tracing::info!(%mode, chains, "clean-up");
            Ok(())
        }
        ProxyMode::Ipvs => {
            let removed = ipvs::remove().await?;
            tracing::info!(%mode, removed, "clean-up");
            Ok(())
        }
        ProxyMode::Userspace => remove_tables(mode, &Userspace::nft()?).await,
    }
}

async fn remove_tables(mode: ProxyMode, nft: &Nft) -> Result<(), Error> {
    for family in IpFamily::ALL {
        let removed = nft.remove(family).await?;
        tracing::info!(%mode, %family, removed, "clean-up");
    }
    Ok(())
}
