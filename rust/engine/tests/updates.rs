//! Changes of the table: what they refuse, what they keep, and that no packet meets half of one.

mod scene;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use kbe_nat_engine::service::ServiceError;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::view::ServiceStats;
use kbe_nat_engine::{
    Cause, Config, Engine, Frontend, FrontendKind, Meta, NodePorts, NodeView, Packet, ServicePort,
    ServiceSpec, ServiceTable, Strategy,
};
use scene::*;

fn udp_service(name: &str, vip: SocketAddr, backends: &[SocketAddr]) -> Arc<ServicePort> {
    let spec = spec(name, Protocol::UDP, vip, backends);
    Arc::new(ServicePort::new(spec).expect("valid"))
}

fn vip(number: u32) -> SocketAddr {
    let [_, b, c, d] = number.to_be_bytes();
    SocketAddr::from(([10, 96 + b, c, d], 80))
}

fn stats_of(engine: &Engine, name: &str) -> ServiceStats {
    let mut stats = engine.service_stats();
    let place = stats.iter().position(|service| service.name == name).expect("it is known");
    stats.swap_remove(place)
}

#[test]
fn an_error_leaves_the_table_as_it_was() {
    let key = Engine::new(Config::default()).hash_key();
    let [a, b] = ["a", "b"].map(|name| {
        udp_service(name, vip(if name == "a" { 1 } else { 2 }), &[Family::V4.backend(0)])
    });
    let table = ServiceTable::new(&[a.clone(), b], NodeView::default(), key).expect("valid");
    let claimed = udp_service("c", vip(1), &[]);
    let twice = udp_service("c", vip(3), &[]);
    let duplicate = ServiceError::DuplicateFrontend("10.96.0.1:80".into(), "a".into(), "c".into());
    for (changed, removed, error) in [
        (vec![twice.clone(), twice.clone()], vec![], ServiceError::DuplicateName("c".into())),
        (vec![claimed.clone()], vec![("b", Family::V4)], duplicate),
        (vec![twice], vec![("nobody", Family::V4)], ServiceError::UnknownName("nobody".into())),
        (vec![], vec![("a", Family::V6)], ServiceError::UnknownName("a".into())),
        (vec![], vec![("a", Family::V4), ("a", Family::V4)], ServiceError::UnknownName("a".into())),
    ] {
        assert_eq!(table.with_changes(&changed, &removed, None).err(), Some(error));
        assert_eq!(table.services().count(), 2);
        let (slot, _) = table.find(Protocol::UDP, vip(1)).expect("it is served");
        assert!(Arc::ptr_eq(table.service(slot), &a));
        assert_eq!(table.find(Protocol::UDP, vip(3)), None);
    }
    // What the owner gives up in the same step is free.
    let table = table.with_changes(&[claimed], &[("a", Family::V4)], None).expect("it is free");
    let (slot, _) = table.find(Protocol::UDP, vip(1)).expect("it is served");
    assert_eq!(table.service(slot).name(), "c");
}

#[test]
fn one_node_port_has_one_owner_whatever_the_addresses() {
    let key = Engine::new(Config::default()).hash_key();
    let service = |name: &str, vip: SocketAddr| {
        let mut spec = spec(name, Protocol::UDP, vip, &[]);
        spec.frontends.push(Frontend { kind: FrontendKind::NodePort, address: None, port: 30_080 });
        Arc::new(ServicePort::new(spec).expect("valid"))
    };
    let [a, b, six] = [("a", vip(1)), ("b", vip(2)), ("a", Family::V6.vip())]
        .map(|(name, vip)| service(name, vip));
    let table = ServiceTable::new(&[a, six], NodeView::default(), key).expect("a family each");
    let error = table.with_changes(&[b], &[], None).expect_err("the port is taken");
    assert_eq!(error.to_string(), "a and b both claim node port 30080");
}

