//! Runs of first packets ([`super::super::FirstPackets`]) do what the slow path does: they open the
//! same flows, evict the same ones, lease the same ports and are refused for the same causes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proptest::prelude::*;

use super::stage::{books, slowly};
use super::steps::{ACK, SYN, Shape, datagram, shape_packet};
use crate::config::Config;
use crate::engine::Engine;
use crate::hint::tests::IS_PORTABLE;
use crate::pipeline::{Meta, Packet};
use crate::tuple::Protocol;
use crate::{
    Backend, Frontend, FrontendKind, NodeView, ServicePort, ServiceSpec, ServiceTable,
    Strategy as Balancing,
};

/// The last octets of clients: two of nobody else's, two that are backends too, and a cluster IP.
const CLIENTS: [u8; 5] = [200, 201, 1, 2, 100];
/// The last octets of cluster IPs, of which the last is no Service's.
const SERVICES: [u8; 5] = [100, 101, 102, 103, 104];

#[derive(Clone, Debug)]
struct First {
    is_v6: bool,
    is_tcp: bool,
    /// Of TCP.
    flags: u8,
    client: usize,
    sport: u16,
    service: usize,
    /// Port 80 is served, 81 is not.
    dport: u16,
    interface: u32,
    shape: Shape,
}

fn first_packets() -> impl Strategy<Value = Vec<First>> {
    let shape = prop_oneof![
        12 => Just(Shape::Plain),
        1 => Just(Shape::Incomplete),
        1 => Just(Shape::Padded),
        1 => Just(Shape::Extended),
        1 => (0..=255u8).prop_map(Shape::Contradictory),
    ];
    let packet = (
        prop::bool::weighted(0.3),
        (any::<bool>(), prop_oneof![8 => Just(SYN), 2 => Just(ACK), 1 => any::<u8>()]),
        0..CLIENTS.len(),
        0..6u16,
        0..SERVICES.len(),
        prop::bool::weighted(0.05),
        0..2u32,
        shape,
    )
        .prop_map(
            |(is_v6, (is_tcp, flags), client, sport, service, is_unknown, interface, shape)| {
                First {
                    is_v6,
                    is_tcp,
                    flags,
                    client,
                    sport: 5000 + sport,
                    service,
                    dport: 80 + u16::from(is_unknown),
                    interface,
                    shape,
                }
            },
        );
    prop::collection::vec(packet, 1..130)
}

fn address(is_v6: bool, last: u8) -> IpAddr {
    if is_v6 {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)])
    } else {
        IpAddr::from([10, 0, 0, last])
    }
}

impl First {
    fn packet(&self) -> (Vec<u8>, Meta) {
        let transport = if self.is_tcp {
            let mut bytes = vec![0; 24];
            bytes[12..14].copy_from_slice(&[6 << 4, self.flags]);
            // The window, and its scale.
            bytes[14..16].fill(7);
            bytes[20..].copy_from_slice(&[3, 3, 5, 0]);
            bytes
        } else {
            datagram(true)
        };
        let protocol = if self.is_tcp { Protocol::TCP } else { Protocol::UDP };
        let (src, dst) = (CLIENTS[self.client], SERVICES[self.service]);
        let length = transport.len() as u8;
        let addresses = [src, dst].map(|last| match address(self.is_v6, last) {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        });
        let mut bytes = if self.is_v6 {
            vec![0x60, 0, 0, 0, 0, length, protocol.0, 64]
        } else {
            vec![0x45, 0, 0, 20 + length, 0, 7, 0, 0, 64, protocol.0, 0x12, 0x34]
        };
        bytes.extend(addresses.concat());
        bytes.extend([self.sport.to_be_bytes(), self.dport.to_be_bytes()].concat());
        bytes.extend(&transport[4..]);
        let (bytes, meta) = shape_packet(bytes, self.shape);
        (bytes, Meta { interface: self.interface, ..meta })
    }
}

/// Service ports that differ in what a first packet meets there.
fn services() -> Vec<Arc<ServicePort>> {
    let service = |protocol: Protocol, is_v6: bool, number: usize| {
        let backends = if number == 2 { 0..0 } else { 1..4u8 };
        let backend =
            |last| Backend::new(SocketAddr::new(address(is_v6, last), 9876 - u16::from(last) % 2));
        let spec = ServiceSpec {
            frontends: vec![Frontend {
                kind: FrontendKind::ClusterIp,
                address: Some(address(is_v6, SERVICES[number])),
                port: 80,
            }],
            cluster_backends: backends.map(backend).collect(),
            affinity: (number == 1).then_some(10),
            strategy: [Balancing::RoundRobin, Balancing::Random, Balancing::SourceHash][number % 3],
            ..ServiceSpec::new(format!("default/{number}-{is_v6}-{protocol}:"), protocol)
        };
        Arc::new(ServicePort::new(spec).expect("valid"))
    };
    (0..SERVICES.len() - 1)
        .flat_map(|number| [false, true].map(|is_v6| (is_v6, number)))
        .flat_map(|(is_v6, number)| {
            [Protocol::TCP, Protocol::UDP].map(|protocol| service(protocol, is_v6, number))
        })
        .collect()
}

proptest! {
    #[test]
    fn runs_of_first_packets_do_what_the_slow_path_does(
        secret in any::<u64>(),
        masquerade_all in any::<bool>(),
        has_snat in any::<bool>(),
        has_limit in any::<bool>(),
        batches in prop::collection::vec((first_packets(), 0..3u8, 0..40u64), 1..6),
    ) {
        let config = Config {
            secret,
            max_flows: 40,
            max_unassured: 30,
            max_flows_per_source: has_limit.then_some(12),
            snat: if has_snat {
                vec![address(false, 250), address(true, 250)]
            } else {
                Vec::new()
            },
            ..Config::default()
        };
        let [mut fast, mut slow] = [config.clone(), config].map(Engine::new);
        let node = NodeView { masquerade_all, ..NodeView::default() };
        let table = ServiceTable::new(&services(), node, fast.hash_key()).expect("valid");
        let table = Arc::new(table);
        for engine in [&mut fast, &mut slow] {
            engine.replace_services(table.clone());
        }
        let mut now = 1 << 40;
        for (firsts, way, seconds) in &batches {
            let packets: Vec<_> = firsts.iter().map(First::packet).collect();
            let expected: Vec<_> = packets
                .iter()
                .map(|(bytes, meta)| {
                    let mut bytes = bytes.clone();
                    (slowly(&mut slow, now, &mut bytes, *meta), bytes)
                })
                .collect();
            let mut buffers: Vec<_> = packets.iter().map(|(bytes, _)| bytes.clone()).collect();
            let mut packets: Vec<_> = buffers
                .iter_mut()
                .zip(&packets)
                .map(|(bytes, &(_, meta))| Packet { bytes, meta })
                .collect();
            let mut verdicts = Vec::new();
            if *way == 2 {
                verdicts.extend(packets.iter_mut().map(|packet| fast.process(now, packet)));
            } else {
                IS_PORTABLE.set(*way == 1);
                fast.process_batch(now, &mut packets, &mut verdicts);
            }
            let outcomes: Vec<_> = verdicts.into_iter().zip(buffers).collect();
            prop_assert_eq!(outcomes, expected);
            prop_assert_eq!(books(&fast), books(&slow));
            let rest = |engine: &Engine| {
                format!("{:?} {:?}", engine.shared.affinity, engine.shared.leases)
            };
            prop_assert_eq!(rest(&fast), rest(&slow));
            now += seconds * 1_000_000_000;
        }
    }
}
