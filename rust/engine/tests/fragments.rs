//! Fragments of datagrams and segments, in order and in any order, and how many wait: F78, F79.

mod scene;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Action, Cause, Config, InvalidTcp};
use proptest::prelude::{Just, any, prop, prop_assert, prop_assert_eq, proptest};
use proptest::strategy::Strategy as _;
use scene::*;

#[test]
fn f78_fragments_in_order() {
    for family in FAMILIES {
        let (datagram, sent) = big_datagram(family);
        for size in [1480, 8, 3992] {
            let mut scene = Scene::with_backends(family, 1);
            let mut out = Vec::new();
            for (number, fragment) in fragments(&datagram, size).into_iter().enumerate() {
                let cause = if number == 0 { Cause::New } else { Cause::Fragment };
                let fragment = scene.expect(fragment, Action::Translate, cause);
                assert!(is_header_intact(&fragment));
                out.push(fragment);
            }
            assert_eq!(reassemble(&out), sent, "in pieces of {size}");
            assert_eq!(scene.engine.next_expiry().map(|_| ()), Some(()), "only the flow is left");
            assert_eq!(scene.flows().len(), 1);
        }
    }
}

#[test]
fn f78_equal_identifications_of_two_senders_are_two_datagrams() {
    for family in FAMILIES {
        let mut scene = Scene::with_backends(family, 1);
        let datagram =
            |to, client: u8| udp(family.client(client.into(), 5555), to, &[client; 3000]);
        let parts = [1, 2].map(|client| fragments(&datagram(family.vip(), client), 1480));
        let mut out = [Vec::new(), Vec::new()];
        for number in 0..parts[0].len() {
            for (side, parts) in parts.iter().enumerate() {
                out[side].push(scene.send(parts[number].clone()).1);
            }
        }
        for (client, out) in (1..).zip(&out) {
            assert_eq!(reassemble(out), datagram(family.backend(0), client));
        }
    }
}

#[test]
fn f78_answers_in_fragments() {
    for family in FAMILIES {
        let mut scene = Scene::with_backends(family, 1);
        let (client, vip, backend) = (family.client(1, 5555), family.vip(), family.backend(0));
        scene.translate(udp(client, vip, b"query"));
        let payload = vec![0x42; 4000];
        let out: Vec<_> = fragments(&udp(backend, client, &payload), 1480)
            .into_iter()
            .map(|fragment| scene.send(fragment).1)
            .collect();
        assert_eq!(
            reassemble(&out),
            udp(vip, client, &payload),
            "no fragment leaks with the pod's address"
        );
    }
}

#[test]
fn f78_fragments_of_others_pass() {
    for family in FAMILIES {
        let mut scene = Scene::with_backends(family, 1);
        let packet = udp(family.client(1, 1), family.client(2, 2), &[1; 3000]);
        for fragment in fragments(&packet, 1000) {
            scene.expect(fragment, Action::Pass, Cause::NotOurs);
        }
    }
}

#[test]
fn f78_fragments_of_a_refused_datagram() {
    for family in FAMILIES {
        let mut scene = Scene::new(Config::default(), specs(family, 0));
        let (asked, _) = big_datagram(family);
        let mut parts = fragments(&asked, 1480).into_iter();
        scene.expect(parts.next().expect("several"), Action::Reject, Cause::NoEndpoints);
        for part in parts {
            scene.expect(part, Action::Drop, Cause::FragmentRefused);
        }
    }
}

proptest! {
    /// In any order (RFC 4787, REQ-14): every fragment comes out once, and together they are the
    /// datagram.
    #[test]
    fn f79_fragments_in_any_order(
        is_v4 in any::<bool>(),
        order in prop::sample::select(vec![24usize, 80, 480, 1000, 1480]).prop_flat_map(|size| {
            let count = 4008usize.div_ceil(size);
            (Just(size), Just((0..count).collect::<Vec<_>>()).prop_shuffle())
        }),
    ) {
        let (size, order) = order;
        let family = if is_v4 { Family::V4 } else { Family::V6 };
        let (asked, sent) = big_datagram(family);
        let parts = fragments(&asked, size);
        let mut scene = Scene::with_backends(family, 1);
        let mut out = Vec::new();
        let mut held = std::collections::HashMap::new();
        let mut is_given_up = false;
        for place in order {
            let (verdict, packet) = scene.send(parts[place].clone());
            match verdict.action {
                Action::Translate => out.push(packet),
                Action::Hold => {
                    prop_assert_eq!(&packet, &parts[place]);
                    prop_assert!(held.insert(verdict.ticket, place).is_none());
                }
                _ => is_given_up = true,
            }
            for released in scene.engine.released(|_| true) {
                prop_assert!(held.remove(&released.ticket).is_some());
                if released.verdict.action == Action::Translate {
                    out.push(released.packet);
                }
            }
        }
        prop_assert_eq!(held.len(), 0);
        prop_assert_eq!(scene.engine.occupancy().held_fragments, 0);
        if size >= 80 {
            prop_assert!(!is_given_up, "fewer gaps than are kept track of");
            prop_assert_eq!(reassemble(&out), sent);
        }
    }
}

