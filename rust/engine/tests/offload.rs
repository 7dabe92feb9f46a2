//! Offloaded flows: how they begin and end as the kernel tells.

mod scene;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::view::Filter;
use kbe_nat_engine::{Action, Cause, Config, KernelFlow, OffloadedPackets, Outcome, Resync};
use scene::*;

#[test]
fn a_carried_flow_ends_when_the_kernel_says_so() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let client = family.client(1, 1000);
        let (_, backend) = scene.translate(tcp(client, family.vip(), &Tcp::new(SYN, 1, 0)));
        let flow = kernel_flow(Protocol::TCP, client, family, backend);
        scene.engine.note_begin(scene.now, &flow, None);
        scene.sweep(1e6);
        assert_eq!(scene.active(), 1, "no deadline of ours ends it");
        let counted = KernelFlow { counters: Some([(7, 700), (1 << 33, 800)]), ..flow };
        scene
            .engine
            .note_end(scene.now, &KernelFlow { reply: (family.backend(77), client), ..flow });
        assert_eq!(scene.active(), 1, "another flow between the same ends");
        scene.engine.note_end(scene.now, &counted);
        assert_eq!(scene.active(), 0);
        let stats = scene.engine.service_stats();
        let traffic = stats.iter().find(|own| own.traffic.flows > 0).expect("served").traffic;
        assert_eq!((traffic.packets, traffic.bytes), ([7, 1 << 33], [700, 800]));
    }
}

#[test]
fn a_flow_is_offloaded_from_the_kernels_word_on() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let client = family.client(1, 1000);
        let (_, backend) = scene.translate(tcp(client, family.vip(), &Tcp::new(SYN, 1, 0)));
        let flow = kernel_flow(Protocol::TCP, client, family, backend);
        assert!(!scene.engine.has_offloaded(&flow), "only decided about");
        assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
        assert!(scene.engine.has_offloaded(&flow));
        let reply = (family.backend(77), client);
        assert!(!scene.engine.has_offloaded(&KernelFlow { reply, ..flow }), "another backend's");
        let other = KernelFlow { protocol: Protocol::UDP, ..flow };
        assert!(!scene.engine.has_offloaded(&other), "another protocol's");
    }
}

#[test]
fn the_end_of_a_former_flow_is_not_that_of_the_one_which_was_decided_since() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let client = family.client(1, 1000);
        let (_, backend) = scene.translate(tcp(client, family.vip(), &Tcp::new(SYN, 1, 0)));
        scene.engine.note_end(scene.now, &kernel_flow(Protocol::TCP, client, family, backend));
        assert_eq!(scene.active(), 1, "the kernel does not have it yet");
    }
}

#[test]
fn the_end_of_a_former_flow_may_be_told_after_a_look_has_found_the_next_one() {
    for (family, protocol) in
        FAMILIES.into_iter().flat_map(|family| [(family, Protocol::TCP), (family, Protocol::UDP)])
    {
        let mut scene = Scene::plain(Config::default());
        let client = family.client(1, 1000);
        let first = match protocol {
            Protocol::UDP => udp(client, family.vip(), b"first"),
            _ => tcp(client, family.vip(), &Tcp::new(SYN, 1, 0)),
        };
        let (_, backend) = scene.translate(first);
        let flow = kernel_flow(protocol, client, family, backend);
        let mut resync = Resync::default();
        assert_eq!(scene.engine.observe(scene.now, &flow, Some(&mut resync)), Outcome::Keep);
        scene.engine.note_end(scene.now, &flow);
        assert_eq!(scene.active(), 1, "the kernel has not told how it began");
        scene.engine.note_begin(scene.now, &flow, None);
        scene.engine.note_end(scene.now, &flow);
        assert_eq!(scene.active(), 0);
        let stats = scene.engine.service_stats();
        assert_eq!(stats.iter().map(|own| own.traffic.flows).sum::<u64>(), 1);
    }
}

