//! Changes of the table: step by step they lead where a table built at once does, for packets that
//! come in between as well, and no packet meets half of one.

mod scene;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use kbe_nat_engine::service::ServiceError;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::view::{Filter, ServiceStats};
use kbe_nat_engine::{
    Backend, Cause, Config, Engine, Frontend, FrontendKind, Meta, NodePorts, NodeView, Packet,
    ServicePort, ServiceSpec, ServiceTable,
};
use proptest::collection::vec;
use proptest::prelude::{Just, any, prop_oneof, proptest};
use proptest::strategy::Strategy as _;
use scene::*;

/// Service ports that come and go.
const NAMES: usize = 8;
const PROTOCOLS: [Protocol; 2] = [Protocol::UDP, Protocol::TCP];
const STRATEGIES: [&str; 6] = ["random", "rr", "wrr", "lc", "p2c", "rendezvous"];

fn node_address(family: Family, last: u16) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 0, 2, last as u8]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]),
    }
}

/// Addresses at which something may be served; the last one is the node's.
fn addresses(family: Family) -> [IpAddr; 3] {
    let other = match family {
        Family::V4 => IpAddr::from([10, 96, 0, 11]),
        Family::V6 => IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, 0x11]),
    };
    [family.vip().ip(), other, node_address(family, 1)]
}

const PORTS: [u16; 3] = [80, 53, 30_080];

/// A service port of one name, in a form that 32 bits choose.
fn service(name: usize, form: u32) -> Arc<ServicePort> {
    let mut bits = u64::from(form) << 32 | u64::from(form.wrapping_mul(0x9e37_79b9));
    let mut below = |bound: usize| {
        let choice = bits % bound as u64;
        bits /= bound as u64;
        choice as usize
    };
    let family = FAMILIES[name % 2];
    let protocol = PROTOCOLS[below(2)];
    let frontends = (0..below(3))
        .map(|_| {
            let kinds = [
                FrontendKind::ClusterIp,
                FrontendKind::ExternalIp,
                FrontendKind::LoadBalancer,
                FrontendKind::NodePort,
            ];
            let kind = kinds[below(4)];
            let address = addresses(family)[below(3)];
            let port = PORTS[below(3)];
            let address = (kind != FrontendKind::NodePort).then_some(address);
            Frontend { kind, address, port }
        })
        .collect();
    let first = below(3) as u8;
    let mut backends = |most: usize| -> Vec<Backend> {
        (0..below(most) as u8)
            .map(|number| Backend {
                weight: [1, 3, 0][below(3)],
                ..Backend::new(family.backend(first + number))
            })
            .collect()
    };
    let (cluster_backends, local_backends) = (backends(4), backends(2));
    let spec = ServiceSpec {
        frontends,
        family: Some(family),
        cluster_backends,
        local_backends,
        serving_backends: (0..form as u8 % 3).map(|number| family.backend(4 + number)).collect(),
        is_internal_local: form & 0x100 != 0,
        is_external_local: form & 0x200 != 0,
        affinity: (form & 0x400 != 0).then_some(60),
        strategy: STRATEGIES[form as usize / 7 % STRATEGIES.len()].parse().expect("a strategy"),
        // Two of a name differ by their family.
        ..spec(&format!("default/s{}", name / 2), protocol, family.vip(), &[])
    };
    Arc::new(ServicePort::new(spec).expect("one family each"))
}

fn node(form: u8) -> NodeView {
    let has = |bit: u8| form >> bit & 1 == 1;
    let every = |last: u16| FAMILIES.map(|family| node_address(family, last));
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let mut view = NodeView { addresses: every(1).into(), ..NodeView::default() };
    if has(0) {
        view.addresses.extend(every(2));
    }
    view.node_ports.addresses = view.addresses.clone();
    if has(1) {
        view.node_ports.addresses.push(loopback);
        if has(2) {
            view.node_ports.wildcard_families = vec![Family::V4];
        }
    }
    if has(3) {
        view.node_ports.reject_addresses = every(3).into();
    }
    view
}

