//! Values of the engine for Python, and how a packet came in.

use std::net::SocketAddr;

use kbe_nat_engine::tuple::Family;
use kbe_nat_engine::{ChecksumState, Meta};
use kbe_nat_netlink as netlink;

/// Address and port.
pub(crate) fn end(address: &SocketAddr) -> (String, u16) {
    (address.ip().to_string(), address.port())
}

/// A family as the kernel's tables have it.
pub(crate) fn table_family(family: Family) -> netlink::Family {
    match family {
        Family::V4 => netlink::Family::V4,
        Family::V6 => netlink::Family::V6,
    }
}

/// How a packet came in.
pub(crate) fn meta(interface: u32, incomplete_checksum: bool, is_captured: bool) -> Meta {
    let checksum =
        if incomplete_checksum { ChecksumState::Incomplete } else { ChecksumState::Complete };
    Meta { interface, checksum, is_captured }
}
