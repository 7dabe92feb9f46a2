//! Messages by hand: which are doubts.

use super::*;
use crate::attribute::put;
use proptest::prelude::*;

fn device(index: u32, mtu: u32, more: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; NETLINK_HEADER];
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&libc::ARPHRD_ETHER.to_ne_bytes());
    bytes.extend_from_slice(&index.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    put(&mut bytes, libc::IFLA_IFNAME, b"veth7\0");
    put(&mut bytes, libc::IFLA_MTU, &mtu.to_ne_bytes());
    for (kind, value) in more {
        put(&mut bytes, *kind, value);
    }
    bytes
}

fn neighbour(state: u16, link: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; NETLINK_HEADER];
    bytes.extend_from_slice(&[libc::AF_INET as u8, 0, 0, 0]);
    bytes.extend_from_slice(&7u32.to_ne_bytes());
    bytes.extend_from_slice(&state.to_ne_bytes());
    bytes.extend_from_slice(&[0; 2]);
    put(&mut bytes, libc::NDA_DST, &[192, 0, 2, 1]);
    put(&mut bytes, libc::NDA_LLADDR, link);
    bytes
}

fn hear(state: &mut Known, kind: u16, message: &[u8]) -> Option<(Topic, Option<u32>)> {
    state.read(kind, message).map(|doubt| (doubt.topic, doubt.device))
}

#[test]
fn a_device_is_a_doubt_when_it_differs() {
    let mut state = Known::default();
    let changed = Some((Topic::Device, Some(7)));
    assert_eq!(hear(&mut state, libc::RTM_NEWLINK, &device(7, 1500, &[])), changed, "new");
    assert_eq!(hear(&mut state, libc::RTM_NEWLINK, &device(7, 1500, &[])), None, "again");
    assert_eq!(hear(&mut state, libc::RTM_NEWLINK, &device(7, 1400, &[])), changed);
    let port = device(7, 1400, &[(libc::IFLA_MASTER, &9u32.to_ne_bytes())]);
    assert_eq!(hear(&mut state, libc::RTM_NEWLINK, &port), changed);
    let device7 = &state.devices[&7];
    assert_eq!((device7.name.as_str(), device7.mtu, device7.controller), ("veth7", 1400, Some(9)));
    assert!(!device7.is_on_its_own(), "the bridge decides about a port's packets");
    assert_eq!(hear(&mut state, libc::RTM_DELLINK, &device(7, 1400, &[])), changed, "gone");
    assert!(state.devices.is_empty());
}

#[test]
fn a_bridge_is_a_doubt_when_it_calls_iptables() {
    let bridge = |kind: &[u8], calls: [u8; 2]| {
        let (mut about, mut information) = (Vec::new(), Vec::new());
        put(&mut about, 36, &calls[..1]);
        put(&mut about, 37, &calls[1..]);
        put(&mut information, libc::IFLA_INFO_KIND, kind);
        put(&mut information, libc::IFLA_INFO_DATA, &about);
        device(7, 1500, &[(libc::IFLA_LINKINFO, &information)])
    };
    let mut state = Known::default();
    let changed = Some((Topic::Device, Some(7)));
    for (calls, expected) in [([0, 0], changed), ([0, 0], None), ([0, 1], changed)] {
        let message = bridge(b"bridge\0", calls);
        assert_eq!(hear(&mut state, libc::RTM_NEWLINK, &message), expected);
    }
    assert_eq!(state.devices[&7].calls_iptables, Some([false, true]));
    let other = bridge(b"vxlan\0", [1, 1]);
    assert_eq!(hear(&mut state, libc::RTM_NEWLINK, &other), changed);
    assert_eq!(state.devices[&7].calls_iptables, None, "another kind's numbers");
}

#[test]
fn a_neighbour_is_a_doubt_when_packets_for_it_go_elsewhere() {
    let mut state = Known::default();
    let (one, two): (LinkAddress, LinkAddress) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let changed = |link| Some(Doubt { topic: Topic::Neighbour, device: Some(7), link: Some(link) });
    let mut hears = |kind, reach, link: &[u8]| state.read(kind, &neighbour(reach, link));
    let new = libc::RTM_NEWNEIGH;
    assert_eq!(hears(new, libc::NUD_REACHABLE, &one), None, "nobody could send to it before");
    for reach in [libc::NUD_STALE, libc::NUD_DELAY, libc::NUD_PROBE, libc::NUD_REACHABLE] {
        assert_eq!(hears(new, reach, &one), None);
    }
    assert_eq!(hears(new, libc::NUD_STALE, &two), changed(one), "another link address");
    assert_eq!(hears(new, libc::NUD_FAILED, &two), changed(two), "nobody answers");
    assert_eq!(hears(new, libc::NUD_FAILED, &two), None, "still not");
    assert_eq!(hears(new, libc::NUD_REACHABLE, &one), None, "again");
    assert_eq!(hears(libc::RTM_DELNEIGH, libc::NUD_STALE, &one), changed(one), "forgotten");
    state.lacks_neighbours = true;
    let unknown = Some(Doubt { topic: Topic::Neighbour, device: Some(7), link: None });
    let message = neighbour(libc::NUD_REACHABLE, &one);
    assert_eq!(state.read(new, &message), unknown, "it may have been there");
}

#[test]
fn routes_rules_and_addresses_are_doubts() {
    let mut state = Known::default();
    for (kinds, topic) in [
        ([libc::RTM_NEWROUTE, libc::RTM_DELROUTE], Topic::Route),
        ([libc::RTM_NEWRULE, libc::RTM_DELRULE], Topic::RoutingRule),
        ([RTM_NEWNEXTHOP, RTM_DELNEXTHOP], Topic::Route),
        ([RTM_NEWNEXTHOPBUCKET, RTM_DELNEXTHOPBUCKET], Topic::Route),
        ([libc::RTM_NEWADDR, libc::RTM_DELADDR], Topic::Address),
        ([libc::RTM_NEWQDISC, libc::RTM_DELQDISC], Topic::Filter),
    ] {
        for kind in kinds {
            assert_eq!(hear(&mut state, kind, &[0; NETLINK_HEADER]), Some((topic, None)));
        }
    }
    assert_eq!(hear(&mut state, libc::RTM_NEWTCLASS, &[0; NETLINK_HEADER]), None);
}

#[test]
fn addresses_and_filters_are_those_of_a_device() {
    let mut state = Known::default();
    let message = |index: u32| {
        let index = index.to_ne_bytes();
        [vec![0; NETLINK_HEADER + 4], index.to_vec(), vec![0; 12]].concat()
    };
    for (kinds, topic) in [
        ([libc::RTM_NEWADDR, libc::RTM_DELADDR], Topic::Address),
        ([libc::RTM_NEWTFILTER, libc::RTM_DELTFILTER], Topic::Filter),
    ] {
        for kind in kinds {
            assert_eq!(hear(&mut state, kind, &message(7)), Some((topic, Some(7))));
        }
    }
    let shared = message(SHARED_BLOCK);
    assert_eq!(hear(&mut state, libc::RTM_NEWTFILTER, &shared), Some((Topic::Filter, None)));
}

proptest! {
    #[test]
    fn any_bytes_are_read(
        kind in 16u16..120,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = Known::default().read(kind, &bytes);
    }
}
