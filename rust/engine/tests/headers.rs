//! Headers of IP and transport: options, extension headers, lengths, sizes, protocols and
//! addresses: F75 to F77, F81, F86, F91.

mod scene;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Action, Cause, ChecksumState, Config, FrontendKind, Meta};
use scene::*;

const V4_PAIR: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(11, 0, 0, 1), Ipv4Addr::new(10, 96, 0, 10));

#[test]
fn f75_ip_options_are_left_alone() {
    let (client, vip, backend) =
        (Family::V4.client(1, 5555), Family::V4.vip(), Family::V4.backend(0));
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
        let mut scene = Scene::with_backends(Family::V4, 1);
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
    let (client, vip) = (Family::V4.client(1, 5555), Family::V4.vip());
    for options in
        [&[7, 0][..], &[7, 1, 4], &[68, 40, 5], &[255, 255, 255, 255], &[1, 1, 1, 7], &[1, 7, 4, 0]]
    {
        let mut scene = Scene::with_backends(Family::V4, 1);
        let packet =
            ipv4(V4_PAIR.0, V4_PAIR.1, Protocol::UDP, options, &udp_bytes(client, vip, b"x"));
        scene.expect(packet, Action::Drop, Cause::Malformed);
    }
}

#[test]
fn no_byte_is_no_packet_but_in_a_capture() {
    let mut scene = Scene::with_backends(Family::V4, 1);
    for (is_captured, action, cause) in
        [(false, Action::Drop, Cause::Malformed), (true, Action::Pass, Cause::NotOurs)]
    {
        let meta = Meta { is_captured, ..Meta::default() };
        assert_eq!(scene.engine.explain(0, &[], meta).verdict.cause, cause);
        let counted = |scene: &Scene| {
            scene.engine.causes().find(|&(each, _)| each == cause).map_or(0, |(_, count)| count)
        };
        let before = counted(&scene);
        let verdict = scene.process(&mut [], meta);
        assert_eq!((verdict.action, verdict.cause), (action, cause));
        assert_eq!(counted(&scene), before + 1);
    }
}

