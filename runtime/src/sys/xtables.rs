// SPDX-License-Identifier: Apache-2.0
//! How large a table of the legacy iptables is: one system call, whatever is in it. The programs read and print it all.
#![expect(
    unsafe_code,
    reason = "the option takes a table's name in the buffer that it answers in, which no wrapper offers"
)]

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO` (Linux's uapi/linux/netfilter_ipv4/ip_tables.h and ip6_tables.h).
const GET_INFO: libc::c_int = 64;
/// `XT_TABLE_MAXNAMELEN`.
const NAME: usize = 32;

/// `struct ipt_getinfo`, and `struct ip6t_getinfo` alike.
#[repr(C)]
struct Info {
    name: [u8; NAME],
    valid_hooks: libc::c_uint,
    hook_entry: [libc::c_uint; 5],
    underflow: [libc::c_uint; 5],
    entries: libc::c_uint,
    size: libc::c_uint,
}

/// A table's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSize {
    /// Rules, and a few entries for each chain.
    pub entries: u32,
    /// In bytes.
    pub bytes: u32,
}

/// The family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// ip_tables.
    V4,
    /// ip6_tables.
    V6,
}

/// How large a table is in the current network namespace; `None` where the kernel has no such table.
///
/// # Errors
/// `PermissionDenied` without `CAP_NET_ADMIN`.
pub fn table_size(family: Tables, table: &str) -> io::Result<Option<TableSize>> {
    let (domain, level) = match family {
        Tables::V4 => (Domain::IPV4, libc::IPPROTO_IP),
        Tables::V6 => (Domain::IPV6, libc::IPPROTO_IPV6),
    };
    let mut info = Info {
        name: [0; NAME],
        valid_hooks: 0,
        hook_entry: [0; 5],
        underflow: [0; 5],
        entries: 0,
        size: 0,
    };
    // One byte less, so that the name ends in a zero.
    let room = info.name.iter_mut().take(NAME - 1);
    room.zip(table.bytes()).for_each(|(to, from)| *to = from);
    let socket = Socket::new(domain, Type::DGRAM, None)?;
    let mut length = libc::socklen_t::try_from(size_of::<Info>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `info` is a live Info of `length` bytes, laid out as the kernel's structure, all of whose bit patterns are
    // valid; the kernel reads the name and writes at most `length` bytes. `socket` is open.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            GET_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        return Ok(Some(TableSize {
            entries: info.entries,
            bytes: info.size,
        }));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOPROTOOPT) => Ok(None),
        Some(_) | None => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_nobody_has_is_none() {
        for family in [Tables::V4, Tables::V6] {
            match table_size(family, "berth-no-such-table") {
                Ok(found) => assert_eq!(found, None),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
            }
        }
    }

    #[test]
    fn the_structure_is_the_kernels() {
        assert_eq!(size_of::<Info>(), 84);
    }
}
