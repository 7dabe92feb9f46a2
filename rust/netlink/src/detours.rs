//! Devices by which packets leave as their bytes alone do not say: a program of a route or a rare
//! header changes or drops some of them (`linux/lwtunnel.h`), or a network card encrypts them whole
//! (`linux/xfrm.h`). And what depends on more than a flow's ends: routes by DSCP or the label of
//! IPv6 (`linux/fib_rules.h`), policies that let no packet pass but those that IPsec has brought.
//!
//! Whoever sends packets of a flow as its former ones have left sends these wrongly. Other
//! encapsulations of routes change each packet: none leaves as it came.

use std::collections::HashSet;
use std::io;

use crate::attribute::{FLAG_DUMP, Head, NETLINK_HEADER, attributes, close, open};
use crate::exchange::Exchange;

/// In a device's place: packets of any flow may leave in several ways, by any devices.
pub const ANY_DEVICE: u32 = 0;
/// In a device's place: packets of any flow may not leave at all, unless IPsec has brought them.
pub const IPSEC_ALONE: u32 = u32::MAX;

/// Asks about these devices, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Detours {
    routes: Exchange,
    /// `None`: the kernel has no IPsec.
    keys: Option<Exchange>,
}

impl Detours {
    /// Opens sockets. Reading keys of IPsec needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn open() -> io::Result<Self> {
        let keys = match Exchange::open(libc::NETLINK_XFRM) {
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => None,
            opened => Some(opened?),
        };
        Ok(Self { routes: Exchange::open(libc::NETLINK_ROUTE)?, keys })
    }

    /// The devices' numbers, [`ANY_DEVICE`] and [`IPSEC_ALONE`]. Cost: a dump of all routes,
    /// routing rules, next hops, keys and policies.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn devices(&mut self) -> io::Result<HashSet<u32>> {
        let mut devices = HashSet::new();
        for (kind, length) in
            [(libc::RTM_GETROUTE, ROUTE), (libc::RTM_GETRULE, RULE), (RTM_GETNEXTHOP, NEXT_HOP)]
        {
            let answer = self.routes.ask(&dump(kind, length), |kind, message| {
                devices.extend(detours(kind, message));
            });
            match answer {
                // No next hops before Linux 5.3.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                answer => answer?,
            }
        }
        if let Some(keys) = &mut self.keys {
            keys.ask(&dump(XFRM_MSG_GETSA, 0), |kind, message| {
                devices.extend((kind == XFRM_MSG_NEWSA).then(|| encrypting(message)).flatten());
            })?;
            keys.ask(&dump(XFRM_MSG_GETPOLICY, 0), |kind, message| {
                let is_demanding = kind == XFRM_MSG_NEWPOLICY && demands_ipsec(message);
                devices.extend(is_demanding.then_some(IPSEC_ALONE));
            })?;
        }
        Ok(devices)
    }
}

/// The devices by which a route, next hop or routing rule of which a message tells sends packets on
/// a detour.
pub(crate) fn detours(kind: u16, message: &[u8]) -> Vec<u32> {
    if looks_at_packets(kind, message) {
        return vec![ANY_DEVICE];
    }
    let (length, device, encapsulation) = match kind {
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => (ROUTE, libc::RTA_OIF, RTA_ENCAP_TYPE),
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => (NEXT_HOP, NHA_OIF, NHA_ENCAP_TYPE),
        _ => return Vec::new(),
    };
    let Some(body) = message.get(NETLINK_HEADER + length..) else { return Vec::new() };
    let (mut by, mut is_detour, mut found) = (None, false, Vec::new());
    for (attribute, value) in attributes(body) {
        match attribute {
            libc::RTA_MULTIPATH if length == ROUTE => several(value, &mut found),
            attribute if attribute == device => by = u32_at(value, 0),
            attribute if attribute == encapsulation => is_detour = is_selective(value),
            _ => {}
        }
    }
    found.extend(by.filter(|_| is_detour));
    found
}

/// Whether a route or routing rule is for some packets of a flow and not for others: those with a
/// DSCP (`tos`, `dsfield`), or with a label of IPv6.
fn looks_at_packets(kind: u16, message: &[u8]) -> bool {
    let body = message.get(NETLINK_HEADER..).unwrap_or_default();
    // `struct rtmsg` and `struct fib_rule_hdr` have it in one place.
    let has_tos = body.get(3).is_some_and(|&tos| tos != 0);
    match kind {
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => has_tos,
        libc::RTM_NEWRULE | libc::RTM_DELRULE => {
            let mut more = attributes(body.get(RULE..).unwrap_or_default());
            has_tos || more.any(|(attribute, _)| [FRA_DSCP, FRA_FLOWLABEL].contains(&attribute))
        }
        _ => false,
    }
}

