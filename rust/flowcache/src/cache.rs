//! The cache: maps, programs and the devices that they stand on.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;

use crate::bpf;
use crate::counters::{COUNTERS, Counters};
use crate::device::Links;
use crate::flow::{CachedFlow, Family, Notice, Proposal, Tuple};
use crate::layout::{self, Moment, Secrets, Voids};
use crate::map::{self, Map, MapKind};
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

impl Sizes {
    /// Room for so many directions, whatever processors their packets come on: the kernel keeps
    /// free elements aside for each processor, and gives up elements in use rather than let one
    /// processor have those of another.
    pub fn holding(directions: u32) -> io::Result<Self> {
        let spare = u32::try_from(map::processors()?).unwrap_or(u32::MAX).saturating_mul(ASIDE);
        let entries = directions.saturating_add(spare);
        Ok(Self { flows: entries, proposals: entries })
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
    /// How often entries of a device were made void, by its place.
    voids: Map,
    counters: Map,
    notices: Map,
    control: Map,
    secrets: Secrets,
    state: Mutex<Control>,
    ingress: OwnedFd,
    egress: OwnedFd,
    links: Links,
}

/// The maps of a family.
#[derive(Debug)]
struct FamilyMaps {
    /// By the digest of a packet's ends as it comes.
    flows: Map,
    /// By the digest of a packet's ends as it leaves: its ends as it came.
    proposals: Map,
}

/// What the program reads for each packet.
#[derive(Debug)]
struct Control {
    alive_until: u64,
    voids: Voids,
    /// Devices that are peers.
    peers: BTreeSet<u32>,
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
        let voids = create("voids", MapKind::Array, 4, 4, layout::DEVICES)?;
        let counters = create("counters", MapKind::PerCpuArray, 4, COUNTERS * 8, 1)?;
        let notices = create("notices", MapKind::Queue, 0, layout::NOTICE, NOTICES)?;
        let control = create("control", MapKind::Array, 4, layout::CONTROL, 1)?;
        let maps = [
            (MapName::Flows4, v4.flows.descriptor()),
            (MapName::Flows6, v6.flows.descriptor()),
            (MapName::Proposals4, v4.proposals.descriptor()),
            (MapName::Proposals6, v6.proposals.descriptor()),
            (MapName::Peers, peers.descriptor()),
            (MapName::Voids, voids.descriptor()),
            (MapName::Counters, counters.descriptor()),
            (MapName::Notices, notices.descriptor()),
            (MapName::Control, control.descriptor()),
        ];
        let secrets = secrets().map_err(|error| LoadError::Map("control", error))?;
        let state = Control { alive_until: 0, voids: Voids::default(), peers: BTreeSet::new() };
        let (ingress, egress) = (INGRESS.load(&maps)?, EGRESS.load(&maps)?);
        let cache = Self {
            v4,
            v6,
            peers,
            voids,
            counters,
            notices,
            control,
            secrets,
            state: Mutex::new(state),
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

    /// Puts the programs behind those that others have put behind them, so that these see packets
    /// which the cache carries; returns on how many devices. Cost: three system calls for each
    /// place, and a grace period of RCU for each that moves.
    pub fn move_back(&self) -> usize {
        self.links.move_back(self.ingress.as_fd(), self.egress.as_fd())
    }

    /// The devices that the programs stand on, without those that are gone. Cost: two system calls
    /// each.
    pub fn devices(&self) -> Vec<u32> {
        self.links.devices()
    }

    /// Hands packets for this device to the network namespace at its other end at once, past the
    /// device's own way out, or does not any more. Its entries are void then. For the host's end of
    /// a pod's veth pair alone, see [`Link::may_be_peer`]: elsewhere packets are lost in silence.
    /// They are, too, when the other end goes down or moves, so that each change of the device is a
    /// reason to ask anew. A call that changes nothing costs nothing.
    ///
    /// # Errors
    /// The system's.
    ///
    /// [`Link::may_be_peer`]: crate::Link::may_be_peer
    pub fn set_peer(&self, device: u32, is_peer: bool) -> io::Result<()> {
        let mut state = self.lock();
        if state.peers.contains(&device) == is_peer {
            return Ok(());
        }
        let key = device.to_ne_bytes();
        if is_peer {
            self.peers.update(&key, &[1])?;
            state.peers.insert(device);
        } else {
            self.peers.delete_all(&key)?;
            state.peers.remove(&device);
        }
        // A packet that leaves in between makes an entry of what was before.
        self.raise(&mut state, device)
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
        self.set_control(|state| state.voids.all = state.voids.all.wrapping_add(1))
    }

    /// Makes the entries void at once whose packets come or leave by this device, and those of
    /// devices whose numbers are a multiple of 4,096 away. Each comes back as after `void`. Cost: a
    /// system call.
    ///
    /// # Errors
    /// The system's.
    pub fn void_device(&self, device: u32) -> io::Result<()> {
        self.raise(&mut self.lock(), device)
    }

    /// How often `void` was called.
    pub fn generation(&self) -> u32 {
        self.lock().voids.all
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
                keys.extend(self.secrets.key(&proposal.leaving));
                values.extend(self.secrets.proposal(proposal));
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
            let keys = of_family(flows, family).map(|flow| self.secrets.key(&flow.leaving));
            let keys: Vec<u8> = keys.flatten().collect();
            // Before the entries, or the next slow packet would make them again.
            maps.proposals.delete_all(&keys)?;
            for proposal in of_family(flows, family) {
                let value = maps.flows.take(&self.secrets.key(&proposal.arriving))?;
                let flow = value.map(|value| layout::flow(&value, family, &moment));
                removed.extend(flow.filter(|flow| flow.arriving == proposal.arriving));
            }
        }
        Ok(removed)
    }

