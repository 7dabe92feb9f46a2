//! What the benchmarks of packets share: packets of flows, the engine that serves them, and the
//! markers by which callgrind tells the phases of a run.

use std::hint::black_box;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use kbe_nat_engine::rng::mix64;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::wire::checksum;
use kbe_nat_engine::{
    Action, Backend, Config, Engine, Frontend, FrontendKind, Meta, NodeView, Packet, ServicePort,
    ServiceSpec, ServiceTable, Strategy, Verdict,
};

pub(crate) const BATCH: usize = 64;
pub(crate) const MODES: [&str; 2] = ["one", "batch64"];
/// Bytes of a buffer: one cache line.
const BUFFER: usize = 64;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const WINDOW: u16 = 65_535;

/// The kind of packets that a run is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) protocol: Protocol,
    pub(crate) is_ipv6: bool,
}

impl Shape {
    /// From the names that [`Shape::names`] gives.
    pub(crate) fn parse(protocol: &str, family: &str) -> Option<Self> {
        Self::all().into_iter().find(|shape| shape.names() == (protocol, family))
    }

    /// UDP and TCP by IPv4 and IPv6.
    pub(crate) fn all() -> [Self; 4] {
        [
            (Protocol::UDP, false),
            (Protocol::TCP, false),
            (Protocol::UDP, true),
            (Protocol::TCP, true),
        ]
        .map(|(protocol, is_ipv6)| Self { protocol, is_ipv6 })
    }

    /// Protocol and family.
    pub(crate) fn names(self) -> (&'static str, &'static str) {
        let protocol = if self.is_tcp() { "tcp" } else { "udp" };
        (protocol, if self.is_ipv6 { "ipv6" } else { "ipv4" })
    }

    pub(crate) fn is_tcp(self) -> bool {
        self.protocol == Protocol::TCP
    }

    fn header(self) -> usize {
        if self.is_ipv6 { 40 } else { 20 }
    }

    /// UDP fills the buffer; TCP is a header without options.
    fn length(self) -> usize {
        if self.is_tcp() { self.header() + 20 } else { BUFFER }
    }

    /// The virtual address of service port `number`.
    fn vip(self, number: u8) -> IpAddr {
        if self.is_ipv6 {
            Ipv6Addr::new(0xfd00, 0xa, 0, 0, 0, 0, 0, 1 + u16::from(number)).into()
        } else {
            Ipv4Addr::new(10, 96, 0, 1 + number).into()
        }
    }

    fn backend(self, number: u8) -> SocketAddr {
        let address: IpAddr = if self.is_ipv6 {
            Ipv6Addr::new(0xfd00, 0xb, 0, 0, 0, 0, 0, 3 + u16::from(number)).into()
        } else {
            Ipv4Addr::new(172, 17, 0, 3 + number).into()
        };
        SocketAddr::new(address, 9876)
    }

    /// A service port with 16 backends at the virtual address `number`.
    pub(crate) fn service(
        self,
        number: u8,
        kind: FrontendKind,
        strategy: Strategy,
    ) -> Arc<ServicePort> {
        let address = Some(self.vip(number));
        let service = ServicePort::new(ServiceSpec {
            frontends: vec![Frontend { kind, address, port: 80 }],
            cluster_backends: (0..16).map(|n| Backend::new(self.backend(n))).collect(),
            strategy,
            ..ServiceSpec::new(format!("default/bench{number}:"), self.protocol)
        });
        Arc::new(service.expect("the service port is valid"))
    }

    /// An engine for up to `flows` flows with these service ports. It has an address for
    /// masqueraded sources.
    pub(crate) fn engine(self, flows: usize, services: &[Arc<ServicePort>]) -> Engine {
        let node: IpAddr = if self.is_ipv6 {
            Ipv6Addr::LOCALHOST.into()
        } else {
            Ipv4Addr::new(10, 0, 2, 15).into()
        };
        let mut engine = Engine::new(Config {
            secret: 1,
            max_flows: flows,
            max_unassured: flows,
            snat: vec![node],
            ..Config::default()
        });
        let table = ServiceTable::new(services, NodeView::default(), engine.hash_key())
            .expect("no frontend twice");
        engine.replace_services(Arc::new(table));
        engine
    }
}

