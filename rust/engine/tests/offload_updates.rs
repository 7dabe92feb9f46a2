//! What becomes of offloaded flows when service ports and endpoints change: F122 to F124.

mod scene;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Config, KernelFlow, Outcome};
use scene::*;

#[test]
fn flows_to_a_backend_that_is_gone_end_unless_they_were_answered() {
    let family = Family::V4;
    let mut scene = Scene::plain(Config::default());
    let gone = family.backend(200);
    let seen = |scene: &mut Scene, protocol, state, client| {
        let flow =
            KernelFlow { state, ..kernel_flow(protocol, family.client(client, 99), family, gone) };
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
    assert_eq!(
        seen(&mut scene, Protocol::TCP, Some(3), 5),
        Outcome::Keep,
        "it was answered meanwhile"
    );
    assert_eq!(seen(&mut scene, Protocol::TCP, Some(3), 6), Outcome::Keep);
}

#[test]
fn f123_flows_of_a_service_port_that_is_gone_end_as_far_as_we_have_known_them() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let (known, unknown) = (family.client(4, 99), family.client(5, 99));
        let flow = |client| kernel_flow(Protocol::UDP, client, family, family.backend(1));
        assert_eq!(scene.engine.observe(scene.now, &flow(known), None), Outcome::Keep);
        scene.serve(Vec::new());
        assert_eq!(
            scene.engine.observe(scene.now, &flow(unknown), None),
            Outcome::Keep,
            "nobody's"
        );
        assert_eq!(scene.engine.observe(scene.now, &flow(known), None), Outcome::End);
        assert_eq!(scene.active(), 0);
    }
}

/// The family's three service ports, with these endpoints and others that serve still.
fn standing(family: Family, listed: &[u8], serving: &[u8]) -> Vec<kbe_nat_engine::ServiceSpec> {
    let of =
        |numbers: &[u8]| numbers.iter().map(|&number| family.backend(number)).collect::<Vec<_>>();
    specs(family, 0)
        .into_iter()
        .map(|own| kbe_nat_engine::ServiceSpec {
            serving_backends: of(serving),
            ..spec(&own.name, own.protocol, family.vip(), &of(listed))
        })
        .collect()
}

#[test]
fn f124_datagrams_stay_with_an_endpoint_that_serves_still_and_connections_are_asked_for_anew() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let seen = |scene: &mut Scene, protocol, client, backend| {
            let flow =
                kernel_flow(protocol, family.client(client, 99), family, family.backend(backend));
            scene.engine.observe(scene.now, &flow, None)
        };
        for known in [true, false] {
            let client = if known { 1 } else { 11 };
            if known {
                for protocol in [Protocol::UDP, Protocol::TCP, Protocol::SCTP] {
                    assert_eq!(seen(&mut scene, protocol, client, 0), Outcome::Keep);
                }
            }
            // Endpoint 0 is in no list any more, and endpoint 1 has gone.
            scene.serve(standing(family, &[2], &[0]));
            for protocol in [Protocol::TCP, Protocol::SCTP] {
                let _ = seen(&mut scene, protocol, client, 0);
            }
            scene.pass(1.2);
            assert_eq!(seen(&mut scene, Protocol::UDP, client, 0), Outcome::Keep, "{known}");
            assert_eq!(seen(&mut scene, Protocol::TCP, client, 0), Outcome::End, "{known}");
            assert_eq!(seen(&mut scene, Protocol::SCTP, client, 0), Outcome::End, "{known}");
            assert_eq!(seen(&mut scene, Protocol::UDP, 2, 1), Outcome::End);
            let stays = KernelFlow {
                is_replied: true,
                state: Some(3),
                ..kernel_flow(Protocol::SCTP, family.client(3, 99), family, family.backend(1))
            };
            assert_eq!(
                scene.engine.observe(scene.now, &stays, None),
                Outcome::Keep,
                "an association"
            );
            scene.pass(1.2);
            assert_eq!(
                scene.engine.observe(scene.now, &stays, None),
                Outcome::Keep,
                "an association"
            );
        }
        // It is back: its flows never left.
        let before = scene.active();
        scene.serve(standing(family, &[0, 2], &[]));
        assert_eq!(seen(&mut scene, Protocol::UDP, 1, 0), Outcome::Keep);
        let stats = scene.engine.service_stats();
        assert!(
            stats
                .iter()
                .flat_map(|own| &own.backends)
                .all(|own| { !own.is_gone || own.address == family.backend(1) })
        );
        assert_eq!(scene.active(), before, "each counts once");
        scene.serve(standing(family, &[2], &[]));
        assert_eq!(seen(&mut scene, Protocol::UDP, 1, 0), Outcome::End, "it serves no more");
        assert_eq!(seen(&mut scene, Protocol::UDP, 11, 0), Outcome::End, "it serves no more");
    }
}

