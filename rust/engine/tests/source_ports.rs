//! Masqueraded flows under every way of giving source ports: no two live flows ever share a tuple,
//! explanations foretell the port, and checkpoints carry flows from one way to any other.

mod scene;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use kbe_nat_engine::conntrack::ports::{Allocation, Mapping, PortRange};
use kbe_nat_engine::tuple::Family::V4;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::view::Flow;
use kbe_nat_engine::{Action, Cause, Config, Meta, ServiceSpec};
use proptest::collection::vec;
use proptest::prelude::{Just, any, prop_oneof, proptest};
use proptest::strategy::Strategy as _;
use scene::*;

const PORTS: (u16, u16) = (40_000, 40_019);
const BLOCK: u16 = 5;
const CLIENTS: u32 = 6;
const SOURCES: [u16; 3] = [40_000, 40_003, 7777];
const FRONTENDS: u16 = 4;
const PROTOCOLS: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];

fn ways() -> Vec<(Allocation, Mapping)> {
    let clients = vec![cidr(V4.client(0, 0).ip(), 29)];
    let allocations = [
        Allocation::Preserve,
        Allocation::Random,
        Allocation::Sequential,
        Allocation::Hashed,
        Allocation::Blocks { size: BLOCK, per_client: 2 },
        Allocation::Deterministic { size: 3, clients },
    ];
    let mappings = [Mapping::EndpointDependent, Mapping::EndpointIndependent];
    allocations.into_iter().flat_map(|way| mappings.map(|mapping| (way.clone(), mapping))).collect()
}

/// Frontends that share their two backends: a client reaches one backend by several.
fn frontend(number: u16) -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 20], 80 + number))
}

fn services() -> Vec<ServiceSpec> {
    let both =
        PROTOCOLS.into_iter().flat_map(|protocol| (0..FRONTENDS).map(move |n| (protocol, n)));
    let services = both.map(|(protocol, n)| {
        let name = format!("{}/{n}", protocol.0);
        spec(&name, protocol, frontend(n), &[V4.backend((n % 2) as u8)])
    });
    services.collect()
}

/// The last client is the node itself, whose source is not replaced by another.
fn client(number: u32, port: u16) -> SocketAddr {
    if number == CLIENTS { SocketAddr::new(SNAT, port) } else { V4.client(number, port) }
}