    /// Takes out the entries whose packets go to this link address by this device, and returns what
    /// these had counted. Each comes back with the next packet of its flow that leaves. Cost: 0.3
    /// us for each entry of the cache.
    ///
    /// # Errors
    /// The system's.
    pub fn void_neighbour(&self, device: u32, link: [u8; 6]) -> io::Result<Vec<CachedFlow>> {
        self.take_out(|value| layout::goes_to(value, device, link))
    }

    /// Takes out the entries whose packets come by these devices, as `void_neighbour` does. Where
    /// the programs have not stood for a while, entries have numbers of TCP from before.
    ///
    /// # Errors
    /// The system's.
    pub fn void_arrivals(&self, devices: &HashSet<u32>) -> io::Result<Vec<CachedFlow>> {
        self.take_out(|value| devices.contains(&layout::arrival(value)))
    }

    /// Takes out the entries of which this is true.
    fn take_out(&self, is_meant: impl Fn(&[u8]) -> bool) -> io::Result<Vec<CachedFlow>> {
        let moment = self.moment();
        let mut removed = Vec::new();
        for family in Family::ALL {
            let maps = self.maps(family);
            let mut keys = Vec::new();
            maps.flows.for_each(|key, value| {
                if is_meant(value) {
                    keys.push(key.to_vec());
                }
            })?;
            for key in keys {
                let value = maps.flows.take(&key)?;
                removed.extend(value.map(|value| layout::flow(&value, family, &moment)));
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
                .for_each(|_, value| flows.push(layout::flow(value, family, &moment)))?;
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
        let family = Family::of(&arriving.source);
        let value = self.maps(family).flows.lookup(&self.secrets.key(arriving))?;
        let flow = value.map(|value| layout::flow(&value, family, &self.moment()));
        Ok(flow.filter(|flow| flow.arriving == *arriving))
    }

    /// What was counted since this was loaded. Cost: a system call.
    ///
    /// # Errors
    /// The system's.
    pub fn counters(&self) -> io::Result<Counters> {
        let values = self.counters.lookup(&FIRST)?;
        Ok(Counters::sum(&values.unwrap_or_default()))
    }

    /// What the programs have told since the last call, and whether that is so much that some may
    /// be missing. Cost: a system call each.
    ///
    /// # Errors
    /// The system's.
    pub fn take_notices(&self) -> io::Result<(Vec<Notice>, bool)> {
        let mut notices = Vec::new();
        while notices.len() < NOTICES as usize {
            let Some(value) = self.notices.take(&[])? else { return Ok((notices, false)) };
            notices.push(layout::notice(&value));
        }
        Ok((notices, true))
    }

    fn maps(&self, family: Family) -> &FamilyMaps {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn moment(&self) -> Moment {
        let now = bpf::coarse_clock();
        let state = self.lock();
        Moment { now, voids: state.voids.clone(), is_alive: now <= state.alive_until }
    }

    fn lock(&self) -> MutexGuard<'_, Control> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what the program reads: the lock is held until the kernel has it, so that a beat
    /// cannot take back what `void` has written.
    fn set_control(&self, change: impl FnOnce(&mut Control)) -> io::Result<()> {
        let mut state = self.lock();
        change(&mut state);
        let value = layout::control(state.alive_until, &self.secrets, state.voids.all);
        self.control.update(&FIRST, &value)
    }

    /// Makes a device's entries void.
    fn raise(&self, state: &mut Control, device: u32) -> io::Result<()> {
        let place = device % layout::DEVICES;
        let voids = state.voids.by_device.entry(place).or_default();
        *voids = voids.wrapping_add(1);
        self.voids.update(&place.to_ne_bytes(), &voids.to_ne_bytes())
    }
}

impl FamilyMaps {
    fn create(
        family: Family,
        [flows, proposals]: [&'static str; 2],
        sizes: Sizes,
    ) -> Result<Self, LoadError> {
        let create =
            |name, value, entries| create(name, MapKind::LruHash, layout::KEY, value, entries);
        Ok(Self {
            flows: create(flows, layout::flow_length(family), sizes.flows)?,
            proposals: create(proposals, layout::proposal_length(family), sizes.proposals)?,
        })
    }
}

fn secrets() -> io::Result<Secrets> {
    let mut secrets = Secrets { seal: bpf::random()?, digest: [0; 5] };
    for key in &mut secrets.digest {
        *key = bpf::random()?;
    }
    Ok(secrets)
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
/// Free elements of an LRU map that the kernel keeps for a processor (`LOCAL_FREE_TARGET` in its
/// kernel/bpf/bpf_lru_list.c).
const ASIDE: u32 = 128;
/// Notices that wait: those of a pod that dies, and resets all its connections between two turns of
/// who reads them. They take 88 bytes each.
const NOTICES: u32 = 4096;
/// Pods of a node, many times over.
const PEERS: u32 = 1 << 14;

#[cfg(test)]
mod tests;