#[test]
fn f79_held_fragments_are_released_in_the_order_in_which_they_came() {
    for family in FAMILIES {
        let (datagram, sent) = big_datagram(family);
        let parts = fragments(&datagram, 480);
        let mut scene = Scene::with_backends(family, 1);
        let order = [3, 1, 8, 2, 5];
        let held: Vec<_> =
            order.iter().map(|&place| scene.send(parts[place].clone()).0.ticket).collect();
        scene.expect(parts[0].clone(), Action::Translate, Cause::New);
        let released = scene.engine.released(|_| true);
        assert_eq!(released.iter().map(|own| own.ticket).collect::<Vec<_>>(), held);
        let translated = fragments(&sent, 480);
        for (own, place) in released.iter().zip(order) {
            assert_eq!(own.packet, translated[place], "{family:?}, fragment {place}");
        }
        // Those that are given up come in that order as well.
        let mut scene = Scene::with_backends(family, 1);
        let held: Vec<_> =
            order.iter().map(|&place| scene.send(parts[place].clone()).0.ticket).collect();
        scene.sweep(31.0);
        let released = scene.engine.released(|_| true);
        assert_eq!(released.iter().map(|own| own.ticket).collect::<Vec<_>>(), held);
    }
}

#[test]
fn f79_orphans_are_dropped_in_time() {
    for family in FAMILIES {
        let mut scene = Scene::with_backends(family, 1);
        let (datagram, _) = big_datagram(family);
        let later = fragments(&datagram, 1480).swap_remove(1);
        scene.expect(later, Action::Hold, Cause::FragmentHeld);
        assert!(scene.engine.next_expiry().expect("it waits") <= scene.now + 31 * SECOND);
        scene.sweep(29.0);
        assert_eq!(scene.engine.released(|_| true), []);
        scene.sweep(2.0);
        let released = scene.engine.released(|_| true);
        assert_eq!(released.len(), 1);
        assert_eq!(released[0].verdict.cause, Cause::FragmentTimeout);
        assert_eq!(released[0].verdict.action, Action::Drop);
        assert_eq!(scene.engine.occupancy().held_fragments, 0);
        assert_eq!(scene.engine.next_expiry(), None);
    }
}

#[test]
fn f79_never_completed_datagrams_are_bounded() {
    for family in FAMILIES {
        let config = Config { max_fragments: 64, ..Config::default() };
        let mut scene = Scene::new(config, specs(family, 1));
        let (mut held, mut released) = (0, 0);
        for number in 0..5000 {
            let packet = udp(family.client(number, 5), family.vip(), &[1; 200]);
            // A part without beginning, or a beginning without end.
            let parts = fragments(&packet, 104);
            let (verdict, _) = scene.send(parts[usize::from(number % 3 != 0)].clone());
            held += usize::from(verdict.action == Action::Hold);
            let given_up = scene.engine.released(|_| true);
            assert!(given_up.iter().all(|given_up| given_up.verdict.action == Action::Drop));
            released += given_up.len();
            assert!(scene.engine.occupancy().held_fragments <= 64);
            assert_eq!(scene.engine.occupancy().held_fragments, held - released);
        }
        // Those that come whole are served all the same.
        let (asked, sent) = big_datagram(family);
        let out: Vec<_> =
            fragments(&asked, 1480).into_iter().map(|fragment| scene.send(fragment).1).collect();
        assert_eq!(reassemble(&out), sent);
        scene.sweep(31.0);
        released += scene.engine.released(|_| true).len();
        assert_eq!((held, scene.engine.occupancy().held_fragments), (released, 0));
    }
}

