//! The addresses of this network namespace (`linux/rtnetlink.h`, `linux/if_addr.h`): those that are
//! there, and whether they, or its devices, have changed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::attribute::{FLAG_DUMP, Head, attributes, close, open};
use crate::exchange::Exchange;
use crate::socket::Socket;

/// An address of the namespace's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Whether it is meant to be reached from everywhere: neither a loopback address nor a
    /// link-local one.
    pub is_global: bool,
    /// Index of its device.
    pub device: u32,
}

/// The addresses in the network namespace of the thread that opened this.
#[derive(Debug)]
pub struct Addresses {
    /// Hears of changes.
    events: Socket,
    requests: Exchange,
    buffers: Vec<Vec<u8>>,
    lengths: Vec<usize>,
}

impl Addresses {
    /// Listens from now on. No privilege is needed.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        let events = Socket::to(libc::NETLINK_ROUTE)?;
        for group in [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR] {
            events.set(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group as i32)?;
        }
        let requests = Exchange::open(libc::NETLINK_ROUTE)?;
        Ok(Self { events, requests, buffers: vec![vec![0; BUFFER]; BUFFERS], lengths: Vec::new() })
    }

    /// Whether addresses or devices have changed since this was asked last; also when the kernel
    /// had more to say of them than there was room for. Does not wait. What has changed is not
    /// looked at: [`Addresses::all`] says how it is.
    ///
    /// # Errors
    /// The system's.
    pub fn has_changed(&mut self) -> io::Result<bool> {
        let mut has_changed = false;
        loop {
            match self.events.receive(&mut self.buffers, &mut self.lengths) {
                Ok(0) => return Ok(has_changed),
                Ok(_) => has_changed = true,
                Err(lost) if lost.raw_os_error() == Some(libc::ENOBUFS) => has_changed = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(has_changed),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// All addresses. One that comes or goes meanwhile may be missing; [`Addresses::has_changed`]
    /// tells of it.
    ///
    /// # Errors
    /// The system's.
    pub fn all(&mut self) -> io::Result<Vec<Address>> {
        let mut request = Vec::new();
        let start = open(
            &mut request,
            Head { kind: GET_ADDRESS as u8, flags: FLAG_DUMP, ..Head::default() },
        );
        close(&mut request, start, 0);
        let mut found = Vec::new();
        self.requests.ask(&request, |kind, message| {
            if kind == NEW_ADDRESS {
                found.extend(Address::parse(message));
            }
        })?;
        Ok(found)
    }
}

impl Address {
    /// Reads a message about an address; `None` for one of another family or without an address.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let &[family, _, _, scope, a, b, c, d] = message.get(HEADER..)?.first_chunk()?;
        let (mut own, mut shown) = (None, None);
        for (kind, value) in attributes(message.get(HEADER + INTERFACE_ADDRESS..)?) {
            match kind {
                // On a point-to-point device the other one is the peer's.
                IFA_LOCAL => own = address(family, value),
                IFA_ADDRESS => shown = address(family, value),
                _ => {}
            }
        }
        Some(Self {
            address: own.or(shown)?,
            is_global: scope == SCOPE_GLOBAL,
            device: u32::from_ne_bytes([a, b, c, d]),
        })
    }
}

fn address(family: u8, value: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => <[u8; 4]>::try_from(value).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        libc::AF_INET6 => {
            <[u8; 16]>::try_from(value).ok().map(|bytes| Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

const BUFFER: usize = 32 << 10;
const BUFFERS: usize = 4;
/// Of netlink alone: netfilter's is not there.
const HEADER: usize = 16;
/// Length of `struct ifaddrmsg`.
const INTERFACE_ADDRESS: usize = 8;
const GET_ADDRESS: u16 = 22;
const NEW_ADDRESS: u16 = 20;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const SCOPE_GLOBAL: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::put;
    use proptest::prelude::*;

    fn message(family: u8, scope: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(&[family, 24, 0, scope]);
        bytes.extend_from_slice(&7u32.to_ne_bytes());
        for (kind, value) in attributes {
            put(&mut bytes, *kind, value);
        }
        bytes
    }

    #[test]
    fn ones_own_address_is_not_the_peers() {
        let read = |bytes: &[u8]| {
            Address::parse(bytes).map(|own| (own.address.to_string(), own.is_global))
        };
        let four = message(2, 0, &[(IFA_ADDRESS, &[192, 0, 2, 2]), (IFA_LOCAL, &[192, 0, 2, 1])]);
        assert_eq!(read(&four), Some(("192.0.2.1".into(), true)));
        let mut link_local = [0; 16];
        (link_local[0], link_local[1], link_local[15]) = (0xfe, 0x80, 1);
        assert_eq!(
            read(&message(10, 253, &[(IFA_ADDRESS, &link_local)])),
            Some(("fe80::1".into(), false))
        );
        // A label that is no UTF-8, an address of the wrong length, another family, a message that
        // is cut.
        let named = message(2, 0, &[(3, b"x\xff\xfe\0"), (IFA_LOCAL, &[192, 0, 2, 1])]);
        assert_eq!(read(&named), Some(("192.0.2.1".into(), true)));
        for broken in
            [message(2, 0, &[(IFA_LOCAL, &[1, 2, 3])]), message(7, 0, &[(IFA_LOCAL, &[1; 4])])]
        {
            assert_eq!(read(&broken), None);
        }
        assert_eq!(read(&four[..HEADER + 4]), None);
    }

    #[test]
    fn this_namespaces_addresses_are_read() {
        let mut own = Addresses::open().expect("no privilege is needed");
        assert!(!own.has_changed().expect("nothing has happened"));
        assert!(own.all().expect("they are shown").iter().all(|one| one.device > 0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Address::parse(&bytes);
        }
    }
}
