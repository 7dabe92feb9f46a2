//! Fragments that do not fit together: tiny, overlapping, repeated, with two ends: F80.

mod scene;

use kbe_nat_engine::{Action, Cause};
use scene::*;

#[test]
fn f80_tiny_first_fragment() {
    for family in FAMILIES {
        let (client, vip) = (family.client(1, 5555), family.vip());
        for (packet, least) in [
            (tcp(client, vip, &Tcp { payload: vec![1; 100], ..Tcp::new(SYN, 1, 0) }), 24),
            (udp(client, vip, &[1; 100]), 8),
            (sctp(client, vip, 1, &[1; 100]), 16),
        ] {
            for size in (8..least).step_by(8) {
                let mut scene = Scene::with_backends(family, 1);
                let first = fragments(&packet, size).swap_remove(0);
                scene.expect(first, Action::Drop, Cause::FragmentTiny);
                assert_eq!(scene.flows().len(), 0);
            }
        }
        // Even shorter, which no honest sender makes.
        for length in 0..8 {
            let mut scene = Scene::with_backends(family, 1);
            let packet = udp(client, vip, &[1; 100]);
            let start = l4(&packet);
            let first = fragment(&packet, 0, &packet[start..start + length], true);
            let (verdict, _) = scene.send(first);
            assert_eq!((verdict.action, verdict.cause), (Action::Drop, Cause::FragmentTiny));
        }
        // The flags of TCP would be in the second (RFC 1858): whatever comes at offset 8 is not
        // sent on by itself.
        let mut scene = Scene::with_backends(family, 1);
        let packet = tcp(client, vip, &Tcp { payload: vec![1; 100], ..Tcp::new(SYN, 1, 0) });
        for part in fragments(&packet, 8) {
            let (verdict, _) = scene.send(part);
            assert!(matches!(verdict.action, Action::Drop | Action::Hold));
        }
        assert_eq!(scene.flows().len(), 0);
    }
}

#[test]
fn f80_overlaps_doom_their_datagram() {
    for family in FAMILIES {
        let (asked, _) = big_datagram(family);
        let start = l4(&asked);
        let piece = |from: usize, to: usize| {
            fragment(&asked, from, &asked[start + from..start + to], to < 4008)
        };
        // Old, new, inside, around, teardrop: where the second begins and ends; the first is 0 to
        // 1480.
        for (from, to) in [(1472, 2000), (800, 2960), (8, 1488), (0, 1488)] {
            let mut scene = Scene::with_backends(family, 1);
            scene.expect(piece(0, 1480), Action::Translate, Cause::New);
            scene.expect(piece(from, to), Action::Drop, Cause::FragmentOverlap);
            scene.expect(piece(1480, 2960), Action::Drop, Cause::FragmentOverlap);
            scene.expect(piece(2960, 4008), Action::Drop, Cause::FragmentOverlap);
        }
        // Among fragments that wait: they are given up as well, and so is the first when it comes.
        let mut scene = Scene::with_backends(family, 1);
        scene.expect(piece(1480, 2960), Action::Hold, Cause::FragmentHeld);
        scene.expect(piece(2000, 4008), Action::Drop, Cause::FragmentOverlap);
        let released = scene.engine.released(|_| true);
        assert_eq!(released.len(), 1);
        assert_eq!(released[0].verdict.cause, Cause::FragmentOverlap);
        let (verdict, _) = scene.send(piece(0, 1480));
        assert_eq!(verdict.action, Action::Drop);
        assert_eq!(scene.flows().len(), 0, "no flow is opened for it");
    }
}

#[test]
fn f80_a_repeated_fragment_is_dropped_alone() {
    for family in FAMILIES {
        let (datagram, sent) = big_datagram(family);
        let parts = fragments(&datagram, 1480);
        let mut scene = Scene::with_backends(family, 1);
        let mut out = vec![scene.expect(parts[0].clone(), Action::Translate, Cause::New)];
        scene.expect(parts[0].clone(), Action::Drop, Cause::FragmentOverlap);
        out.push(scene.expect(parts[1].clone(), Action::Translate, Cause::Fragment));
        scene.expect(parts[1].clone(), Action::Drop, Cause::FragmentOverlap);
        out.push(scene.expect(parts[2].clone(), Action::Translate, Cause::Fragment));
        assert_eq!(reassemble(&out), sent);
    }
}

#[test]
fn f80_two_ends_and_what_lies_behind() {
    for family in FAMILIES {
        let (datagram, _) = big_datagram(family);
        let start = l4(&datagram);
        let piece = |from: usize, to: usize, more| {
            fragment(&datagram, from, &datagram[start + from..start + to], more)
        };
        for last in [piece(1480, 1600, false), piece(2960, 4000, false)] {
            let mut scene = Scene::with_backends(family, 1);
            scene.expect(piece(0, 1480, true), Action::Translate, Cause::New);
            scene.expect(piece(1600, 2000, true), Action::Translate, Cause::Fragment);
            let (verdict, _) = scene.send(last);
            let (behind, _) = scene.send(piece(3200, 4008, false));
            assert!(
                verdict.action == Action::Drop || behind.action == Action::Drop,
                "the end is where it was"
            );
        }
        // A length that is no multiple of eight, in the middle; and beyond 65,535 (ping of death).
        let mut scene = Scene::with_backends(family, 1);
        scene.expect(
            fragment(&datagram, 0, &datagram[start..start + 1001], true),
            Action::Drop,
            Cause::Malformed,
        );
        let mut scene = Scene::with_backends(family, 1);
        scene.expect(fragment(&datagram, 65_528, &[0; 100], false), Action::Drop, Cause::Malformed);
    }
}

#[test]
fn f80_atomic_fragment_is_processed_alone() {
    let (datagram, sent) = big_datagram(Family::V6);
    let mut scene = Scene::with_backends(Family::V6, 1);
    for cause in [Cause::New, Cause::Established] {
        let atomic = fragment(&datagram, 0, &datagram[40..], false);
        let (verdict, packet) = scene.send(atomic);
        assert_eq!((verdict.action, verdict.cause), (Action::Translate, cause));
        assert_eq!(packet, fragment(&sent, 0, &sent[40..], false));
    }
    // Not even beside fragments with its identification (RFC 6946).
    let mut scene = Scene::with_backends(Family::V6, 1);
    let parts = fragments(&datagram, 1480);
    let mut out = vec![scene.expect(parts[0].clone(), Action::Translate, Cause::New)];
    scene.expect(
        fragment(&datagram, 0, &datagram[40..], false),
        Action::Translate,
        Cause::Established,
    );
    out.push(scene.expect(parts[1].clone(), Action::Translate, Cause::Fragment));
    out.push(scene.expect(parts[2].clone(), Action::Translate, Cause::Fragment));
    assert_eq!(reassemble(&out), sent);
}

#[test]
fn f80_an_identification_may_come_again_at_once() {
    for family in FAMILIES {
        let (datagram, sent) = big_datagram(family);
        let mut scene = Scene::with_backends(family, 1);
        for _ in 0..100 {
            let out: Vec<_> = fragments(&datagram, 1480)
                .into_iter()
                .map(|fragment| scene.send(fragment).1)
                .collect();
            assert_eq!(reassemble(&out), sent);
        }
    }
}
