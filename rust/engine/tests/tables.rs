//! Tables and ports under pressure: F25 to F36.

mod scene;

use std::collections::HashSet;
use std::net::SocketAddr;

use kbe_nat_engine::conntrack::ports::PortRange;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Action, Cause, Config, Meta, Packet, Verdict};
use scene::*;

const V4: Family = Family::V4;

fn udp_of(client: u32, port: u16) -> Vec<u8> {
    udp(V4.client(client, port), V4.vip(), b"query")
}

fn syn_of(client: u32, port: u16) -> Vec<u8> {
    tcp(V4.client(client, port), V4.vip(), &Tcp::new(SYN, 1, 0))
}

#[test]
fn f25_syn_flood_leaves_bystanders_alone() {
    let config = Config { max_flows: 1000, max_unassured: 200, ..Config::default() };
    let mut scene = Scene::new(config, specs(V4, 3));
    let mut bystanders: Vec<_> =
        (0..100).map(|n| Connection::establish(&mut scene, V4.client(n, 1000), V4.vip())).collect();
    for flood in 0..5000 {
        let (verdict, _) = scene.send(syn_of(100_000 + flood, 7));
        assert_eq!(verdict.cause, Cause::New, "the flood evicts itself");
        if flood % 50 == 0 {
            let number = flood as usize / 50;
            let before = bystanders[number].backend;
            assert_eq!(
                bystanders[number].client(&mut scene, ACK | PSH, b"still").cause,
                Cause::Established
            );
            assert_eq!(
                bystanders[number].server(&mut scene, ACK | PSH, b"here").cause,
                Cause::Established
            );
            assert_eq!(bystanders[number].backend, before);
            // A handshake that is completed before 200 further SYNs came in.
            Connection::establish(&mut scene, V4.client(number as u32, 2000), V4.vip());
        }
    }
    let occupancy = scene.engine.occupancy();
    assert_eq!(occupancy.assured, 200);
    assert_eq!(occupancy.flows, 400);
    assert_eq!(occupancy.evicted, 5000 - 200);
    assert_eq!(scene.count(Cause::TableFull), 0);
}

#[test]
fn f25_the_oldest_half_open_goes_first() {
    let config = Config { max_unassured: 4, ..Config::default() };
    let mut scene = Scene::new(config, specs(V4, 1));
    for n in 0..6 {
        scene.expect(syn_of(n, 5), Action::Translate, Cause::New);
    }
    let mut left: Vec<SocketAddr> = scene.flows().iter().map(|flow| flow.source).collect();
    left.sort();
    assert_eq!(left, (2..6).map(|n| V4.client(n, 5)).collect::<Vec<_>>());
}

#[test]
fn f26_table_full_of_established() {
    let mut scene = Scene::new(Config { max_flows: 50, ..Config::default() }, specs(V4, 3));
    let mut connections: Vec<_> =
        (0..50).map(|n| Connection::establish(&mut scene, V4.client(n, 99), V4.vip())).collect();
    for _ in 0..3 {
        scene.expect(syn_of(999, 1), Action::Drop, Cause::TableFull);
    }
    assert_eq!(scene.count(Cause::TableFull), 3);
    assert_eq!(scene.engine.occupancy().evicted, 0);
    let refused = &scene.engine.service_stats()[1];
    assert_eq!((refused.name.as_str(), refused.active()), ("default/t:V4", 50));
    assert_eq!(refused.refused, [(Cause::TableFull, 3)]);
    for connection in &mut connections {
        assert_eq!(connection.client(&mut scene, ACK, b"x").cause, Cause::Established);
        assert_eq!(connection.server(&mut scene, ACK, b"y").cause, Cause::Established);
    }
    // One closes and its last state times out.
    connections[7].close(&mut scene);
    scene.sweep(121.0);
    scene.expect(syn_of(999, 1), Action::Translate, Cause::New);
    // The other family has a table of its own.
    scene.serve(specs(Family::V6, 1));
    Connection::establish(&mut scene, Family::V6.client(1, 1), Family::V6.vip());
}