/// What happens in one step.
#[derive(Clone, Debug)]
enum Step {
    /// Service ports get other forms, or go, and perhaps the node another view.
    Change(Vec<(usize, Option<u32>)>, Option<u8>),
    /// A packet from a client to a frontend, and perhaps its answer.
    Talk { client: u8, to: usize, port: usize, is_tcp: bool, is_opening: bool, is_answered: bool },
    /// Time goes by.
    Wait(u16),
}

/// Two engines with one history: one is told of changes, the other gets whole tables.
struct Twins {
    stepwise: Engine,
    afresh: Engine,
    served: BTreeMap<usize, Arc<ServicePort>>,
    node: NodeView,
    now: u64,
}

impl Twins {
    fn new() -> Self {
        let engine = || {
            Engine::new(Config {
                seed: 5,
                secret: 5,
                max_flows: 30,
                max_affinities: 4,
                ..Config::default()
            })
        };
        Self {
            stepwise: engine(),
            afresh: engine(),
            served: BTreeMap::new(),
            node: NodeView::default(),
            now: 1000 * SECOND,
        }
    }

    /// Both take the same changes, or refuse them.
    fn change(&mut self, changes: &[(usize, Option<u32>)], view: Option<NodeView>) {
        let mut wanted = self.served.clone();
        for &(name, form) in changes {
            match form {
                Some(form) => wanted.insert(name, service(name, form)),
                None => wanted.remove(&name),
            };
        }
        let key = |service: &Arc<ServicePort>| (service.name().to_owned(), service.family());
        let former: Vec<_> = self.served.values().map(key).collect();
        let names: Vec<_> = wanted.values().map(key).collect();
        let changed: Vec<_> = wanted
            .iter()
            .filter(|(name, service)| {
                self.served.get(name).is_none_or(|former| !Arc::ptr_eq(former, service))
            })
            .map(|(_, service)| service.clone())
            .collect();
        let gone = former.iter().filter(|name| !names.contains(name));
        let removed: Vec<_> = gone.map(|(name, family)| (name.as_str(), *family)).collect();
        let updated = self.stepwise.services().with_changes(&changed, &removed, view.clone());
        // The order in which a whole table comes does not matter.
        let mut all: Vec<_> = wanted.values().cloned().collect();
        let turned = changes.len().min(all.len());
        all.rotate_left(turned);
        let whole = view.clone().unwrap_or_else(|| self.node.clone());
        let built = ServiceTable::new(&all, whole.clone(), self.afresh.hash_key());
        let (Ok(updated), Ok(built)) = (&updated, &built) else {
            assert!(updated.is_err() && built.is_err(), "{:?} {:?}", updated.err(), built.err());
            return;
        };
        self.stepwise.replace_services(Arc::new(updated.clone()));
        self.afresh.replace_services(Arc::new(built.clone()));
        (self.served, self.node) = (wanted, whole);
        self.assert_tables_alike();
    }

    fn assert_tables_alike(&self) {
        let (stepwise, afresh) = (self.stepwise.services(), self.afresh.services());
        let name_at = |table: &ServiceTable, protocol, to| {
            table.find(protocol, to).map(|(slot, kind)| (Arc::as_ptr(table.service(slot)), kind))
        };
        for protocol in PROTOCOLS {
            for to in destinations() {
                assert_eq!(
                    name_at(stepwise, protocol, to),
                    name_at(afresh, protocol, to),
                    "{protocol} {to}"
                );
                assert_eq!(stepwise.is_cluster_ip(to.ip()), afresh.is_cluster_ip(to.ip()), "{to}");
                assert_eq!(stepwise.is_node(to.ip()), afresh.is_node(to.ip()), "{to}");
            }
        }
        let mut names =
            [stepwise, afresh].map(|table| table.services().map(Arc::as_ptr).collect::<Vec<_>>());
        names.iter_mut().for_each(|names| names.sort_unstable());
        assert_eq!(names[0], names[1]);
    }