#[test]
fn f79_a_datagram_of_many_pieces_is_bounded_by_their_number() {
    for family in FAMILIES {
        let mut scene =
            Scene::new(Config { max_fragments: 64, ..Config::default() }, specs(family, 1));
        let (asked, _) = big_datagram(family);
        for (number, part) in fragments(&asked, 8).into_iter().skip(1).enumerate() {
            let (verdict, _) = scene.send(part);
            let is_held = number < 64;
            let expected = if is_held { Cause::FragmentHeld } else { Cause::FragmentLimit };
            assert_eq!(
                (verdict.action == Action::Hold, verdict.cause),
                (is_held, expected),
                "{number}"
            );
        }
        assert_eq!(scene.engine.occupancy().held_fragments, 64);
    }
}

#[test]
fn f79_big_fragments_are_bounded_by_bytes() {
    let config = Config { max_fragments: 16, ..Config::default() };
    let mut scene = Scene::new(config, specs(Family::V4, 1));
    let packet = udp(Family::V4.client(1, 5), Family::V4.vip(), &[1; 60_000]);
    let mut bytes = 0;
    for number in 0..16u16 {
        let mut part = fragment(&packet, 800, &[2; 20_000], true);
        part[4..6].copy_from_slice(&number.to_be_bytes());
        seal_ipv4(&mut part);
        let (verdict, part) = scene.send(part);
        if verdict.action == Action::Hold {
            bytes += part.len();
        } else {
            assert_eq!((verdict.action, verdict.cause), (Action::Drop, Cause::FragmentLimit));
        }
    }
    assert!(bytes > 0 && bytes <= 16 * 2048);
}

#[test]
fn f79_without_a_cache_fragments_are_refused() {
    let mut scene =
        Scene::new(Config { max_fragments: 0, ..Config::default() }, specs(Family::V4, 1));
    for part in fragments(&big_datagram(Family::V4).0, 1480) {
        scene.expect(part, Action::Drop, Cause::FragmentLimit);
    }
}

#[test]
fn f78_tcp_in_fragments() {
    for family in FAMILIES {
        let mut scene =
            Scene::new(Config { invalid: InvalidTcp::Drop, ..Config::default() }, specs(family, 1));
        let mut connection =
            Connection::establish(&mut scene, family.client(1, 5555), family.vip());
        let [client, server] = connection.seq;
        let segment = Tcp { payload: vec![5; 3000], ..Tcp::new(ACK | PSH, client, server) };
        let out: Vec<_> = fragments(&tcp(connection.client, connection.vip, &segment), 1480)
            .into_iter()
            .map(|fragment| scene.send(fragment).1)
            .collect();
        assert_eq!(reassemble(&out), tcp(connection.client, connection.backend, &segment));
        // The rest of the connection, whose windows know what the fragments held.
        connection.seq[0] = client.wrapping_add(3000);
        assert_eq!(connection.server(&mut scene, ACK, b"").cause, Cause::Established);
        assert!(scene.flows()[0].timeout > 400_000.0, "all of it is acknowledged");
        assert_eq!(connection.client(&mut scene, ACK | PSH, b"more").cause, Cause::Established);
    }
}

/// The CRC lies over the whole packet: a fragment of which the ports change cannot be given a right
/// one, so it must not be sent on.
#[test]
fn f78_sctp_in_fragments() {
    for family in FAMILIES {
        let (client, vip, backend) = (family.client(1, 5555), family.vip(), family.backend(0));
        for known in [false, true] {
            let mut scene = Scene::with_backends(family, 1);
            if known {
                scene.translate(sctp(client, vip, 1, b"init"));
            }
            for (src, dst, new_src, new_dst) in
                [(client, vip, client, backend), (backend, client, vip, client)]
                    .into_iter()
                    .take(1 + usize::from(known))
            {
                let mut out = Vec::new();
                for part in fragments(&sctp(src, dst, 0, &[7; 3000]), 1480) {
                    let (verdict, part) = scene.send(part);
                    if verdict.action == Action::Translate {
                        out.push(part);
                    }
                }
                assert!(
                    out.is_empty() || reassemble(&out) == sctp(new_src, new_dst, 0, &[7; 3000]),
                    "a wrong CRC is sent on"
                );
            }
        }
        // With the same port on both sides nothing under the CRC changes.
        let backend = std::net::SocketAddr::new(backend.ip(), vip.port());
        let mut scene =
            Scene::new(Config::default(), vec![spec("s", Protocol::SCTP, vip, &[backend])]);
        let out: Vec<_> = fragments(&sctp(client, vip, 0, &[7; 3000]), 1480)
            .into_iter()
            .map(|fragment| scene.send(fragment).1)
            .collect();
        assert_eq!(reassemble(&out), sctp(client, backend, 0, &[7; 3000]));
    }
}
