//! A stage for the fault tests: an engine with a clock that is moved by hand, packets, and both ends
//! of connections.

// Every test file compiles this module for itself and uses another part of it.
#![allow(dead_code, unused_imports)]

mod bytes;
mod connection;
mod inputs;
mod kernel;
mod pieces;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

pub(crate) use bytes::*;
pub(crate) use connection::Connection;
pub(crate) use inputs::*;
use kbe_nat_engine::Cidr;
pub(crate) use kbe_nat_engine::tuple::Family;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::view::{Filter, Flow, ServiceStats};
use kbe_nat_engine::{
    Action, Backend, Cause, Config, Engine, Frontend, FrontendKind, Meta, NodeView, Packet,
    ServicePort, ServiceSpec, ServiceTable, Strategy, Verdict,
};
pub(crate) use kernel::kernel_flow;
pub(crate) use pieces::*;

pub(crate) const SECOND: u64 = 1_000_000_000;

/// The address of a node whose source replaces that of masqueraded flows.
pub(crate) const SNAT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1));

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// One family's cast: a frontend, clients and backends by number.
pub(crate) trait Cast {
    fn vip(self) -> SocketAddr;
    fn client(self, number: u32, port: u16) -> SocketAddr;
    fn backend(self, number: u8) -> SocketAddr;
    fn router(self) -> IpAddr;
    fn icmp(self) -> Protocol;
}

impl Cast for Family {
    fn vip(self) -> SocketAddr {
        match self {
            Self::V4 => SocketAddr::from(([10, 96, 0, 10], 80)),
            Self::V6 => SocketAddr::from(([0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10], 80)),
        }
    }

    fn client(self, number: u32, port: u16) -> SocketAddr {
        let [_, b, c, d] = number.to_be_bytes();
        match self {
            Self::V4 => SocketAddr::from(([11, b, c, d], port)),
            Self::V6 => {
                let low = number.to_be_bytes();
                let words =
                    [u16::from_be_bytes([low[0], low[1]]), u16::from_be_bytes([low[2], low[3]])];
                SocketAddr::from(([0xfd00, 0x11, 0, 0, 0, 0, words[0], words[1]], port))
            }
        }
    }

    fn backend(self, number: u8) -> SocketAddr {
        match self {
            Self::V4 => SocketAddr::from(([172, 17, 0, 3 + number], 9876)),
            Self::V6 => {
                SocketAddr::from(([0xfd00, 0x172, 0, 0, 0, 0, 0, 3 + u16::from(number)], 9876))
            }
        }
    }

    fn router(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::from([203, 0, 113, 9]),
            Self::V6 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9]),
        }
    }

    fn icmp(self) -> Protocol {
        match self {
            Self::V4 => Protocol::ICMP,
            Self::V6 => Protocol::ICMPV6,
        }
    }
}

/// A service port at `vip` with these backends, in order and by turns unless the test wants another
/// strategy.
pub(crate) fn spec(
    name: &str,
    protocol: Protocol,
    vip: SocketAddr,
    backends: &[SocketAddr],
) -> ServiceSpec {
    ServiceSpec {
        frontends: vec![Frontend {
            kind: FrontendKind::ClusterIp,
            address: Some(vip.ip()),
            port: vip.port(),
        }],
        cluster_backends: backends.iter().copied().map(Backend::new).collect(),
        strategy: Strategy::RoundRobin,
        ..ServiceSpec::new(name, protocol)
    }
}

/// TCP, UDP and SCTP service ports at the family's frontend, each with the first `backends`
/// backends.
pub(crate) fn specs(family: Family, backends: u8) -> Vec<ServiceSpec> {
    let backends: Vec<_> = (0..backends).map(|number| family.backend(number)).collect();
    [("default/t:", Protocol::TCP), ("default/u:", Protocol::UDP), ("default/s:", Protocol::SCTP)]
        .into_iter()
        .map(|(name, protocol)| {
            spec(&format!("{name}{family:?}"), protocol, family.vip(), &backends)
        })
        .collect()
}

/// Whether a verdict tells of room or time for fragments, of which looking takes no note.
fn is_about_fragments(cause: Cause) -> bool {
    use Cause::{FragmentLimit, FragmentOverlap, FragmentTimeout, Malformed};
    matches!(cause, FragmentLimit | FragmentOverlap | FragmentTimeout | Malformed)
}

/// An engine, its tables, and a clock that only the test moves.
pub(crate) struct Scene {
    pub(crate) engine: Engine,
    pub(crate) now: u64,
    pub(crate) node: NodeView,
}

impl Scene {
    pub(crate) fn new(config: Config, specs: Vec<ServiceSpec>) -> Self {
        let mut scene =
            Self { engine: Engine::new(config), now: 1_000 * SECOND, node: NodeView::default() };
        scene.serve(specs);
        scene
    }