/// The same of the next hops that a route has itself (`struct rtnexthop`).
fn several(mut bytes: &[u8], found: &mut Vec<u32>) {
    while let Some(length) = bytes.first_chunk().map(|&length| u16::from_ne_bytes(length)) {
        let length = usize::from(length);
        let Some(hop) = bytes.get(..length).filter(|hop| hop.len() >= HOP) else { return };
        let is_detour = attributes(&hop[HOP..])
            .any(|(attribute, value)| attribute == RTA_ENCAP_TYPE && is_selective(value));
        found.extend(u32_at(hop, 4).filter(|_| is_detour));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// Whether an encapsulation leaves some packets as they are: by a program, or of several packets
/// one. Those to come may do so.
fn is_selective(value: &[u8]) -> bool {
    let number = value.first_chunk().map(|&number| u16::from_ne_bytes(number));
    number.is_some_and(|number| [BPF, IOAM6].contains(&number) || number > XFRM)
}

/// The device that encrypts whole packets by the key of which a message tells (`offload packet`).
fn encrypting(message: &[u8]) -> Option<u32> {
    let body = message.get(NETLINK_HEADER + KEY..)?;
    let (_, offload) = attributes(body).find(|&(attribute, _)| attribute == XFRMA_OFFLOAD_DEV)?;
    let is_whole = offload.get(4).is_some_and(|flags| flags & XFRM_OFFLOAD_PACKET != 0);
    u32_at(offload, 0).filter(|_| is_whole)
}

/// Whether a policy of which a message tells lets packets through the node only if IPsec has
/// brought them. A plain packet with the same ends is to be dropped.
fn demands_ipsec(message: &[u8]) -> bool {
    let body = message.get(NETLINK_HEADER..).unwrap_or_default();
    let is_forwarding = body.get(POLICY_DIRECTION) == Some(&XFRM_POLICY_FWD);
    let mut more = attributes(body.get(POLICY..).unwrap_or_default());
    is_forwarding && more.any(|(attribute, _)| attribute == XFRMA_TMPL)
}

fn dump(kind: u16, length: usize) -> Vec<u8> {
    let mut request = Vec::new();
    let start = open(&mut request, Head { kind: kind as u8, flags: FLAG_DUMP, ..Head::default() });
    request.resize(start + NETLINK_HEADER + length, 0);
    close(&mut request, start, 0);
    request
}

fn u32_at(bytes: &[u8], start: usize) -> Option<u32> {
    bytes.get(start..)?.first_chunk().map(|&bytes| u32::from_ne_bytes(bytes))
}

/// `linux/lwtunnel.h`: programs; measures in every k-th of n packets; the last one that is known.
const BPF: u16 = 6;
const IOAM6: u16 = 9;
const XFRM: u16 = 10;
/// Lengths of `struct rtmsg`, `struct fib_rule_hdr`, `struct nhmsg`, `struct rtnexthop`, `struct
/// xfrm_usersa_info` and `struct xfrm_userpolicy_info`.
const ROUTE: usize = 12;
const RULE: usize = 12;
const NEXT_HOP: usize = 8;
const HOP: usize = 8;
const KEY: usize = 224;
const POLICY: usize = 168;
/// Where `struct xfrm_userpolicy_info` has its direction.
const POLICY_DIRECTION: usize = 160;
/// Of routing rules.
const FRA_DSCP: u16 = 25;
const FRA_FLOWLABEL: u16 = 26;
/// `linux/rtnetlink.h`, `linux/nexthop.h`.
const RTA_ENCAP_TYPE: u16 = 21;
pub(crate) const RTM_NEWNEXTHOP: u16 = 104;
pub(crate) const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;
const NHA_OIF: u16 = 5;
const NHA_ENCAP_TYPE: u16 = 7;
/// `linux/xfrm.h`.
const XFRM_MSG_NEWSA: u16 = 16;
const XFRM_MSG_GETSA: u16 = 18;
const XFRM_MSG_NEWPOLICY: u16 = 19;
const XFRM_MSG_GETPOLICY: u16 = 21;
const XFRM_POLICY_FWD: u8 = 2;
const XFRMA_TMPL: u16 = 5;
const XFRMA_OFFLOAD_DEV: u16 = 28;
const XFRM_OFFLOAD_PACKET: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::put;
    use proptest::prelude::*;

    fn message(length: usize, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; NETLINK_HEADER + length];
        attributes.iter().for_each(|(kind, value)| put(&mut bytes, *kind, value));
        bytes
    }

    #[test]
    fn routes_that_change_some_packets_are_detours() {
        let device = 7u32.to_ne_bytes();
        for (number, is_detour) in
            [(0, false), (1, false), (2, false), (5, false), (6, true), (9, true), (11, true)]
        {
            let number = u16::to_ne_bytes(number);
            let expected = if is_detour { vec![7] } else { vec![] };
            let route = [(libc::RTA_OIF, &device[..]), (RTA_ENCAP_TYPE, &number)];
            assert_eq!(detours(libc::RTM_NEWROUTE, &message(ROUTE, &route)), expected);
            let next_hop = [(NHA_OIF, &device[..]), (NHA_ENCAP_TYPE, &number)];
            assert_eq!(detours(RTM_DELNEXTHOP, &message(NEXT_HOP, &next_hop)), expected);
            let mut hops = Vec::new();
            for (index, encapsulation) in [(5u32, None), (7, Some(number)), (9, None)] {
                let mut more = Vec::new();
                if let Some(number) = encapsulation {
                    put(&mut more, RTA_ENCAP_TYPE, &number);
                }
                hops.extend(((HOP + more.len()) as u16).to_ne_bytes());
                hops.extend([0, 0]);
                hops.extend(index.to_ne_bytes());
                hops.extend(more);
            }
            let several = message(ROUTE, &[(libc::RTA_MULTIPATH, &hops)]);
            assert_eq!(detours(libc::RTM_NEWROUTE, &several), expected);
        }
        assert!(
            detours(libc::RTM_NEWROUTE, &message(ROUTE, &[(libc::RTA_OIF, &device)])).is_empty()
        );
    }

    #[test]
    fn routes_and_rules_by_what_differs_between_packets_are_for_any_device() {
        // With a priority, and a table.
        let plain = message(RULE, &[(6, &[0; 4]), (15, &[254, 0, 0, 0])]);
        let mut with_tos = plain.clone();
        with_tos[NETLINK_HEADER + 3] = 0x10;
        let by_dscp = message(RULE, &[(FRA_DSCP, &[4])]);
        let by_label = message(RULE, &[(FRA_FLOWLABEL, &[0, 0, 0, 7])]);
        for kind in [libc::RTM_NEWRULE, libc::RTM_DELRULE] {
            assert!(detours(kind, &plain).is_empty());
            for rule in [&with_tos, &by_dscp, &by_label] {
                assert_eq!(detours(kind, rule), [ANY_DEVICE]);
            }
        }
        for kind in [libc::RTM_NEWROUTE, libc::RTM_DELROUTE] {
            assert_eq!(detours(kind, &with_tos), [ANY_DEVICE]);
            assert!(detours(kind, &plain).is_empty());
        }
        assert!(detours(libc::RTM_NEWNEIGH, &with_tos).is_empty());
    }

    #[test]
    fn a_network_card_that_encrypts_whole_packets_is_a_detour() {
        let offload = |flags| [7, 0, 0, 0, flags, 0, 0, 0];
        for (flags, device) in [(4, Some(7)), (5, Some(7)), (0, None), (3, None)] {
            let key = message(KEY, &[(1, b"null"), (XFRMA_OFFLOAD_DEV, &offload(flags))]);
            assert_eq!(encrypting(&key), device, "{flags}");
        }
        assert_eq!(encrypting(&message(KEY, &[(1, b"null")])), None);
    }

    #[test]
    fn a_policy_that_lets_only_packets_of_ipsec_pass_is_for_any_device() {
        for (direction, template, expected) in
            [(2, Some([0; 64]), true), (2, None, false), (0, Some([0; 64]), false)]
        {
            let more: Vec<_> = template.iter().map(|value| (XFRMA_TMPL, &value[..])).collect();
            let mut policy = message(POLICY, &more);
            policy[NETLINK_HEADER + POLICY_DIRECTION] = direction;
            assert_eq!(demands_ipsec(&policy), expected, "{direction} {template:?}");
        }
        assert!(!demands_ipsec(&[]));
    }

    #[test]
    fn this_namespaces_routes_are_read() {
        let devices = Detours::open().and_then(|mut detours| detours.devices());
        // Without the privilege the kernel shows no keys.
        assert!(devices.is_ok_and(|devices| devices.is_empty()) || !is_root());
    }

    fn is_root() -> bool {
        std::fs::metadata("/proc/self")
            .is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(
            kind in 16u16..120,
            bytes in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let _ = detours(kind, &bytes);
            let _ = (encrypting(&bytes), demands_ipsec(&bytes));
        }
    }
}