#[test]
fn f26_room_of_expired_flows_is_found_by_the_smallest_sweeps() {
    let mut scene = Scene::new(Config { max_flows: 10, ..Config::default() }, specs(V4, 3));
    for n in 0..10 {
        let mut connection = Connection::establish(&mut scene, V4.client(n, 99), V4.vip());
        connection.close(&mut scene);
    }
    scene.pass(121.0);
    let mut opened = 0;
    for n in 0..10 {
        let (verdict, _) = scene.send(syn_of(500 + n, 1));
        opened += u32::from(verdict.cause == Cause::New);
        // What a driver does when it is idle, in the smallest steps.
        scene.engine.expire(scene.now, 1);
    }
    assert!(opened >= 9, "only {opened} of 10 flows found the room of those that are over");
}

#[test]
fn f27_one_source_fills_its_share_only() {
    let config = Config { max_flows: 1000, max_flows_per_source: Some(100), ..Config::default() };
    let mut scene = Scene::new(config, specs(V4, 3));
    for port in 1..=500 {
        let expected = if port <= 100 {
            (Action::Translate, Cause::New)
        } else {
            (Action::Drop, Cause::SourceLimit)
        };
        scene.expect(syn_of(1, port), expected.0, expected.1);
    }
    assert_eq!(scene.count(Cause::SourceLimit), 400);
    for other in 2..200 {
        scene.expect(syn_of(other, 1), Action::Translate, Cause::New);
    }
    // Its own flows go on, and those that end give their places back.
    scene.expect(syn_of(1, 50), Action::Translate, Cause::Established);
    scene.sweep(121.0);
    scene.expect(syn_of(1, 300), Action::Translate, Cause::New);
}

#[test]
fn f27_the_share_of_a_source_outlives_a_restart() {
    let config = Config { max_flows_per_source: Some(10), ..Config::default() };
    let mut scene = Scene::new(config.clone(), specs(V4, 3));
    for port in 1..=10 {
        scene.expect(syn_of(1, port), Action::Translate, Cause::New);
    }
    let checkpoint = scene.engine.checkpoint(scene.now);
    let mut scene = Scene::new(config, specs(V4, 3));
    assert_eq!(scene.engine.restore(scene.now, &checkpoint, 0), Ok(10));
    scene.expect(syn_of(1, 11), Action::Drop, Cause::SourceLimit);
    scene.expect(syn_of(2, 11), Action::Translate, Cause::New);
}

#[test]
fn f28_tuples_that_differ_only_in_ports() {
    for secret in [1, u64::MAX] {
        let mut scene =
            Scene::new(Config { secret, max_flows: 12_000, ..Config::default() }, specs(V4, 3));
        for port in 1..=12_000 {
            scene.expect(udp_of(1, port), Action::Translate, Cause::New);
        }
        assert_eq!(scene.count(Cause::HashChain), 0);
        assert_eq!(scene.engine.occupancy().flows, 12_000);
        scene.expect(udp_of(1, 77), Action::Translate, Cause::Established);
    }
}

#[test]
fn f29_expiry_storm_in_bounded_steps() {
    let config = Config { max_flows: 5000, ..Config::default() };
    let mut scene = Scene::new(config, specs(V4, 3));
    for n in 0..5000 {
        let _ = scene.send(udp_of(n, 53));
    }
    scene.pass(31.0);
    // Forwarding goes on in between, and never uses a flow that is over.
    let mut calls = 0;
    let mut ended = 0;
    while ended < 5000 - calls {
        let step = scene.engine.expire(scene.now, 100);
        assert!(step <= 100);
        ended += step;
        scene.expect(udp_of(1_000_000 + calls as u32, 53), Action::Translate, Cause::New);
        calls += 1;
        assert!(calls < 400, "{ended} ended");
    }
    assert!(scene.flows().iter().all(|flow| flow.age < 1.0));
    scene.sweep(0.0);
    let next = scene.engine.next_expiry().expect("some flows are alive");
    assert!(next > scene.now, "what is alive ends later");
}