/// 64 packets, and the engine that gets them.
pub(crate) struct Traffic {
    shape: Shape,
    pub(crate) engine: Engine,
    buffers: Vec<[u8; BUFFER]>,
    verdicts: Vec<Verdict>,
    now: u64,
    /// Whether callgrind counts what is done.
    pub(crate) is_counted: bool,
}

impl Traffic {
    pub(crate) fn new(shape: Shape, engine: Engine) -> Self {
        let (buffers, verdicts) = (vec![[0; BUFFER]; BATCH], Vec::with_capacity(BATCH));
        Self { shape, engine, buffers, verdicts, now: 0, is_counted: false }
    }

    /// Opens the flows `first..end`, at most a batch of them, to the virtual address `service`.
    /// Nanoseconds for each first packet; TCP's handshake is completed aside.
    pub(crate) fn open(&mut self, service: u8, first: usize, end: usize, is_batch: bool) -> f64 {
        let count = BATCH.min(end - first);
        let flags = if self.shape.is_tcp() { SYN } else { 0 };
        self.write(service, flags, (first..first + count).map(|number| number as u64));
        let time = self.process(count, is_batch);
        if self.shape.is_tcp() {
            let is_counted = std::mem::take(&mut self.is_counted);
            for (offset, bytes) in self.buffers[..count].iter_mut().enumerate() {
                answer(self.shape, (first + offset) as u64, bytes);
            }
            self.process(count, true);
            self.write(service, ACK, (first..first + count).map(|number| number as u64));
            self.process(count, true);
            self.is_counted = is_counted;
        }
        time
    }

    /// Sends one packet of each of these 64 known flows; nanoseconds for each.
    pub(crate) fn send(&mut self, numbers: impl Iterator<Item = u64>, is_batch: bool) -> f64 {
        self.write(0, if self.shape.is_tcp() { ACK } else { 0 }, numbers);
        self.process(BATCH, is_batch)
    }

    fn write(&mut self, service: u8, flags: u8, numbers: impl Iterator<Item = u64>) {
        for (bytes, number) in self.buffers.iter_mut().zip(numbers) {
            write(self.shape, self.shape.vip(service), number, flags, bytes);
        }
    }

    /// Nanoseconds for each of the first `count` packets.
    fn process(&mut self, count: usize, is_batch: bool) -> f64 {
        self.now += 1000;
        self.verdicts.clear();
        let length = self.shape.length();
        let mut buffers = self.buffers.iter_mut();
        let mut packets: [Packet<'_>; BATCH] = std::array::from_fn(|_| Packet {
            bytes: &mut buffers.next().expect("64 buffers")[..length],
            meta: Meta::default(),
        });
        let (packets, engine) = (&mut packets[..count], &mut self.engine);
        let verdicts = &mut self.verdicts;
        let start = Instant::now();
        match (is_batch, self.is_counted) {
            (true, false) => engine.process_batch(self.now, packets, verdicts),
            (true, true) => measured_batch(engine, self.now, packets, verdicts),
            (false, false) => process_each(engine, self.now, packets),
            (false, true) => measured_one(engine, self.now, packets),
        }
        let time = start.elapsed().as_nanos() as f64 / count as f64;
        assert!(verdicts.iter().all(|verdict| verdict.action == Action::Translate));
        time
    }
}

