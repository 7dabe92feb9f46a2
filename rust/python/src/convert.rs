//! Text and buffers of Python as values of the engine.

use std::net::{IpAddr, SocketAddr};

use kbe_nat_engine::conntrack::ports::Mapping;
use kbe_nat_engine::reject::RejectWith;
use kbe_nat_engine::tuple::{Family, Protocol};
use kbe_nat_engine::{ChecksumState, Cidr, InvalidTcp, Meta, Midstream, OffloadedPackets};
use kbe_nat_netlink as netlink;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;

use crate::errors::argument;

/// An address as text; an IPv4-mapped IPv6 address is refused, it would be of both families.
pub(crate) fn address(text: &str) -> PyResult<IpAddr> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            Err(argument(format!("{text:?} is an IPv4-mapped IPv6 address")))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(argument(format!("{text:?} is not an IP address"))),
    }
}

/// Address and port.
pub(crate) fn end(address: &SocketAddr) -> (String, u16) {
    (address.ip().to_string(), address.port())
}

/// A list of addresses.
pub(crate) fn addresses(texts: &[String]) -> PyResult<Vec<IpAddr>> {
    texts.iter().map(|text| address(text)).collect()
}

/// `address/prefix`; without a prefix the address alone.
pub(crate) fn cidr(text: &String) -> PyResult<Cidr> {
    let (network, prefix) = text.split_once('/').unwrap_or((text, ""));
    let network = address(network)?;
    let prefix = match prefix {
        "" if !text.contains('/') => {
            if network.is_ipv4() {
                32
            } else {
                128
            }
        }
        prefix => {
            prefix.parse().map_err(|_| argument(format!("{text:?} is not a range of addresses")))?
        }
    };
    Cidr::new(network, prefix)
        .ok_or_else(|| argument(format!("{text:?} is not a range of addresses")))
}

/// A family of addresses by its IP version.
pub(crate) fn family(version: u32) -> PyResult<Family> {
    match version {
        4 => Ok(Family::V4),
        6 => Ok(Family::V6),
        other => Err(argument(format!("an address family is 4 or 6, not {other}"))),
    }
}

/// The same, as the kernel's tables have it.
pub(crate) fn table_family(version: u32) -> PyResult<netlink::Family> {
    Ok(match family(version)? {
        Family::V4 => netlink::Family::V4,
        Family::V6 => netlink::Family::V6,
    })
}

/// A protocol's name or number.
pub(crate) fn protocol(name: &str) -> PyResult<Protocol> {
    Protocol::from_name(name).ok_or_else(|| argument(format!("{name:?} is not a protocol")))
}

/// A copy of a buffer's bytes: others may change a buffer while the GIL is released.
pub(crate) fn bytes(object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    PyBuffer::<u8>::get(object)?.to_vec(object.py())
}

/// How a packet came in.
pub(crate) fn meta(interface: u32, incomplete_checksum: bool, is_captured: bool) -> Meta {
    let checksum =
        if incomplete_checksum { ChecksumState::Incomplete } else { ChecksumState::Complete };
    Meta { interface, checksum, is_captured }
}

/// How packets are rejected.
pub(crate) fn answer(name: &str) -> PyResult<RejectWith> {
    match name {
        "icmp" => Ok(RejectWith::PortUnreachable),
        "tcp-reset" => Ok(RejectWith::TcpReset),
        other => Err(argument(format!("answer is \"icmp\" or \"tcp-reset\", not {other:?}"))),
    }
}

/// The course with connections that are met in their middle.
pub(crate) fn midstream(name: &str) -> PyResult<Midstream> {
    match name {
        "consistent" => Ok(Midstream::Consistent),
        "reject" => Ok(Midstream::Reject),
        "drop" => Ok(Midstream::Drop),
        other => Err(argument(format!(
            "midstream is \"consistent\", \"reject\" or \"drop\", not {other:?}"
        ))),
    }
}

/// The course with TCP packets that do not fit their connection.
pub(crate) fn invalid_tcp(name: &str) -> PyResult<InvalidTcp> {
    match name {
        "translate" => Ok(InvalidTcp::Translate),
        "drop" => Ok(InvalidTcp::Drop),
        other => Err(argument(format!("invalid is \"translate\" or \"drop\", not {other:?}"))),
    }
}

/// The course with packets of flows that the kernel carries.
pub(crate) fn offloaded(name: &str) -> PyResult<OffloadedPackets> {
    match name {
        "decide" => Ok(OffloadedPackets::Decide),
        "pass" => Ok(OffloadedPackets::Pass),
        other => Err(argument(format!("offloaded is \"decide\" or \"pass\", not {other:?}"))),
    }
}

/// Whether a client's port keeps its port of ours towards other backends.
pub(crate) fn mapping(name: &str) -> PyResult<Mapping> {
    let mut mappings = [Mapping::EndpointDependent, Mapping::EndpointIndependent].into_iter();
    mappings.find(|mapping| mapping.name() == name).ok_or_else(|| {
        argument(format!(
            "mapping is \"endpoint-dependent\" or \"endpoint-independent\", not {name:?}"
        ))
    })
}
