//! The flight recorder: decisions about first packets are told after the fact, with the names and
//! endpoints of their time.

mod scene;

use std::net::SocketAddr;

use kbe_nat_engine::decisions::{Decision, DecisionFilter};
use kbe_nat_engine::service::UnknownPort;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Action, Cause, Cidr, Config, NodeView, ServiceSpec};
use scene::*;

fn decisions(scene: &Scene, filter: DecisionFilter) -> Vec<Decision> {
    for budget in [1, 3, usize::MAX] {
        let mut recall = scene.engine.recall(filter.clone());
        let mut decisions = Vec::new();
        while let Some(page) = scene.engine.next_decisions(&mut recall, budget) {
            assert!(page.len() <= budget, "no more entries than that were looked at");
            decisions.extend(page);
        }
        if budget == usize::MAX {
            decisions.reverse();
            return decisions;
        }
    }
    unreachable!("the last budget returns")
}

fn all(scene: &Scene) -> Vec<Decision> {
    decisions(scene, DecisionFilter::default())
}

/// One service port of UDP with these endpoints.
fn port(family: Family, name: &str, endpoints: &[SocketAddr]) -> ServiceSpec {
    spec(name, Protocol::UDP, family.vip(), endpoints)
}

/// An engine that rejects what goes to cluster IPs at ports that nobody serves.
fn strict(specs: Vec<ServiceSpec>) -> Scene {
    let mut scene = Scene::new(Config::default(), Vec::new());
    scene.node = NodeView { unknown_port: UnknownPort::Reject, ..NodeView::default() };
    scene.serve(specs);
    scene
}

#[test]
fn a_served_packet_is_told_with_tuple_backend_and_strategy() {
    for family in FAMILIES {
        let mut scene = Scene::with_backends(family, 3);
        let (client, vip) = (family.client(1, 4444), family.vip());
        scene.translate(udp(client, vip, b"x"));
        scene.translate(udp(client, vip, b"only first packets are decided"));
        let decisions = all(&scene);
        let [told] = &decisions[..] else { panic!("{decisions:?}") };
        assert_eq!((told.client, told.frontend), (client, vip));
        assert_eq!((told.protocol, told.sequence), (Protocol::UDP, 1));
        assert_eq!((told.action, told.cause), (Action::Translate, Cause::New));
        assert_eq!(told.backend, Some(family.backend(0)));
        assert_eq!(told.choice, Some("rr"));
        assert_eq!(told.service, Some(format!("default/u:{family:?}")));
        assert_eq!(told.generation, 1);
        assert!(told.time <= scene.now && scene.now - told.time < 1 << 26, "{}", told.time);
        let endpoints: Vec<_> = (0..3).map(|number| family.backend(number)).collect();
        assert_eq!(told.endpoints.as_deref(), Some(&endpoints[..]));
    }
}

#[test]
fn a_name_and_its_endpoints_are_those_of_the_time() {
    for family in FAMILIES {
        let mut scene =
            Scene::new(Config::default(), vec![port(family, "default/old:", &[family.backend(0)])]);
        let ask = |scene: &mut Scene, client| {
            scene.translate(udp(family.client(client, 53), family.vip(), b"x"));
        };
        ask(&mut scene, 1);
        // Another list, which nobody asks, and a third.
        scene.serve(vec![port(family, "default/old:", &[family.backend(1)])]);
        scene.serve(vec![port(family, "default/old:", &[family.backend(2)])]);
        ask(&mut scene, 2);
        // The service port leaves with its flows, and its number is given out again.
        scene.serve(vec![]);
        scene.sweep(1000.0);
        scene.serve(vec![port(family, "default/new:", &[family.backend(3)])]);
        ask(&mut scene, 3);
        let told: Vec<_> = all(&scene)
            .into_iter()
            .map(|told| (told.service.unwrap(), told.endpoints.unwrap().to_vec(), told.generation))
            .collect();
        let expected =
            [("old", 0, 1), ("old", 2, 3), ("new", 3, 5)].map(|(name, number, tables)| {
                (format!("default/{name}:"), vec![family.backend(number)], tables)
            });
        assert_eq!(told, expected);
        let service = Some("default/old".to_owned());
        let old = decisions(&scene, DecisionFilter { service, ..DecisionFilter::default() });
        assert_eq!(old.len(), 2);
        assert_eq!(old[1].backend, Some(family.backend(2)));
    }
}

#[test]
fn refusals_are_told_and_counted_by_cause() {
    for family in FAMILIES {
        let mut empty = port(family, "default/empty:", &[]);
        empty.family = Some(family);
        let mut scene = strict(vec![empty]);
        let client = family.client(1, 53);
        scene.expect(udp(client, family.vip(), b"x"), Action::Reject, Cause::NoEndpoints);
        // The address is a cluster IP, and this port of it is nobody's.
        let other = SocketAddr::new(family.vip().ip(), 81);
        scene.expect(udp(client, other, b"x"), Action::Reject, Cause::UnknownPort);
        let told = all(&scene);
        let verdicts: Vec<_> = told.iter().map(|told| (told.action, told.cause)).collect();
        let expected =
            [Cause::NoEndpoints, Cause::UnknownPort].map(|cause| (Action::Reject, cause));
        assert_eq!(verdicts, expected);
        assert_eq!(told[0].service.as_deref(), Some("default/empty:"));
        assert_eq!(told[0].endpoints.as_deref(), Some(&[][..]));
        assert_eq!((&told[1].service, &told[1].endpoints), (&None, &None));
        assert!(told.iter().all(|told| told.backend.is_none() && told.choice.is_none()));
        let stats = scene.engine.service_stats();
        assert_eq!(stats[0].refused, [(Cause::NoEndpoints, 1)]);
    }
}

