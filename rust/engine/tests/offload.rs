//! Offloaded flows.

mod scene;

use std::net::SocketAddr;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::view::Filter;
use kbe_nat_engine::{Action, Cause, Config, KernelFlow, Outcome, Resync};
use scene::*;

fn kernel_flow(
    protocol: Protocol,
    client: SocketAddr,
    family: Family,
    backend: SocketAddr,
) -> KernelFlow {
    KernelFlow {
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
        let flow = kernel_flow(Protocol::TCP, client, family, backend);
        assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
        scene.sweep(1e6);
        assert_eq!(active(&scene), 1, "no deadline of ours ends it");
        let counted = KernelFlow { counters: Some([(7, 700), (1 << 33, 800)]), ..flow };
        scene
            .engine
            .note_end(scene.now, &KernelFlow { reply: (family.backend(77), client), ..flow });
        assert_eq!(active(&scene), 1, "another flow between the same ends");
        scene.engine.note_end(scene.now, &counted);
        assert_eq!(active(&scene), 0);
        let stats = scene.engine.service_stats();
        let traffic = stats.iter().find(|own| own.traffic.flows > 0).expect("served").traffic;
        assert_eq!((traffic.packets, traffic.bytes), ([7, 1 << 33], [700, 800]));
    }
}

#[test]
fn the_end_of_a_former_flow_is_not_that_of_the_one_which_was_decided_since() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let client = family.client(1, 1000);
        let (_, backend) = scene.translate(tcp(client, family.vip(), &Tcp::new(SYN, 1, 0)));
        scene.engine.note_end(scene.now, &kernel_flow(Protocol::TCP, client, family, backend));
        assert_eq!(active(&scene), 1, "the kernel does not have it yet");
    }
}

