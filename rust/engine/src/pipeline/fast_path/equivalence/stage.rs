//! Two engines side by side, and the packets that both get.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::steps::*;
use crate::config::Config;
use crate::conntrack::index::Entry;
use crate::conntrack::state::State;
use crate::conntrack::{FlowId, Hot, STALE};
use crate::engine::{Engine, EngineAddress};
use crate::hint::tests::IS_PORTABLE;
use crate::pipeline::fast_path::Candidate;
use crate::pipeline::{Meta, Packet};
use crate::tuple::{Address, Ends, Protocol, Tuple};
use crate::verdict::{Action, Verdict};
use crate::{
    Backend, Frontend, FrontendKind, NodeView, ServicePort, ServiceSpec, ServiceTable, Strategy,
};

/// Nanoseconds of a tick.
const TICK: u64 = 1 << 26;

/// A flow as its two ends see it.
#[derive(Clone, Copy)]
pub(super) struct Peers {
    pub(super) client: SocketAddr,
    pub(super) vip: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) backend: SocketAddr,
    /// The next sequence number of each side.
    pub(super) seq: [u32; 2],
}

pub(super) struct Stage {
    pub(super) fast: Engine,
    pub(super) slow: Engine,
    pub(super) tables: [Arc<ServiceTable>; 2],
    pub(super) now: u64,
    pub(super) peers: [Peers; FLOWS],
    pub(super) entries: Vec<Entry>,
}

fn vip(is_v6: bool) -> SocketAddr {
    let address: IpAddr =
        if is_v6 { "fd00:96::1".parse() } else { "10.96.0.1".parse() }.expect("an address");
    SocketAddr::new(address, 80)
}

fn backend(is_v6: bool, number: u8) -> SocketAddr {
    if is_v6 {
        SocketAddr::from(([0xfd00, 0x172, 0, 0, 0, 0, 0, u16::from(number)], 9876))
    } else {
        SocketAddr::from(([172, 17, 0, number], 9876))
    }
}

fn service(protocol: Protocol, is_v6: bool, backends: std::ops::Range<u8>) -> Arc<ServicePort> {
    let vip = vip(is_v6);
    Arc::new(
        ServicePort::new(ServiceSpec {
            frontends: vec![Frontend {
                kind: FrontendKind::ClusterIp,
                address: Some(vip.ip()),
                port: vip.port(),
            }],
            cluster_backends: backends.map(|n| Backend::new(backend(is_v6, n))).collect(),
            strategy: Strategy::RoundRobin,
            ..ServiceSpec::new(format!("default/{}-{is_v6}:", protocol.0), protocol)
        })
        .expect("valid"),
    )
}

impl Stage {
    /// In IPv6 every source is masqueraded by the sender, in IPv4 none.
    pub(super) fn new(secret: u64) -> Self {
        let config = Config { secret, max_flows: 2 * FLOWS, ..Config::default() };
        let [mut fast, mut slow] = [config.clone(), config].map(Engine::new);
        let tables = [1, 2].map(|first| {
            let services: Vec<_> = [Protocol::TCP, Protocol::UDP]
                .into_iter()
                .flat_map(|protocol| [false, true].map(|is_v6| service(protocol, is_v6, first..4)))
                .collect();
            let node = NodeView { masquerade_all: secret % 2 == 1, ..NodeView::default() };
            Arc::new(ServiceTable::new(&services, node, fast.hash_key()).expect("valid"))
        });
        for engine in [&mut fast, &mut slow] {
            engine.replace_services(tables[0].clone());
        }
        let peers = std::array::from_fn(|flow| {
            let is_v6 = flow & 1 != 0;
            let port = 5000 + (flow >> 2) as u16;
            let client = if is_v6 { "fd00:11::1" } else { "11.0.0.1" };
            Peers {
                client: SocketAddr::new(client.parse().expect("an address"), port),
                vip: vip(is_v6),
                protocol: if flow & 2 != 0 { Protocol::TCP } else { Protocol::UDP },
                backend: backend(is_v6, 1),
                seq: [u32::MAX - 2000, u32::MAX - 1000],
            }
        });
        Self { fast, slow, tables, now: 1 << 40, peers, entries: vec![Entry::NONE] }
    }

