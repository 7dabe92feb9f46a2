//! What stands in the way of packets at devices (`linux/if_link.h`, `linux/pkt_sched.h`): filters
//! and queues of tc, and whether the other end of a veth pair is in another network namespace.
//!
//! A program that sends packets on as soon as they come in passes the filters by that come after
//! it: of the qdiscs `clsact` and `ingress`. One that hands packets to the other end of a pair also
//! passes the device's queue and its filters on the way out by. Both are answers about a moment: a
//! change of filters and queues is told to the group `RTNLGRP_TC`, one of a device to
//! `RTNLGRP_LINK`. Routes and keys may lead packets to detours behind a device, too.

use std::collections::{BTreeMap, HashSet};
use std::io;

use crate::attribute::{FLAG_DUMP, Head, NETLINK_HEADER, close, find, open};
use crate::detours::Detours;
pub use crate::detours::{ANY_DEVICE, IPSEC_ALONE};
use crate::doubts::SHARED_BLOCK;
use crate::exchange::Exchange;

/// A device, and what tc does with its packets.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Link {
    /// Such as "veth" (`IFLA_INFO_KIND`); empty: none, as of network cards.
    pub kind: String,
    /// `IFF_...`.
    pub flags: u32,
    /// The device at its other end is in another network namespace (`IFLA_LINK_NETNSID`).
    pub leads_elsewhere: bool,
    /// A tunnel whose packets say beside their bytes where to, or what its header has: by a route
    /// with `encap`, a filter of tc or a mark. Those that are sent again by their bytes lack it.
    pub takes_metadata: bool,
    /// Filters see the packets that come in.
    pub has_ingress_filters: bool,
    /// Filters see the packets that leave, or they wait in a queue: a bandwidth limit.
    pub is_shaped: bool,
}

/// Asks about devices, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Links {
    requests: Exchange,
    detours: Detours,
}

impl Links {
    /// Opens a socket. No privilege is needed.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        Ok(Self { requests: Exchange::open(libc::NETLINK_ROUTE)?, detours: Detours::open()? })
    }

    /// All devices by their numbers. One that comes or goes meanwhile may be missing. Cost: two
    /// dumps, and two more for each device with a qdisc `clsact` or `ingress`.
    ///
    /// # Errors
    /// The system's.
    pub fn all(&mut self) -> io::Result<BTreeMap<u32, Link>> {
        let mut links = BTreeMap::new();
        self.dump(libc::RTM_GETLINK, 0, 0, |kind, message| {
            if kind == libc::RTM_NEWLINK {
                links.extend(Link::parse(message));
            }
        })?;
        let mut classifying = Vec::new();
        self.dump(libc::RTM_GETQDISC, 0, 0, |kind, message| {
            let Some((device, name)) = queue(message).filter(|_| kind == libc::RTM_NEWQDISC) else {
                return;
            };
            match name {
                b"clsact" | b"ingress" => classifying.push(device),
                b"noqueue" | b"noop" => {}
                _ => {
                    links.entry(device).and_modify(|link| link.is_shaped = true);
                }
            }
        })?;
        for device in classifying {
            let has_ingress_filters = self.has_filters(device, INGRESS)?;
            let has_egress_filters = self.has_filters(device, EGRESS)?;
            links.entry(device).and_modify(|link| {
                link.has_ingress_filters = has_ingress_filters;
                link.is_shaped |= has_egress_filters;
            });
        }
        Ok(links)
    }

    /// The numbers of devices by which packets of one flow may leave in several ways: by programs
    /// of routes (`encap bpf`), or encrypted whole by the network card; [`ANY_DEVICE`] where routes
    /// look at each packet (`tos`, `dsfield`), and [`IPSEC_ALONE`]. Doubts about
    /// [`crate::doubts::Topic::Detour`] and `Ipsec` tell when these may change. Cost: a dump of all
    /// routes, routing rules, next hops, and keys and policies of IPsec, for which CAP_NET_ADMIN is
    /// needed.
    ///
    /// # Errors
    /// The system's.
    pub fn detours(&mut self) -> io::Result<HashSet<u32>> {
        self.detours.devices()
    }

    /// Whether there are filters on a device's way in or out, whatever they do.
    fn has_filters(&mut self, device: u32, parent: u32) -> io::Result<bool> {
        let mut has_filters = false;
        self.dump(libc::RTM_GETTFILTER, device, parent, |kind, message| {
            // Those of a block that devices share name it, in place of a device and a way.
            let is_shared = u32_at(message, NETLINK_HEADER + 4) == Some(SHARED_BLOCK);
            // The kernel of a qdisc `ingress` has one list, and says so for both ways.
            let is_there = is_shared
                || u32_at(message, PARENT).is_some_and(|place| {
                    place == parent || parent == INGRESS && place == parent & MAJOR
                });
            has_filters |= kind == libc::RTM_NEWTFILTER && is_there;
        })?;
        Ok(has_filters)
    }

    fn dump(
        &mut self,
        kind: u16,
        device: u32,
        parent: u32,
        on_message: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let mut request = Vec::new();
        let head = Head { kind: kind as u8, flags: FLAG_DUMP, ..Head::default() };
        let start = open(&mut request, head);
        // `struct tcmsg`, and as many zeroes as `struct ifinfomsg` is long.
        for number in [device, 0, parent, 0] {
            request.extend(number.to_ne_bytes());
        }
        if kind == libc::RTM_GETLINK {
            request.truncate(NETLINK_HEADER + DEVICE);
        }
        close(&mut request, start, 0);
        self.requests.ask(&request, on_message)
    }
}