#[test]
fn f31_snat_ports_run_out() {
    let ports = PortRange { ports: (29_700, 33_067), ..PortRange::default() };
    let specs = vec![spec("one", Protocol::UDP, V4.vip(), &[V4.backend(0)])];
    let mut scene = Scene::masqueraded(Config { ports, ..Config::default() }, specs);
    let mut used = HashSet::new();
    for n in 0..600 + 256 {
        let (verdict, packet) = scene.send(udp_of(n, 5555));
        if n < 600 {
            assert_eq!(verdict.cause, Cause::New);
            let (source, backend) = ends(&packet);
            assert_eq!((source.ip(), backend), (SNAT, V4.backend(0)));
            assert!(used.insert(source.port()), "{source} twice");
            assert!((29_700..=33_067).contains(&source.port()));
            assert!(!(30_000..=32_767).contains(&source.port()), "F33: a node port");
        } else {
            assert_eq!((verdict.action, verdict.cause), (Action::Drop, Cause::PortsExhausted));
        }
    }
    assert_eq!(scene.count(Cause::PortsExhausted), 256);
    // Nothing was overwritten: each port's answer finds its own client.
    let mut clients = HashSet::new();
    for &port in &used {
        let answer = udp(V4.backend(0), SocketAddr::new(SNAT, port), b"answer");
        let (vip, client) = scene.translate(answer);
        assert_eq!((vip, client.port()), (V4.vip(), 5555));
        assert!(clients.insert(client));
    }
    scene.sweep(31.0);
    scene.expect(udp_of(5000, 5555), Action::Translate, Cause::New);
}

#[test]
fn f31_refused_flows_push_nobody_out() {
    let ports = PortRange { ports: (40_000, 40_009), ..PortRange::default() };
    let other = SocketAddr::from(([10, 96, 0, 11], 80));
    let specs = vec![
        spec("narrow", Protocol::UDP, V4.vip(), &[V4.backend(0)]),
        spec("other", Protocol::UDP, other, &[V4.backend(1)]),
    ];
    let config = Config { ports, max_unassured: 15, ..Config::default() };
    let mut scene = Scene::masqueraded(config, specs);
    let bystander = || udp(V4.client(999, 40_003), other, b"x");
    for n in 0..5 {
        scene.expect(udp(V4.client(999, 40_000 + n), other, b"x"), Action::Translate, Cause::New);
    }
    for n in 0..10 {
        scene.expect(udp_of(n, 40_000 + n as u16), Action::Translate, Cause::New);
    }
    // The table is full of unassured flows, and the first frontend is out of ports.
    for n in 10..100 {
        scene.expect(udp_of(n, 40_000), Action::Drop, Cause::PortsExhausted);
    }
    assert_eq!(scene.engine.occupancy().evicted, 0);
    scene.expect(bystander(), Action::Translate, Cause::Established);
    // Those who can be served still take the place of the oldest.
    scene.expect(udp(V4.client(1000, 1), other, b"x"), Action::Translate, Cause::New);
    assert_eq!(scene.engine.occupancy().evicted, 1);
}

#[test]
fn f32_leases_outlive_a_restart() {
    let specs = vec![spec("one", Protocol::UDP, V4.vip(), &[V4.backend(0)])];
    let mut scene = Scene::masqueraded(Config::default(), specs.clone());
    let mut sources: Vec<SocketAddr> =
        (0..50).map(|n| scene.translate(udp_of(n, 5555)).0).collect();
    let checkpoint = scene.engine.checkpoint(scene.now);
    let mut scene = Scene::masqueraded(Config { seed: 3, secret: 3, ..Config::default() }, specs);
    assert_eq!(scene.engine.restore(scene.now, &checkpoint, 0), Ok(50));
    assert_eq!(scene.engine.occupancy().leased_ports, 50, "each flow has its lease again");
    for n in 0..50 {
        assert_eq!(scene.translate(udp_of(n, 5555)).0, sources[n as usize]);
    }
    sources.extend((50..100).map(|n| scene.translate(udp_of(n, 5555)).0));
    assert_eq!(sources.iter().collect::<HashSet<_>>().len(), 100, "no port twice");
    assert_eq!(scene.engine.occupancy().leased_ports, 100);
    // What was restored gives its port back as well.
    scene.sweep(31.0);
    assert_eq!(scene.engine.occupancy().leased_ports, 0);
    assert_eq!(scene.translate(udp_of(7, 5555)).0, SocketAddr::new(SNAT, 5555));
}