    /// Hands packets in, and compares.
    pub(super) fn send(
        &mut self,
        packets: &[(Vec<u8>, Meta)],
        way: Way,
    ) -> Vec<(Verdict, Vec<u8>)> {
        let slow: Vec<_> = packets
            .iter()
            .map(|(bytes, meta)| {
                let mut bytes = bytes.clone();
                let verdict = slowly(&mut self.slow, self.now, &mut bytes, *meta);
                (verdict, bytes)
            })
            .collect();
        let mut buffers: Vec<_> = packets.iter().map(|(bytes, _)| bytes.clone()).collect();
        let mut packets: Vec<_> = buffers
            .iter_mut()
            .zip(packets)
            .map(|(bytes, &(_, meta))| Packet { bytes, meta })
            .collect();
        let verdicts: Vec<Verdict> = match way {
            Way::Batch | Way::PortableBatch => {
                IS_PORTABLE.set(matches!(way, Way::PortableBatch));
                let mut verdicts = Vec::new();
                self.fast.process_batch(self.now, &mut packets, &mut verdicts);
                verdicts
            }
            Way::OneByOne => packets.iter_mut().map(|p| self.fast.process(self.now, p)).collect(),
            Way::Guess(number) => {
                let guess = self.entries[number % self.entries.len()];
                let hand_in = |p| mislead(&mut self.fast, self.now, guess, p);
                packets.iter_mut().map(hand_in).collect()
            }
        };
        let fast: Vec<_> = verdicts.into_iter().zip(buffers).collect();
        assert_eq!(fast, slow);
        self.compare();
        fast
    }

