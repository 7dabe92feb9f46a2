//! The addresses of this network namespace (`linux/rtnetlink.h`, `linux/if_addr.h`), and whether
//! they or its devices have changed.
//!
//! An event is only a reason to read all addresses again: events may be lost when too many come
//! (`ENOBUFS`), and a dump is short.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::attribute::{FLAG_DUMP, Head, NETLINK_HEADER, attributes, close, open};
use crate::exchange::Exchange;
use crate::inbox::{Arrival, Inbox};
use crate::socket::Socket;

/// An address of the namespace's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Whether it is meant to be reached from everywhere: neither a loopback address nor a
    /// link-local one.
    pub is_global: bool,
}

/// The addresses in the network namespace of the thread that opened this.
#[derive(Debug)]
pub struct Addresses {
    /// Hears of changes.
    events: Socket,
    inbox: Inbox,
    requests: Exchange,
}

impl Addresses {
    /// Listens from now on. No privilege is needed.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        let events = Socket::open(libc::NETLINK_ROUTE)?;
        for group in [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR] {
            events.set(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group as i32)?;
        }
        let requests = Exchange::open(libc::NETLINK_ROUTE)?;
        Ok(Self { events, inbox: Inbox::new(), requests })
    }

    /// Whether addresses or devices may have changed since the last call. After an overrun of
    /// events they may. Does not wait, and does not read the change: [`Addresses::all`] does.
    ///
    /// # Errors
    /// The system's.
    pub fn has_changed(&mut self) -> io::Result<bool> {
        let mut has_changed = false;
        // The rest of a storm of events waits for the next call.
        for _ in 0..TAKES {
            if self.inbox.take(&self.events)? == Arrival::Nothing {
                break;
            }
            has_changed = true;
        }
        Ok(has_changed)
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
            Head { kind: libc::RTM_GETADDR as u8, flags: FLAG_DUMP, ..Head::default() },
        );
        close(&mut request, start, 0);
        let mut addresses = Vec::new();
        self.requests.ask(&request, |kind, message| {
            if kind == libc::RTM_NEWADDR {
                addresses.extend(Address::parse(message));
            }
        })?;
        Ok(addresses)
    }
}

impl Address {
    /// Reads a message about an address; `None` for one of another family or without an address.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let &[family, _, _, scope] = message.get(NETLINK_HEADER..)?.first_chunk()?;
        let (mut local, mut peer) = (None, None);
        for (kind, value) in attributes(message.get(NETLINK_HEADER + INTERFACE_ADDRESS..)?) {
            match kind {
                libc::IFA_LOCAL => local = address(family, value),
                // The peer's on a point-to-point device, and the same as the local one elsewhere.
                libc::IFA_ADDRESS => peer = address(family, value),
                _ => {}
            }
        }
        Some(Self { address: local.or(peer)?, is_global: scope == libc::RT_SCOPE_UNIVERSE })
    }
}

/// An address of this family.
pub(crate) fn address(family: u8, value: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => <[u8; 4]>::try_from(value).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        libc::AF_INET6 => {
            <[u8; 16]>::try_from(value).ok().map(|bytes| Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// Takes of events by one call, at most.
const TAKES: usize = 64;
/// Length of `struct ifaddrmsg`.
const INTERFACE_ADDRESS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::put;
    use proptest::prelude::*;

    fn message(family: u8, scope: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; NETLINK_HEADER];
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
            Address::parse(bytes).map(|address| (address.address.to_string(), address.is_global))
        };
        let four = message(
            2,
            0,
            &[(libc::IFA_ADDRESS, &[192, 0, 2, 2]), (libc::IFA_LOCAL, &[192, 0, 2, 1])],
        );
        assert_eq!(read(&four), Some(("192.0.2.1".into(), true)));
        let mut link_local = [0; 16];
        (link_local[0], link_local[1], link_local[15]) = (0xfe, 0x80, 1);
        assert_eq!(
            read(&message(10, 253, &[(libc::IFA_ADDRESS, &link_local)])),
            Some(("fe80::1".into(), false))
        );
        // A label that is no UTF-8, an address of the wrong length, another family, a message that
        // is cut.
        let named = message(2, 0, &[(3, b"x\xff\xfe\0"), (libc::IFA_LOCAL, &[192, 0, 2, 1])]);
        assert_eq!(read(&named), Some(("192.0.2.1".into(), true)));
        for broken in [
            message(2, 0, &[(libc::IFA_LOCAL, &[1, 2, 3])]),
            message(7, 0, &[(libc::IFA_LOCAL, &[1; 4])]),
        ] {
            assert_eq!(read(&broken), None);
        }
        assert_eq!(read(&four[..NETLINK_HEADER + 4]), None);
    }

    #[test]
    fn this_namespaces_addresses_are_read() {
        let mut addresses = Addresses::open().expect("no privilege is needed");
        assert!(!addresses.has_changed().expect("nothing has happened"));
        assert!(addresses.all().is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Address::parse(&bytes);
        }
    }
}
