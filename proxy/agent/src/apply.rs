// SPDX-License-Identifier: Apache-2.0
//! Writing to and reading from the kernel. No decisions: those are the core's.

mod attributes;
mod batch;
pub mod conntrack;
pub mod count;
mod declare;
mod elements;
mod fill;
pub mod nft;
mod observe;
pub(crate) mod probe;
mod rules;
mod set_userdata;

use berth_model::IpFamily;
use berth_proxy_core::nft::Layout;
use nlink::netlink::nftables::Family;

pub use fill::Filling;
pub use observe::Observed;

/// One of our tables.
#[derive(Clone, Copy, Debug)]
struct Place {
    table: &'static str,
    family: IpFamily,
}

impl Place {
    fn of(layout: &Layout) -> Self {
        Self {
            table: layout.table(),
            family: layout.family(),
        }
    }
}

fn family_of(family: IpFamily) -> Family {
    match family {
        IpFamily::V4 => Family::Ip,
        IpFamily::V6 => Family::Ip6,
    }
}
