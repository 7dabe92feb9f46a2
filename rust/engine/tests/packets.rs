//! Packets of every shape: checksums, options, extension headers, lengths, garbage, padding, and
//! what must stay as it is: F70 to F77, F81, F86 to F89.

mod scene;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::wire::{Headers, Layer4, Plain, Wire};
use kbe_nat_engine::{Action, Cause, ChecksumState, Config, FrontendKind, Meta};
use proptest::prelude::{Just, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use scene::*;

const COMPLETE: ChecksumState = ChecksumState::Complete;
const INCOMPLETE: ChecksumState = ChecksumState::Incomplete;

fn scene_of(family: Family) -> Scene {
    Scene::new(Config::default(), specs(family, 1))
}

fn client_of(family: Family) -> SocketAddr {
    family.client(1, 5555)
}

/// A packet whose sender left the checksum to the device: the field holds the pseudo header's sum.
fn leave_checksum(packet: &mut [u8]) {
    let (src, dst) = ends(packet);
    let at = l4(packet);
    let protocol = if packet[0] >> 4 == 4 { Protocol(packet[9]) } else { Protocol(packet[6]) };
    let place = at + if protocol == Protocol::TCP { 16 } else { 6 };
    let partial = pseudo(src.ip(), dst.ip(), protocol, packet.len() - at) as u16;
    packet[place..place + 2].copy_from_slice(&partial.to_be_bytes());
}

#[test]
fn f70_complete_checksums_are_followed() {
    for family in FAMILIES {
        let mut scene = scene_of(family);
        let (client, vip, backend) = (client_of(family), family.vip(), family.backend(0));
        for round in 0..500u32 {
            let payload =
                round.wrapping_mul(2_654_435_761).to_be_bytes().repeat(round as usize % 365);
            let asked =
                Tcp { payload, ..Tcp::new(if round == 0 { SYN } else { ACK }, round, round) };
            let (verdict, packet) = scene.send(tcp(client, vip, &asked));
            assert_eq!(verdict.action, Action::Translate);
            assert_eq!(packet, tcp(client, backend, &asked));
            let (_, packet) = scene.send(tcp(backend, client, &asked));
            assert_eq!(packet, tcp(vip, client, &asked));
        }
    }
}

#[test]
fn f71_super_packets_without_checksum() {
    let meta = Meta { checksum: INCOMPLETE, ..Meta::default() };
    for family in FAMILIES {
        let (client, vip, backend) = (client_of(family), family.vip(), family.backend(0));
        for size in [0, 1, 1460, 16_001, 65_212 - 60] {
            let mut scene = scene_of(family);
            let segment = Tcp { payload: vec![0xa5; size], ..Tcp::new(SYN, 7, 0) };
            let mut packet = tcp(client, vip, &segment);
            leave_checksum(&mut packet);
            assert!(!is_transport_intact(&packet));
            let verdict = scene.process(&mut packet, meta);
            assert_eq!(verdict.action, Action::Translate);
            assert_eq!(
                packet,
                tcp(client, backend, &segment),
                "the full checksum over all {size} bytes"
            );
            let answer = Tcp { payload: vec![0x3c; size], ..Tcp::new(SYN | ACK, 7, 8) };
            let mut packet = tcp(backend, client, &answer);
            leave_checksum(&mut packet);
            assert_eq!(scene.process(&mut packet, meta).action, Action::Translate);
            assert_eq!(packet, tcp(vip, client, &answer));
            let payload = vec![0x77; size];
            for (src, dst, new_src, new_dst) in
                [(client, vip, client, backend), (backend, client, vip, client)]
            {
                let mut packet = udp(src, dst, &payload);
                leave_checksum(&mut packet);
                assert_eq!(scene.process(&mut packet, meta).action, Action::Translate);
                assert_eq!(packet, udp(new_src, new_dst, &payload));
            }
        }
    }
}

#[test]
fn f71_what_is_not_ours_keeps_its_unfinished_checksum() {
    let meta = Meta { checksum: INCOMPLETE, ..Meta::default() };
    let mut scene = scene_of(Family::V4);
    let mut packet = udp(client_of(Family::V4), Family::V4.client(2, 80), b"elsewhere");
    leave_checksum(&mut packet);
    let before = packet.clone();
    assert_eq!(scene.process(&mut packet, meta).action, Action::Accept);
    assert_eq!(packet, before);
}

#[test]
fn f72_ipv4_udp_without_checksum() {
    let mut scene = scene_of(Family::V4);
    let (client, vip, backend) = (client_of(Family::V4), Family::V4.vip(), Family::V4.backend(0));
    for (src, dst, new_src, new_dst) in
        [(client, vip, client, backend), (backend, client, vip, client)]
    {
        let clear = |mut packet: Vec<u8>| {
            packet[26..28].fill(0);
            packet
        };
        let (verdict, packet) = scene.send(clear(udp(src, dst, b"none")));
        assert_eq!(verdict.action, Action::Translate);
        assert_eq!(packet, clear(udp(new_src, new_dst, b"none")), "0 stays 0");
    }
}

#[test]
fn f72_udp_checksum_that_computes_to_zero() {
    for family in FAMILIES {
        let mut scene = scene_of(family);
        let (client, vip, backend) = (client_of(family), family.vip(), family.backend(0));
        let _ = scene.send(udp(client, vip, b"open"));
        for (src, dst, new_src, new_dst) in
            [(client, vip, client, backend), (backend, client, vip, client)]
        {
            let mut found = 0;
            for word in 0..=u16::MAX {
                let bytes = udp_bytes(new_src, new_dst, &word.to_be_bytes());
                if bytes[6..8] == [0xff, 0xff] {
                    let (verdict, packet) = scene.send(udp(src, dst, &word.to_be_bytes()));
                    assert_eq!(verdict.action, Action::Translate);
                    assert_eq!(packet[l4(&packet)..], bytes, "0xffff stands for 0");
                    found += 1;
                }
            }
            assert_eq!(found, 1);
        }
    }
}

#[test]
fn f73_ipv6_udp_without_checksum() {
    let mut scene = scene_of(Family::V6);
    let mut packet = udp(client_of(Family::V6), Family::V6.vip(), b"none");
    packet[46..48].fill(0);
    let (verdict, packet) = scene.send(packet);
    assert_eq!(verdict.action, Action::Translate);
    assert_eq!(ends(&packet).1, Family::V6.backend(0));
    assert_eq!(packet[46..48], [0, 0], "left to the receiver, who drops it (RFC 8200, 8.1)");
}

#[test]
fn f74_bad_checksums_stay_bad() {
    for family in FAMILIES {
        let (client, vip, backend) = (client_of(family), family.vip(), family.backend(0));
        let mut scene = scene_of(family);
        type Build = fn(SocketAddr, SocketAddr) -> Vec<u8>;
        let builds: [Build; 3] = [
            |src, dst| tcp(src, dst, &Tcp { payload: vec![1; 9], ..Tcp::new(ACK, 1, 2) }),
            |src, dst| udp(src, dst, b"payload"),
            |src, dst| sctp(src, dst, 0, b"payload"),
        ];
        for build in builds {
            let _ = scene.send(build(client, vip));
            for (src, dst) in [(client, vip), (backend, client)] {
                let good = build(src, dst);
                let checksum = match good[if family == Family::V4 { 9 } else { 6 }] {
                    6 => 16..18,
                    17 => 6..8,
                    _ => 8..12,
                };
                let payload = good.len() - 5..good.len();
                let start = l4(&good);
                for place in checksum.map(|place| place + start).chain(payload) {
                    for bit in 0..8 {
                        let mut bad = good.clone();
                        bad[place] ^= 1 << bit;
                        assert!(!is_transport_intact(&bad));
                        let (verdict, packet) = scene.send(bad);
                        assert_eq!(verdict.action, Action::Translate);
                        assert!(is_header_intact(&packet));
                        assert!(!is_transport_intact(&packet), "repaired at {place}, bit {bit}");
                    }
                }
                if family == Family::V4 {
                    let mut bad = good.clone();
                    bad[10] ^= 0x20;
                    let (_, packet) = scene.send(bad);
                    assert!(!is_header_intact(&packet) && is_transport_intact(&packet));
                }
            }
        }
    }
}

const V4_PAIR: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(11, 0, 0, 1), Ipv4Addr::new(10, 96, 0, 10));

