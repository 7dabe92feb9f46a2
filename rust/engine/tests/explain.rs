//! `explain` foretells the whole verdict of a packet: action, cause and flags.

mod scene;

use std::net::SocketAddr;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Action, Cause, Config, Meta, ServiceSpec, Strategy, Verdict};
use scene::*;

/// The verdict that is foretold; processing the packet must give it.
#[track_caller]
fn verdict(scene: &mut Scene, packet: &[u8]) -> (Verdict, Vec<u8>) {
    let foretold = scene.engine.explain(scene.now, packet, Meta::default()).verdict;
    let (verdict, packet) = scene.send(packet.to_vec());
    assert_eq!(foretold, verdict);
    (verdict, packet)
}

/// Flags of the first packet, a later one, a reply, and an ICMP error of the backend's side.
#[track_caller]
fn flags(scene: &mut Scene, family: Family) -> [u8; 4] {
    let (client, vip) = (family.client(1, 5000), family.vip());
    let (first, sent) = verdict(scene, &udp(client, vip, b"first"));
    let (later, _) = verdict(scene, &udp(client, vip, b"later"));
    let (source, backend) = ends(&sent);
    let kind = if family == Family::V4 { (3, 3) } else { (1, 4) };
    let (error, _) = verdict(scene, &icmp(backend.ip(), source.ip(), kind, [0; 4], &sent));
    let (reply, _) = verdict(scene, &udp(backend, source, b"reply"));
    [first.flags, later.flags, reply.flags, error.flags]
}

#[test]
fn the_mark_masquerades_originals_only() {
    let flow = Verdict::FLOW;
    let reply = flow | Verdict::REPLY;
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        assert_eq!(flags(&mut scene, family), [flow | Verdict::NEW, flow, reply, reply]);
        scene.node.masquerade_all = true;
        let mut scene = Scene { engine: kbe_nat_engine::Engine::new(Config::default()), ..scene };
        scene.serve(specs(family, 3));
        let marked = flow | Verdict::MASQUERADE;
        assert_eq!(flags(&mut scene, family), [marked | Verdict::NEW, marked, reply, reply]);
    }
}

#[test]
fn a_source_that_the_rewrite_sets_needs_no_mark() {
    let mut scene = Scene::masqueraded(Config::default(), specs(Family::V4, 3));
    let (flow, reply) = (Verdict::FLOW, Verdict::FLOW | Verdict::REPLY);
    assert_eq!(flags(&mut scene, Family::V4), [flow | Verdict::NEW, flow, reply, reply]);
}

#[test]
fn later_fragments_have_the_flags_of_their_flow() {
    for family in FAMILIES {
        let mut scene = Scene::masqueraded(Config::default(), specs(family, 3));
        let packet = udp(family.client(1, 5000), family.vip(), &[7; 100]);
        for fragment in fragments(&packet, 48) {
            let by_mark = if family == Family::V6 { Verdict::MASQUERADE } else { 0 };
            let (verdict, _) = verdict(&mut scene, &fragment);
            assert_eq!(verdict.flags & !Verdict::NEW, Verdict::FLOW | by_mark);
        }
    }
}

#[test]
fn a_flow_that_is_over_leaves_its_place() {
    for family in FAMILIES {
        let configs = [
            Config { max_flows: 1, ..Config::default() },
            Config { max_unassured: 1, ..Config::default() },
            Config { max_flows_per_source: Some(1), ..Config::default() },
        ];
        for config in configs {
            let mut scene = Scene::plain(config);
            let packet = udp(family.client(1, 5000), family.vip(), b"");
            assert_eq!(verdict(&mut scene, &packet).0.cause, Cause::New);
            scene.pass(31.0);
            let explanation = scene.engine.explain(scene.now, &packet, Meta::default());
            let evicts = explanation.steps.iter().any(|(check, _)| *check == "room");
            assert!(!evicts, "{:?}", explanation.steps);
            assert_eq!(verdict(&mut scene, &packet).0.cause, Cause::New);
        }
    }
}

#[test]
fn a_flow_that_is_over_is_no_load() {
    for family in FAMILIES {
        for strategy in [Strategy::LeastConn, Strategy::WeightedLeastConn, Strategy::TwoChoices] {
            reopen_all(family, strategy, Protocol::UDP, |from, to| udp(from, to, b""));
            reopen_all(family, strategy, Protocol::TCP, |from, to| {
                tcp(from, to, &Tcp::new(SYN, 1, 0))
            });
        }
    }
}

/// Opens flows, lets them expire and opens each again, at the backend that is foretold.
fn reopen_all(
    family: Family,
    strategy: Strategy,
    protocol: Protocol,
    opening: fn(SocketAddr, SocketAddr) -> Vec<u8>,
) {
    let backends = [0, 1, 2].map(|number| family.backend(number));
    let spec = spec("default/web:", protocol, family.vip(), &backends);
    let mut scene = Scene::new(Config::default(), vec![ServiceSpec { strategy, ..spec }]);
    let first = |client| opening(family.client(client, 5000), family.vip());
    for client in 0..8 {
        scene.expect(first(client), Action::Translate, Cause::New);
    }
    // Longer than any flow waits for its first answer.
    scene.pass(121.0);
    for client in 0..8 {
        let explanation = scene.engine.explain(scene.now, &first(client), Meta::default());
        let sent = scene.expect(first(client), Action::Translate, Cause::New);
        let (_, backend) = ends(&sent);
        assert_eq!(explanation.backend, Some(backend), "{protocol} {strategy:?} {client}");
    }
}
