// SPDX-License-Identifier: Apache-2.0
//! What IPVS needs of the kernel's settings.

use std::fs;
use std::path::Path;

use crate::Error;

/// Without it the packets that IPVS sends on leave conntrack, and nothing masquerades them.
const CONNTRACK: &str = "net/ipv4/vs/conntrack";

/// What helps: a connection whose endpoint went ends instead of hanging, a client stays with no endpoint that takes no
/// connections, and packets pass through this host. kube-proxy sets them, too.
const HELPFUL: [(&str, u32); 3] = [
    ("net/ipv4/vs/expire_nodest_conn", 1),
    ("net/ipv4/vs/expire_quiescent_template", 1),
    ("net/ipv4/ip_forward", 1),
];

/// With `--ipvs-strict-arp`: only the link that has an address answers for it. The addresses on our link would be claimed on
/// every other link otherwise, by every node: an announcer needs it.
const STRICT_ARP: [(&str, u32); 2] = [
    ("net/ipv4/conf/all/arp_ignore", 1),
    ("net/ipv4/conf/all/arp_announce", 2),
];

/// Sets them. What merely helps is warned of where it cannot be set.
///
/// # Errors
/// `vs/conntrack` is off and cannot be switched on.
pub(super) fn apply(strict_arp: bool) -> Result<(), Error> {
    set(CONNTRACK, 1).map_err(|said| Error::Missing {
        what: format!("sysctl {CONNTRACK} is not 1 and cannot be set ({said})"),
        way_out: format!(
            "run berth proxy with the right to write it, or set it on the node: sysctl -w {}=1",
            CONNTRACK.replace('/', ".")
        ),
    })?;
    let strict = STRICT_ARP.iter().filter(|_| strict_arp);
    for (name, value) in HELPFUL.iter().chain(strict) {
        if let Err(error) = set(name, *value) {
            tracing::warn!(sysctl = name, value, %error, "sysctl not set; set it on the node");
        }
    }
    Ok(())
}

fn set(name: &str, value: u32) -> std::io::Result<()> {
    let path = Path::new("/proc/sys").join(name);
    let known: Option<u32> = fs::read_to_string(&path)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    if known == Some(value) {
        return Ok(());
    }
    fs::write(&path, value.to_string())?;
    tracing::info!(sysctl = name, from = known, to = value, "sysctl set");
    Ok(())
}