#[test]
fn f75_ip_options_are_left_alone() {
    let (client, vip, backend) = (client_of(Family::V4), Family::V4.vip(), Family::V4.backend(0));
    let IpAddr::V4(address) = backend.ip() else { unreachable!() };
    let options: [&[u8]; 10] = [
        &[1, 1, 1, 0],
        &[7, 7, 4, 0, 0, 0, 0],
        &[68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[148, 4, 0, 0],
        &[131, 7, 4, 1, 2, 3, 4],
        &[137, 7, 4, 1, 2, 3, 4],
        &[130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[136, 4, 0, 9],
        &[0, 99, 99, 99],
        &[1; 40],
    ];
    for options in options {
        let mut scene = scene_of(Family::V4);
        let packet =
            ipv4(V4_PAIR.0, V4_PAIR.1, Protocol::UDP, options, &udp_bytes(client, vip, b"x"));
        let (verdict, packet) = scene.send(packet);
        assert_eq!(verdict.action, Action::Translate, "{options:?}");
        let expected =
            ipv4(V4_PAIR.0, address, Protocol::UDP, options, &udp_bytes(client, backend, b"x"));
        assert_eq!(packet, expected);
    }
}

#[test]
fn f75_ip_options_that_contradict_themselves_are_malformed() {
    let (client, vip) = (client_of(Family::V4), Family::V4.vip());
    for options in
        [&[7, 0][..], &[7, 1, 4], &[68, 40, 5], &[255, 255, 255, 255], &[1, 1, 1, 7], &[1, 7, 4, 0]]
    {
        let mut scene = scene_of(Family::V4);
        let packet =
            ipv4(V4_PAIR.0, V4_PAIR.1, Protocol::UDP, options, &udp_bytes(client, vip, b"x"));
        scene.expect(packet, Action::Drop, Cause::Malformed);
    }
}

#[test]
fn f75_ip_headers_that_cannot_be() {
    let mut scene = scene_of(Family::V4);
    let good = udp(client_of(Family::V4), Family::V4.vip(), b"payload");
    let mut broken = 0;
    let mut drop = |scene: &mut Scene, packet: Vec<u8>| {
        scene.expect(packet, Action::Drop, Cause::Malformed);
        broken += 1;
    };
    for length in 0..5 {
        let mut packet = good.clone();
        packet[0] = 0x40 | length;
        drop(&mut scene, packet);
    }
    for length in 10..16 {
        let mut packet = good.clone();
        packet[0] = 0x40 | length;
        drop(&mut scene, packet);
    }
    for total in (0..28).chain([36, 37, 1500, 65_535]) {
        let mut packet = good.clone();
        packet[2..4].copy_from_slice(&u16::to_be_bytes(total));
        drop(&mut scene, packet);
    }
    for version in [0, 1, 2, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15] {
        let mut packet = good.clone();
        packet[0] = version << 4 | 5;
        drop(&mut scene, packet);
    }
    // Nothing at all stands for a frame without an IP packet.
    for cut in 1..good.len() {
        drop(&mut scene, good[..cut].to_vec());
    }
    let six = udp(client_of(Family::V6), Family::V6.vip(), b"payload");
    for cut in 1..six.len() {
        drop(&mut scene, six[..cut].to_vec());
    }
    for length in (0..8).chain([16, 17, 65_535]) {
        let mut packet = six.clone();
        packet[4..6].copy_from_slice(&u16::to_be_bytes(length));
        drop(&mut scene, packet);
    }
    assert_eq!(scene.count(Cause::Malformed), broken);
    assert_eq!(scene.engine.occupancy().flows, 0);
}

#[test]
fn f76_transport_lengths_that_cannot_be() {
    for family in FAMILIES {
        let mut scene = scene_of(family);
        let (client, vip) = (client_of(family), family.vip());
        let segment = Tcp { payload: vec![1; 4], ..Tcp::new(SYN, 1, 0) };
        let good = tcp_bytes(client, vip, &segment);
        for offset in (0..5).chain(7..16) {
            let mut bytes = good.clone();
            bytes[12] = offset << 4;
            let packet = ip(client.ip(), vip.ip(), Protocol::TCP, &bytes);
            scene.expect(packet, Action::Drop, Cause::Malformed);
        }
        for length in 0..20 {
            let packet = ip(client.ip(), vip.ip(), Protocol::TCP, &good[..length]);
            scene.expect(packet, Action::Drop, Cause::Malformed);
        }
        let good = udp_bytes(client, vip, b"1234");
        for length in (0..8).chain([13, 14, 100, 65_535]) {
            let mut bytes = good.clone();
            bytes[4..6].copy_from_slice(&u16::to_be_bytes(length));
            let packet = ip(client.ip(), vip.ip(), Protocol::UDP, &bytes);
            scene.expect(packet, Action::Drop, Cause::Malformed);
        }
        for length in 0..12 {
            let packet = ip(client.ip(), vip.ip(), Protocol::UDP, &good[..length]);
            scene.expect(packet, Action::Drop, Cause::Malformed);
        }
        let association = sctp(client, vip, 1, b"");
        for length in 0..12 {
            let bytes = &association[l4(&association)..][..length];
            let packet = ip(client.ip(), vip.ip(), Protocol::SCTP, bytes);
            scene.expect(packet, Action::Drop, Cause::Malformed);
        }
        for length in 0..8 {
            let packet =
                ip(client.ip(), vip.ip(), family.icmp(), &[8, 0, 0, 0, 0, 0, 0, 0][..length]);
            scene.expect(packet, Action::Drop, Cause::Malformed);
        }
        assert_eq!(scene.engine.occupancy().flows, 0);
        // One byte more than the least is enough.
        scene.translate(tcp(client, vip, &Tcp::new(SYN, 1, 0)));
        scene.translate(udp(client, vip, b""));
    }
}

#[test]
fn f76_lengths_of_packets_of_known_flows() {
    for family in FAMILIES {
        let mut scene = scene_of(family);
        let (client, vip) = (client_of(family), family.vip());
        scene.translate(udp(client, vip, b"1234"));
        scene.translate(tcp(client, vip, &Tcp::new(SYN, 1, 0)));
        let mut bytes = udp_bytes(client, vip, b"1234");
        for length in (0..8).chain([13, 65_535]) {
            bytes[4..6].copy_from_slice(&u16::to_be_bytes(length));
            let packet = ip(client.ip(), vip.ip(), Protocol::UDP, &bytes);
            scene.expect(packet, Action::Drop, Cause::Malformed);
        }
        let mut bytes = tcp_bytes(client, vip, &Tcp::new(SYN, 1, 0));
        for offset in (0..5).chain(6..16) {
            bytes[12] = offset << 4;
            let packet = ip(client.ip(), vip.ip(), Protocol::TCP, &bytes);
            scene.expect(packet, Action::Drop, Cause::Malformed);
        }
    }
}

fn v6(address: SocketAddr) -> Ipv6Addr {
    match address.ip() {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => unreachable!("only asked for IPv6"),
    }
}

/// An IPv6 packet behind these extension headers: kind and bytes behind its first two.
fn behind(extensions: &[(u8, &[u8])], last: u8, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (at, (_, content)) in extensions.iter().enumerate() {
        let next = extensions.get(at + 1).map_or(last, |(kind, _)| *kind);
        bytes.extend([next, ((content.len() + 2) / 8 - 1) as u8]);
        bytes.extend(*content);
    }
    bytes.extend(payload);
    ipv6(
        v6(client_of(Family::V6)),
        v6(dst),
        extensions.first().map_or(last, |(kind, _)| *kind),
        &bytes,
    )
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const PADDING: &[u8] = &[1, 4, 0, 0, 0, 0];
const LONG_PADDING: &[u8] = &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn f77_extension_headers_are_walked() {
    let (client, vip, backend) = (client_of(Family::V6), Family::V6.vip(), Family::V6.backend(0));
    for depth in 0..=10 {
        for order in 0..4usize {
            let kinds = [
                (HOP_BY_HOP, PADDING),
                (DESTINATION, LONG_PADDING),
                (MOBILITY, PADDING),
                (ROUTING, &[2, 0, 0, 0, 0, 0][..]),
            ];
            let extensions: Vec<_> = (0..depth).map(|n| kinds[(n + order) % 4]).collect();
            let mut scene = scene_of(Family::V6);
            let packet = behind(&extensions, 17, vip, &udp_bytes(client, vip, b"deep"));
            if depth > 8 {
                scene.expect(packet, Action::Drop, Cause::Malformed);
                continue;
            }
            let (verdict, packet) = scene.send(packet);
            assert_eq!(verdict.action, Action::Translate, "{depth} deep");
            assert_eq!(
                packet,
                behind(&extensions, 17, backend, &udp_bytes(client, backend, b"deep"))
            );
        }
    }
}

#[test]
fn f77_extension_headers_that_are_not_followed() {
    let (client, vip) = (client_of(Family::V6), Family::V6.vip());
    let transport = udp_bytes(client, vip, b"x");
    let mut scene = scene_of(Family::V6);
    // Type 0 routing, wherever it stands (RFC 5095).
    for extensions in [
        &[(ROUTING, &[0, 1, 0, 0, 0, 0][..])][..],
        &[(HOP_BY_HOP, PADDING), (DESTINATION, PADDING), (ROUTING, &[0, 0, 0, 0, 0, 0][..])][..],
    ] {
        scene.expect(behind(extensions, 17, vip, &transport), Action::Drop, Cause::SourceRoute);
    }
    // ESP, AH, nothing more, and what is unknown: passed untranslated, whatever their bytes look
    // like.
    for last in [50, 51, 59, 253, 254, 139] {
        scene.expect(behind(&[], last, vip, &transport), Action::Accept, Cause::NotOurs);
        let packet = behind(&[(DESTINATION, PADDING)], last, vip, &transport);
        scene.expect(packet, Action::Accept, Cause::NotOurs);
    }
    // A length that runs over the end, by any number of octets.
    for length in 1..=255 {
        let mut packet = behind(&[(DESTINATION, PADDING)], 17, vip, &transport);
        packet[41] = length;
        let (verdict, _) = scene.send(packet.clone());
        let is_inside = (usize::from(length) + 1) * 8 + 40 <= packet.len();
        assert!(is_inside || verdict.cause == Cause::Malformed, "{length}: {:?}", verdict.cause);
    }
    // A chain that is cut anywhere.
    let whole = behind(&[(HOP_BY_HOP, PADDING), (DESTINATION, LONG_PADDING)], 17, vip, &transport);
    for cut in 40..whole.len() {
        let mut packet = whole[..cut].to_vec();
        packet[4..6].copy_from_slice(&((cut - 40) as u16).to_be_bytes());
        scene.expect(packet, Action::Drop, Cause::Malformed);
    }
    // A jumbogram (RFC 2675).
    let mut jumbo = behind(&[(HOP_BY_HOP, &[194, 4, 0, 1, 0, 0])], 17, vip, &[0; 70_000][..65_000]);
    jumbo[4..6].fill(0);
    scene.expect(jumbo, Action::Drop, Cause::Malformed);
}

#[test]
fn f81_sizes_from_least_to_most() {
    for family in FAMILIES {
        let (client, vip, backend) = (client_of(family), family.vip(), family.backend(0));
        let header = if family == Family::V4 { 20 } else { 40 };
        let most = if family == Family::V4 { 65_535 } else { 65_535 + 40 };
        for checksum in [COMPLETE, INCOMPLETE] {
            let meta = Meta { checksum, ..Meta::default() };
            for size in [
                28,
                60,
                576,
                1280,
                1500,
                9000,
                9001,
                32_767,
                32_768,
                65_531,
                65_532,
                most - 1,
                most,
            ] {
                let Some(payload) = usize::checked_sub(size, header + 8) else { continue };
                let payload = vec![0xc3; payload];
                let mut scene = scene_of(family);
                let mut packet = udp(client, vip, &payload);
                assert_eq!(packet.len(), size);
                assert_eq!(scene.process(&mut packet, meta).action, Action::Translate);
                assert_eq!(packet, udp(client, backend, &payload), "{size}");
                let mut packet = udp(backend, client, &payload);
                assert_eq!(scene.process(&mut packet, meta).action, Action::Translate);
                assert_eq!(packet, udp(vip, client, &payload), "{size}");
            }
        }
    }
    // The least of all: nothing behind the IP header.
    let mut scene = scene_of(Family::V4);
    let bare = ipv4(V4_PAIR.0, V4_PAIR.1, Protocol(253), &[], &[]);
    assert_eq!(bare.len(), 20);
    scene.expect(bare, Action::Accept, Cause::NotOurs);
}

#[test]
fn f86_unknown_protocols_to_a_frontend() {
    for family in FAMILIES {
        let mut scene = scene_of(family);
        // Bytes that would be a TCP or UDP header to the port that is served.
        let bytes = tcp_bytes(client_of(family), family.vip(), &Tcp::new(SYN, 1, 0));
        for protocol in (0..=255).map(Protocol) {
            let extensions = [0, 43, 44, 60, 135];
            let is_known = matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP)
                || protocol == family.icmp()
                || (family == Family::V6 && extensions.contains(&protocol.0));
            if !is_known {
                let packet = ip(client_of(family).ip(), family.vip().ip(), protocol, &bytes);
                scene.expect(packet, Action::Accept, Cause::NotOurs);
            }
        }
        assert_eq!(scene.engine.occupancy().flows, 0);
    }
}

#[test]
fn f86_a_protocol_without_ports_may_be_served() {
    for family in FAMILIES {
        let gre = Protocol(47);
        let (client, vip) = (client_of(family).ip(), SocketAddr::new(family.vip().ip(), 0));
        let backend = SocketAddr::new(family.backend(0).ip(), 0);
        let mut scene = Scene::new(Config::default(), vec![spec("gre", gre, vip, &[backend])]);
        for round in 0..3u8 {
            let payload = [0, 0, 8, round, 9, 9];
            let (verdict, packet) = scene.send(ip(client, vip.ip(), gre, &payload));
            assert_eq!(verdict.action, Action::Translate);
            assert_eq!(packet, ip(client, backend.ip(), gre, &payload));
            let (_, packet) = scene.send(ip(backend.ip(), client, gre, &payload));
            assert_eq!(packet, ip(vip.ip(), client, gre, &payload));
        }
    }
}

#[test]
fn f86_sctp_has_a_right_crc() {
    for family in FAMILIES {
        let (client, vip, backend) = (client_of(family), family.vip(), family.backend(0));
        for checksum in [COMPLETE, INCOMPLETE] {
            let mut scene = scene_of(family);
            for (chunk, is_client) in
                [(1, true), (2, false), (10, true), (11, false), (0, true), (0, false)]
            {
                let (src, dst) = if is_client { (client, vip) } else { (backend, client) };
                let (new_src, new_dst) = if is_client { (client, backend) } else { (vip, client) };
                for size in [0, 1, 4, 1200] {
                    let mut packet = sctp(src, dst, chunk, &vec![chunk; size]);
                    if checksum == INCOMPLETE {
                        let at = l4(&packet) + 8;
                        packet[at..at + 4].fill(0);
                    }
                    let verdict = scene.process(&mut packet, Meta { checksum, ..Meta::default() });
                    assert_eq!(verdict.action, Action::Translate);
                    assert_eq!(packet, sctp(new_src, new_dst, chunk, &vec![chunk; size]));
                }
            }
        }
    }
}

#[test]
fn f91_nobody_sends_to_itself_by_way_of_this_node() {
    for family in FAMILIES {
        let vip = family.vip();
        for kind in [FrontendKind::ClusterIp, FrontendKind::ExternalIp, FrontendKind::LoadBalancer]
        {
            let mut own = spec("default/u:", Protocol::UDP, vip, &[family.backend(1)]);
            own.frontends[0].kind = kind;
            let mut scene = Scene::new(Config::default(), vec![own]);
            scene.expect(udp(vip, vip, b"x"), Action::Drop, Cause::Martian);
        }
    }
}

#[test]
fn f88_padding_behind_the_packet() {
    for family in FAMILIES {
        let (client, vip, backend) = (client_of(family), family.vip(), family.backend(0));
        for checksum in [COMPLETE, INCOMPLETE] {
            for padding in [1, 2, 3, 17, 46, 1000] {
                let mut scene = scene_of(family);
                let pad = |mut packet: Vec<u8>| {
                    packet.extend(vec![0xee; padding]);
                    packet
                };
                let syn = Tcp::new(SYN, 1, 0);
                for (asked, expected) in [
                    (tcp(client, vip, &syn), tcp(client, backend, &syn)),
                    (udp(client, vip, b"odd"), udp(client, backend, b"odd")),
                    (udp(backend, client, b"even"), udp(vip, client, b"even")),
                    (sctp(client, vip, 1, b""), sctp(client, backend, 1, b"")),
                ] {
                    let mut packet = pad(asked);
                    let verdict = scene.process(&mut packet, Meta { checksum, ..Meta::default() });
                    assert_eq!(verdict.action, Action::Translate);
                    assert_eq!(packet, pad(expected), "{padding} bytes of padding");
                }
            }
        }
        // An ICMP error in a padded frame, and an echo reply, as in VPP's test.
        let vip = SocketAddr::new(vip.ip(), 0);
        let backend = SocketAddr::new(backend.ip(), 0);
        let mut scene =
            Scene::new(Config::default(), vec![spec("ping", family.icmp(), vip, &[backend])]);
        let _ = scene.send(echo(client.ip(), vip.ip(), true, 9, b"x"));
        let mut reply = echo(backend.ip(), client.ip(), false, 9, b"x");
        reply.extend([0xaa; 17]);
        let reply = scene.expect(reply, Action::Translate, Cause::Established);
        let mut expected = echo(vip.ip(), client.ip(), false, 9, b"x");
        expected.extend([0xaa; 17]);
        assert_eq!(reply, expected);
        let sent = echo(client.ip(), backend.ip(), true, 9, b"x");
        let kind = if family == Family::V4 { (3, 1) } else { (1, 0) };
        let mut error = icmp(family.router(), client.ip(), kind, [0; 4], &sent);
        error.extend([0xaa; 17]);
        let error = scene.expect(error, Action::Translate, Cause::Related);
        assert_intact(&error[..error.len() - 17]);
        assert_eq!(error[error.len() - 17..], [0xaa; 17]);
    }
}

#[test]
fn f89_time_to_live_is_not_touched() {
    for family in FAMILIES {
        for ttl in [0, 1, 2, 64, 255] {
            let mut scene = scene_of(family);
            let mut packet = udp(client_of(family), family.vip(), b"x");
            if family == Family::V4 {
                packet[8] = ttl;
                seal_ipv4(&mut packet);
            } else {
                packet[7] = ttl;
            }
            let (verdict, packet) = scene.send(packet);
            assert_eq!(verdict.action, Action::Translate);
            assert_intact(&packet);
            assert_eq!(packet[if family == Family::V4 { 8 } else { 7 }], ttl);
        }
    }
}

fn family() -> impl proptest::strategy::Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

fn bytes(most: usize) -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

/// A packet of TCP or UDP with arbitrary values in every field that is not translated.
fn packet_of(
    family: Family,
    is_tcp: bool,
    (src, dst): (SocketAddr, SocketAddr),
    fields: &[u8; 24],
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut transport = if is_tcp {
        let mut tcp = Tcp::new(
            fields[0],
            u32::from_be_bytes([fields[1], fields[2], fields[3], fields[4]]),
            0,
        );
        tcp.options = options[..options.len().min(40)].to_vec();
        tcp.payload = payload.to_vec();
        tcp_bytes(src, dst, &tcp)
    } else {
        udp_bytes(src, dst, payload)
    };
    if is_tcp {
        // Acknowledgement, reserved bits, window, urgent pointer.
        transport[8..12].copy_from_slice(&fields[5..9]);
        transport[12] |= fields[9] & 0x0f;
        transport[14..16].copy_from_slice(&fields[10..12]);
        transport[18..20].copy_from_slice(&fields[12..14]);
        transport[16..18].fill(0);
        let sum = !sum(pseudo(src.ip(), dst.ip(), Protocol::TCP, transport.len()), &transport);
        transport[16..18].copy_from_slice(&sum.to_be_bytes());
    }
    let protocol = if is_tcp { Protocol::TCP } else { Protocol::UDP };
    let mut packet = ip(src.ip(), dst.ip(), protocol, &transport);
    if family == Family::V4 {
        // Service, identification, don't fragment and the reserved flag, time to live.
        packet[1] = fields[14];
        packet[4..6].copy_from_slice(&fields[15..17]);
        packet[6] = fields[17] & 0xc0;
        packet[8] = fields[18];
        seal_ipv4(&mut packet);
    } else {
        // Class, flow label, hop limit.
        packet[0] |= fields[14] & 0x0f;
        packet[1..4].copy_from_slice(&fields[15..18]);
        packet[7] = fields[18];
    }
    packet
}

proptest! {
    /// What is not translated is identical to the byte, both ways, and checksums are as if computed
    /// in full.
    #[test]
    fn f89_every_other_byte_is_identical(
        family in family(),
        is_tcp in any::<bool>(),
        fields in any::<[u8; 24]>(),
        options in bytes(40),
        payload in bytes(200),
        padding in bytes(20),
        sport in 1u16..,
    ) {
        let mut scene = scene_of(family);
        let (client, vip, backend) = (family.client(1, sport), family.vip(), family.backend(0));
        let open = if is_tcp { tcp(client, vip, &Tcp::new(SYN, 1, 0)) } else { udp(client, vip, b"x") };
        let (_, opened) = scene.send(open);
        prop_assert_eq!(ends(&opened), (client, backend));
        for (from, to) in [((client, vip), (client, backend)), ((backend, client), (vip, client))] {
            let mut packet = packet_of(family, is_tcp, from, &fields, &options, &payload);
            packet.extend(&padding);
            let before = packet.clone();
            let (verdict, packet) = scene.send(packet);
            prop_assert_eq!(verdict.action, Action::Translate);
            prop_assert_eq!(ends(&packet), to);
            prop_assert!(is_header_intact(&packet) && is_transport_intact(&packet));
            let at = l4(&packet);
            let checksum = at + if is_tcp { 16 } else { 6 };
            let addresses = if family == Family::V4 { 12..20 } else { 8..40 };
            for (place, (before, after)) in before.iter().zip(&packet).enumerate() {
                let is_translated = addresses.contains(&place)
                    || (at..at + 4).contains(&place)
                    || (checksum..checksum + 2).contains(&place)
                    || (family == Family::V4 && (10..12).contains(&place));
                prop_assert!(is_translated || before == after, "byte {}", place);
            }
        }
    }

    /// Packets that etherparse writes read the same, and what becomes of them reads right to
    /// etherparse.
    #[test]
    fn f89_etherparse_agrees(
        family in family(),
        is_tcp in any::<bool>(),
        sport in 1u16..,
        number in 0u32..1 << 24,
        ttl in any::<u8>(),
        seq in any::<u32>(),
        payload in bytes(300),
    ) {
        let (client, vip) = (family.client(number, sport), family.vip());
        let builder = match (client, vip) {
            (SocketAddr::V4(src), SocketAddr::V4(dst)) => {
                PacketBuilder::ipv4(src.ip().octets(), dst.ip().octets(), ttl)
            }
            (SocketAddr::V6(src), SocketAddr::V6(dst)) => {
                PacketBuilder::ipv6(src.ip().octets(), dst.ip().octets(), ttl)
            }
            _ => unreachable!("one family"),
        };
        let mut packet = Vec::new();
        let written = if is_tcp {
            builder.tcp(sport, 80, seq, 1000).syn().write(&mut packet, &payload)
        } else {
            builder.udp(sport, 80).write(&mut packet, &payload)
        };
        prop_assert!(written.is_ok());
        let kind = if is_tcp { Layer4::Tcp } else { Layer4::Udp };
        let (source, destination) = if family == Family::V4 {
            let headers = Ipv4Addr::parse(&packet).expect("whole");
            prop_assert_eq!(headers.layer4, kind);
            prop_assert!(is_told(Ipv4Addr::plain(&packet), &headers));
            (headers.tuple.ends.source(), headers.tuple.ends.destination())
        } else {
            let headers = Ipv6Addr::parse(&packet).expect("whole");
            prop_assert_eq!(headers.layer4, kind);
            prop_assert!(is_told(Ipv6Addr::plain(&packet), &headers));
            (headers.tuple.ends.source(), headers.tuple.ends.destination())
        };
        prop_assert_eq!((source, destination), (client, vip));

        let mut scene = scene_of(family);
        let (verdict, sent) = scene.send(packet);
        prop_assert_eq!(verdict.action, Action::Translate);
        let read = PacketHeaders::from_ip_slice(&sent).expect("whole");
        let body = read.payload.slice();
        prop_assert_eq!(body, &payload[..]);
        let (src, dst): (IpAddr, IpAddr) = match read.net.as_ref().expect("an IP header") {
            NetHeaders::Ipv4(header, _) => {
                prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                prop_assert_eq!(header.time_to_live, ttl);
                (header.source.into(), header.destination.into())
            }
            NetHeaders::Ipv6(header, _) => {
                prop_assert_eq!(header.hop_limit, ttl);
                (header.source.into(), header.destination.into())
            }
            NetHeaders::Arp(_) => unreachable!("not sent"),
        };
        let (sport_seen, dport_seen, checksum, computed) = match (read.transport, read.net) {
            (Some(TransportHeader::Tcp(tcp)), Some(NetHeaders::Ipv4(header, _))) => {
                (tcp.source_port, tcp.destination_port, tcp.checksum, tcp.calc_checksum_ipv4(&header, body))
            }
            (Some(TransportHeader::Tcp(tcp)), Some(NetHeaders::Ipv6(header, _))) => {
                (tcp.source_port, tcp.destination_port, tcp.checksum, tcp.calc_checksum_ipv6(&header, body))
            }
            (Some(TransportHeader::Udp(udp)), Some(NetHeaders::Ipv4(header, _))) => {
                (udp.source_port, udp.destination_port, udp.checksum, udp.calc_checksum_ipv4(&header, body))
            }
            (Some(TransportHeader::Udp(udp)), Some(NetHeaders::Ipv6(header, _))) => {
                (udp.source_port, udp.destination_port, udp.checksum, udp.calc_checksum_ipv6(&header, body))
            }
            _ => unreachable!("TCP or UDP over IP was sent"),
        };
        prop_assert_eq!(checksum, computed.expect("short enough"));
        prop_assert_eq!(SocketAddr::new(src, sport_seen), client);
        prop_assert_eq!(SocketAddr::new(dst, dport_seen), family.backend(0));
    }

    /// Garbage has a verdict, is rewritten only if that is the verdict, and explaining it comes to
    /// the same.
    #[test]
    fn f87_garbage_has_a_verdict(
        packets in prop::collection::vec((bytes(400), 0u8..4, any::<[u8; 2]>()), 1..30),
    ) {
        let mut scene = Scene::plain(Config { max_fragments: 8, ..Config::default() });
        let mut tickets = 0;
        for (mut packet, shape, choice) in packets {
            shape_garbage(&mut packet, shape, choice);
            let before = packet.clone();
            let explained = explain(&mut scene, &packet, Meta::default());
            let verdict = scene.process(&mut packet, Meta::default());
            prop_assert_eq!(explained.unwrap_or(verdict.cause), verdict.cause);
            prop_assert!(verdict.action == Action::Translate || packet == before);
            prop_assert_eq!(packet.len(), before.len());
            tickets += usize::from(verdict.action == Action::Hold);
        }
        scene.sweep(40.0);
        prop_assert_eq!(scene.engine.released(|_| true).len(), tickets, "what is held comes out again");
    }

    /// A packet with a few wrong bytes, of every kind, on a path where flows are known.
    #[test]
    fn f87_damaged_packets(
        family in family(),
        kind in 0usize..8,
        damage in prop::collection::vec((any::<u16>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<u16>()),
        checksum in prop_oneof![Just(COMPLETE), Just(INCOMPLETE)],
    ) {
        let mut scene = scene_of(family);
        let (client, vip, backend) = (client_of(family), family.vip(), family.backend(0));
        let big = udp(client, vip, &[7; 100]);
        let asked = [
            tcp(client, vip, &Tcp { options: vec![2, 4, 5, 0xb4, 1, 3, 3, 7], ..Tcp::new(SYN, 1, 0) }),
            big.clone(),
            sctp(client, vip, 1, b"1234"),
        ];
        for packet in &asked {
            let _ = scene.send(packet.clone());
        }
        let (_, sent) = scene.send(asked[1].clone());
        let mut packet = match kind {
            0..=2 => asked[kind].clone(),
            3 => tcp(backend, client, &Tcp { payload: vec![1; 30], ..Tcp::new(SYN | ACK, 1, 2) }),
            4 => icmp(family.router(), client.ip(), if family == Family::V4 { (3, 4) } else { (2, 0) }, [0; 4], &sent),
            5 => fragments(&big, 48).swap_remove(0),
            6 => fragments(&big, 48).swap_remove(1),
            _ => echo(client.ip(), vip.ip(), true, 1, b"ping"),
        };
        for (place, value) in damage {
            let place = usize::from(place) % packet.len();
            packet[place] = value;
        }
        if let Some(cut) = cut {
            packet.truncate(usize::from(cut) % (packet.len() + 1));
        }
        let before = packet.clone();
        let meta = Meta { checksum, ..Meta::default() };
        let explained = explain(&mut scene, &packet, meta);
        let verdict = scene.process(&mut packet, meta);
        prop_assert!(verdict.action == Action::Translate || packet == before);
        prop_assert_eq!(explained.unwrap_or(verdict.cause), verdict.cause);
    }
}

/// What looking at a packet says; nothing for fragments, of whose places in their datagram looking
/// takes no note.
fn explain(scene: &mut Scene, packet: &[u8], meta: Meta) -> Option<Cause> {
    let explanation = scene.engine.explain(scene.now, packet, meta);
    let is_fragment = explanation.steps.iter().any(|(check, _)| *check == "fragment");
    (!is_fragment).then_some(explanation.verdict.cause)
}

/// Garbage that looks more or less like something.
fn shape_garbage(packet: &mut Vec<u8>, shape: u8, [choice, other]: [u8; 2]) {
    if shape == 0 || packet.len() < 48 {
        return;
    }
    let length = packet.len() as u16;
    if shape == 1 {
        packet[0] = 0x45 + choice % 3;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[6..8].copy_from_slice(&[if other % 3 == 0 { 0x20 } else { 0 }, 0]);
        packet[9] = [1, 6, 17, 132][usize::from(choice) % 4];
        packet[16..20].copy_from_slice(&[10, 96, 0, 10]);
    } else if shape == 2 {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&(length - 40).to_be_bytes());
        packet[6] = [0, 6, 17, 43, 44, 58, 60, 132][usize::from(choice) % 8];
        if let SocketAddr::V6(vip) = Family::V6.vip() {
            packet[24..40].copy_from_slice(&vip.ip().octets());
        }
    } else {
        // An ICMP error whose quote is garbage, with a right checksum.
        let kind = [(3, 4), (11, 0), (5, 1), (12, 0)][usize::from(choice) % 4];
        let quote = &packet[..usize::from(other).min(packet.len())];
        *packet = icmp(Family::V4.router(), Family::V4.vip().ip(), kind, [0; 4], quote);
    }
}

#[test]
fn f87_garbage_of_every_length() {
    let mut scene = Scene::plain(Config::default());
    let mut random = 1u32;
    let mut noise = vec![0; 65_600];
    for byte in &mut noise {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (random >> 24) as u8;
    }
    let mut count = 0;
    for length in (0..2000).chain((2000..=65_535).step_by(997)).chain([65_534, 65_535, 65_600]) {
        let mut packet = noise[..length].to_vec();
        for first in [0x45, 0x46, 0x4f, 0x60, 0x6f, 0x00] {
            if let Some(byte) = packet.first_mut() {
                *byte = first;
            }
            let before = packet.clone();
            let verdict = scene.process(&mut packet, Meta::default());
            assert!(
                matches!(verdict.action, Action::Accept | Action::Drop | Action::Hold),
                "{verdict:?}"
            );
            assert_eq!(packet, before);
            count += 1;
        }
    }
    assert_eq!(
        scene.engine.actions().map(|(_, count)| count).sum::<u64>(),
        count,
        "each has a verdict"
    );
}

/// Whether a plain packet is what its headers say.
fn is_told<A: Wire>(plain: Option<Plain<A>>, headers: &Headers<A>) -> bool {
    plain.is_some_and(|plain| {
        plain.ends.ends() == headers.tuple.ends
            && plain.protocol == headers.tuple.protocol
            && plain.end == headers.end
    })
}