#[test]
fn a_look_that_shows_a_former_flow_leaves_the_next_one() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let client = family.client(1, 1000);
        let (_, backend) = scene.translate(tcp(client, family.vip(), &Tcp::new(SYN, 1, 0)));
        let flow = kernel_flow(Protocol::TCP, client, family, backend);
        let former = KernelFlow { reply: (family.backend(77), client), ..flow };
        assert_eq!(scene.engine.observe(scene.now, &former, None), Outcome::Keep);
        assert_eq!(scene.flows()[0].reply_source, backend);
        scene.engine.note_end(scene.now, &former);
        scene.engine.note_begin(scene.now, &flow, None);
        let stats = scene.engine.service_stats();
        assert_eq!(stats.iter().map(|own| own.traffic.flows).sum::<u64>(), 1);
    }
}

#[test]
fn the_end_of_a_flow_counts_when_the_event_of_how_it_began_was_lost() {
    let mut scene = Scene::plain(Config::default());
    let client = Family::V4.client(1, 1000);
    let (_, backend) = scene.translate(tcp(client, Family::V4.vip(), &Tcp::new(SYN, 1, 0)));
    let flow = kernel_flow(Protocol::TCP, client, Family::V4, backend);
    for (seconds, active) in [(0.0, 1), (1.0, 1), (30.0, 0)] {
        scene.pass(seconds);
        assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
        scene.engine.note_end(scene.now, &flow);
        assert_eq!(scene.active(), active, "{seconds}");
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
    assert_eq!(scene.active(), 1);
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
    assert_eq!(scene.active(), 2);
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
                assert_eq!(scene.active(), 0);
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
            assert_eq!(scene.active(), 1);
            assert!(scene.engine.note_end(scene.now, flow));
            scene.sweep(59.0);
            assert_eq!(scene.active(), 1);
            scene.sweep(2.0);
            assert_eq!(scene.active(), 0, "a minute is over");
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
fn f139_a_datagram_that_is_quicker_than_the_event_goes_where_its_flow_went() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let client = family.client(1, 1000);
        let backend = family.backend(1);
        let flow =
            KernelFlow { timeout: Some(20), ..kernel_flow(Protocol::UDP, client, family, backend) };
        let datagram = || udp(client, family.vip(), b"x");
        for _ in 0..20 {
            scene.engine.note_begin(scene.now, &flow, None);
            // Datagrams that were queued together with the first one prove nothing.
            scene.pass(15.0);
            assert_eq!(scene.translate(datagram()).1, backend, "no event has come");
            // The event comes after all, and the kernel has the flow again.
            scene.engine.note_end(scene.now, &KernelFlow { is_replied: true, ..flow });
        }
        let mut backends = std::collections::HashSet::new();
        for _ in 0..40 {
            scene.engine.note_begin(scene.now, &flow, None);
            scene.pass(25.0);
            backends.insert(scene.translate(datagram()).1);
            scene.engine.delete_flows(&Filter::default());
        }
        assert!(backends.len() > 1, "its time was over: it has ended by itself");
        // Deleted twice, and the second time before there was an answer.
        scene.engine.note_begin(scene.now, &flow, None);
        for is_replied in [true, false] {
            assert!(scene.engine.note_end(scene.now, &KernelFlow { is_replied, ..flow }));
            assert_eq!(scene.translate(datagram()).1, backend);
            scene.engine.note_begin(scene.now, &flow, None);
        }
        scene.engine.note_begin(scene.now, &flow, None);
        scene.serve(specs(family, 1));
        assert_eq!(scene.translate(datagram()).1, family.backend(0), "its endpoint is gone");
    }
}