#[test]
fn a_full_table_refuses_by_the_service_port() {
    let config = Config { max_flows_per_source: Some(1), ..Config::default() };
    let mut scene = Scene::plain(config);
    for family in FAMILIES {
        scene.translate(udp(family.client(1, 1), family.vip(), b"x"));
        let packet = udp(family.client(1, 2), family.vip(), b"x");
        scene.expect(packet, Action::Drop, Cause::SourceLimit);
        let told = all(&scene).pop().unwrap();
        assert_eq!((told.action, told.cause), (Action::Drop, Cause::SourceLimit));
        assert_eq!(told.service, Some(format!("default/u:{family:?}")));
    }
}

#[test]
fn affinity_and_mid_stream_are_told() {
    for family in FAMILIES {
        let backends = [family.backend(0), family.backend(1)];
        let sticky = ServiceSpec {
            affinity: Some(60),
            ..spec("default/t:", Protocol::TCP, family.vip(), &backends)
        };
        let mut scene = Scene::new(Config::default(), vec![sticky]);
        for sport in [1, 2] {
            scene.translate(tcp(family.client(1, sport), family.vip(), &Tcp::new(SYN, 1, 0)));
        }
        scene.translate(tcp(family.client(2, 3), family.vip(), &Tcp::new(ACK, 1, 1)));
        let choices: Vec<_> = all(&scene).iter().map(|told| told.choice.unwrap()).collect();
        assert_eq!(choices, ["rr", "affinity", "consistent"]);
    }
}

#[test]
fn what_is_not_ours_and_what_is_only_looked_at_is_not_told() {
    let mut scene = Scene::plain(Config::default());
    for family in FAMILIES {
        let (client, elsewhere) = (family.client(1, 1), family.client(2, 80));
        scene.expect(udp(client, elsewhere, b"x"), Action::Pass, Cause::NotOurs);
        let packet = udp(client, family.vip(), b"x");
        let told = scene.engine.explain(scene.now, &packet, kbe_nat_engine::Meta::default());
        assert_eq!(told.verdict.action, Action::Translate);
    }
    assert_eq!(all(&scene), []);
}

#[test]
fn filters_choose_decisions() {
    let mut scene = strict(FAMILIES.into_iter().flat_map(|family| specs(family, 3)).collect());
    for number in 0..4 {
        for family in FAMILIES {
            scene.translate(udp(family.client(number, 1), family.vip(), b"x"));
            let closed = SocketAddr::new(family.vip().ip(), 81);
            scene.expect(
                udp(family.client(number, 2), closed, b"x"),
                Action::Reject,
                Cause::UnknownPort,
            );
        }
        scene.pass(10.0);
    }
    let count = |filter| decisions(&scene, filter).len();
    let none = DecisionFilter::default();
    assert_eq!(count(none.clone()), 16);
    assert_eq!(count(DecisionFilter { action: Some(Action::Reject), ..none.clone() }), 8);
    assert_eq!(count(DecisionFilter { action: Some(Action::Translate), ..none.clone() }), 8);
    assert_eq!(count(DecisionFilter { action: Some(Action::Drop), ..none.clone() }), 0);
    let client = Some(Family::V6.client(2, 0).ip().into());
    assert_eq!(count(DecisionFilter { client, ..none.clone() }), 2);
    let all_of_v6 = Some(Cidr::new(Family::V6.client(2, 0).ip(), 0).unwrap());
    assert_eq!(count(DecisionFilter { client: all_of_v6, ..none.clone() }), 8);
    for (service, matches) in [
        ("default/u:V4", 4),
        ("default/u", 8),
        ("default/", 0),
        ("default/u:", 0),
        ("default/t:V4", 0),
    ] {
        let service = Some(service.to_owned());
        assert_eq!(count(DecisionFilter { service, ..none.clone() }), matches);
    }
    for (seconds, matches) in [(5, 0), (15, 4), (25, 8), (1_000, 16)] {
        let since = Some(scene.now.saturating_sub(seconds * SECOND));
        assert_eq!(count(DecisionFilter { since, ..none.clone() }), matches, "{seconds} s");
    }
    for (after, matches) in [(0, 16), (1, 15), (15, 1), (16, 0), (u64::MAX, 0)] {
        assert_eq!(count(DecisionFilter { after, ..none.clone() }), matches);
    }
}

#[test]
fn the_ring_forgets_the_oldest_while_a_list_is_made() {
    let mut scene = Scene::plain(Config { decisions: 4, ..Config::default() });
    let ask = |scene: &mut Scene, number| {
        scene.translate(udp(Family::V4.client(number, 1), Family::V4.vip(), b"x"));
    };
    (0..6).for_each(|number| ask(&mut scene, number));
    let sequences =
        |page: Vec<Decision>| -> Vec<u64> { page.into_iter().map(|told| told.sequence).collect() };
    assert_eq!(sequences(all(&scene)), [3, 4, 5, 6]);
    let mut recall = scene.engine.recall(DecisionFilter::default());
    assert_eq!(scene.engine.next_decisions(&mut recall, 1).map(sequences), Some(vec![6]));
    (6..8).for_each(|number| ask(&mut scene, number));
    assert_eq!(scene.engine.next_decisions(&mut recall, 4).map(sequences), Some(vec![5]));
    assert_eq!(scene.engine.next_decisions(&mut recall, 4), None);
}

#[test]
fn without_capacity_nothing_is_told() {
    let mut scene = Scene::plain(Config { decisions: 0, ..Config::default() });
    for family in FAMILIES {
        scene.translate(udp(family.client(1, 1), family.vip(), b"x"));
    }
    scene.serve(vec![]);
    assert_eq!(all(&scene), []);
}
