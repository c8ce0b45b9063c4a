// SPDX-License-Identifier: Apache-2.0
//! What the tables look like from outside, without any program and whatever is in them: the chains that exist once
//! (nf_tables: handles, and how many rules and jumps each has), or the size of each table (legacy). A rule that was
//! replaced by another, and in the nft variant one in a chain of a Service port, does not show.

use berth_model::IpFamily;
use berth_proxy_core::iptables::names::{Fixed, Table};
use berth_runtime::sys::xtables::{TableSize, Tables, table_size};

use super::Programs;
use crate::Error;
use crate::apply::probe::{Owned, Probe, Shape};

/// How somebody else's changes are noticed: it depends on whose tables the programs write.
#[derive(Debug)]
pub(super) enum Watch {
    /// Those of nf_tables, whose generation tells whether to look at all.
    NfTables(Probe),
    /// Those of ip_tables.
    Legacy,
}

/// What a family's tables look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Shapes(Vec<Shape>),
    Sizes(Vec<Option<TableSize>>),
}

impl Watch {
    /// Finds out what the programs are.
    ///
    /// # Errors
    /// They do not say.
    pub(super) async fn open(programs: &Programs) -> Result<Self, Error> {
        if programs.are_of_nf_tables().await? {
            Ok(Self::NfTables(Probe::open()?))
        } else {
            Ok(Self::Legacy)
        }
    }

    /// The number that each change of somebody's increases, if there is one.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) async fn generation(&self) -> Result<Option<u32>, Error> {
        match self {
            Self::NfTables(probe) => Ok(Some(probe.generation().await?)),
            Self::Legacy => Ok(None),
        }
    }

    /// What the family's tables look like.
    ///
    /// # Errors
    /// They cannot be looked at.
    pub(super) async fn look(&self, family: IpFamily) -> Result<Look, Error> {
        match self {
            Self::NfTables(probe) => {
                let mut shapes = Vec::new();
                for table in Table::ALL {
                    let chains = Fixed::ALL.map(|chain| chain.as_str().to_owned());
                    shapes.push(probe.shape(family, table.as_str(), Owned::Chains, chains).await?);
                }
                Ok(Look::Shapes(shapes))
            }
            Self::Legacy => Ok(Look::Sizes(sizes(family)?)),
        }
    }
}

/// The size of each legacy table that we write to.
///
/// # Errors
/// They cannot be looked at.
pub(crate) fn sizes(family: IpFamily) -> Result<Vec<Option<TableSize>>, Error> {
    let tables = match family {
        IpFamily::V4 => Tables::V4,
        IpFamily::V6 => Tables::V6,
    };
    let size = |table: Table| table_size(tables, table.as_str());
    let sizes: std::io::Result<_> = Table::ALL.into_iter().map(size).collect();
    sizes.map_err(|error| {
        Error::Socket(nix::errno::Errno::from_raw(
            error.raw_os_error().unwrap_or_default(),
        ))
    })
}