impl Link {
    /// Reads a message about a device, with its number; `None` for one that is cut.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<(u32, Self)> {
        let attributes = message.get(NETLINK_HEADER + DEVICE..)?;
        let information = find(attributes, libc::IFLA_LINKINFO).unwrap_or_default();
        let kind = find(information, libc::IFLA_INFO_KIND).map(text).unwrap_or_default();
        let about = find(information, libc::IFLA_INFO_DATA).unwrap_or_default();
        let link = Self {
            takes_metadata: takes_metadata(&kind, about),
            kind,
            flags: u32_at(message, NETLINK_HEADER + 8)?,
            leads_elsewhere: find(attributes, libc::IFLA_LINK_NETNSID).is_some(),
            ..Self::default()
        };
        Some((u32_at(message, NETLINK_HEADER + 4)?, link))
    }
}

/// Whether a device of a kind which is set up so takes metadata.
fn takes_metadata(kind: &str, about: &[u8]) -> bool {
    let is_there = |attribute| find(about, attribute).is_some();
    let is_on = |attribute| find(about, attribute).is_some_and(|value| value != [0]);
    match kind {
        "vxlan" => is_on(VXLAN_COLLECT_METADATA) || is_there(VXLAN_GBP),
        "geneve" => is_there(GENEVE_COLLECT_METADATA),
        "gretap" | "ip6gretap" | "erspan" | "ip6erspan" => is_there(GRE_COLLECT_METADATA),
        _ => false,
    }
}

/// The device of a message about a qdisc, and the qdisc's kind.
fn queue(message: &[u8]) -> Option<(u32, &[u8])> {
    let kind = find(message.get(NETLINK_HEADER + TRAFFIC..)?, libc::TCA_KIND)?;
    Some((u32_at(message, NETLINK_HEADER + 4)?, kind.strip_suffix(&[0]).unwrap_or(kind)))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

fn u32_at(message: &[u8], start: usize) -> Option<u32> {
    message.get(start..)?.first_chunk().map(|&bytes| u32::from_ne_bytes(bytes))
}

/// Length of `struct ifinfomsg`.
const DEVICE: usize = 16;
/// Length of `struct tcmsg`.
const TRAFFIC: usize = 20;
/// `linux/if_link.h`, `linux/if_tunnel.h`, which libc lacks. The first is a number, others are
/// there or not.
const VXLAN_COLLECT_METADATA: u16 = 25;
const VXLAN_GBP: u16 = 23;
const GENEVE_COLLECT_METADATA: u16 = 6;
const GRE_COLLECT_METADATA: u16 = 18;
/// Where a message of tc says what its subject belongs to.
const PARENT: usize = NETLINK_HEADER + 12;
/// `TC_H_MAJ_MASK`.
const MAJOR: u32 = 0xffff_0000;
/// Of `TC_H_CLSACT`: `TC_H_MIN_INGRESS`, `TC_H_MIN_EGRESS`.
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::put;
    use proptest::prelude::*;

    fn message(kind: &str, about: &[(u16, &[u8])]) -> Vec<u8> {
        let (mut data, mut information) = (Vec::new(), Vec::new());
        for (attribute, value) in about {
            put(&mut data, *attribute, value);
        }
        put(&mut information, libc::IFLA_INFO_KIND, kind.as_bytes());
        put(&mut information, libc::IFLA_INFO_DATA, &data);
        let mut bytes = vec![0; NETLINK_HEADER + DEVICE];
        put(&mut bytes, libc::IFLA_LINKINFO, &information);
        bytes
    }

    #[test]
    fn tunnels_take_metadata_where_they_are_set_up_so() {
        let takes = |kind, about: &[(u16, &[u8])]| {
            let (_, link) = Link::parse(&message(kind, about)).expect("whole");
            assert_eq!(link.kind, kind);
            link.takes_metadata
        };
        for (kind, external, number) in [
            // `ip link add ... external`
            ("vxlan", 25, &[1][..]),
            ("vxlan", 23, &[]),
            ("geneve", 6, &[]),
            ("gretap", 18, &[]),
            ("ip6gretap", 18, &[]),
            ("erspan", 18, &[]),
        ] {
            assert!(takes(kind, &[(1, &[0; 4]), (external, number)]), "{kind}");
            assert!(!takes(kind, &[(1, &[0; 4])]), "{kind}");
        }
        assert!(!takes("vxlan", &[(25, &[0])]), "there, and off");
        assert!(!takes("veth", &[(25, &[1]), (6, &[]), (18, &[])]), "of other kinds");
    }

    #[test]
    fn this_namespaces_devices_are_read() {
        let links =
            Links::open().and_then(|mut links| links.all()).expect("no privilege is needed");
        let loopback = &links[&1];
        assert_ne!(loopback.flags & libc::IFF_LOOPBACK as u32, 0);
        assert_eq!((loopback.kind.as_str(), loopback.leads_elsewhere), ("", false));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Link::parse(&bytes);
            let _ = queue(&bytes);
        }
    }
}