#[test]
fn f32_port_collision_behind_one_address() {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let specs = vec![spec("one", protocol, V4.vip(), &[V4.backend(0)])];
        let mut scene = Scene::masqueraded(Config::default(), specs);
        let packet = |client| {
            if protocol == Protocol::TCP { syn_of(client, 5555) } else { udp_of(client, 5555) }
        };
        let (first, _) = scene.translate(packet(1));
        let (second, _) = scene.translate(packet(2));
        assert_eq!(first, SocketAddr::new(SNAT, 5555), "kept while it is free");
        assert_eq!(second.ip(), SNAT);
        assert_ne!(second.port(), 5555);
        for (client, source) in [(1, first), (2, second)] {
            let answer = if protocol == Protocol::TCP {
                tcp(V4.backend(0), source, &Tcp::new(SYN | ACK, 7, 2))
            } else {
                udp(V4.backend(0), source, b"answer")
            };
            assert_eq!(scene.translate(answer), (V4.vip(), V4.client(client, 5555)));
        }
    }
}

/// A port that is taken is replaced by any other one, not by its neighbour: who knows one source
/// port does not know the next client's.
#[test]
fn f32_other_ports_are_looked_for_at_random() {
    let specs = vec![spec("one", Protocol::UDP, V4.vip(), &[V4.backend(0)])];
    let mut scene = Scene::masqueraded(Config::default(), specs);
    let mut ports: Vec<u16> =
        (0..30).map(|client| scene.translate(udp_of(client, 5555)).0.port()).collect();
    ports.sort_unstable();
    let neighbours = ports.windows(2).filter(|pair| pair[1] - pair[0] == 1).count();
    assert!(neighbours < 5, "{ports:?}");
}

#[test]
fn f32_another_backend_may_see_the_same_port() {
    let specs = vec![spec("two", Protocol::UDP, V4.vip(), &[V4.backend(0), V4.backend(1)])];
    let mut scene = Scene::masqueraded(Config::default(), specs);
    let (first, one) = scene.translate(udp_of(1, 5555));
    let (second, other) = scene.translate(udp_of(2, 5555));
    assert_ne!(one, other);
    assert_eq!((first, second), (SocketAddr::new(SNAT, 5555), SocketAddr::new(SNAT, 5555)));
}

#[test]
fn f33_node_ports_are_never_leased() {
    let specs = vec![spec("one", Protocol::UDP, V4.vip(), &[V4.backend(0)])];
    let mut scene = Scene::masqueraded(Config::default(), specs.clone());
    for port in 30_000..=32_767 {
        let (source, _) = scene.translate(udp_of(1, port));
        assert!(source.port() >= 1024 && !(30_000..=32_767).contains(&source.port()), "{source}");
    }
    // A range that is nothing but node ports has none to lease.
    let ports = PortRange { ports: (30_000, 32_767), ..PortRange::default() };
    let mut scene = Scene::masqueraded(Config { ports, ..Config::default() }, specs);
    scene.expect(udp_of(1, 31_000), Action::Drop, Cause::PortsExhausted);
}

#[test]
fn f34_two_packets_of_one_socket_at_once() {
    let mut scene = Scene::new(Config::default(), specs(V4, 3));
    for round in 0..500 {
        let mut buffers = [udp_of(round, 40_000), udp_of(round, 40_000)];
        let mut packets: Vec<Packet<'_>> =
            buffers.iter_mut().map(|bytes| Packet { bytes, meta: Meta::default() }).collect();
        let mut verdicts = Vec::new();
        scene.engine.process_batch(scene.now, &mut packets, &mut verdicts);
        let causes: Vec<_> =
            verdicts.iter().map(|verdict| (verdict.action, verdict.cause)).collect();
        assert_eq!(
            causes,
            [(Action::Translate, Cause::New), (Action::Translate, Cause::Established)]
        );
        assert_eq!(ends(&buffers[0]), ends(&buffers[1]), "one backend");
    }
    assert_eq!(scene.engine.occupancy().flows, 500);
}

