//! Garbage and damaged packets: each gets a verdict: F87.

mod scene;

use std::net::SocketAddr;

use kbe_nat_engine::{Action, Cause, ChecksumState, Config, Meta};
use proptest::prelude::{Just, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use scene::*;

proptest! {
    /// Garbage has a verdict, is rewritten only if that is the verdict, and explaining it comes to
    /// the same.
    #[test]
    fn f87_garbage_has_a_verdict(
        packets in prop::collection::vec((any_bytes(400), 0u8..4, any::<[u8; 2]>()), 1..30),
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
        family in any_family(),
        kind in 0usize..8,
        damage in prop::collection::vec((any::<u16>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<u16>()),
        checksum in prop_oneof![Just(ChecksumState::Complete), Just(ChecksumState::Incomplete)],
    ) {
        let mut scene = Scene::with_backends(family, 1);
        let (client, vip, backend) = (family.client(1, 5555), family.vip(), family.backend(0));
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
                matches!(verdict.action, Action::Pass | Action::Drop | Action::Hold),
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