#[test]
fn node_ports_go_behind_frontends_and_are_closed_where_none_serve() {
    let mut engine = Engine::new(Config::default());
    let (node_port, own, closed) = (30_080, [192, 0, 2, 1], [192, 0, 2, 3]);
    let at = |address: [u8; 4]| SocketAddr::from((address, node_port));
    let service = |backends: &[SocketAddr]| {
        let mut spec = spec("a", Protocol::UDP, vip(1), backends);
        let kind = FrontendKind::NodePort;
        spec.frontends.push(Frontend { kind, address: None, port: node_port });
        Arc::new(ServicePort::new(spec).expect("valid"))
    };
    let view = NodeView {
        addresses: vec![own.into(), closed.into()],
        node_ports: NodePorts {
            addresses: vec![own.into()],
            reject_addresses: vec![closed.into()],
            ..NodePorts::default()
        },
        ..NodeView::default()
    };
    let found = |table: &ServiceTable, to| {
        let (slot, kind) = table.find(Protocol::UDP, to)?;
        Some((table.service(slot).name().to_owned(), kind))
    };
    let is = |name: &str, kind| Some((name.to_owned(), kind));
    let backend = Family::V4.backend(0);
    let serving = engine.services().with_changes(&[service(&[backend])], &[], Some(view));
    let serving = serving.expect("valid");
    assert_eq!(found(&serving, at(own)), is("a", FrontendKind::NodePort));
    assert_eq!(found(&serving, at(closed)), None, "it has endpoints");
    let empty = serving.with_changes(&[service(&[])], &[], None).expect("valid");
    assert_eq!(found(&empty, at(own)), is("a", FrontendKind::NodePort));
    assert_eq!(found(&empty, at(closed)), is("a", FrontendKind::ClosedNodePort));
    // An exact address goes before a node port, and gives it back.
    let other = udp_service("b", at(own), &[backend]);
    let beaten = serving.with_changes(&[other], &[], None).expect("no second claim");
    assert_eq!(found(&beaten, at(own)), is("b", FrontendKind::ClusterIp));
    let table = beaten.with_changes(&[], &[("b", Family::V4)], None).expect("it is there");
    assert_eq!(found(&table, at(own)), is("a", FrontendKind::NodePort));
    drop(engine.replace_services(Arc::new(table)));
}

#[test]
fn service_ports_change_places_in_one_step() {
    let mut engine = Engine::new(Config::default());
    let [one, other] = [0, 1].map(|number| Family::V4.backend(number));
    let table = engine
        .services()
        .with_changes(
            &[udp_service("a", vip(1), &[one]), udp_service("b", vip(2), &[other])],
            &[],
            None,
        )
        .expect("valid");
    engine.replace_services(Arc::new(table));
    let swapped = [udp_service("a", vip(2), &[one]), udp_service("b", vip(1), &[other])];
    let table = engine.services().with_changes(&swapped, &[], None).expect("all is given up first");
    engine.replace_services(Arc::new(table));
    for (to, expected) in [(vip(1), other), (vip(2), one)] {
        let mut packet = udp(Family::V4.client(1, 1000), to, b"x");
        let _ = engine.process(SECOND, &mut Packet { bytes: &mut packet, meta: Meta::default() });
        assert_eq!(ends(&packet).1, expected);
    }
}

#[test]
fn a_service_port_that_changes_its_protocol_is_found_by_the_new_one_alone() {
    let key = Engine::new(Config::default()).hash_key();
    let former = udp_service("a", vip(1), &[Family::V4.backend(0)]);
    let table = ServiceTable::new(&[former], NodeView::default(), key).expect("valid");
    let spec = spec("a", Protocol::TCP, vip(1), &[Family::V4.backend(0)]);
    let changed = Arc::new(ServicePort::new(spec).expect("valid"));
    let table = table.with_changes(&[changed], &[], None).expect("valid");
    assert!(table.find(Protocol::TCP, vip(1)).is_some());
    assert_eq!(table.find(Protocol::UDP, vip(1)), None);
}