    /// Sends a packet through both, and returns what became of it.
    fn send(&mut self, packet: &[u8]) -> Vec<u8> {
        let meta = Meta::default();
        let explained = [&mut self.stepwise, &mut self.afresh]
            .map(|engine| engine.explain(self.now, packet, meta));
        assert_eq!(explained[0], explained[1]);
        let [one, other] = [&mut self.stepwise, &mut self.afresh].map(|engine| {
            let mut bytes = packet.to_vec();
            let verdict = engine.process(self.now, &mut Packet { bytes: &mut bytes, meta });
            (verdict, bytes)
        });
        assert_eq!(one, other);
        one.1
    }

    fn talk(&mut self, step: &Step) {
        let Step::Talk { client, to, port, is_tcp, is_opening, is_answered } = *step else {
            return;
        };
        let all = destinations();
        let destination = SocketAddr::new(all[to % all.len()].ip(), PORTS[port % PORTS.len()]);
        let family = if destination.is_ipv4() { Family::V4 } else { Family::V6 };
        let from = family.client(u32::from(client % 4), 4000 + u16::from(client / 4 % 3));
        let (there, back) = if is_opening { (SYN, SYN | ACK) } else { (ACK, ACK) };
        let packet = |from, to, flags| match is_tcp {
            true => tcp(from, to, &Tcp::new(flags, 1, 1)),
            false => udp(from, to, b"x"),
        };
        let sent = self.send(&packet(from, destination, there));
        let (source, backend) = ends(&sent);
        if is_answered && backend != destination {
            self.send(&packet(backend, source, back));
        }
    }

    fn assert_alike(&mut self) {
        let [one, other] = [&self.stepwise, &self.afresh].map(|engine| {
            let mut flows = engine.flows(&Filter::default(), usize::MAX);
            flows.sort_by_key(|flow| (flow.protocol, flow.source, flow.destination));
            (flows, engine.service_stats(), engine.occupancy())
        });
        assert_eq!(one, other);
        let ended = [&mut self.stepwise, &mut self.afresh].map(|engine| {
            (engine.expire(self.now, 1 << 20), engine.occupancy(), engine.service_stats())
        });
        assert_eq!(ended[0], ended[1]);
    }
}

/// Where packets go: all addresses with all ports, and some where nothing is served.
fn destinations() -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for family in FAMILIES {
        let others = [2, 3, 4].map(|last| node_address(family, last));
        for address in addresses(family).into_iter().chain(others) {
            all.extend(PORTS.map(|port| SocketAddr::new(address, port)));
        }
    }
    for last in [1, 5] {
        all.extend(PORTS.map(|port| SocketAddr::from(([127, 0, 0, last], port))));
    }
    all
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    let form = prop_oneof![1 => Just(None), 4 => any::<u32>().prop_map(Some)];
    let view = prop_oneof![4 => Just(None), 1 => any::<u8>().prop_map(Some)];
    let talk = (any::<u8>(), 0usize..64, 0usize..3, any::<bool>(), any::<bool>(), any::<bool>());
    prop_oneof![
        2 => (vec((0..NAMES, form), 0..4), view).prop_map(|(changes, view)| Step::Change(changes, view)),
        5 => talk.prop_map(|(client, to, port, is_tcp, is_opening, is_answered)| Step::Talk {
            client, to, port, is_tcp, is_opening, is_answered
        }),
        1 => (0u16..200).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn changes_lead_where_a_whole_table_does(steps in vec(step(), 1..60)) {
        let mut twins = Twins::new();
        twins.change(&[], Some(node(2)));
        for step in &steps {
            match step {
                Step::Change(changes, view) => twins.change(changes, view.map(node)),
                Step::Talk { .. } => twins.talk(step),
                Step::Wait(seconds) => twins.now += u64::from(*seconds) * SECOND,
            }
        }
        twins.assert_alike();
    }
}

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
