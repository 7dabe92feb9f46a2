//! Keys and values of the maps as bytes: the structures of `program/flow_cache.bpf.c`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::flow::{CachedFlow, Family, Notice, Proposal, Topic, Tuple};
use crate::periods;

/// `struct ends` without its addresses.
const ENDS: usize = 8;
/// `struct flow` without its last fields.
const FLOW: usize = 80;
/// Where `struct flow` has when it expires, its generation and its devices.
const EXPIRES: usize = 32;
const GENERATION: usize = 40;
const DEVICE: usize = 44;
const ARRIVAL: usize = 48;
/// Where `struct flow` has the link header's addresses, of which the receiver's comes first.
const LINK: usize = 60;
/// `struct proposal` without its last fields.
const PROPOSAL: usize = 8;
/// `struct notice`.
pub(crate) const NOTICE: usize = 88;
/// Where it has the second ends, and the family.
const NOTICE_PARTS: [usize; 2] = [40, 80];
/// The greatest of the times that are none: the connection has ended.
const RESET: u64 = 1;
/// A key of a map: the digest of a packet's ends.
pub(crate) const KEY: usize = 8;
/// `struct control`.
pub(crate) const CONTROL: usize = 88;
/// Devices whose entries are made void apart from others': those that are as many numbers from each
/// other share a place.
pub(crate) const DEVICES: u32 = 4096;

/// Bytes of `struct ends`.
const fn ends_length(family: Family) -> usize {
    ENDS + 2 * family.length()
}

/// Bytes of `struct flow`.
pub(crate) const fn flow_length(family: Family) -> usize {
    FLOW + 2 * ends_length(family)
}

/// Bytes of `struct proposal`.
pub(crate) const fn proposal_length(family: Family) -> usize {
    PROPOSAL + 2 * ends_length(family)
}

/// Appends a tuple's `struct ends`.
fn put_ends(bytes: &mut Vec<u8>, tuple: &Tuple) {
    bytes.extend(tuple.source.port().to_be_bytes());
    bytes.extend(tuple.destination.port().to_be_bytes());
    bytes.extend(u32::from(tuple.protocol).to_ne_bytes());
    for end in [tuple.source, tuple.destination] {
        match end.ip() {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
}

/// A tuple's `struct ends`.
pub(crate) fn ends(tuple: &Tuple) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ends_length(Family::V6));
    put_ends(&mut bytes, tuple);
    bytes
}

/// What only user space and the programs know. Random.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secrets {
    /// Of seals.
    pub(crate) seal: u64,
    /// Of digests, a key for each word.
    pub(crate) digest: [u64; 5],
}

impl Secrets {
    /// The key of a tuple: `digest_of`, see there.
    pub(crate) fn key(&self, tuple: &Tuple) -> [u8; KEY] {
        let ends = ends(tuple);
        let products = words(&ends).zip(self.digest).map(|(word, key)| {
            let half = |shift: u32| {
                u64::from(((word >> shift) as u32).wrapping_add((key >> shift) as u32))
            };
            half(0).wrapping_mul(half(32))
        });
        products.fold(0, u64::wrapping_add).to_ne_bytes()
    }

    /// A `struct proposal`.
    pub(crate) fn proposal(&self, proposal: &Proposal) -> Vec<u8> {
        let mut both = ends(&proposal.leaving);
        put_ends(&mut both, &proposal.arriving);
        let sum = words(&both).zip(0..).map(|(word, number)| {
            let factor = 0x9e37_79b1_u32.wrapping_mul(2 * number + 1) & 0x7fff_ffff;
            (word ^ self.seal).wrapping_mul(factor.into())
        });
        let mut bytes = sum.fold(0, u64::wrapping_add).to_ne_bytes().to_vec();
        bytes.extend(both);
        bytes
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|word| u64_at(word, 0))
}

/// The tuple of a `struct ends`.
fn tuple(bytes: &[u8], family: Family) -> Tuple {
    let port = |start: usize| u16::from_be_bytes([bytes[start], bytes[start + 1]]);
    let address = |start: usize| family.address(&bytes[start..start + family.length()]);
    Tuple {
        protocol: u32_at(bytes, 4) as u8,
        source: SocketAddr::new(address(ENDS), port(0)),
        destination: SocketAddr::new(address(ENDS + family.length()), port(2)),
    }
}

/// What makes an entry current.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) now: u64,
    pub(crate) voids: Voids,
    pub(crate) is_alive: bool,
}

/// How often entries were made void.
#[derive(Clone, Debug, Default)]
pub(crate) struct Voids {
    /// All.
    pub(crate) all: u32,
    /// Those of a device, by its place.
    pub(crate) by_device: BTreeMap<u32, u32>,
}

impl Voids {
    /// The generation of entries with these devices: each void that concerns them makes it larger.
    fn generation(&self, devices: [u32; 2]) -> u32 {
        let voids = devices.map(|device| self.by_device.get(&(device % DEVICES)).copied());
        voids.into_iter().flatten().fold(self.all, u32::wrapping_add)
    }
}

/// The flow of a `struct flow`.
pub(crate) fn flow(value: &[u8], family: Family, moment: &Moment) -> CachedFlow {
    let (leaving, arriving) = value[FLOW..].split_at(ends_length(family));
    let (device, arrival) = (u32_at(value, DEVICE), arrival(value));
    let expires = u64_at(value, EXPIRES);
    CachedFlow {
        arriving: tuple(arriving, family),
        leaving: tuple(leaving, family),
        packets: u64_at(value, 0),
        bytes: u64_at(value, 8),
        device,
        arrival,
        is_current: moment.is_alive
            && moment.now < expires
            && moment.voids.generation([device, arrival]) == u32_at(value, GENERATION),
        is_ended: expires <= RESET,
    }
}

/// The notice of a `struct notice`.
pub(crate) fn notice(value: &[u8]) -> Notice {
    let [second, family] = NOTICE_PARTS;
    let topic = u32_at(value, family + 4);
    let family = if u32_at(value, family) == 0 { Family::V4 } else { Family::V6 };
    Notice {
        topic: if topic == 0 { Topic::Reset } else { Topic::Volume },
        arriving: tuple(value, family),
        leaving: tuple(&value[second..], family),
    }
}

/// Whether packets of a `struct flow` go to this link address by this device.
pub(crate) fn goes_to(value: &[u8], device: u32, link: [u8; 6]) -> bool {
    u32_at(value, DEVICE) == device && value.get(LINK..).is_some_and(|rest| rest.starts_with(&link))
}

/// The device by which packets of a `struct flow` come.
pub(crate) fn arrival(value: &[u8]) -> u32 {
    u32_at(value, ARRIVAL)
}

/// A `struct control`.
pub(crate) fn control(alive_until: u64, secrets: &Secrets, generation: u32) -> [u8; CONTROL] {
    let mut bytes = [0; CONTROL];
    let numbers = [periods::RETRY, periods::LEASE, periods::EXPIRY]
        .map(|period| u64::try_from(period.as_nanos()).unwrap_or(u64::MAX));
    let numbers = [alive_until].into_iter().chain(numbers);
    let numbers = numbers.chain([secrets.seal]).chain(secrets.digest);
    for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    bytes[80..84].copy_from_slice(&generation.to_ne_bytes());
    bytes
}

fn u32_at(bytes: &[u8], start: usize) -> u32 {
    bytes[start..start + 4].try_into().map_or(0, u32::from_ne_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], start: usize) -> u64 {
    bytes[start..start + 8].try_into().map_or(0, u64::from_ne_bytes)
}
