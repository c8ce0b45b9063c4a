// SPDX-License-Identifier: Apache-2.0
//! The dummy link and its addresses.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use berth_model::IpFamily;
use berth_proxy_core::ipvs::names::LINK;
use nlink::netlink::link::DummyLink;
use nlink::netlink::{Connection, Route};

use crate::Error;

/// A socket in the current network namespace, and the link once it is known.
pub(super) struct Link {
    connection: Connection<Route>,
    index: Option<u32>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// Where this machine's addresses are.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// On our link.
    pub(super) bound: BTreeSet<IpAddr>,
    /// On others.
    pub(super) own: BTreeSet<IpAddr>,
}

impl Link {
    pub(super) fn open() -> Result<Self, Error> {
        let connection = Connection::<Route>::new().map_err(Error::kernel("open a netlink socket"))?;
        Ok(Self {
            connection,
            index: None,
        })
    }

    /// Finds the link.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub(super) async fn find(&mut self) -> Result<Option<u32>, Error> {
        let found = self.connection.get_link_by_name(LINK).await;
        let found = found.map_err(Error::kernel(format!("look for link {LINK}")))?;
        self.index = found.map(|link| link.ifindex());
        Ok(self.index)
    }

    /// Finds the link, or makes it. It stays down, as kube-proxy leaves it: its addresses are the host's all the same,
    /// and nothing is ever sent on it.
    ///
    /// # Errors
    /// The kernel has no dummy links, or refused.
    pub(super) async fn ensure(&mut self) -> Result<u32, Error> {
        if let Some(index) = self.find().await? {
            return Ok(index);
        }
        match self.connection.add_link(DummyLink::new(LINK)).await {
            Ok(()) => {}
            Err(error) if error.is_already_exists() => {}
            Err(error) if error.is_not_supported() => {
                return Err(Error::Missing {
                    what: format!("this kernel has no dummy links, and {LINK} is one"),
                    way_out: "load the module dummy on the node, or use --proxy-mode=nftables".to_owned(),
                });
            }
            Err(error) => return Err(Error::kernel(format!("add link {LINK}"))(error)),
        }
        let found = self.find().await?;
        found.ok_or_else(|| Error::Missing {
            what: format!("link {LINK} was added and is not there"),
            way_out: format!("see who deletes it: ip monitor link dev {LINK}"),
        })
    }

    /// Every address of this machine.
    ///
    /// # Errors
    /// They cannot be listed.
    pub(super) async fn addresses(&self) -> Result<Addresses, Error> {
        let listed = self.connection.get_addresses().await;
        let mut addresses = Addresses::default();
        for address in listed.map_err(Error::kernel("list addresses"))? {
            let Some(ip) = address.local().or(address.address()) else {
                continue;
            };
            if Some(address.ifindex()) == self.index {
                addresses.bound.insert(*ip);
            } else {
                addresses.own.insert(*ip);
            }
        }
        // The link's own link-local address, where somebody has set the link up.
        addresses.bound.retain(|ip| match ip {
            IpAddr::V4(_) => true,
            IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        });
        Ok(addresses)
    }

    /// Puts the address on the link.
    ///
    /// # Errors
    /// The kernel refused.
    pub(super) async fn bind(&self, ip: IpAddr) -> Result<(), Error> {
        let index = self.index.unwrap_or_default();
        let bound = self.connection.add_address_by_index(index, ip, bits(ip)).await;
        bound.map_err(Error::kernel(format!("put {ip} on {LINK}")))
    }

    /// Takes it off.
    ///
    /// # Errors
    /// The kernel refused.
    pub(super) async fn unbind(&self, ip: IpAddr) -> Result<(), Error> {
        let index = self.index.unwrap_or_default();
        match self.connection.del_address_by_index(index, ip, bits(ip)).await {
            Err(error) if !error.is_not_found() => Err(Error::kernel(format!("take {ip} off {LINK}"))(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes the link; says whether it was there.
    ///
    /// # Errors
    /// The kernel refused.
    pub(super) async fn remove(&mut self) -> Result<bool, Error> {
        self.index = None;
        let removed = self.connection.del_link_if_exists(LINK).await;
        removed.map_err(Error::kernel(format!("delete link {LINK}")))
    }
}

fn bits(ip: IpAddr) -> u8 {
    IpFamily::of(ip).bits()
}
