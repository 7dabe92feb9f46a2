//! Flows that the kernel carries.

mod scene;

use std::net::SocketAddr;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::view::Filter;
use kbe_nat_engine::{Action, Carried, Cause, Census, Config, Outcome};
use scene::*;

fn carried(protocol: Protocol, client: SocketAddr, family: Family, backend: SocketAddr) -> Carried {
    Carried {
        protocol,
        original: (client, family.vip()),
        reply: (backend, client),
        is_replied: false,
        is_assured: false,
        state: (protocol == Protocol::TCP).then_some(1),
        timeout: Some(100),
        counters: None,
    }
}

fn active(scene: &Scene) -> u64 {
    scene.engine.service_stats().iter().map(kbe_nat_engine::view::ServiceStats::active).sum()
}

#[test]
fn a_carried_flow_ends_when_the_kernel_says_so() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let client = family.client(1, 1000);
        let (_, backend) = scene.translate(tcp(client, family.vip(), &Tcp::new(SYN, 1, 0)));
        let flow = carried(Protocol::TCP, client, family, backend);
        assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
        scene.sweep(1e6);
        assert_eq!(active(&scene), 1, "no deadline of ours ends it");
        let counted = Carried { counters: Some([(7, 700), (1 << 33, 800)]), ..flow };
        scene.engine.ended(scene.now, &Carried { reply: (family.backend(77), client), ..flow });
        assert_eq!(active(&scene), 1, "another flow between the same ends");
        scene.engine.ended(scene.now, &counted);
        assert_eq!(active(&scene), 0);
        let stats = scene.engine.service_stats();
        let traffic = stats.iter().find(|own| own.traffic.flows > 0).expect("served").traffic;
        assert_eq!((traffic.packets, traffic.bytes), ([7, 1 << 33], [700, 800]));
    }
}

#[test]
fn a_packet_of_a_carried_connection_begins_a_new_one() {
    let family = Family::V4;
    let mut scene = Scene::plain(Config::default());
    let client = family.client(1, 1000);
    let syn = || tcp(client, family.vip(), &Tcp::new(SYN, 1, 0));
    let (_, first) = scene.translate(syn());
    for _ in 0..5 {
        assert_eq!(
            scene.translate(syn()).1,
            first,
            "until the kernel has it, retransmissions follow the first SYN"
        );
    }
    let mut chosen = std::collections::HashSet::new();
    for _ in 0..50 {
        let (_, backend) = scene.translate(syn());
        assert_eq!(
            scene.engine.observe(scene.now, &carried(Protocol::TCP, client, family, backend), None),
            Outcome::Keep
        );
        chosen.insert(backend);
    }
    assert_eq!(chosen.len(), 3, "every one is decided anew");
    assert_eq!(active(&scene), 1);
}

#[test]
fn datagrams_that_were_queued_together_go_to_one_backend() {
    let family = Family::V6;
    let mut scene = Scene::plain(Config::default());
    let client = family.client(1, 1000);
    let (_, first) = scene.translate(udp(client, family.vip(), b"one"));
    assert_eq!(
        scene.engine.observe(scene.now, &carried(Protocol::UDP, client, family, first), None),
        Outcome::Keep
    );
    scene.pass(0.1);
    for _ in 0..20 {
        assert_eq!(scene.translate(udp(client, family.vip(), b"more")).1, first);
    }
}

#[test]
fn what_began_while_we_were_away_is_counted_and_what_ended_is_not() {
    let family = Family::V4;
    let mut scene = Scene::plain(Config::default());
    let (one, two) = (family.client(1, 1000), family.client(2, 1000));
    for client in [one, two] {
        let flow = carried(Protocol::TCP, client, family, family.backend(1));
        assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
    }
    assert_eq!(active(&scene), 2);
    let mut census = Census::default();
    let flow = Carried {
        state: Some(3),
        is_assured: true,
        is_replied: true,
        ..carried(Protocol::TCP, two, family, family.backend(1))
    };
    assert_eq!(scene.engine.observe(scene.now, &flow, Some(&mut census)), Outcome::Keep);
    assert_eq!(scene.engine.end_unseen(census), 1);
    let [left] = &scene.flows()[..] else { panic!("one flow") };
    assert_eq!((left.source, left.state, left.assured, left.replied), (two, Some("ESTABLISHED"), true, true));
    assert_eq!(
        scene.engine.checkpoint(scene.now).len(),
        Scene::plain(Config::default()).engine.checkpoint(scene.now).len(),
        "the kernel keeps it"
    );
}

#[test]
fn flows_to_a_backend_that_is_gone_end_unless_they_were_answered() {
    let family = Family::V4;
    let mut scene = Scene::plain(Config::default());
    let gone = family.backend(200);
    let seen = |scene: &mut Scene, protocol, state, client| {
        let flow = Carried { state, ..carried(protocol, family.client(client, 99), family, gone) };
        scene.engine.observe(scene.now, &flow, None)
    };
    assert_eq!(seen(&mut scene, Protocol::UDP, None, 3), Outcome::End);
    for (client, state) in [(4, Some(1)), (5, Some(1)), (6, Some(3))] {
        assert_eq!(
            seen(&mut scene, Protocol::TCP, state, client),
            Outcome::Keep,
            "its answer may be on its way"
        );
    }
    scene.pass(1.2);
    assert_eq!(seen(&mut scene, Protocol::TCP, Some(1), 4), Outcome::End);
    assert_eq!(seen(&mut scene, Protocol::TCP, Some(3), 5), Outcome::Keep, "it was answered meanwhile");
    assert_eq!(seen(&mut scene, Protocol::TCP, Some(3), 6), Outcome::Keep);
    scene.serve(Vec::new());
    let flow = carried(Protocol::UDP, family.client(4, 99), family, gone);
    assert_eq!(
        scene.engine.observe(scene.now, &flow, None),
        Outcome::End,
        "also when nothing is served any more"
    );
}

#[test]
fn a_flow_that_is_deleted_is_ended_in_the_kernel_as_well() {
    let family = Family::V4;
    let mut scene = Scene::plain(Config::default());
    let client = family.client(1, 1000);
    let (_, backend) = scene.translate(udp(client, family.vip(), b"one"));
    assert_eq!(scene.engine.delete_flows(&Filter::default()), 1);
    assert!(scene.engine.take_orphans().is_empty(), "it never got there");
    let flow = carried(Protocol::UDP, client, family, backend);
    assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
    assert_eq!(scene.engine.delete_flows(&Filter::default()), 1);
    assert_eq!(scene.engine.take_orphans(), [(Protocol::UDP, client, family.vip())]);
    scene.expect(udp(client, family.client(9, 9), b"other"), Action::Accept, Cause::NotOurs);
}