#[test]
fn what_is_served_no_more_keeps_its_counters_and_answered_flows() {
    let mut engine = Engine::new(Config::default());
    let serve = |engine: &mut Engine, changed: &[Arc<ServicePort>], removed: &[(&str, Family)]| {
        let table = engine.services().with_changes(changed, removed, None).expect("valid");
        drop(engine.replace_services(Arc::new(table)));
    };
    let backend = Family::V4.backend(0);
    let tcp_service = || {
        let spec = spec("a", Protocol::TCP, vip(1), &[backend]);
        Arc::new(ServicePort::new(spec).expect("valid"))
    };
    serve(&mut engine, &[tcp_service(), udp_service("b", vip(2), &[backend])], &[]);
    let client = Family::V4.client(1, 1000);
    let send = |engine: &mut Engine, mut packet: Vec<u8>| {
        let verdict =
            engine.process(SECOND, &mut Packet { bytes: &mut packet, meta: Meta::default() });
        (verdict.cause, packet)
    };
    send(&mut engine, tcp(client, vip(1), &Tcp::new(SYN, 1, 0)));
    send(&mut engine, tcp(backend, client, &Tcp::new(SYN | ACK, 9, 2)));
    send(&mut engine, tcp(client, vip(1), &Tcp::new(ACK, 2, 10)));
    let (_, sent) = send(&mut engine, udp(client, vip(2), b"x"));
    assert_eq!(ends(&sent).1, backend);
    serve(&mut engine, &[], &[("a", Family::V4), ("b", Family::V4)]);
    let (cause, _) = send(&mut engine, udp(client, vip(2), b"x"));
    assert_eq!(cause, Cause::NotOurs, "datagrams leave what serves no more");
    let (_, packet) = send(&mut engine, tcp(client, vip(1), &Tcp::new(ACK, 2, 10)));
    assert_eq!(ends(&packet), (client, backend), "an answered connection goes on");
    assert_eq!(stats_of(&engine, "a").backends[0].active, 1);
    // It comes back with its flow, and to the same counters.
    serve(&mut engine, &[tcp_service()], &[]);
    let stats = stats_of(&engine, "a");
    assert_eq!((stats.traffic.flows, stats.active(), stats.backends[0].is_gone), (1, 1, false));
    // A flow that is being closed is one of the live ones still.
    assert_eq!(stats.backends[0].inactive, 0);
    send(&mut engine, tcp(client, vip(1), &Tcp::new(FIN | ACK, 2, 10)));
    let backend = &stats_of(&engine, "a").backends[0];
    assert_eq!((backend.active, backend.inactive), (1, 1));
}

#[test]
fn readers_meet_whole_tables_while_a_writer_changes_them() {
    const OTHERS: u32 = 2000;
    const CHANGES: u32 = 400;
    let backend = |number: u32| {
        let [_, _, c, d] = number.to_be_bytes();
        SocketAddr::from(([172, 17, c, d], 9876))
    };
    // Of every generation both service ports have its backend alone.
    let pair = |number: u32| {
        [("a", vip(1)), ("b", vip(2))].map(|(name, vip)| udp_service(name, vip, &[backend(number)]))
    };
    let mut engine = Engine::new(Config { max_flows: 5000, ..Config::default() });
    let others = (0..OTHERS).map(|n| udp_service(&format!("o{n}"), vip(100 + n), &[backend(n)]));
    let all: Vec<_> = others.chain(pair(0)).collect();
    let table = ServiceTable::new(&all, NodeView::default(), engine.hash_key()).expect("valid");
    engine.replace_services(Arc::new(table));
    let (engine, is_over) = (Mutex::new(engine), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2u32)
            .map(|reader| {
                let (engine, is_over) = (&engine, &is_over);
                scope.spawn(move || {
                    let (mut turn, mut newest) = (0, 0);
                    while !is_over.load(Ordering::Relaxed) || turn == 0 {
                        turn += 1;
                        let client = Family::V4.client(turn * 2 + reader, 1000);
                        let mut buffers = [vip(1), vip(2)].map(|vip| udp(client, vip, b"x"));
                        let mut packets: Vec<_> = buffers
                            .iter_mut()
                            .map(|bytes| Packet { bytes, meta: Meta::default() })
                            .collect();
                        let mut engine = engine.lock().expect("no reader fails");
                        engine.process_batch(SECOND, &mut packets, &mut Vec::new());
                        drop(engine);
                        let [one, other] = buffers.map(|packet| ends(&packet).1);
                        assert_eq!(one, other, "one generation");
                        let IpAddr::V4(address) = one.ip() else { unreachable!("it is IPv4") };
                        let number = address.to_bits() & 0xffff;
                        assert!(newest <= number, "{number} after {newest}");
                        newest = number;
                    }
                    newest
                })
            })
            .collect();
        for number in 1..=CHANGES {
            let former = engine.lock().expect("no reader fails").services().clone();
            let other = udp_service(&format!("o{number}"), vip(100 + number), &[backend(number)]);
            let [a, b] = pair(number);
            let table = former.with_changes(&[a, b, other], &[], None).expect("valid");
            let table = Arc::new(table);
            drop(engine.lock().expect("no reader fails").replace_services(table));
            drop(former);
        }
        is_over.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().expect("no reader fails") <= CHANGES);
        }
    });
}