    fn compare(&mut self) {
        assert_eq!(books(&self.fast), books(&self.slow));
        for peers in self.peers {
            let protocol = peers.protocol;
            for (src, dst) in [(peers.client, peers.vip), (peers.backend, peers.client)] {
                let entry = match (src.ip(), dst.ip()) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => {
                        let ends = Ends { src: a, dst: b, sport: src.port(), dport: dst.port() };
                        self.fast.v4.flows.entry(&ends.into(), protocol)
                    }
                    (IpAddr::V6(a), IpAddr::V6(b)) => {
                        let ends = Ends { src: a, dst: b, sport: src.port(), dport: dst.port() };
                        self.fast.v6.flows.entry(&ends.into(), protocol)
                    }
                    _ => None,
                };
                self.entries.extend(entry.filter(|entry| !self.entries.contains(entry)));
            }
        }
    }

    pub(super) fn packet(&self, flow: usize, is_reply: bool, transport: &[u8]) -> Vec<u8> {
        let Peers { client, vip, protocol, backend, .. } = self.peers[flow];
        let (src, dst) = if is_reply { (backend, client) } else { (client, vip) };
        let mut bytes = match (src.ip(), dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let length = (20 + transport.len() as u16).to_be_bytes();
                let mut bytes = vec![0x45, 0, length[0], length[1], 0, 7, 0, 0, 64, protocol.0];
                bytes.extend([0x12, 0x34]);
                bytes.extend([src.octets(), dst.octets()].concat());
                bytes
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let length = (transport.len() as u16).to_be_bytes();
                let mut bytes = vec![0x60, 0, 0, 0, length[0], length[1], protocol.0, 64];
                bytes.extend([src.octets(), dst.octets()].concat());
                bytes
            }
            _ => unreachable!("a flow has one family"),
        };
        bytes.extend([src.port().to_be_bytes(), dst.port().to_be_bytes()].concat());
        bytes.extend(&transport[4..]);
        bytes
    }

    /// The packet of a segment, and what it takes of the sequence space.
    pub(super) fn segment(&mut self, flow: usize, is_reply: bool, segment: &Segment) -> Vec<u8> {
        let Segment { flags, seq, ack, window, payload, options } = *segment;
        let side = usize::from(is_reply);
        let due = self.peers[flow].seq;
        let mut bytes = vec![0; 4];
        bytes.extend(due[side].wrapping_add(seq).to_be_bytes());
        bytes.extend(due[1 - side].wrapping_add(ack).to_be_bytes());
        bytes.extend([(20 + options as u8) << 2, flags]);
        bytes.extend(window.to_be_bytes());
        bytes.extend([0xab, 0xcd, 0, 0]);
        // Of SACK blocks nothing is looked at, so any bytes will do.
        bytes.extend(vec![1; options]);
        bytes.extend(vec![9; payload]);
        if seq == 0 && flags & RST == 0 {
            let length = payload as u32 + u32::from(flags & (SYN | FIN) != 0);
            self.peers[flow].seq[side] = due[side].wrapping_add(length);
        }
        self.packet(flow, is_reply, &bytes)
    }

    pub(super) fn open(&mut self, flow: usize, scale: Option<u8>, is_midstream: bool) {
        let plain = |bytes| [(bytes, Meta::default())];
        let mut segment =
            Segment { flags: SYN, seq: 0, ack: 0, window: 1000, payload: 0, options: 0 };
        if self.peers[flow].protocol == Protocol::UDP {
            for (is_reply, ticks) in [(false, 0), (true, 31), (false, 0)] {
                let bytes = self.packet(flow, is_reply, &datagram(true));
                let sent = self.send(&plain(bytes), Way::OneByOne);
                self.learn(flow, is_reply, &sent[0]);
                self.now += ticks * TICK;
            }
            return;
        }
        if is_midstream {
            segment.flags = ACK;
        }
        for (is_reply, flags) in [(false, segment.flags), (true, segment.flags | ACK), (false, ACK)]
        {
            segment.flags = flags;
            segment.options = 0;
            let mut bytes = self.segment(flow, is_reply, &segment);
            if let Some(scale) = scale.filter(|_| flags & SYN != 0) {
                let l4 = if bytes[0] >> 4 == 6 { 40 } else { 20 };
                bytes.extend([3, 3, scale, 0]);
                bytes[l4 + 12] = 24 << 2;
                let at = if l4 == 40 { 5 } else { 3 };
                bytes[at] += 4;
            }
            let sent = self.send(&plain(bytes), Way::OneByOne);
            self.learn(flow, is_reply, &sent[0]);
        }
    }

    /// Learns which backend a flow has got.
    fn learn(&mut self, flow: usize, is_reply: bool, (verdict, bytes): &(Verdict, Vec<u8>)) {
        if verdict.action == Action::Translate && !is_reply {
            let (at, size) = if bytes[0] >> 4 == 6 { (24, 16) } else { (16, 4) };
            let last = bytes[at + size - 1];
            self.peers[flow].backend = backend(size == 16, last);
        }
    }

    /// The record of a flow in both engines.
    fn each_record(&mut self, flow: usize, change: impl Fn(&mut dyn Record)) {
        let Peers { client, vip, protocol, .. } = self.peers[flow];
        for engine in [&mut self.fast, &mut self.slow] {
            match (client.ip(), vip.ip()) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    let ends = Ends { src, dst, sport: client.port(), dport: vip.port() };
                    if let Some((id, _)) = engine.v4.flows.find(&Tuple { ends, protocol }) {
                        change(engine.v4.flows.hot_mut(id));
                    }
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    let ends = Ends { src, dst, sport: client.port(), dport: vip.port() };
                    if let Some((id, _)) = engine.v6.flows.find(&Tuple { ends, protocol }) {
                        change(engine.v6.flows.hot_mut(id));
                    }
                }
                _ => unreachable!("a flow has one family"),
            }
        }
    }

    pub(super) fn take(&mut self, step: &Step, batch: &mut Vec<(Vec<u8>, Meta)>) {
        match *step {
            Step::Open { flow, scale, is_midstream } => self.open(flow, scale, is_midstream),
            Step::Segment { flow, is_reply, ref segment, shape } => {
                let flow = flow | 2;
                let bytes = self.segment(flow, is_reply, segment);
                batch.push(shape_packet(bytes, shape));
            }
            Step::Datagram { flow, is_reply, has_checksum, shape } => {
                let bytes = self.packet(flow & !2, is_reply, &datagram(has_checksum));
                batch.push(shape_packet(bytes, shape));
            }
            Step::Pass(ticks) => self.now += ticks * TICK,
            Step::Replace { is_smaller } => {
                for engine in [&mut self.fast, &mut self.slow] {
                    engine.replace_services(self.tables[usize::from(is_smaller)].clone());
                }
            }
            Step::Offload { flow, is_forgotten } => {
                self.each_record(flow, |record| record.offload(is_forgotten));
            }
            Step::Count { flow, is_reply, left } => {
                self.each_record(flow, |record| record.count_to(usize::from(is_reply), left));
            }
            Step::Expire => {
                let counts = [&mut self.fast, &mut self.slow].map(|e| e.expire(self.now, 5));
                assert_eq!(counts[0], counts[1]);
            }
        }
    }
}

