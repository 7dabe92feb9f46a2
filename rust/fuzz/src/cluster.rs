//! The cluster that all targets work in: service ports of every protocol, kind and policy, and
//! engines with tight limits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use kbe_nat_engine::Cidr;
use kbe_nat_engine::hash::HashKey;
use kbe_nat_engine::service::UnknownPort;
use kbe_nat_engine::tuple::{Family, Protocol};
use kbe_nat_engine::{
    Backend, Config, Engine, Frontend, FrontendKind, InvalidTcp, Midstream, Mode, NodePorts,
    NodeView, ServicePort, ServiceSpec, ServiceTable, Strategy,
};

/// The client of most packets.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
/// The same in IPv6.
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 5);
/// The cluster IP of all service ports.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The same in IPv6.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10);
/// The node.
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The same in IPv6.
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Flows at most of one family; so few that a run fills the table.
pub const MAX_FLOWS: usize = 12;
/// Unassured flows at most of one family.
pub const MAX_UNASSURED: usize = 10;
/// Clients at most whose backend is remembered.
pub const MAX_AFFINITIES: usize = 5;
/// Fragments at most of one family that wait.
pub const MAX_FRAGMENTS: usize = 4;
/// How many tables there are, see [`table`].
pub const TABLES: usize = 4;

const SECRET: u64 = 7;

/// An engine with this set-up: every bit of `choices` chooses something. It serves [`table`] 0, and
/// its clock stands at 0.
#[must_use]
pub fn engine(choices: u8) -> Engine {
    let has = |bit: u8| choices >> bit & 1 == 1;
    let mut engine = Engine::new(Config {
        seed: 1,
        secret: SECRET,
        max_flows: MAX_FLOWS,
        max_unassured: MAX_UNASSURED,
        max_flows_per_source: has(0).then_some(6),
        max_affinities: MAX_AFFINITIES,
        max_fragments: MAX_FRAGMENTS,
        snat: if has(1) { vec![NODE.into(), NODE6.into()] } else { Vec::new() },
        midstream: match (has(2), has(3)) {
            (false, _) => Midstream::Consistent,
            (true, false) => Midstream::Reject,
            (true, true) => Midstream::Drop,
        },
        invalid: if has(4) { InvalidTcp::Drop } else { InvalidTcp::Translate },
        ..Config::default()
    });
    engine.replace_services(table(0));
    engine.expire(0, 0);
    engine
}

/// One of the tables that an engine may be given; they differ in backends, service ports,
/// strategies and the node's view.
#[must_use]
pub fn table(number: usize) -> Arc<ServiceTable> {
    static TABLES_BUILT: OnceLock<Vec<Arc<ServiceTable>>> = OnceLock::new();
    let tables =
        TABLES_BUILT.get_or_init(|| (0..TABLES).map(|number| Arc::new(build(number))).collect());
    tables[number % TABLES].clone()
}

fn build(number: usize) -> ServiceTable {
    ServiceTable::new(&services(number), node(number), HashKey::new(SECRET)).expect("a valid table")
}

fn services(number: usize) -> Vec<Arc<ServicePort>> {
    let mut services = Vec::new();
    for (family, (suffix, vip)) in
        [("", IpAddr::from(VIP)), ("6", VIP6.into())].into_iter().enumerate()
    {
        let ports = [
            ("web", Protocol::TCP, 80, 8080, 3),
            ("lonely", Protocol::TCP, 81, 8081, 0),
            ("local", Protocol::TCP, 82, 8082, 1),
            ("dns", Protocol::UDP, 53, 53, 2),
            ("sip", Protocol::SCTP, 5060, 5061, 2),
            ("echo", if vip.is_ipv4() { Protocol::ICMP } else { Protocol::ICMPV6 }, 0, 0, 2),
            ("gre", Protocol(47), 0, 0, 1),
        ];
        for (place, (name, protocol, port, target, backends)) in ports.into_iter().enumerate() {
            // Table 1 lacks backends, table 2 service ports.
            if number == 2 && place % 2 == 0 {
                continue;
            }
            let first = usize::from(number == 1);
            let backends: Vec<Backend> = (first..backends)
                .map(|n| SocketAddr::new(backend_address(vip, n as u8 + 3), target))
                .map(Backend::new)
                .collect();
            let mut frontends =
                vec![Frontend { kind: FrontendKind::ClusterIp, address: Some(vip), port }];
            if name == "web" {
                frontends.push(Frontend {
                    kind: FrontendKind::NodePort,
                    address: None,
                    port: 30_080,
                });
            }
            let spec = ServiceSpec {
                frontends,
                local_backends: if name == "local" { Vec::new() } else { backends.clone() },
                cluster_backends: backends,
                is_internal_local: name == "local",
                is_external_local: name == "local",
                affinity: (name == "dns").then_some(60),
                strategy: match (number, name) {
                    (3, "web") => Strategy::Maglev { size: Some(13) },
                    // Both families of a port differ, so that four tables have room for all.
                    _ => Strategy::ALL[(2 * place + 3 * number + family) % Strategy::ALL.len()],
                },
                ..ServiceSpec::new(format!("default/{name}{suffix}:"), protocol)
            };
            services.push(Arc::new(ServicePort::new(spec).expect("a valid service port")));
        }
    }
    services
}

fn node(number: usize) -> NodeView {
    NodeView {
        addresses: vec![NODE.into(), NODE6.into()],
        node_ports: NodePorts {
            addresses: vec![NODE.into(), NODE6.into()],
            wildcard_families: if number == 2 { vec![Family::V4] } else { Vec::new() },
            reject_addresses: vec![Ipv4Addr::LOCALHOST.into()],
            loopback: number >= 2,
        },
        pod_ranges: Cidr::new(Ipv4Addr::new(10, 244, 0, 0).into(), 16).into_iter().collect(),
        pod_interfaces: Some(vec![7]),
        unallocated: Cidr::new(Ipv4Addr::new(10, 96, 0, 0).into(), 24)
            .into_iter()
            .filter(|_| number % 2 == 1)
            .collect(),
        mode: if number % 2 == 1 { Mode::Nftables } else { Mode::Iptables },
        masquerade_all: number == 3,
        unknown_port: [UnknownPort::Pass, UnknownPort::Reject, UnknownPort::Drop][number % 3],
    }
}

/// The address of a backend, of the same family as its cluster IP.
#[must_use]
pub fn backend_address(vip: IpAddr, number: u8) -> IpAddr {
    match vip {
        IpAddr::V4(_) => Ipv4Addr::new(10, 244, 0, number).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 1, number.into()).into(),
    }
}

#[cfg(test)]
mod tests {
    use kbe_nat_engine::service::Scope;

    use super::{Strategy, TABLES, services};

    #[test]
    fn every_strategy_chooses_among_several_backends() {
        let ports: Vec<_> = (0..TABLES).flat_map(services).collect();
        for strategy in Strategy::ALL {
            let is_fuzzed = ports.iter().any(|port| {
                port.spec().strategy == strategy && port.set(Scope::Cluster).backends().len() > 1
            });
            assert!(is_fuzzed, "no table has {}", strategy.name());
        }
    }
}