#[test]
fn f75_ip_headers_that_cannot_be() {
    let mut scene = Scene::with_backends(Family::V4, 1);
    let good = udp(Family::V4.client(1, 5555), Family::V4.vip(), b"payload");
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
    let six = udp(Family::V6.client(1, 5555), Family::V6.vip(), b"payload");
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
        let mut scene = Scene::with_backends(family, 1);
        let (client, vip) = (family.client(1, 5555), family.vip());
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
        let mut scene = Scene::with_backends(family, 1);
        let (client, vip) = (family.client(1, 5555), family.vip());
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
        v6(Family::V6.client(1, 5555)),
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
    let (client, vip, backend) =
        (Family::V6.client(1, 5555), Family::V6.vip(), Family::V6.backend(0));
    for depth in 0..=10 {
        for order in 0..4usize {
            let kinds = [
                (HOP_BY_HOP, PADDING),
                (DESTINATION, LONG_PADDING),
                (MOBILITY, PADDING),
                (ROUTING, &[2, 0, 0, 0, 0, 0][..]),
            ];
            let extensions: Vec<_> = (0..depth).map(|n| kinds[(n + order) % 4]).collect();
            let mut scene = Scene::with_backends(Family::V6, 1);
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
    let (client, vip) = (Family::V6.client(1, 5555), Family::V6.vip());
    let transport = udp_bytes(client, vip, b"x");
    let mut scene = Scene::with_backends(Family::V6, 1);
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
        scene.expect(behind(&[], last, vip, &transport), Action::Pass, Cause::NotOurs);
        let packet = behind(&[(DESTINATION, PADDING)], last, vip, &transport);
        scene.expect(packet, Action::Pass, Cause::NotOurs);
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
        let (client, vip, backend) = (family.client(1, 5555), family.vip(), family.backend(0));
        let header = if family == Family::V4 { 20 } else { 40 };
        let most = if family == Family::V4 { 65_535 } else { 65_535 + 40 };
        for checksum in [ChecksumState::Complete, ChecksumState::Incomplete] {
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
                let mut scene = Scene::with_backends(family, 1);
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
    let mut scene = Scene::with_backends(Family::V4, 1);
    let bare = ipv4(V4_PAIR.0, V4_PAIR.1, Protocol(253), &[], &[]);
    assert_eq!(bare.len(), 20);
    scene.expect(bare, Action::Pass, Cause::NotOurs);
}

#[test]
fn f86_unknown_protocols_to_a_frontend() {
    for family in FAMILIES {
        let mut scene = Scene::with_backends(family, 1);
        // Bytes that would be a TCP or UDP header to the port that is served.
        let bytes = tcp_bytes(family.client(1, 5555), family.vip(), &Tcp::new(SYN, 1, 0));
        for protocol in (0..=255).map(Protocol) {
            let extensions = [0, 43, 44, 60, 135];
            let is_known = matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP)
                || protocol == family.icmp()
                || (family == Family::V6 && extensions.contains(&protocol.0));
            if !is_known {
                let packet = ip(family.client(1, 5555).ip(), family.vip().ip(), protocol, &bytes);
                scene.expect(packet, Action::Pass, Cause::NotOurs);
            }
        }
        assert_eq!(scene.engine.occupancy().flows, 0);
    }
}

#[test]
fn f86_a_protocol_without_ports_may_be_served() {
    for family in FAMILIES {
        let gre = Protocol(47);
        let (client, vip) = (family.client(1, 5555).ip(), SocketAddr::new(family.vip().ip(), 0));
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

/// Cluster IPs come in any order, and go; an address between two of them may be a client's.
#[test]
fn f108_no_cluster_ip_sends() {
    for family in FAMILIES {
        let address = |last: u16| match family {
            Family::V4 => SocketAddr::from(([10, 96, 7, last as u8], 80)),
            Family::V6 => SocketAddr::from(([0xfd00, 0x96, 0, 0, 0, 0, 7, last], 80)),
        };
        let service = |last: u16| {
            spec(&format!("default/{last}:"), Protocol::UDP, address(last), &[family.backend(1)])
        };
        let mut services = vec![service(50)];
        let mut scene = Scene::new(Config::default(), services.clone());
        for added in [200, 10, 100] {
            services.push(service(added));
            scene.serve(services.clone());
        }
        for source in [10, 50, 100, 200] {
            let to = if source == 50 { 100 } else { 50 };
            scene.expect(udp(address(source), address(to), b"x"), Action::Drop, Cause::Martian);
        }
        for source in [9, 11, 99, 199, 201] {
            scene.expect(udp(address(source), address(50), b"x"), Action::Translate, Cause::New);
        }
        services.pop();
        scene.serve(services);
        scene.expect(udp(address(100), address(50), b"x"), Action::Translate, Cause::New);
    }
}

#[test]
fn f85_an_echo_keeps_its_identifier() {
    for family in FAMILIES {
        let port = |address: SocketAddr| SocketAddr::new(address.ip(), 0);
        let (client, vip) = (family.client(1, 0).ip(), port(family.vip()));
        let backend = port(family.backend(0));
        let icmp = spec("default/icmp:", family.icmp(), vip, &[backend]);
        let mut scene = Scene::new(Config::default(), vec![icmp]);
        for id in [0x1234, 0xff01] {
            let (verdict, packet) = scene.send(echo(client, vip.ip(), true, id, b"ping"));
            assert_eq!(verdict.action, Action::Translate);
            assert_eq!(packet, echo(client, backend.ip(), true, id, b"ping"));
            let (_, packet) = scene.send(echo(backend.ip(), client, false, id, b"ping"));
            assert_eq!(packet, echo(vip.ip(), client, false, id, b"ping"));
        }
    }
}
