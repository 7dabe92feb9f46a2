//! Checksums: complete, left to the device, absent, wrong, and the CRC of SCTP: F70 to F74, F86.

mod scene;

use std::net::SocketAddr;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Action, ChecksumState, Meta};
use scene::*;

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
        let mut scene = Scene::with_backends(family, 1);
        let (client, vip, backend) = (family.client(1, 5555), family.vip(), family.backend(0));
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
    let meta = Meta { checksum: ChecksumState::Incomplete, ..Meta::default() };
    for family in FAMILIES {
        let (client, vip, backend) = (family.client(1, 5555), family.vip(), family.backend(0));
        for size in [0, 1, 1460, 16_001, 65_212 - 60] {
            let mut scene = Scene::with_backends(family, 1);
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
    let meta = Meta { checksum: ChecksumState::Incomplete, ..Meta::default() };
    let mut scene = Scene::with_backends(Family::V4, 1);
    let mut packet = udp(Family::V4.client(1, 5555), Family::V4.client(2, 80), b"elsewhere");
    leave_checksum(&mut packet);
    let before = packet.clone();
    assert_eq!(scene.process(&mut packet, meta).action, Action::Pass);
    assert_eq!(packet, before);
}

#[test]
fn f72_ipv4_udp_without_checksum() {
    let mut scene = Scene::with_backends(Family::V4, 1);
    let (client, vip, backend) =
        (Family::V4.client(1, 5555), Family::V4.vip(), Family::V4.backend(0));
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
        let mut scene = Scene::with_backends(family, 1);
        let (client, vip, backend) = (family.client(1, 5555), family.vip(), family.backend(0));
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
    let mut scene = Scene::with_backends(Family::V6, 1);
    let mut packet = udp(Family::V6.client(1, 5555), Family::V6.vip(), b"none");
    packet[46..48].fill(0);
    let (verdict, packet) = scene.send(packet);
    assert_eq!(verdict.action, Action::Translate);
    assert_eq!(ends(&packet).1, Family::V6.backend(0));
    assert_eq!(packet[46..48], [0, 0], "left to the receiver, who drops it (RFC 8200, 8.1)");
}

#[test]
fn f74_bad_checksums_stay_bad() {
    for family in FAMILIES {
        let (client, vip, backend) = (family.client(1, 5555), family.vip(), family.backend(0));
        let mut scene = Scene::with_backends(family, 1);
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

#[test]
fn f86_sctp_has_a_right_crc() {
    for family in FAMILIES {
        let (client, vip, backend) = (family.client(1, 5555), family.vip(), family.backend(0));
        for checksum in [ChecksumState::Complete, ChecksumState::Incomplete] {
            let mut scene = Scene::with_backends(family, 1);
            for (chunk, is_client) in
                [(1, true), (2, false), (10, true), (11, false), (0, true), (0, false)]
            {
                let (src, dst) = if is_client { (client, vip) } else { (backend, client) };
                let (new_src, new_dst) = if is_client { (client, backend) } else { (vip, client) };
                for size in [0, 1, 4, 1200] {
                    let mut packet = sctp(src, dst, chunk, &vec![chunk; size]);
                    if checksum == ChecksumState::Incomplete {
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
