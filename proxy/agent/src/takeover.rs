// SPDX-License-Identifier: Apache-2.0
//! `--takeover`: what a kube-proxy left on the node, which would go on refusing and dropping packets beside our rules.

use std::fmt;

use berth_model::IpFamily;

use crate::Error;
use crate::apply::nft::Nft;
use crate::backend::program_path;
use crate::options::ProxyMode;
use crate::{iptables, ipvs};

/// kube-proxy's table, one in family `ip` and one in `ip6`.
const KUBE_PROXY: &str = "kube-proxy";

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// nftables tables.
    pub tables: usize,
    /// Chains in iptables, both variants and families.
    pub chains: usize,
    /// Whether virtual servers of kube-proxy's IPVS mode are there, which are left alone.
    pub servers_left: bool,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} nftables tables, {} iptables chains",
            self.tables, self.chains
        )
    }
}

/// Removes kube-proxy's nftables tables, and its iptables chains with the jumps to them. In mode iptables the chains are
/// ours by now: that mode takes them over as it finds them. KUBE-FIREWALL is kubelet's and stays.
///
/// # Errors
/// Missing privileges, or the kernel refused.
pub async fn take_over(mode: ProxyMode) -> Result<Taken, Error> {
    let mut taken = Taken::default();
    let nft = Nft::open_for(KUBE_PROXY)?;
    for family in IpFamily::ALL {
        taken.tables += usize::from(nft.remove(family).await?);
    }
    if mode != ProxyMode::Iptables {
        taken.chains = iptables::remove(&program_path(), iptables::Whose::Anybody).await?;
    }
    taken.servers_left = mode != ProxyMode::Ipvs && ipvs::has_foreign_link().await?;
    Ok(taken)
}