#[test]
fn f139_a_segment_that_is_quicker_than_the_event_goes_where_its_flow_went() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let client = family.client(1, 1000);
        let segment = || tcp(client, family.vip(), &Tcp::new(ACK, 7, 7));
        // In mid-stream the client decides where it goes, so it is known beforehand.
        let another = scene.translate(segment()).1;
        scene.engine.delete_flows(&Filter::default());
        let backend = family.backend(if another == family.backend(1) { 2 } else { 1 });
        // All that the kernel has told: a SYN. The handshake is over since.
        let flow = KernelFlow {
            state: Some(1),
            timeout: Some(120),
            ..kernel_flow(Protocol::TCP, client, family, backend)
        };
        let over = KernelFlow { state: Some(3), is_replied: true, timeout: Some(86_399), ..flow };
        scene.engine.note_begin(scene.now, &flow, None);
        scene.pass(5.0);
        assert_eq!(scene.translate(segment()).1, backend, "no event has come");
        assert!(scene.engine.note_end(scene.now, &over));
        scene.engine.note_begin(scene.now, &flow, None);
        scene.pass(125.0);
        assert_eq!(scene.translate(segment()).1, another, "its time was over");
        scene.engine.delete_flows(&Filter::default());
        // Its endpoint is gone, and it has been established: before the event and after it.
        scene.engine.note_begin(scene.now, &flow, None);
        scene.serve(specs(family, 1));
        assert_eq!(scene.translate(segment()).1, backend);
        assert!(scene.engine.note_end(scene.now, &over));
        scene.serve(specs(family, 1));
        assert_eq!(scene.translate(segment()).1, backend);
    }
}

#[test]
fn f139_a_masqueraded_flow_keeps_its_source() {
    for (family, protocol) in
        FAMILIES.into_iter().flat_map(|family| [(family, Protocol::TCP), (family, Protocol::UDP)])
    {
        let mut scene = Scene::plain(Config::default());
        let (client, node) = (family.client(1, 1000), family.client(2, 60_000));
        let backend = family.backend(1);
        let plain = KernelFlow {
            state: (protocol == Protocol::TCP).then_some(3),
            is_replied: true,
            timeout: Some(100),
            ..kernel_flow(protocol, client, family, backend)
        };
        let packet = || match protocol {
            Protocol::UDP => udp(client, family.vip(), b"x"),
            _ => tcp(client, family.vip(), &Tcp::new(ACK, 7, 7)),
        };
        for is_masqueraded in [true, false] {
            let source = if is_masqueraded { node } else { client };
            let flow = KernelFlow { reply: (backend, source), ..plain };
            scene.engine.note_begin(scene.now, &flow, None);
            scene.pass(5.0);
            for _ in ["the event is on its way", "the entry is on its way"] {
                if is_masqueraded {
                    scene.expect(packet(), Action::Drop, Cause::Forgotten);
                } else {
                    assert_eq!(scene.translate(packet()).1, backend);
                }
                scene.engine.note_end(scene.now, &flow);
            }
            scene.pass(1.0);
            assert_eq!(scene.translate(packet()).1, backend, "the kernel has refused it");
            scene.engine.delete_flows(&Filter::default());
        }
    }
}

#[test]
fn f139_answers_to_a_source_that_the_kernel_has_chosen_are_known() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let (client, node) = (family.client(1, 1000), family.client(2, 60_000));
        let (_, backend) = scene.translate(tcp(client, family.vip(), &Tcp::new(SYN, 1, 0)));
        let flow = KernelFlow {
            reply: (backend, node),
            ..kernel_flow(Protocol::TCP, client, family, backend)
        };
        let answer = |node| tcp(backend, node, &Tcp::new(ACK, 7, 7));
        scene.expect(answer(node), Action::Pass, Cause::NotOurs);
        scene.engine.note_begin(scene.now, &flow, None);
        assert_eq!(scene.flows()[0].reply_destination, node);
        scene.expect(answer(node), Action::Drop, Cause::Forgotten);
        scene.expect(answer(client), Action::Pass, Cause::NotOurs);
        // Its entry is another one now, and another flow has the former source.
        let moved = KernelFlow { reply: (backend, family.client(2, 60_001)), ..flow };
        scene.engine.note_begin(scene.now, &moved, None);
        let next = KernelFlow { original: (family.client(3, 1000), flow.original.1), ..flow };
        scene.engine.note_begin(scene.now, &next, None);
        assert_eq!(scene.active(), 2);
        scene.engine.note_begin(scene.now, &flow, None);
        let destinations = |scene: &Scene| {
            scene.flows().iter().map(|flow| flow.reply_destination.port()).collect::<Vec<_>>()
        };
        let mut known = destinations(&scene);
        known.sort_unstable();
        assert_eq!(known, [60_000, 60_001], "no two flows have the same answers");
        scene.engine.delete_flows(&Filter::default());
        scene.expect(answer(node), Action::Pass, Cause::NotOurs);
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
    assert_eq!(scene.active(), 1);
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
    scene.expect(udp(client, family.client(9, 9), b"other"), Action::Pass, Cause::NotOurs);
}