#[test]
fn one_that_is_handed_in_again_is_shared() {
    let key = Engine::new(Config::default()).hash_key();
    let all: Vec<_> = (0..300).map(|n| udp_service(&format!("s{n}"), vip(n), &[])).collect();
    let table = ServiceTable::new(&all, NodeView::default(), key).expect("valid");
    let mut fewer = all.clone();
    fewer.remove(7);
    fewer[20] = udp_service("s21", vip(21), &[Family::V4.backend(0)]);
    fewer.push(udp_service("new", vip(1000), &[]));
    let table = table.with_services(&fewer, None).expect("valid");
    assert_eq!(table.services().count(), 300);
    for (number, service) in fewer.iter().enumerate() {
        let Frontend { address, port, .. } = service.spec().frontends[0];
        let to = SocketAddr::new(address.expect("a cluster IP"), port);
        let (slot, _) = table.find(Protocol::UDP, to).expect("it is served");
        assert!(Arc::ptr_eq(table.service(slot), service), "{number}");
    }
    assert_eq!(table.find(Protocol::UDP, vip(7)), None);
    assert!(!table.is_cluster_ip(vip(7).ip()));
}

/// Connections stay with their backends, and the next ones are chosen by the strategy that follows.
#[test]
fn each_strategy_may_follow_each_other() {
    for family in FAMILIES {
        for (before, after) in
            Strategy::ALL.iter().flat_map(|before| Strategy::ALL.map(|after| (*before, after)))
        {
            let with = |strategy, backends| {
                let specs = specs(family, backends).into_iter();
                specs.map(|spec| ServiceSpec { strategy, ..spec }).collect::<Vec<_>>()
            };
            let mut scene = Scene::new(Config::default(), with(before, 3));
            let mut connections: Vec<_> = (0..6)
                .map(|n| Connection::establish(&mut scene, family.client(n, 5555), family.vip()))
                .collect();
            scene.serve(with(after, 3));
            for connection in &mut connections {
                let cause = connection.client(&mut scene, ACK | PSH, b"on").cause;
                assert_eq!(cause, Cause::Established, "{} to {}", before.name(), after.name());
            }
            let syn = tcp(family.client(7, 5555), family.vip(), &Tcp::new(SYN, 1, 0));
            let told = scene.engine.explain(scene.now, &syn, Meta::default());
            let name = format!("{} gives ", after.name());
            assert!(told.steps.iter().any(|(_, found)| found.starts_with(&name)), "{name}");
            let saved = scene.engine.checkpoint(scene.now);
            let mut later = Scene::new(Config::default(), with(after, 3));
            assert_eq!(later.engine.restore(scene.now, &saved, 0), Ok(6));
            Connection::establish(&mut later, family.client(7, 5555), family.vip());
        }
    }
}