/// The functions that callgrind counts in; see [`phase_ends`].
#[inline(never)]
fn measured_batch(
    engine: &mut Engine,
    now: u64,
    packets: &mut [Packet<'_>],
    verdicts: &mut Vec<Verdict>,
) {
    engine.process_batch(now, packets, verdicts);
}

#[inline(never)]
fn measured_one(engine: &mut Engine, now: u64, packets: &mut [Packet<'_>]) {
    process_each(engine, now, packets);
}

#[inline(always)]
fn process_each(engine: &mut Engine, now: u64, packets: &mut [Packet<'_>]) {
    for packet in packets {
        let _ = black_box(engine.process(now, packet));
    }
}

/// Callgrind writes what was counted so far when this is called, and begins anew: one dump for each
/// line that is printed here.
#[inline(never)]
pub(crate) fn phase_ends(phase: &str, mode: &str, packets: usize) {
    print(&format!(r#"{{"phase": "{phase}", "mode": "{mode}", "packets": {packets}}}"#));
}

/// A line of the results, at once.
pub(crate) fn print(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("somebody reads the results");
}

pub(crate) fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(0.0)
}

/// A packet of flow `number` from its client, an address and a port of its own; `flags` are TCP's.
fn write(shape: Shape, vip: IpAddr, number: u64, flags: u8, bytes: &mut [u8; BUFFER]) {
    let mixed = mix64(number);
    let (header, length) = (shape.header(), shape.length());
    *bytes = [0; BUFFER];
    match vip {
        IpAddr::V4(vip) => {
            bytes[0] = 0x45;
            bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            bytes[8] = 64;
            bytes[9] = shape.protocol.0;
            // 10.0.0.0/8 to 73.255.255.255: no martians, and as good as unique with the port.
            let client = 0x0a00_0000 + (mixed as u32 & 0x3fff_ffff);
            bytes[12..16].copy_from_slice(&client.to_be_bytes());
            bytes[16..20].copy_from_slice(&vip.octets());
            let sum = checksum::complete(0, &bytes[..20]);
            bytes[10..12].copy_from_slice(&sum);
        }
        IpAddr::V6(vip) => {
            bytes[0] = 0x60;
            bytes[4..6].copy_from_slice(&(length as u16 - 40).to_be_bytes());
            bytes[6] = shape.protocol.0;
            bytes[7] = 64;
            bytes[8] = 0xfd;
            bytes[16..24].copy_from_slice(&mixed.to_be_bytes());
            bytes[24..40].copy_from_slice(&vip.octets());
        }
    }
    let transport = &mut bytes[header..];
    transport[0..2].copy_from_slice(&((mixed >> 32) as u16).to_be_bytes());
    transport[2..4].copy_from_slice(&80u16.to_be_bytes());
    let sum = ((mixed >> 48) as u16 | 1).to_be_bytes();
    if shape.is_tcp() {
        let (client, server) = first_sequence_numbers(number);
        let (seq, ack) = if flags == SYN { (client, 0) } else { (client + 1, server + 1) };
        write_segment(transport, seq, ack, flags);
        transport[16..18].copy_from_slice(&sum);
    } else {
        transport[4..6].copy_from_slice(&((length - header) as u16).to_be_bytes());
        transport[6..8].copy_from_slice(&sum);
    }
}

/// Turns a translated SYN of flow `number` into the backend's answer.
fn answer(shape: Shape, number: u64, bytes: &mut [u8; BUFFER]) {
    let (first, size) = if shape.is_ipv6 { (8, 16) } else { (12, 4) };
    let (source, destination) = bytes[first..first + 2 * size].split_at_mut(size);
    source.swap_with_slice(destination);
    let transport = &mut bytes[shape.header()..];
    let (source, destination) = transport[..4].split_at_mut(2);
    source.swap_with_slice(destination);
    let (client, server) = first_sequence_numbers(number);
    write_segment(transport, server, client + 1, SYN | ACK);
}

/// Of the client and of the server of flow `number`; none of them runs over.
fn first_sequence_numbers(number: u64) -> (u32, u32) {
    let mixed = mix64(!number);
    (mixed as u32 >> 1, (mixed >> 33) as u32)
}

fn write_segment(transport: &mut [u8], seq: u32, ack: u32, flags: u8) {
    transport[4..8].copy_from_slice(&seq.to_be_bytes());
    transport[8..12].copy_from_slice(&ack.to_be_bytes());
    transport[12] = 5 << 4;
    transport[13] = flags;
    transport[14..16].copy_from_slice(&WINDOW.to_be_bytes());
}