#[test]
fn packets_of_flows_that_another_proxy_has_begun_pass_to_the_kernel() {
    for family in FAMILIES {
        let config = Config { offloaded: OffloadedPackets::Pass, ..Config::default() };
        let mut scene = Scene::plain(config);
        let client = family.client(1, 1000);
        let flow = |protocol, state| KernelFlow {
            is_replied: true,
            is_assured: true,
            state,
            ..kernel_flow(protocol, client, family, family.backend(1))
        };
        let flows = [
            (flow(Protocol::TCP, Some(3)), tcp(client, family.vip(), &Tcp::new(ACK | PSH, 7, 7))),
            (flow(Protocol::UDP, None), udp(client, family.vip(), b"x")),
            (flow(Protocol::SCTP, Some(4)), sctp(client, family.vip(), 0, b"data")),
        ];
        for (flow, packet) in &flows {
            assert_eq!(scene.engine.observe(scene.now, flow, None), Outcome::Keep);
            scene.sweep(1000.0);
            for _ in 0..3 {
                scene.expect(packet.clone(), Action::Pass, Cause::Established);
            }
            scene.engine.note_end(scene.now, &KernelFlow { timeout: Some(0), ..*flow });
            scene.translate(packet.clone());
            // The kernel's former flow of the same ends changes nothing of what is translated now.
            assert_eq!(scene.engine.observe(scene.now, flow, None), Outcome::Keep);
            scene.translate(packet.clone());
            scene.engine.delete_flows(&Filter::default());
            assert!(scene.engine.take_orphans().is_empty());
        }
    }
}

#[test]
fn a_syn_on_a_connection_of_another_proxy_is_decided_when_that_is_over() {
    let family = Family::V4;
    let config = Config { offloaded: OffloadedPackets::Pass, ..Config::default() };
    let mut scene = Scene::plain(config);
    let client = family.client(1, 1000);
    let syn = || tcp(client, family.vip(), &Tcp::new(SYN, 1, 0));
    let flow = |state| KernelFlow {
        state: Some(state),
        ..kernel_flow(Protocol::TCP, client, family, family.backend(1))
    };
    for state in 1..=6 {
        assert_eq!(scene.engine.observe(scene.now, &flow(state), None), Outcome::Keep);
        scene.expect(syn(), Action::Pass, Cause::Established);
    }
    assert_eq!(scene.engine.observe(scene.now, &flow(7), None), Outcome::Keep);
    scene.translate(syn());
    assert_eq!(scene.engine.take_orphans(), [(Protocol::TCP, client, family.vip())]);
}

#[test]
fn errors_about_flows_of_another_proxy_pass_to_the_kernel() {
    for family in FAMILIES {
        let config = Config { offloaded: OffloadedPackets::Pass, ..Config::default() };
        let mut scene = Scene::plain(config);
        let client = family.client(1, 1000);
        let flow = KernelFlow {
            is_replied: true,
            ..kernel_flow(Protocol::UDP, client, family, family.backend(1))
        };
        assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
        let answer = udp(family.vip(), client, b"answer");
        let unreachable = if family == Family::V4 { (3, 3) } else { (1, 4) };
        let error = icmp(family.router(), family.vip().ip(), unreachable, [0; 4], &answer);
        scene.expect(error, Action::Pass, Cause::Related);
    }
}

#[test]
fn a_flow_is_as_old_as_the_kernel_says() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let client = |number| family.client(number, 99);
        for (number, age) in [(1, Some(600 * SECOND)), (2, None)] {
            let flow = KernelFlow {
                age,
                ..kernel_flow(Protocol::TCP, client(number), family, family.backend(0))
            };
            assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
        }
        scene.sweep(10.0);
        let mut ages: Vec<_> =
            scene.flows().iter().map(|flow| (flow.source, flow.age.round())).collect();
        ages.sort_by_key(|&(source, _)| source);
        assert_eq!(ages, [(client(1), 610.0), (client(2), 10.0)]);
    }
}
