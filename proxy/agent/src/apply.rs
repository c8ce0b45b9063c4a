// SPDX-License-Identifier: Apache-2.0
//! Writing to and reading from the kernel. No decisions: those are the core's.

mod attributes;
pub mod conntrack;
mod elements;
pub mod nft;
mod observe;
mod rules;
mod set_userdata;

use berth_model::IpFamily;
use nlink::netlink::nftables::Family;

pub use observe::Observed;

fn family_of(family: IpFamily) -> Family {
    match family {
        IpFamily::V4 => Family::Ip,
        IpFamily::V6 => Family::Ip6,
    }
}
