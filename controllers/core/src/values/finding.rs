// SPDX-License-Identifier: Apache-2.0
//! What is wrong with values in use, in words.

use std::fmt;
use std::net::IpAddr;

use berth_model::ServiceKey;

use crate::admission::Exempt;
use crate::pools::{Item, PoolRef};

/// The object that something is said about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A Service.
    Service(ServiceKey),
    /// An IPAddress, which is named by its address.
    IpAddress(IpAddr),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) => write!(f, "Service {key}"),
            Self::IpAddress(address) => write!(f, "IPAddress {address}"),
        }
    }
}

/// What is not as it should be, and stops nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Two Services have a value; it counts as the older one's.
    Duplicate {
        /// The value.
        item: Item,
        /// Whose it is.
        holder: ServiceKey,
        /// Who has it too.
        service: ServiceKey,
    },
    /// No ServiceCIDR has it, or the API server's range of node ports has not.
    OutOfRange {
        /// The value.
        item: Item,
        /// Who has it.
        service: ServiceKey,
    },
    /// Every ServiceCIDR that has it is being deleted.
    Terminating {
        /// The value.
        item: Item,
        /// Who has it.
        service: ServiceKey,
        /// The ServiceCIDRs.
        cidrs: Vec<String>,
    },
    /// It is of a pool that is not for the Service.
    Encroachment {
        /// The value.
        item: Item,
        /// Who has it.
        service: ServiceKey,
        /// The pool.
        pool: String,
        /// Whether pools do not apply to the Service.
        exempt: Option<Exempt>,
    },
    /// Pools that were there when the Service was made are for it, and it is of none of them: it was made past Berth, or
    /// other pools were for it then.
    Astray {
        /// The value.
        item: Item,
        /// Who has it.
        service: ServiceKey,
        /// The pools.
        pools: Vec<PoolRef>,
    },
    /// An IPAddress that others than the API server's allocator manage has an address of a pool, and no Service has it.
    Foreign {
        /// The address, by which the IPAddress is named.
        address: IpAddr,
        /// Who says that he manages it.
        manager: Option<String>,
        /// The pool.
        pool: String,
    },
}

impl Finding {
    /// The value.
    pub fn item(&self) -> Item {
        match self {
            Self::Duplicate { item, .. }
            | Self::OutOfRange { item, .. }
            | Self::Terminating { item, .. }
            | Self::Encroachment { item, .. }
            | Self::Astray { item, .. } => *item,
            Self::Foreign { address, .. } => Item::Address(*address),
        }
    }

    /// What has it.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Duplicate { service, .. }
            | Self::OutOfRange { service, .. }
            | Self::Terminating { service, .. }
            | Self::Encroachment { service, .. }
            | Self::Astray { service, .. } => Subject::Service(service.clone()),
            Self::Foreign { address, .. } => Subject::IpAddress(*address),
        }
    }

    /// The stable text form.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Duplicate { .. } => "Duplicate",
            Self::OutOfRange { .. } => "OutOfRange",
            Self::Terminating { .. } => "Terminating",
            Self::Encroachment { .. } => "Encroachment",
            Self::Astray { .. } => "Astray",
            Self::Foreign { .. } => "Foreign",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate {
                item,
                holder,
                service,
            } => write!(
                f,
                "{item} of Service {service} is Service {holder}'s, the older one: delete one of the two and create it anew"
            ),
            Self::OutOfRange { item, service } => write!(
                f,
                "{item} of Service {service} is in no range of the API server's: widen the range, or create the Service anew"
            ),
            Self::Terminating { item, service, cidrs } => write!(
                f,
                "{item} of Service {service} is in no ServiceCIDR but {}, which is being deleted and stays until nobody has an \
                 address of it: create the Service anew, or add a ServiceCIDR around the address",
                cidrs.join(" and ")
            ),
            Self::Encroachment {
                item, service, pool, ..
            } => write!(
                f,
                "{item} of Service {service} is of pool {pool}, which is not for it: create the Service anew, or have the pool \
                 select it"
            ),
            Self::Astray { item, service, pools } => {
                let pools: Vec<String> = pools.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "{item} of Service {service} is not of {}, which is for it: create the Service anew to have one of its pool",
                    pools.join(" nor of ")
                )
            }
            Self::Foreign {
                address,
                manager,
                pool,
            } => {
                let manager = manager.as_deref().unwrap_or("nobody that its labels name");
                write!(
                    f,
                    "{address} is of pool {pool}, and no Service can be given it: its IPAddress is managed by {manager}, and not \
                     by the API server's allocator. Delete the IPAddress, or exclude the address from the pool"
                )
            }
        }
    }
}
