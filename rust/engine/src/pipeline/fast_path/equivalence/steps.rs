//! The steps that both engines take, the shapes of packets, and their generators.

use proptest::prelude::*;

use crate::pipeline::Meta;
use crate::rewrite::ChecksumState;
use crate::tuple::Protocol;
use crate::wire::tcp::Flags;

pub(super) const FIN: u8 = Flags::FIN;
pub(super) const SYN: u8 = Flags::SYN;
pub(super) const RST: u8 = Flags::RST;
pub(super) const ACK: u8 = Flags::ACK;
pub(super) const PSH: u8 = 0x08;
pub(super) const URG: u8 = 0x20;

/// Two flows of each protocol and family. Only the protocol tells a pair of one family apart: both
/// have the same ends.
pub(super) const FLOWS: usize = 8;
/// A step of both engines.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A handshake, or datagrams until they are a stream. `scale` is the window scale option.
    Open {
        flow: usize,
        scale: Option<u8>,
        is_midstream: bool,
    },
    Segment {
        flow: usize,
        is_reply: bool,
        segment: Segment,
        shape: Shape,
    },
    Datagram {
        flow: usize,
        is_reply: bool,
        has_checksum: bool,
        shape: Shape,
    },
    /// Ticks.
    Pass(u64),
    /// Other tables: the same once more, or some without the first backend.
    Replace {
        is_smaller: bool,
    },
    /// The kernel gets a flow, or forgets it.
    Offload {
        flow: usize,
        is_forgotten: bool,
    },
    /// The packets of a direction come close to the end of their counter.
    Count {
        flow: usize,
        is_reply: bool,
        left: u32,
    },
    Expire,
}

#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) flags: u8,
    /// How far beside the number that is due.
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) window: u16,
    pub(super) payload: usize,
    /// Bytes of options, a multiple of four.
    pub(super) options: usize,
}

/// Packets that are not plain, or only nearly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    Plain,
    Incomplete,
    Captured,
    /// IPv4 options, or an extension header of IPv6.
    Extended,
    Fragment,
    Padded,
    /// The header says that it is longer than the packet, or shorter than it can be.
    Contradictory(u8),
    Cut(usize),
}

/// How the engine under test gets packets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    Batch,
    /// As the engine does it on a processor about which it knows nothing.
    PortableBatch,
    OneByOne,
    /// With an entry of the index that was right for some packet before.
    Guess(usize),
}

pub(super) fn datagram(has_checksum: bool) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    bytes[5] = 12;
    bytes[6..8].fill(if has_checksum { 0x5a } else { 0 });
    bytes
}

pub(super) fn shape_packet(mut bytes: Vec<u8>, shape: Shape) -> (Vec<u8>, Meta) {
    let mut meta = Meta::default();
    let is_v6 = bytes[0] >> 4 == 6;
    let l4 = if is_v6 { 40 } else { 20 };
    match shape {
        Shape::Plain => {}
        Shape::Incomplete => meta.checksum = ChecksumState::Incomplete,
        Shape::Captured => {
            let at = if is_v6 { 4 } else { 2 };
            bytes[at..at + 2].fill(0);
            meta.is_captured = true;
        }
        Shape::Extended if is_v6 => {
            let header = [bytes[6], 0, 1, 4, 0, 0, 0, 0];
            bytes[6] = 60;
            bytes[5] += 8;
            bytes.splice(40..40, header);
        }
        Shape::Extended => {
            bytes[0] = 0x46;
            bytes[3] += 4;
            bytes.splice(20..20, [1; 4]);
        }
        Shape::Fragment if is_v6 => {
            let header = [bytes[6], 0, 0, 1, 0, 0, 0, 9];
            bytes[6] = 44;
            bytes[5] += 8;
            bytes.splice(40..40, header);
        }
        Shape::Fragment => bytes[6] = 0x20,
        Shape::Padded => bytes.extend([0xee; 30]),
        // In a UDP header this is the length, in one of TCP where the payload begins.
        Shape::Contradictory(value) => {
            let is_udp = bytes[if is_v6 { 6 } else { 9 }] == Protocol::UDP.0;
            bytes[l4 + if is_udp { 5 } else { 12 }] = value;
        }
        Shape::Cut(length) => {
            let length = length.min(bytes.len());
            bytes.truncate(length);
            let (at, size) = if is_v6 { (5, length.saturating_sub(40)) } else { (3, length) };
            if let Some(byte) = bytes.get_mut(at) {
                *byte = size as u8;
            }
        }
    }
    (bytes, meta)
}

