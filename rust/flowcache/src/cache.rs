//! The cache: maps, programs and the devices that they stand on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;

use crate::bpf;
use crate::counters::{COUNTERS, Counters};
use crate::device::Links;
use crate::flow::{CachedFlow, Family, Proposal, Tuple};
use crate::layout::{self, Moment};
use crate::map::{Map, MapKind};
use crate::probe::{self, ProbeError};
use crate::program::{EGRESS, INGRESS, MapName, ProgramError};

/// How many entries there is room for, of each family. The kernel takes memory for all at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Directions of flows that the cache carries. When there are more, those that were not used
    /// for the longest time go the kernel's way.
    pub flows: u32,
    /// Directions that are proposed, carried or not.
    pub proposals: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { flows: 1 << 16, proposals: 1 << 16 }
    }
}

/// Why there is no cache.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A map cannot be made.
    #[error("the flow cache's map {0}: {1}")]
    Map(&'static str, #[source] io::Error),
    /// A program cannot be loaded.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// A flow cache. It ends when it is dropped; packets then go the kernel's way.
#[derive(Debug)]
pub struct FlowCache {
    v4: FamilyMaps,
    v6: FamilyMaps,
    /// Keys are numbers of devices.
    peers: Map,
    counters: Map,
    control: Map,
    state: Mutex<Control>,
    ingress: OwnedFd,
    egress: OwnedFd,
    links: Links,
}

/// The maps of a family.
#[derive(Debug)]
struct FamilyMaps {
    /// By a packet's ends as it comes.
    flows: Map,
    /// By a packet's ends as it leaves: its ends as it came.
    proposals: Map,
}

/// What the program reads for each packet.
#[derive(Clone, Copy, Debug, Default)]
struct Control {
    alive_until: u64,
    generation: u32,
}

impl FlowCache {
    /// Whether there can be a cache here. Cost: a millisecond.
    ///
    /// # Errors
    /// What is missing.
    pub fn probe() -> Result<(), ProbeError> {
        probe::probe()
    }

    /// Makes the maps and loads the programs. They stand on no device, and nothing is cached before
    /// the first `beat`. Cost: 20 ms.
    ///
    /// # Errors
    /// The kernel's, with the end of the verifier's log.
    pub fn load(sizes: Sizes) -> Result<Self, LoadError> {
        let v4 = FamilyMaps::create(Family::V4, ["flows4", "proposals4"], sizes)?;
        let v6 = FamilyMaps::create(Family::V6, ["flows6", "proposals6"], sizes)?;
        let peers = create("peers", MapKind::Hash, 4, 1, PEERS)?;
        let counters = create("counters", MapKind::PerCpuArray, 4, COUNTERS * 8, 1)?;
        let control = create("control", MapKind::Array, 4, layout::CONTROL, 1)?;
        let maps = [
            (MapName::Flows4, v4.flows.descriptor()),
            (MapName::Flows6, v6.flows.descriptor()),
            (MapName::Proposals4, v4.proposals.descriptor()),
            (MapName::Proposals6, v6.proposals.descriptor()),
            (MapName::Peers, peers.descriptor()),
            (MapName::Counters, counters.descriptor()),
            (MapName::Control, control.descriptor()),
        ];
        let (ingress, egress) = (INGRESS.load(&maps)?, EGRESS.load(&maps)?);
        let cache = Self {
            v4,
            v6,
            peers,
            counters,
            control,
            state: Mutex::default(),
            ingress,
            egress,
            links: Links::default(),
        };
        cache.set_control(|_| ()).map_err(|error| LoadError::Map("control", error))?;
        Ok(cache)
    }

    /// Puts the programs on a device of this thread's network namespace, behind those that stand
    /// there; does nothing where they stand already. They leave it with this value.
    ///
    /// # Errors
    /// `Unsupported` for what is no Ethernet device, or the system's: `ENODEV` where there is none.
    pub fn attach(&self, device: u32) -> io::Result<()> {
        self.links.attach(device, self.ingress.as_fd(), self.egress.as_fd())
    }

    /// Takes the programs off a device. Entries that lead to it stay until `void`.
    pub fn detach(&self, device: u32) {
        self.links.detach(device);
    }

    /// The devices that the programs stand on, without those that are gone. Cost: two system calls
    /// each.
    pub fn devices(&self) -> Vec<u32> {
        self.links.devices()
    }

    /// Hands packets for this device to the network namespace at its other end at once, past the
    /// device's own way out. For the host's end of a pod's veth pair alone: where the other end is
    /// in this namespace, or there is none, packets would be lost. Holds for entries that are made
    /// or renewed from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn set_peer(&self, device: u32, is_peer: bool) -> io::Result<()> {
        let key = device.to_ne_bytes();
        if is_peer { self.peers.update(&key, &[1]) } else { self.peers.delete_all(&key) }
    }

    /// Says that the caller lives: without another call entries are void after this time. Cost: a
    /// system call.
    ///
    /// # Errors
    /// The system's.
    pub fn beat(&self, lease: Duration) -> io::Result<()> {
        let lease = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX);
        let until = bpf::coarse_clock().saturating_add(lease);
        self.set_control(|state| state.alive_until = until)
    }

    /// Makes all entries void at once. Each comes back with the next packet of its flow that
    /// leaves. Cost: a system call.
    ///
    /// # Errors
    /// The system's.
    pub fn void(&self) -> io::Result<()> {
        self.set_control(|state| state.generation = state.generation.wrapping_add(1))
    }

    /// How often `void` was called.
    pub fn generation(&self) -> u32 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).generation
    }

    /// Proposes translations: the next packet of each that leaves so makes an entry. Of two that
    /// leave alike the later one holds. Propose what connection tracking's default zone has, where
    /// tuples are unique. Cost: 0.4 us each.
    ///
    /// # Errors
    /// `InvalidInput` for what is neither TCP nor UDP, or of two families: then nothing is
    /// proposed. Or the system's.
    pub fn propose(&self, proposals: &[Proposal]) -> io::Result<()> {
        if !proposals.iter().all(Proposal::is_possible) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for family in Family::ALL {
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for proposal in of_family(proposals, family) {
                layout::put_ends(&mut keys, &proposal.leaving);
                layout::put_ends(&mut values, &proposal.arriving);
            }
            self.maps(family).proposals.update_all(&keys, &values)?;
        }
        Ok(())
    }

    /// Takes back proposals, and then takes out their entries; returns what these had counted.
    /// Those that are not there are passed over. A packet that is on its way out on another
    /// processor at this very moment may make an entry once more, which then ends with its expiry.
    /// Cost: 1 us each.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self, flows: &[Proposal]) -> io::Result<Vec<CachedFlow>> {
        let moment = self.moment();
        let mut removed = Vec::new();
        for family in Family::ALL {
            let maps = self.maps(family);
            let mut keys = Vec::new();
            of_family(flows, family)
                .for_each(|proposal| layout::put_ends(&mut keys, &proposal.leaving));
            // Before the entries, or the next slow packet would make them again.
            maps.proposals.delete_all(&keys)?;
            for proposal in of_family(flows, family) {
                let key = layout::key(&proposal.arriving);
                let value = maps.flows.take(&key)?;
                removed.extend(value.map(|value| layout::flow(&key, &value, family, moment)));
            }
        }
        Ok(removed)
    }

    /// All entries, current or not. Those that come or go meanwhile may be missing. Cost: 0.3 us
    /// each.
    ///
    /// # Errors
    /// The system's.
    pub fn flows(&self) -> io::Result<Vec<CachedFlow>> {
        let moment = self.moment();
        let mut flows = Vec::new();
        for family in Family::ALL {
            self.maps(family)
                .flows
                .for_each(|key, value| flows.push(layout::flow(key, value, family, moment)))?;
        }
        Ok(flows)
    }

    /// The entry for packets with these ends. Cost: a system call.
    ///
    /// # Errors
    /// The system's.
    pub fn find(&self, arriving: &Tuple) -> io::Result<Option<CachedFlow>> {
        if !arriving.is_of_one_family() {
            return Ok(None);
        }
        let (family, key) = (Family::of(&arriving.source), layout::key(arriving));
        let value = self.maps(family).flows.lookup(&key)?;
        Ok(value.map(|value| layout::flow(&key, &value, family, self.moment())))
    }

    /// What was counted since this was loaded. Cost: a system call.
    ///
    /// # Errors
    /// The system's.
    pub fn counters(&self) -> io::Result<Counters> {
        let values = self.counters.lookup(&FIRST)?;
        Ok(Counters::sum(&values.unwrap_or_default()))
    }

    fn maps(&self, family: Family) -> &FamilyMaps {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn moment(&self) -> Moment {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = bpf::coarse_clock();
        Moment { now, generation: state.generation, is_alive: now <= state.alive_until }
    }

    /// Changes what the program reads: the lock is held until the kernel has it, so that a beat
    /// cannot take back what `void` has written.
    fn set_control(&self, change: impl FnOnce(&mut Control)) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        self.control.update(&FIRST, &layout::control(state.alive_until, state.generation))
    }
}