    /// The family's service ports, each with this many backends.
    pub(crate) fn with_backends(family: Family, backends: u8) -> Self {
        Self::new(Config::default(), specs(family, backends))
    }

    /// Both families, each service port with three backends.
    pub(crate) fn plain(config: Config) -> Self {
        Self::new(config, FAMILIES.into_iter().flat_map(|family| specs(family, 3)).collect())
    }

    /// As [`Scene::plain`], with every source replaced: by an address in IPv4, by whoever sends in
    /// IPv6.
    pub(crate) fn masqueraded(config: Config, specs: Vec<ServiceSpec>) -> Self {
        let mut scene = Self::new(Config { snat: vec![SNAT], ..config }, Vec::new());
        scene.node = NodeView { masquerade_all: true, ..NodeView::default() };
        scene.serve(specs);
        scene
    }

    pub(crate) fn serve(&mut self, specs: Vec<ServiceSpec>) {
        let services: Vec<_> = specs
            .into_iter()
            .map(|spec| Arc::new(ServicePort::new(spec).expect("valid")))
            .collect();
        let table =
            ServiceTable::new(&services, self.node.clone(), self.engine.hash_key()).expect("valid");
        self.engine.replace_services(Arc::new(table));
    }

    pub(crate) fn pass(&mut self, seconds: f64) {
        self.now += (seconds * 1e9) as u64;
    }

    /// Lets time pass and sweeps all that is over.
    pub(crate) fn sweep(&mut self, seconds: f64) {
        self.pass(seconds);
        self.engine.expire(self.now, 1 << 20);
    }

    /// Hands in a packet, of which the explanation must tell the same as its verdict.
    #[track_caller]
    pub(crate) fn process(&mut self, packet: &mut [u8], meta: Meta) -> Verdict {
        let told = self.engine.explain(self.now, packet, meta);
        let verdict = self.engine.process(self.now, &mut Packet { bytes: packet, meta });
        let is_offloaded = told.steps.iter().any(|(_, found)| found.starts_with("it carries"));
        if !is_offloaded && !is_about_fragments(verdict.cause) {
            // Only a fragment that is really held gets a ticket.
            let foretold = Verdict { ticket: verdict.ticket, ..told.verdict };
            assert_eq!(foretold, verdict, "{:?}", told.steps);
        }
        verdict
    }

    /// Hands in a packet; its verdict, and what became of it.
    pub(crate) fn send(&mut self, mut packet: Vec<u8>) -> (Verdict, Vec<u8>) {
        let verdict = self.process(&mut packet, Meta::default());
        (verdict, packet)
    }

    /// Hands in a packet that must get this verdict.
    #[track_caller]
    pub(crate) fn expect(&mut self, packet: Vec<u8>, action: Action, cause: Cause) -> Vec<u8> {
        let before = packet.clone();
        let (verdict, packet) = self.send(packet);
        assert_eq!((verdict.action, verdict.cause), (action, cause));
        if action != Action::Translate {
            assert_eq!(packet, before, "only a translated packet is rewritten");
        }
        packet
    }

    /// Hands in a packet that must be translated, with right checksums afterwards; where it goes
    /// from and to.
    #[track_caller]
    pub(crate) fn translate(&mut self, packet: Vec<u8>) -> (SocketAddr, SocketAddr) {
        let (verdict, packet) = self.send(packet);
        assert_eq!(verdict.action, Action::Translate, "{:?}", verdict.cause);
        assert_intact(&packet);
        ends(&packet)
    }

    pub(crate) fn flows(&self) -> Vec<Flow> {
        self.engine.flows(&Filter::default(), usize::MAX)
    }

    pub(crate) fn count(&self, cause: Cause) -> u64 {
        self.engine.causes().find(|&(known, _)| known == cause).map_or(0, |(_, count)| count)
    }

    /// The flows that service ports count, those that are over among them.
    pub(crate) fn active(&self) -> u64 {
        let services = self.engine.service_stats();
        let over = services.iter().flat_map(|service| &service.backends).map(|each| each.over);
        let over: u64 = over.map(u64::from).sum();
        services.iter().map(ServiceStats::active).sum::<u64>() + over
    }

    /// The state's name of the only flow.
    #[track_caller]
    pub(crate) fn state(&self) -> Option<&'static str> {
        let flows = self.flows();
        assert_eq!(flows.len(), 1, "{flows:?}");
        flows[0].state
    }
}

/// A range of addresses.
pub(crate) fn cidr(address: IpAddr, prefix: u8) -> Cidr {
    Cidr::new(address, prefix).expect("a prefix of the family")
}
