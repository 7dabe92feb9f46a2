//! Bytes that no translation may change: padding, times to live, and all but addresses, ports and
//! checksums: F88, F89.

mod scene;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::wire::{Headers, Layer4, Plain, Wire};
use kbe_nat_engine::{Action, Cause, ChecksumState, Config, Meta};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use scene::*;

#[test]
fn f88_padding_behind_the_packet() {
    for family in FAMILIES {
        let (client, vip, backend) = (family.client(1, 5555), family.vip(), family.backend(0));
        for checksum in [ChecksumState::Complete, ChecksumState::Incomplete] {
            for padding in [1, 2, 3, 17, 46, 1000] {
                let mut scene = Scene::with_backends(family, 1);
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
            let mut scene = Scene::with_backends(family, 1);
            let mut packet = udp(family.client(1, 5555), family.vip(), b"x");
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
        family in any_family(),
        is_tcp in any::<bool>(),
        fields in any::<[u8; 24]>(),
        options in any_bytes(40),
        payload in any_bytes(200),
        padding in any_bytes(20),
        sport in 1u16..,
    ) {
        let mut scene = Scene::with_backends(family, 1);
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
        family in any_family(),
        is_tcp in any::<bool>(),
        sport in 1u16..,
        number in 0u32..1 << 24,
        ttl in any::<u8>(),
        seq in any::<u32>(),
        payload in any_bytes(300),
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

        let mut scene = Scene::with_backends(family, 1);
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
}

/// Whether a plain packet is what its headers say.
fn is_told<A: Wire>(plain: Option<Plain<A>>, headers: &Headers<A>) -> bool {
    plain.is_some_and(|plain| {
        plain.ends.ends() == headers.tuple.ends
            && plain.protocol == headers.tuple.protocol
            && plain.end == headers.end
    })
}
