//! What watchers see of flows, and flows that are ended by hand.

mod scene;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::view::Filter;
use kbe_nat_engine::{Action, Config, Engine, KernelFlow, Outcome};
use scene::*;

fn names(engine: &mut Engine) -> Vec<(&'static str, Option<&'static str>)> {
    let (events, lost) = engine.take_events();
    assert_eq!(lost, 0);
    events.into_iter().map(|(kind, flow)| (kind.name(), flow.state)).collect()
}

#[test]
fn a_connection_is_seen_from_its_beginning_to_its_end() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        scene.engine.watch(100);
        let mut connection =
            Connection::establish(&mut scene, family.client(1, 5555), family.vip());
        assert_eq!(
            names(&mut scene.engine),
            [
                ("NEW", Some("SYN_SENT")),
                ("UPDATE", Some("SYN_RECV")),
                ("UPDATE", Some("ESTABLISHED"))
            ]
        );
        assert_eq!(connection.client(&mut scene, ACK, b"question").action, Action::Translate);
        assert_eq!(
            scene.flows()[0].packets,
            [3, 1],
            "SYN, ACK and a question; the answer to the SYN"
        );
        scene.sweep(1_000_000.0);
        assert_eq!(names(&mut scene.engine), [("DESTROY", Some("ESTABLISHED"))]);
    }
}

#[test]
fn a_slow_watcher_loses_the_oldest_events_and_is_told() {
    let mut scene = Scene::plain(Config::default());
    Connection::establish(&mut scene, Family::V4.client(1, 5555), Family::V4.vip());
    assert_eq!(names(&mut scene.engine), [], "nobody watched");
    scene.engine.watch(2);
    Connection::establish(&mut scene, Family::V4.client(2, 5555), Family::V4.vip());
    let (events, lost) = scene.engine.take_events();
    let kinds: Vec<_> = events.iter().map(|(kind, _)| kind.name()).collect();
    assert_eq!((kinds, lost), (vec!["UPDATE", "UPDATE"], 1));
    scene.engine.watch(0);
    scene.sweep(1_000_000.0);
    assert_eq!(names(&mut scene.engine), []);
}

#[test]
fn flows_that_match_are_ended() {
    let mut scene = Scene::plain(Config::default());
    for family in FAMILIES {
        for number in 1..4 {
            Connection::establish(&mut scene, family.client(number, 5555), family.vip());
        }
    }
    let backend = Some(Family::V6.backend(0).ip().into());
    assert_eq!(scene.engine.delete_flows(&Filter { backend, ..Filter::default() }), 1);
    assert_eq!(scene.engine.delete_flows(&Filter { backend, ..Filter::default() }), 0);
    let (v4, tcp) = (Family::V4, Protocol::TCP);
    assert!(!scene.engine.end_flow(tcp, v4.client(1, 5556), v4.vip()), "another port");
    assert!(!scene.engine.end_flow(tcp, v4.backend(0), v4.client(1, 5555)), "a reply names none");
    assert!(scene.engine.end_flow(tcp, v4.client(1, 5555), v4.vip()));
    assert!(!scene.engine.end_flow(tcp, v4.client(1, 5555), v4.vip()), "it has ended");
    assert_eq!(
        scene.engine.delete_flows(&Filter { protocol: Some(Protocol::UDP), ..Filter::default() }),
        0
    );
    assert_eq!(scene.engine.delete_flows(&Filter::default()), 4);
    assert_eq!(scene.engine.occupancy().flows, 0);
    assert!(scene.engine.service_stats().iter().all(|service| service.active() == 0));
}

/// The kernel tells the state of flows that it carries: 1 is SYN_SENT, 2 SYN_RECV, 3 ESTABLISHED.
#[test]
fn a_change_of_a_kernels_flow_is_seen_once() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        scene.engine.watch(100);
        let mut flow = KernelFlow {
            state: Some(1),
            ..kernel_flow(Protocol::TCP, family.client(1, 99), family, family.backend(0))
        };
        (flow.is_replied, flow.is_assured) = (false, false);
        assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
        assert_eq!(names(&mut scene.engine), [("NEW", Some("SYN_SENT"))]);
        let mut see = |state, is_replied, is_assured| {
            let flow = KernelFlow { state: Some(state), is_replied, is_assured, ..flow };
            scene.engine.note_update(scene.now, &flow);
            names(&mut scene.engine)
        };
        assert_eq!(see(1, false, false), []);
        assert_eq!(see(2, true, false), [("UPDATE", Some("SYN_RECV"))]);
        assert_eq!(see(3, true, true), [("UPDATE", Some("ESTABLISHED"))]);
        assert_eq!(see(3, true, true), []);
    }
}

#[test]
fn an_answer_and_an_assurance_are_updates_of_a_flow_without_states() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        scene.serve(vec![spec("u", Protocol::UDP, family.vip(), &[family.backend(0)])]);
        scene.engine.watch(100);
        let mut flow = kernel_flow(Protocol::UDP, family.client(1, 99), family, family.backend(0));
        (flow.is_replied, flow.is_assured) = (false, false);
        assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
        assert_eq!(names(&mut scene.engine), [("NEW", None)]);
        let mut see = |is_replied, is_assured| {
            scene.engine.note_update(scene.now, &KernelFlow { is_replied, is_assured, ..flow });
            names(&mut scene.engine).len()
        };
        assert_eq!([see(true, false), see(true, false)], [1, 0]);
        assert_eq!([see(true, true), see(true, true)], [1, 0]);
    }
}

/// Its event may have waited for us while an operator ended the flow.
#[test]
fn a_change_begins_no_flow() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let flow = kernel_flow(Protocol::TCP, family.client(1, 99), family, family.backend(0));
        scene.engine.note_update(scene.now, &flow);
        assert_eq!(scene.engine.occupancy().flows, 0, "the engine has not heard of it");
        assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
        assert_eq!(scene.engine.delete_flows(&Filter::default()), 1);
        scene.engine.watch(100);
        scene.engine.note_update(scene.now, &flow);
        assert_eq!(names(&mut scene.engine), []);
    }
}