fn packet(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    if protocol == Protocol::TCP {
        tcp(from, to, &Tcp::new(SYN, 1, 0))
    } else {
        udp(from, to, b"x")
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A first packet: client, port, frontend, protocol.
    Open(u32, usize, u16, usize),
    /// The backend of a flow answers.
    Answer(usize),
    /// Seconds go by.
    Wait(u8),
    /// The same before the sweep: flows that are over are in the table still.
    Pass(u8),
    /// Another engine takes over, set up in this way.
    Restart(usize),
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    let open = (0..=CLIENTS, 0..SOURCES.len(), 0..FRONTENDS, 0..2usize);
    prop_oneof![
        20 => open.prop_map(|(client, port, to, kind)| Step::Open(client, port, to, kind)),
        5 => any::<usize>().prop_map(Step::Answer),
        2 => (0u8..40).prop_map(Step::Wait),
        2 => (0u8..40).prop_map(Step::Pass),
        1 => prop_oneof![Just(0usize), 0..ways().len()].prop_map(Step::Restart),
    ]
}

/// An engine set up in one way, under test.
struct Test {
    scene: Scene,
    allocation: Allocation,
    mapping: Mapping,
    /// All its flows are of this way: none came from an engine of another.
    is_pure: bool,
}

impl Test {
    fn new(way: usize) -> Self {
        let (allocation, mapping) = ways().swap_remove(way);
        let ports = PortRange { ports: PORTS, ..PortRange::default() };
        let config = Config { ports, allocation: allocation.clone(), mapping, ..Config::default() };
        Self { scene: Scene::masqueraded(config, services()), allocation, mapping, is_pure: true }
    }

    fn run(mut self, steps: &[Step]) {
        for step in steps {
            match *step {
                Step::Open(number, port, to, kind) => {
                    self.open(PROTOCOLS[kind], client(number, SOURCES[port]), frontend(to));
                }
                Step::Answer(number) => self.answer(number),
                Step::Wait(seconds) => self.scene.sweep(seconds.into()),
                Step::Pass(seconds) => self.scene.pass(seconds.into()),
                Step::Restart(way) => self.restart(way),
            }
            self.check();
        }
        self.scene.sweep(1e6);
        assert_eq!(self.scene.engine.occupancy().leased_ports, 0, "all ports are given back");
        for client in 0..CLIENTS {
            let packet = packet(Protocol::UDP, V4.client(client, 5), frontend(0));
            let is_served = self.scene.send(packet).0.action == Action::Translate;
            assert!(is_served || matches!(self.allocation, Allocation::Blocks { .. }), "{client}");
        }
    }

    fn open(&mut self, protocol: Protocol, from: SocketAddr, to: SocketAddr) {
        let bytes = packet(protocol, from, to);
        let told = self.scene.engine.explain(self.scene.now, &bytes, Meta::default());
        let (verdict, bytes) = self.scene.send(bytes);
        if verdict.cause == Cause::New && verdict.action == Action::Translate {
            let source = ends(&bytes).0;
            let mut findings = told.steps.iter().map(|(_, finding)| finding);
            let foretold = findings.find_map(|finding| finding.split_once(" goes on as "));
            let foretold = foretold.map_or(from.to_string(), |(_, source)| source.to_owned());
            assert_eq!(foretold, source.to_string(), "{:?}", told.steps);
            assert!((PORTS.0..=PORTS.1).contains(&source.port()) || from.ip() == SNAT);
        }
    }

    fn answer(&mut self, number: usize) {
        self.scene.sweep(0.0);
        let flows = self.scene.flows();
        let Some(flow) = flows.get(number % flows.len().max(1)) else { return };
        let (from, to) = (flow.reply_source, flow.reply_destination);
        let bytes = if flow.protocol == Protocol::TCP {
            tcp(from, to, &Tcp::new(SYN | ACK, 7, 2))
        } else {
            udp(from, to, b"answer")
        };
        assert_eq!(self.scene.translate(bytes), (flow.destination, flow.source));
    }

    fn restart(&mut self, way: usize) {
        let (now, checkpoint) = (self.scene.now, self.scene.engine.checkpoint(self.scene.now));
        let before = (self.scene.flows().len(), std::mem::replace(self, Self::new(way)));
        self.scene.now = now;
        assert_eq!(self.scene.engine.restore(now, &checkpoint, 0), Ok(before.0));
        let is_same = before.1.allocation == self.allocation && before.1.mapping == self.mapping;
        self.is_pure = before.0 == 0 || is_same && before.1.is_pure;
        if is_same && before.1.is_pure {
            let [old, new] =
                [&before.1.scene, &self.scene].map(|scene| scene.engine.occupancy().leased_ports);
            assert!(new <= old, "expired flows are left behind, and nothing else");
        }
    }

    fn check(&self) {
        let flows = self.scene.flows();
        let mut tuples = HashSet::new();
        for flow in &flows {
            let tuple = (flow.protocol.0, flow.reply_source, flow.reply_destination);
            assert!(tuples.insert(tuple), "{tuple:?} twice");
        }
        if self.is_pure {
            let strangers: Vec<&Flow> = flows.iter().filter(|f| f.source.ip() != SNAT).collect();
            self.check_mappings(&strangers);
            self.check_blocks(&strangers);
        }
    }

    /// RFC 4787: a port of ours is one mapping's, and a client's port has one, unless two of its
    /// flows meet at one backend.
    fn check_mappings(&self, flows: &[&Flow]) {
        if self.mapping == Mapping::EndpointDependent {
            return;
        }
        let mut owners = HashMap::new();
        let mut ports = HashMap::<_, HashSet<u16>>::new();
        let mut meetings = HashMap::<_, usize>::new();
        for flow in flows {
            let (mapping, port) = ((flow.protocol.0, flow.source), flow.reply_destination.port());
            let owner = owners.entry((flow.protocol.0, port)).or_insert(mapping);
            assert_eq!(*owner, mapping, "{port} is shared");
            ports.entry(mapping).or_default().insert(port);
            *meetings.entry((mapping, flow.reply_source)).or_default() += 1;
        }
        for (mapping, ports) in ports {
            let of_mapping = meetings.iter().filter(|((known, _), _)| *known == mapping);
            // A second frontend of a backend may have come and gone: two are four flows at most.
            let most = of_mapping.map(|(_, &flows)| flows).sum::<usize>();
            assert!(ports.len() <= most, "{mapping:?} has {ports:?}");
        }
    }

    fn check_blocks(&self, flows: &[&Flow]) {
        let size = match self.allocation {
            Allocation::Blocks { size, .. } | Allocation::Deterministic { size, .. } => size,
            _ => return,
        };
        let mut owners = HashMap::<u16, IpAddr>::new();
        let mut blocks = HashMap::<IpAddr, HashSet<u16>>::new();
        for flow in flows {
            let block = (flow.reply_destination.port() - PORTS.0) / size;
            let owner = owners.entry(block).or_insert(flow.source.ip());
            assert_eq!(*owner, flow.source.ip(), "block {block} is shared");
            blocks.entry(flow.source.ip()).or_default().insert(block);
        }
        assert!(blocks.values().all(|blocks| blocks.len() <= 2));
    }
}

proptest! {
    #[test]
    fn f32_no_two_live_flows_share_a_tuple(way in 0..ways().len(), steps in vec(step(), 1..120)) {
        Test::new(way).run(&steps);
    }
}

/// The same traffic until nothing is free, in every way: what is refused is refused for its port.
#[test]
fn f31_every_way_runs_out_of_ports_and_says_so() {
    for (allocation, mapping) in ways() {
        let ports = PortRange { ports: PORTS, ..PortRange::default() };
        let config = Config { ports, allocation: allocation.clone(), mapping, ..Config::default() };
        let mut scene = Scene::masqueraded(config, services());
        let mut served = 0;
        for n in 0..CLIENTS * 10 {
            let from = V4.client(n % CLIENTS, 5000 + (n / CLIENTS) as u16);
            let (verdict, _) = scene.send(packet(Protocol::UDP, from, frontend((n % 2) as u16)));
            if verdict.action == Action::Translate {
                served += 1;
            } else {
                assert_eq!((verdict.action, verdict.cause), (Action::Drop, Cause::PortsExhausted));
            }
        }
        // 20 ports towards two backends, of which an odd client meets one alone.
        let (blocks, deterministic) = (4 * u32::from(BLOCK), 6 * 3);
        let expected = match (&allocation, mapping) {
            (Allocation::Blocks { .. }, Mapping::EndpointIndependent) => blocks,
            (Allocation::Blocks { .. }, Mapping::EndpointDependent) => blocks,
            (Allocation::Deterministic { .. }, _) => deterministic,
            (_, Mapping::EndpointDependent) => 40,
            (_, Mapping::EndpointIndependent) => 20,
        };
        assert_eq!(served, expected, "{allocation:?} {mapping:?}");
        assert_eq!(scene.engine.port_use().allocations, u64::from(expected));
    }
}

/// Ports follow from seed and secret: also where one number is given for both, as in a simulation
/// that is repeated under many seeds.
#[test]
fn other_seeds_and_secrets_draw_other_ports() {
    let mut seen = HashSet::new();
    for (seed, secret) in [(0, 0), (1, 1), (2, 2), (1, 2), (2, 1), (1, 0), (0, 1)] {
        let config = Config { allocation: Allocation::Random, seed, secret, ..Config::default() };
        let mut scene = Scene::masqueraded(config, services());
        let ports: Vec<u16> = (0..8)
            .map(|n| packet(Protocol::UDP, client(n % CLIENTS, 5000 + n as u16), frontend(0)))
            .map(|bytes| ends(&scene.send(bytes).1).0.port())
            .collect();
        assert!(seen.insert(ports), "{seed} and {secret} are as others");
    }
}
