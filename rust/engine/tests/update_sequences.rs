//! Changes of the table lead, step by step, where a table built at once does, for packets that come
//! in between as well.

mod scene;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::view::Filter;
use kbe_nat_engine::{
    Backend, Config, Engine, Frontend, FrontendKind, Meta, NodeView, Packet, ServicePort,
    ServiceSpec, ServiceTable,
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