#[test]
fn f34_a_batch_is_as_one_after_the_other() {
    let (mut one, mut many) = (Scene::plain(Config::default()), Scene::plain(Config::default()));
    let packets: Vec<Vec<u8>> = (0..300)
        .map(|n| match n % 5 {
            0 => udp_of(n / 10, 53),
            1 => syn_of(n / 7, 9),
            2 => udp(Family::V6.client(n / 9, 4), Family::V6.vip(), b"six"),
            3 => udp(V4.backend((n % 3) as u8), V4.client(n / 10, 53), b"answer"),
            _ => vec![n as u8; n as usize],
        })
        .collect();
    let singly: Vec<(Verdict, Vec<u8>)> =
        packets.iter().map(|packet| one.send(packet.clone())).collect();
    let mut buffers = packets;
    let mut batch: Vec<Packet<'_>> =
        buffers.iter_mut().map(|bytes| Packet { bytes, meta: Meta::default() }).collect();
    let mut verdicts = Vec::new();
    many.engine.process_batch(many.now, &mut batch, &mut verdicts);
    assert_eq!(singly, verdicts.into_iter().zip(buffers).collect::<Vec<_>>());
}

#[test]
fn f35_two_frontends_reach_one_backend_from_one_socket() {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let other = SocketAddr::from(([10, 96, 0, 11], 443));
        let backends = [V4.backend(0)];
        let mut scene = Scene::new(
            Config::default(),
            vec![spec("a", protocol, V4.vip(), &backends), spec("b", protocol, other, &backends)],
        );
        let client = V4.client(1, 5555);
        let packet = |src, dst, flags| match protocol {
            Protocol::TCP => tcp(src, dst, &Tcp::new(flags, 1, 2)),
            _ => udp(src, dst, b"x"),
        };
        let (first, _) = scene.translate(packet(client, V4.vip(), SYN));
        let (second, _) = scene.translate(packet(client, other, SYN));
        assert_eq!(first, client, "no SNAT without need (F36)");
        assert_eq!(second.ip(), client.ip());
        assert_ne!(first, second, "the backend's answers must be told apart");
        assert_eq!(scene.translate(packet(V4.backend(0), first, SYN | ACK)), (V4.vip(), client));
        assert_eq!(scene.translate(packet(V4.backend(0), second, SYN | ACK)), (other, client));
    }
}

#[test]
fn f36_no_snat_without_a_rule() {
    // Two pods that are each other's client and backend, from the same ports, at the same time.
    let (a, b) = (SocketAddr::from(([172, 17, 0, 3], 7)), SocketAddr::from(([172, 17, 0, 4], 7)));
    let (vip_a, vip_b) =
        (SocketAddr::from(([10, 96, 0, 1], 7)), SocketAddr::from(([10, 96, 0, 2], 7)));
    let specs = vec![spec("a", Protocol::UDP, vip_a, &[a]), spec("b", Protocol::UDP, vip_b, &[b])];
    let mut scene = Scene::new(Config::default(), specs.clone());
    for round in 0..50 {
        assert_eq!(scene.translate(udp(a, vip_b, b"x")), (a, b));
        assert_eq!(scene.translate(udp(b, vip_a, b"x")), (b, a));
        // Each also answers the other, which is a packet of the other's flow.
        assert_eq!(scene.translate(udp(b, a, b"answer")), (vip_b, a));
        assert_eq!(scene.translate(udp(a, b, b"answer")), (vip_a, b));
        match round % 3 {
            0 => scene.sweep(200.0),
            1 => scene.serve(specs.clone()),
            _ => {}
        }
    }
    assert!(
        scene.flows().iter().all(|flow| flow.reply_destination == flow.source && !flow.masquerade)
    );
}