/// A flow's record of either family.
trait Record {
    fn offload(&mut self, is_forgotten: bool);
    fn count_to(&mut self, side: usize, left: u32);
}

impl<A: Address> Record for Hot<A> {
    fn offload(&mut self, is_forgotten: bool) {
        let (off, on) = (Self::OFFLOADED, Self::FORGOTTEN);
        if is_forgotten {
            self.set_flags(off, on)
        } else {
            self.set_flags(on, off)
        }
        self.generation = STALE;
    }

    fn count_to(&mut self, side: usize, left: u32) {
        self.packets[side] = u32::MAX - left;
    }
}

/// The engine's answer on the slow path alone.
pub(super) fn slowly(engine: &mut Engine, now: u64, bytes: &mut [u8], meta: Meta) -> Verdict {
    engine.shared.clock.advance(now);
    match bytes.first().map_or(0, |byte| byte >> 4) {
        4 => {
            let (shared, family) = Ipv4Addr::split(engine);
            shared.slow_path(family, Entry::NONE, bytes, meta)
        }
        6 => {
            let (shared, family) = Ipv6Addr::split(engine);
            shared.slow_path(family, Entry::NONE, bytes, meta)
        }
        _ => engine.shared.versionless(bytes, meta),
    }
}

/// The engine's answer when the index has led to this entry.
fn mislead(engine: &mut Engine, now: u64, guess: Entry, packet: &mut Packet<'_>) -> Verdict {
    fn run<A: EngineAddress>(
        engine: &mut Engine,
        guess: Entry,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let (shared, family) = A::split(engine);
        let mut candidate = Candidate::OTHER;
        candidate.note(family, packet.bytes);
        candidate.guess = guess;
        shared.process(family, candidate, packet)
    }
    engine.shared.clock.advance(now);
    match packet.bytes.first().map_or(0, |byte| byte >> 4) {
        4 => run::<Ipv4Addr>(engine, guess, packet),
        6 => run::<Ipv6Addr>(engine, guess, packet),
        _ => engine.shared.versionless(packet.bytes, packet.meta),
    }
}

/// All that an engine has noted: records, counters, events and what expires next.
pub(super) fn books(engine: &Engine) -> Vec<String> {
    fn records<A: EngineAddress>(engine: &Engine) -> Vec<String> {
        let family = A::state_of(engine);
        let record = |id: FlowId, hot: &Hot<A>| {
            let (_, cold) = family.flows.both(id);
            let mut settled = hot.clone();
            settled.set_flags(0, 0);
            assert_eq!(hot.fast, settled.fast, "state or flags changed behind {hot:?}");
            assert!(hot.state != State::Free);
            format!("{id} {hot:?} {cold:?}")
        };
        let records = family.flows.iter().map(|(id, hot, _)| record(id, hot));
        records.chain([format!("{:?}", family.events)]).collect()
    }
    let mut books = records::<Ipv4Addr>(engine);
    books.extend(records::<Ipv6Addr>(engine));
    let causes: Vec<_> = engine.causes().collect();
    let actions: Vec<_> = engine.actions().collect();
    books.push(format!("{causes:?} {actions:?} {:?}", engine.shared.counters.expired));
    books.push(format!("{:?}", engine.next_expiry()));
    books
}