#[test]
fn f122_entries_that_are_older_than_their_frontend_go() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let seen = |scene: &mut Scene, protocol, state, is_replied| {
            let client = family.client(7, 99);
            // Nobody translates it.
            let flow = KernelFlow {
                state,
                is_replied,
                ..kernel_flow(protocol, client, family, family.vip())
            };
            scene.engine.observe(scene.now, &flow, None)
        };
        assert_eq!(seen(&mut scene, Protocol::UDP, None, false), Outcome::End);
        assert_eq!(
            seen(&mut scene, Protocol::UDP, None, true),
            Outcome::End,
            "somebody else has answered"
        );
        for state in [1, 9] {
            assert_eq!(seen(&mut scene, Protocol::TCP, Some(state), false), Outcome::End);
            assert_eq!(seen(&mut scene, Protocol::TCP, Some(state), true), Outcome::Keep);
        }
        assert_eq!(
            seen(&mut scene, Protocol::TCP, Some(3), true),
            Outcome::Keep,
            "somebody is connected"
        );
        assert_eq!(seen(&mut scene, Protocol::SCTP, Some(2), false), Outcome::End);
        assert_eq!(seen(&mut scene, Protocol::SCTP, Some(4), true), Outcome::Keep);
        assert_eq!(seen(&mut scene, family.icmp(), None, false), Outcome::Keep, "no frontend's");
        assert_eq!(scene.active(), 0, "none is a flow of ours");
        // Nobody serves: they go all the same, so that the next packet is refused.
        scene.serve(standing(family, &[], &[]));
        assert_eq!(seen(&mut scene, Protocol::UDP, None, false), Outcome::End);
        scene.serve(Vec::new());
        assert_eq!(seen(&mut scene, Protocol::UDP, None, false), Outcome::Keep, "a stranger's");
    }
}

#[test]
fn f122_an_endpoint_at_its_own_frontend_needs_no_translation() {
    for family in FAMILIES {
        let vip = family.vip();
        let mut scene =
            Scene::new(Config::default(), vec![spec("default/u:", Protocol::UDP, vip, &[vip])]);
        let flow = kernel_flow(Protocol::UDP, family.client(1, 99), family, vip);
        assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
        assert_eq!(scene.active(), 1);
    }
}

#[test]
fn f122_what_passes_by_an_external_address_is_left_alone() {
    let family = Family::V4;
    let vip = family.vip();
    let mut external = spec("default/u:", Protocol::UDP, vip, &[]);
    external.frontends[0].kind = kbe_nat_engine::FrontendKind::ExternalIp;
    let mut scene = Scene::new(Config::default(), Vec::new());
    let node = family.client(9, 99);
    scene.node.addresses = vec![node.ip()];
    scene.serve(vec![external.clone()]);
    let seen = |scene: &mut Scene, client, backend| {
        scene.engine.observe(scene.now, &kernel_flow(Protocol::UDP, client, family, backend), None)
    };
    // In iptables mode the node's own packets to it are not refused while nobody serves it.
    assert_eq!(seen(&mut scene, node, vip), Outcome::Keep);
    assert_eq!(seen(&mut scene, family.client(1, 99), vip), Outcome::End, "somebody else's are");
    assert_eq!(seen(&mut scene, node, family.backend(1)), Outcome::End, "it goes to nobody");
    external.cluster_backends = vec![kbe_nat_engine::Backend::new(family.backend(1))];
    scene.serve(vec![external]);
    assert_eq!(seen(&mut scene, node, vip), Outcome::End, "it is served now");
}

#[test]
fn f123_a_frontend_that_another_service_port_has_now_leads_where_that_goes() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let flow = |client, backend| {
            kernel_flow(Protocol::UDP, family.client(client, 99), family, family.backend(backend))
        };
        for client in [1, 2] {
            assert_eq!(
                scene.engine.observe(scene.now, &flow(client, client as u8), None),
                Outcome::Keep
            );
        }
        // The one that had it goes on serving elsewhere, with all its backends.
        let mut former = specs(family, 3).remove(1);
        former.frontends[0].port += 1;
        let now = spec("default/now:", Protocol::UDP, family.vip(), &[family.backend(1)]);
        scene.serve(vec![former, now]);
        assert_eq!(scene.engine.observe(scene.now, &flow(1, 1), None), Outcome::Keep);
        assert_eq!(scene.engine.observe(scene.now, &flow(2, 2), None), Outcome::End);
        let [left] = &scene.flows()[..] else { panic!("one flow") };
        assert_eq!(left.service, "default/now:");
    }
}