#[test]
fn f40_the_kernels_states_are_known_by_their_names() {
    const TCP: &[&str] = &[
        "SYN_SENT",
        "SYN_RECV",
        "ESTABLISHED",
        "FIN_WAIT",
        "CLOSE_WAIT",
        "LAST_ACK",
        "TIME_WAIT",
        "CLOSE",
        "SYN_SENT2",
    ];
    const SCTP: &[&str] = &[
        "CLOSED",
        "COOKIE_WAIT",
        "COOKIE_ECHOED",
        "ESTABLISHED",
        "SHUTDOWN_SENT",
        "SHUTDOWN_RECD",
        "SHUTDOWN_ACK_SENT",
    ];
    for (protocol, names) in [(Protocol::TCP, TCP), (Protocol::SCTP, SCTP)] {
        for (number, &name) in (1..).zip(names) {
            let family = Family::V6;
            let mut scene = Scene::plain(Config::default());
            let flow = KernelFlow {
                state: Some(number),
                is_replied: true,
                ..kernel_flow(protocol, family.client(1, 1000), family, family.backend(1))
            };
            assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
            assert_eq!(scene.flows()[0].state, Some(name), "{number}");
        }
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
            scene.engine.observe(
                scene.now,
                &kernel_flow(Protocol::TCP, client, family, backend),
                None
            ),
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
        scene.engine.observe(scene.now, &kernel_flow(Protocol::UDP, client, family, first), None),
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
        let flow = kernel_flow(Protocol::TCP, client, family, family.backend(1));
        assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
    }
    assert_eq!(active(&scene), 2);
    let mut resync = Resync::default();
    let flow = KernelFlow {
        state: Some(3),
        is_assured: true,
        is_replied: true,
        ..kernel_flow(Protocol::TCP, two, family, family.backend(1))
    };
    assert_eq!(scene.engine.observe(scene.now, &flow, Some(&mut resync)), Outcome::Keep);
    assert_eq!(scene.engine.end_missing(resync), 1);
    let [left] = &scene.flows()[..] else { panic!("one flow") };
    assert_eq!(
        (left.source, left.state, left.assured, left.replied),
        (two, Some("ESTABLISHED"), true, true)
    );
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
        assert_eq!(active(&scene), 0);
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
        let before = active(&scene);
        scene.serve(standing(family, &[0, 2], &[]));
        assert_eq!(seen(&mut scene, Protocol::UDP, 1, 0), Outcome::Keep);
        let stats = scene.engine.service_stats();
        assert!(
            stats
                .iter()
                .flat_map(|own| &own.backends)
                .all(|own| { !own.is_gone || own.address == family.backend(1) })
        );
        assert_eq!(active(&scene), before, "each counts once");
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
        assert_eq!(active(&scene), 0, "none is a flow of ours");
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
        assert_eq!(active(&scene), 1);
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

#[test]
fn f139_a_flow_that_the_kernel_was_made_to_forget_goes_where_it_went_for_a_minute() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let client = family.client(1, 1000);
        let backend = family.backend(1);
        let flow = |protocol, state| KernelFlow {
            is_replied: true,
            is_assured: true,
            state,
            ..kernel_flow(protocol, client, family, backend)
        };
        let flows = [
            (flow(Protocol::TCP, Some(3)), tcp(client, family.vip(), &Tcp::new(ACK | PSH, 7, 7))),
            (flow(Protocol::UDP, None), udp(client, family.vip(), b"x")),
            (flow(Protocol::SCTP, Some(4)), sctp(client, family.vip(), 0, b"data")),
        ];
        for (flow, packet) in &flows {
            let empty = scene.engine.checkpoint(scene.now).len();
            let taken = |scene: &mut Scene, flow: &KernelFlow| {
                assert_eq!(scene.engine.observe(scene.now, flow, None), Outcome::Keep);
                scene.engine.note_end(scene.now, flow)
            };
            for over in
                [KernelFlow { timeout: None, ..*flow }, KernelFlow { timeout: Some(0), ..*flow }]
            {
                assert!(!taken(&mut scene, &over), "its time was over");
                assert_eq!(active(&scene), 0);
            }
            let closing = if flow.state.is_some() {
                KernelFlow { state: Some(7), ..*flow }
            } else {
                KernelFlow { is_replied: false, ..*flow }
            };
            assert!(!taken(&mut scene, &closing), "nobody is talking");
            assert!(taken(&mut scene, flow));
            for _ in 0..5 {
                scene.pass(10.0);
                assert_eq!(scene.translate(packet.clone()).1, backend);
            }
            assert_eq!(
                scene.engine.checkpoint(scene.now).len(),
                empty,
                "the kernel's, or nobody's"
            );
            // The kernel has it again, and says when it is over.
            assert_eq!(scene.engine.observe(scene.now, flow, None), Outcome::Keep);
            scene.sweep(1000.0);
            assert_eq!(active(&scene), 1);
            assert!(scene.engine.note_end(scene.now, flow));
            scene.sweep(59.0);
            assert_eq!(active(&scene), 1);
            scene.sweep(2.0);
            assert_eq!(active(&scene), 0, "a minute is over");
            assert!(taken(&mut scene, flow));
            scene.serve(specs(family, 1));
            let next = scene.translate(packet.clone()).1;
            let is_connection = flow.protocol != Protocol::UDP;
            assert_eq!(next == backend, is_connection, "its endpoint is gone");
            scene.engine.delete_flows(&Filter::default());
            scene.serve(specs(family, 3));
        }
        let (flow, _) = &flows[0];
        assert_eq!(scene.engine.observe(scene.now, flow, None), Outcome::Keep);
        assert!(scene.engine.note_end(scene.now, flow));
        scene.serve(specs(family, 1));
        let syn = tcp(client, family.vip(), &Tcp::new(SYN, 1, 0));
        assert_eq!(scene.translate(syn).1, family.backend(0), "another connection");
    }
}

#[test]
fn what_does_not_fit_into_the_table_is_judged_all_the_same() {
    let family = Family::V4;
    let mut scene = Scene::plain(Config { max_flows: 1, ..Config::default() });
    let seen = |scene: &mut Scene, client, backend| {
        let flow = kernel_flow(Protocol::UDP, family.client(client, 99), family, backend);
        scene.engine.observe(scene.now, &flow, None)
    };
    assert_eq!(seen(&mut scene, 1, family.backend(0)), Outcome::Keep);
    assert_eq!(seen(&mut scene, 2, family.backend(0)), Outcome::Keep);
    assert_eq!(active(&scene), 1);
    assert_eq!(seen(&mut scene, 2, family.backend(200)), Outcome::End);
}

#[test]
fn a_flow_that_is_deleted_is_ended_in_the_kernel_as_well() {
    let family = Family::V4;
    let mut scene = Scene::plain(Config::default());
    let client = family.client(1, 1000);
    let (_, backend) = scene.translate(udp(client, family.vip(), b"one"));
    assert_eq!(scene.engine.delete_flows(&Filter::default()), 1);
    assert!(scene.engine.take_orphans().is_empty(), "it never got there");
    let flow = kernel_flow(Protocol::UDP, client, family, backend);
    assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
    assert_eq!(scene.engine.delete_flows(&Filter::default()), 1);
    assert_eq!(scene.engine.take_orphans(), [(Protocol::UDP, client, family.vip())]);
    scene.expect(udp(client, family.client(9, 9), b"other"), Action::Accept, Cause::NotOurs);
}
