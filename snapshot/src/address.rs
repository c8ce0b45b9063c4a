// SPDX-License-Identifier: Apache-2.0
//! Reading addresses the way the API server has always accepted them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads an address, tolerating leading zeros in IPv4 (`010.0.0.1` is ten, not octal eight) and
/// folding IPv4-mapped IPv6 into IPv4, as upstream's lenient parser does. Written back with
/// `to_string`, the result is canonical.
pub fn parse_lenient(text: &str) -> Option<IpAddr> {
    if let Ok(addr) = text.parse::<IpAddr>() {
        return Some(addr.to_canonical());
    }
    if text.contains(':') {
        return mapped(text).map(IpAddr::V4);
    }
    dotted(text).map(IpAddr::V4)
}

fn dotted(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// `::ffff:010.0.0.1`: the only IPv6 form in which leading zeros of an octet can occur and survive.
fn mapped(text: &str) -> Option<Ipv4Addr> {
    let (head, tail) = text.rsplit_once(':')?;
    let low = dotted(tail)?;
    let prefix: Ipv6Addr = format!("{head}:0:0").parse().ok()?;
    (prefix.to_ipv4_mapped()? == Ipv4Addr::UNSPECIFIED).then_some(low)
}