impl FamilyMaps {
    fn create(
        family: Family,
        [flows, proposals]: [&'static str; 2],
        sizes: Sizes,
    ) -> Result<Self, LoadError> {
        let (ends, flow) = (layout::ends_length(family), layout::flow_length(family));
        Ok(Self {
            flows: create(flows, MapKind::LruHash, ends, flow, sizes.flows)?,
            proposals: create(proposals, MapKind::LruHash, ends, ends, sizes.proposals)?,
        })
    }
}

fn create(
    name: &'static str,
    kind: MapKind,
    key: usize,
    value: usize,
    entries: u32,
) -> Result<Map, LoadError> {
    Map::create(name, kind, key, value, entries).map_err(|error| LoadError::Map(name, error))
}

fn of_family(proposals: &[Proposal], family: Family) -> impl Iterator<Item = &Proposal> {
    proposals.iter().filter(move |proposal| {
        proposal.is_possible() && Family::of(&proposal.arriving.source) == family
    })
}

/// The key of an array's first value.
const FIRST: [u8; 4] = [0; 4];
/// Pods of a node, many times over.
const PEERS: u32 = 1 << 14;

/// The programs on packets as a network card gives them, which no veth device does.
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::net::SocketAddr;
    use std::os::fd::AsFd;

    use super::*;
    use crate::bpf::test_run;