/// Mostly `usual`.
fn mostly<T: Clone + std::fmt::Debug + 'static>(
    usual: T,
    other: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = T> {
    prop_oneof![6 => Just(usual), 1 => other]
}

/// The distance of a sequence number from the one that is due: a little, a window, or anything.
fn offset() -> impl Strategy<Value = u32> {
    let near = (-3..4i32).prop_map(i32::cast_unsigned);
    let window = prop::sample::select(vec![999, 1000, 1001, 4000, 65_999, 66_000, 66_001, 1 << 20])
        .prop_flat_map(|far: u32| prop::sample::select(vec![far, far.wrapping_neg()]));
    mostly(0, prop_oneof![3 => near, 2 => window, 1 => any::<u32>()])
}

fn segment() -> impl Strategy<Value = Segment> {
    let flags = prop_oneof![
        24 => prop::sample::select(vec![ACK, ACK | PSH]),
        4 => prop::sample::select(vec![ACK | URG, ACK | 0x40, ACK | 0x80]),
        3 => prop::sample::select(vec![FIN | ACK, RST, RST | ACK, SYN, SYN | ACK, FIN, 0]),
        1 => any::<u8>(),
    ];
    let window = mostly(1000, prop_oneof![Just(0), Just(1), any::<u16>()]);
    let payload = prop::sample::select(vec![0, 0, 1, 100]);
    let options = prop::sample::select(vec![0, 12]);
    (flags, offset(), offset(), window, payload, options).prop_map(
        |(flags, seq, ack, window, payload, options)| Segment {
            flags,
            seq,
            ack,
            window,
            payload,
            options,
        },
    )
}

fn shape() -> impl Strategy<Value = Shape> {
    let odd = prop_oneof![
        Just(Shape::Incomplete),
        Just(Shape::Captured),
        Just(Shape::Extended),
        Just(Shape::Fragment),
        Just(Shape::Padded),
        prop::sample::select(vec![0, 7, 8, 11, 12, 13, 0x40, 0x50, 0x60, 0x80, 0xf0])
            .prop_map(Shape::Contradictory),
        (0..80usize).prop_map(Shape::Cut),
    ];
    prop_oneof![12 => Just(Shape::Plain), 1 => odd]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let flow = 0..FLOWS;
    // Around two seconds, and the times of UDP, its streams, unacknowledged and established TCP.
    let ticks =
        prop::sample::select(vec![1, 1, 29, 30, 447, 448, 449, 1788, 1789, 1790, 4471, 4472]);
    prop_oneof![
        4 => (flow.clone(), prop::option::of(0..16u8), mostly(false, Just(true))).prop_map(
            |(flow, scale, is_midstream)| Step::Open { flow, scale, is_midstream }
        ),
        24 => (flow.clone(), any::<bool>(), segment(), shape()).prop_map(
            |(flow, is_reply, segment, shape)| Step::Segment { flow, is_reply, segment, shape }
        ),
        10 => (flow.clone(), any::<bool>(), any::<bool>(), shape()).prop_map(
            |(flow, is_reply, has_checksum, shape)| {
                Step::Datagram { flow, is_reply, has_checksum, shape }
            }
        ),
        2 => ticks.prop_map(Step::Pass),
        1 => any::<bool>().prop_map(|is_smaller| Step::Replace { is_smaller }),
        1 => (flow.clone(), any::<bool>()).prop_map(
            |(flow, is_forgotten)| Step::Offload { flow, is_forgotten }
        ),
        1 => (flow, any::<bool>(), 0..3u32).prop_map(
            |(flow, is_reply, left)| Step::Count { flow, is_reply, left }
        ),
        1 => Just(Step::Expire),
    ]
}

pub(super) fn way() -> impl Strategy<Value = Way> {
    let guess = any::<usize>().prop_map(Way::Guess);
    let batch = prop::sample::select(vec![Way::Batch, Way::PortableBatch]);
    prop_oneof![4 => batch, 2 => Just(Way::OneByOne), 2 => guess]
}
