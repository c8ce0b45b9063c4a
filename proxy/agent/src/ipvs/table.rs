// SPDX-License-Identifier: Apache-2.0
//! The kernel's table of virtual servers.

use std::fmt;
use std::process::Stdio;

use berth_proxy_core::Target;
use berth_proxy_core::ipvs::{Change, ServerConfig, ServerKey};
use futures::StreamExt;
use nlink::netlink::Connection;
use tokio::process::Command;

use super::wire::{
    AllServers, DEL_DEST, DEL_SERVICE, DestinationReply, DestinationRequest, GET_DEST, IpvsFamily, NEW_DEST,
    NEW_SERVICE, Nothing, SET_DEST, SET_SERVICE, ServerReply, ServerRequest, Timeouts,
};
use crate::Error;

/// A destination as it stands in the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) target: Target,
    pub(super) weight: u32,
    pub(super) connections: u32,
}

/// A socket of the IPVS family in the current network namespace.
pub(super) struct Table {
    connection: Connection<IpvsFamily>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

impl Table {
    /// Opens the socket, and has the kernel load the module if it is not there.
    ///
    /// # Errors
    /// The kernel has no IPVS.
    pub(super) async fn open() -> Result<Self, Error> {
        if let Some(table) = Self::find().await? {
            return Ok(table);
        }
        // The kernel does not load this one by the family's name.
        let mut modprobe = Command::new("modprobe");
        modprobe.args(["-q", "ip_vs"]).stdin(Stdio::null());
        match modprobe.status().await {
            Ok(status) => tracing::debug!(%status, "modprobe ip_vs"),
            Err(error) => tracing::debug!(%error, "modprobe ip_vs"),
        }
        Self::find().await?.ok_or_else(|| Error::Missing {
            what: "this kernel has no IPVS (generic netlink family IPVS)".to_owned(),
            way_out: "load the module ip_vs on the node (and ip_vs_rr or that of --ipvs-scheduler, ip_vs_mh, nf_conntrack, \
                      xt_ipvs, dummy), or use --proxy-mode=nftables"
                .to_owned(),
        })
    }

    async fn find() -> Result<Option<Self>, Error> {
        match Connection::<IpvsFamily>::new_async().await {
            Ok(connection) => Ok(Some(Self { connection })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(Error::kernel("open a netlink socket")(error)),
        }
    }

    /// Every server, ours and others'.
    ///
    /// # Errors
    /// They cannot be listed.
    pub(super) async fn servers(&self) -> Result<Vec<(ServerKey, ServerConfig)>, Error> {
        let failed = || Error::kernel("list IPVS servers");
        let mut stream = self
            .connection
            .dump_typed_stream::<_, ServerReply>(AllServers)
            .await
            .map_err(failed())?;
        let mut servers = Vec::new();
        while let Some(reply) = stream.next().await {
            servers.extend(reply.map_err(failed())?.0);
        }
        Ok(servers)
    }

    /// The destinations of a server.
    ///
    /// # Errors
    /// They cannot be listed.
    pub(super) async fn destinations(&self, key: &ServerKey) -> Result<Vec<Seen>, Error> {
        let failed = || Error::kernel(format!("list the destinations of IPVS server {key}"));
        let request = ServerRequest::<GET_DEST> {
            key: *key,
            config: None,
        };
        let mut stream = self
            .connection
            .dump_typed_stream::<_, DestinationReply>(request)
            .await
            .map_err(failed())?;
        let mut seen = Vec::new();
        while let Some(reply) = stream.next().await {
            let reply = reply.map_err(failed())?;
            seen.extend(reply.target(key.family()).map(|target| Seen {
                target,
                weight: reply.weight,
                connections: reply.connections,
            }));
        }
        Ok(seen)
    }

    /// Sets the timeouts of connections.
    ///
    /// # Errors
    /// The kernel refused.
    pub(super) async fn set_timeouts(&self, timeouts: Timeouts) -> Result<(), Error> {
        let sent = self.connection.send_typed::<_, Nothing>(timeouts).await;
        sent.map(|_| ())
            .map_err(Error::kernel("set the timeouts of IPVS"))
    }

    /// Carries out a change of servers or destinations; others are none of its business.
    ///
    /// # Errors
    /// The kernel refused.
    pub(super) async fn apply(&self, change: &Change) -> Result<(), Error> {
        let sent = match change {
            Change::AddServer(key, config) => self.server::<NEW_SERVICE>(key, Some(*config)).await,
            Change::EditServer(key, config) => self.server::<SET_SERVICE>(key, Some(*config)).await,
            Change::RemoveServer(key) => self.server::<DEL_SERVICE>(key, None).await,
            Change::AddDestination(key, target) => self.destination::<NEW_DEST>(key, target, Some(1)).await,
            Change::Weigh(key, target, weight) => {
                self.destination::<SET_DEST>(key, target, Some(*weight)).await
            }
            Change::RemoveDestination(key, target) => self.destination::<DEL_DEST>(key, target, None).await,
            Change::Join(..) | Change::Leave(..) | Change::Bind(_) | Change::Unbind(_) => Ok(()),
        };
        match (sent, change) {
            (Err(error), Change::AddServer(_, config) | Change::EditServer(_, config))
                if error.is_not_found() =>
            {
                Err(Error::Missing {
                    what: format!("{change}: this kernel has no IPVS scheduler {}", config.scheduler),
                    way_out: format!(
                        "load the module ip_vs_{} on the node, or name another with --ipvs-scheduler",
                        config.scheduler
                    ),
                })
            }
            (sent, _) => sent.map_err(Error::kernel(change.to_string())),
        }
    }

    async fn server<const CMD: u8>(
        &self,
        key: &ServerKey,
        config: Option<ServerConfig>,
    ) -> nlink::Result<()> {
        let request = ServerRequest::<CMD> { key: *key, config };
        self.connection
            .send_typed::<_, Nothing>(request)
            .await
            .map(|_| ())
    }

    async fn destination<const CMD: u8>(
        &self,
        key: &ServerKey,
        target: &Target,
        weight: Option<u32>,
    ) -> nlink::Result<()> {
        let request = DestinationRequest::<CMD> {
            key: *key,
            target: *target,
            weight,
        };
        self.connection
            .send_typed::<_, Nothing>(request)
            .await
            .map(|_| ())
    }
}