    const REDIRECT: i32 = 7;

    /// A frame of UDP without a checksum of IP's header, which nothing here looks at but itself.
    fn frame(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let mut udp = Vec::new();
        udp.extend(source.port().to_be_bytes());
        udp.extend(destination.port().to_be_bytes());
        udp.extend((8 + payload.len() as u16).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        let ends: Vec<u8> = layout::key(&Tuple { protocol: 17, source, destination })[8..].to_vec();
        let mut pseudo = ends.clone();
        pseudo.extend((udp.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, 17]);
        let sum = checksum(&[pseudo, udp.clone()].concat());
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        let mut frame = vec![0; 12];
        if source.is_ipv4() {
            let length = (20 + udp.len() as u16).to_be_bytes();
            let mut ip = vec![0x45, 0, length[0], length[1], 0, 7, 0x40, 0, 64, 17, 0, 0];
            ip.extend(ends);
            let sum = checksum(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend([8, 0]);
            frame.extend(ip);
        } else {
            let length = (udp.len() as u16).to_be_bytes();
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, length[0], length[1], 17, 64]);
            frame.extend(ends);
        }
        frame.extend(udp);
        frame
    }

    /// RFC 1071.
    fn checksum(bytes: &[u8]) -> u16 {
        let words = bytes
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// A cache with an entry for a flow, as `egress` makes it of the frame that leaves.
    fn with_entry(arriving: Tuple, leaving: Tuple) -> Option<FlowCache> {
        FlowCache::probe().map_err(|error| eprintln!("skipped: {error}")).ok()?;
        let cache = FlowCache::load(Sizes { flows: 64, proposals: 64 }).unwrap();
        cache.beat(Duration::from_secs(60)).unwrap();
        cache.propose(&[Proposal { arriving, leaving }]).unwrap();
        let content = frame(leaving.source, leaving.destination, &[1; 64]);
        test_run(cache.egress.as_fd(), &content, &mut [], 0).unwrap();
        assert_eq!(cache.counters().unwrap().entered, 1);
        Some(cache)
    }

    fn tuples(addresses: [&str; 3], ports: [u16; 2]) -> (Tuple, Tuple) {
        let [client, frontend, backend] = addresses.map(|address| address.parse().unwrap());
        let tuple = |address, port| Tuple {
            protocol: 17,
            source: SocketAddr::new(client, 4000),
            destination: SocketAddr::new(address, port),
        };
        (tuple(frontend, ports[0]), tuple(backend, ports[1]))
    }

    const V4: [&str; 3] = ["10.0.0.1", "10.96.0.1", "10.1.0.1"];
    const V6: [&str; 3] = ["fd00::1", "fd00:96::1", "fd00:1::1"];

    #[test]
    fn a_frame_is_translated_byte_for_byte() {
        for (addresses, ports) in [(V4, [80, 8080]), (V6, [80, 8080]), (V4, [80, 80])] {
            let (arriving, leaving) = tuples(addresses, ports);
            let Some(cache) = with_entry(arriving, leaving) else { return };
            let content = frame(arriving.source, arriving.destination, b"odd");
            let mut sent = vec![0; content.len()];
            let answer = test_run(cache.ingress.as_fd(), &content, &mut sent, 0).unwrap();
            let mut expected = frame(leaving.source, leaving.destination, b"odd");
            if arriving.source.is_ipv4() {
                expected[22] -= 1;
                expected[24..26].fill(0);
                let sum = checksum(&expected[14..34]);
                expected[24..26].copy_from_slice(&sum.to_be_bytes());
            } else {
                expected[21] -= 1;
            }
            assert_eq!((answer, sent), (REDIRECT, expected));
        }
    }

    /// The kernel itself computes the sum of the whole packet anew, and compares.
    #[test]
    fn what_a_device_has_summed_up_stays_right() {
        const CHECKSUM_COMPLETE: u32 = 1 << 2;
        for addresses in [V4, V6] {
            let (arriving, leaving) = tuples(addresses, [80, 8080]);
            let Some(cache) = with_entry(arriving, leaving) else { return };
            let content = frame(arriving.source, arriving.destination, b"even");
            match test_run(cache.ingress.as_fd(), &content, &mut [], CHECKSUM_COMPLETE) {
                Ok(answer) => assert_eq!(answer, REDIRECT),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    eprintln!("skipped: this kernel cannot make such packets");
                }
                Err(error) => panic!("{addresses:?}: {error}"),
            }
        }
    }
}
