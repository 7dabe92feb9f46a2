//! Decides which flows the cache of established flows may carry, in the datapath `cached`.
//!
//! Theory of operation. The cache translates and sends packets by itself, ahead of everything that
//! the kernel would ask about them. It is kept right by four things:
//!
//! - *Proposals.* A flow is proposed once conntrack calls it assured (TCP: for a second), the
//!   engine has it, and nothing excludes it. Its windows are made liberal first, because conntrack
//!   sees a packet now and then only, and would take these for invalid. An entry is made on the
//!   kernel's side alone, when a packet has gone the kernel's whole way and leaves.
//! - *Ends.* [`crate::ConntrackSync`], which ends flows, and hears of those that have ended, calls
//!   [`CacheSync::forget`] before conntrack forgets the flow, and [`CacheSync::end`] after. Events
//!   about changes tell here of TCP that begins to end.
//! - *Doubts.* Whatever may send packets another way ([`Doubts`]) voids all entries. They come back
//!   with the next packets that leave.
//! - *The lease.* The cache works for [`LEASE`] after the last beat. If this thread hangs or dies,
//!   all packets go the kernel's way.
//!
//! Invariants:
//!
//! - A proposal has a record (`flows`), made before conntrack was asked whether the flow is there.
//!   So whatever ends the flow later finds the record; a full resync finds what events have lost.
//! - Records, the queue of those that wait, and the cache's maps are bounded. What finds no room
//!   goes the kernel's way.
//! - The lock of the records may be held while the cache is called, and no other lock is taken
//!   under it: not the engine's.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Cidr, Engine, KernelFlow};
use kbe_nat_flowcache::{CachedFlow, FlowCache, Proposal, Tuple};
use kbe_nat_netlink::addresses::Addresses;
use kbe_nat_netlink::conntrack::{Ends, Entry, Requests, Updates, Waker};
use kbe_nat_netlink::doubts::{Doubt, Doubts, Topic};

use crate::cached_flows::{CachedFlows, Carried, FlowKey, Passage, Standing};

/// What a cache of flows is kept by. One thread runs it, others use the rest.
#[derive(Debug)]
pub struct CacheSync {
    waker: Waker,
    cache: Arc<FlowCache>,
    flows: Mutex<CachedFlows>,
    /// Names of devices that the cache is not attached to.
    excluded_devices: HashSet<String>,
    /// Devices that the cache could not be attached to.
    unattached: Mutex<Vec<(String, String)>>,
    is_stopped: AtomicBool,
    /// Only conntrack's whole table says what has been missed.
    wants_resync: AtomicBool,
    turns: AtomicU64,
    overruns: AtomicU64,
    proposed: AtomicU64,
    vanished: AtomicU64,
}

/// The sockets of a [`CacheSync`], in one network namespace.
#[derive(Debug)]
pub struct CacheSockets {
    /// Of changes of flows.
    pub updates: Updates,
    /// Of doubts.
    pub doubts: Doubts,
    /// Of the node's addresses.
    pub addresses: Addresses,
    /// Of requests about flows.
    pub requests: Requests,
}

/// Where a flow stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheState {
    /// Whether it is proposed, or why not.
    pub standing: Standing,
    /// Whether the cache has a current entry for the client's packets, and for answers.
    pub is_cached: [bool; 2],
}

impl CacheSync {
    /// `waker` is that of the [`Updates`] which [`CacheSync::run`] gets. At most `limit` flows are
    /// cached: none with an address in `ranges`, and none by one of these devices.
    #[must_use]
    pub fn new(
        waker: Waker,
        cache: Arc<FlowCache>,
        limit: usize,
        ranges: Vec<Cidr>,
        excluded_devices: HashSet<String>,
    ) -> Self {
        Self {
            waker,
            cache,
            flows: Mutex::new(CachedFlows::new(limit, ranges)),
            excluded_devices,
            unattached: Mutex::default(),
            is_stopped: AtomicBool::default(),
            wants_resync: AtomicBool::default(),
            turns: AtomicU64::default(),
            overruns: AtomicU64::default(),
            proposed: AtomicU64::default(),
            vanished: AtomicU64::default(),
        }
    }

    /// Proposes flows, and follows the kernel, until [`CacheSync::stop`] is called. Then, and when
    /// it fails, no packet passes the kernel by.
    ///
    /// # Errors
    /// The system's.
    pub fn run(&self, engine: &Mutex<Engine>, sockets: &mut CacheSockets) -> io::Result<()> {
        let outcome = self.follow(engine, sockets);
        // Also where the map cannot be written: programs that stand nowhere send nothing on.
        for device in self.cache.devices() {
            self.cache.detach(device);
        }
        outcome.and(self.void())
    }

    /// Ends [`CacheSync::run`] soon.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Turns of the loop: the number grows unless the loop hangs.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// How often the kernel dropped events because we were too slow.
    pub fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }

    /// Flows that were proposed.
    pub fn proposed(&self) -> u64 {
        self.proposed.load(Ordering::Relaxed)
    }

    /// Flows that ended before they were proposed.
    pub fn vanished(&self) -> u64 {
        self.vanished.load(Ordering::Relaxed)
    }

    /// Flows with a record, and flows that found no room.
    pub fn counts(&self) -> (usize, u64) {
        let flows = lock(&self.flows);
        (flows.count(), flows.refused())
    }

    /// Devices that the cache could not be attached to, with the kernel's reason.
    pub fn unattached(&self) -> Vec<(String, String)> {
        lock(&self.unattached).clone()
    }

    /// The cache.
    pub fn cache(&self) -> &FlowCache {
        &self.cache
    }

    /// The frontends whose flows are not to be cached, in place of those before.
    ///
    /// # Errors
    /// The system's.
    pub fn exclude_services(&self, services: HashSet<(u8, SocketAddr)>) -> io::Result<()> {
        let mut flows = lock(&self.flows);
        let refused = flows.exclude_services(services);
        self.take_out(&mut flows, &refused)?;
        drop(flows);
        // Flows of Services that are excluded no more are found by it.
        self.wants_resync.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether conntrack's whole table is to be shown to [`CacheSync::see`]. It is asked once.
    pub fn takes_resync(&self) -> bool {
        self.wants_resync.swap(false, Ordering::Relaxed)
    }

    /// All packets go the kernel's way, until those that leave bring the entries back.
    ///
    /// # Errors
    /// The system's.
    pub fn void(&self) -> io::Result<()> {
        self.cache.void()
    }

    /// Takes these flows out of the cache, because conntrack is to forget them.
    ///
    /// # Errors
    /// The system's.
    pub fn forget(&self, keys: impl Iterator<Item = FlowKey>) -> io::Result<()> {
        let mut flows = lock(&self.flows);
        let passages: Vec<_> = keys.filter_map(|key| flows.finish(&key)).collect();
        self.take_out(&mut flows, &passages)
    }

    /// Takes a flow out of the cache that conntrack has forgotten, and returns what the cache has
    /// carried of it: of the client's packets, and of answers.
    ///
    /// # Errors
    /// The system's.
    pub fn end(&self, key: &FlowKey) -> io::Result<[Carried; 2]> {
        let mut flows = lock(&self.flows);
        let passages: Vec<_> = flows.finish(key).into_iter().collect();
        self.take_out(&mut flows, &passages)?;
        Ok(flows.end(key))
    }

    /// Begins to compare the flows with a dump of conntrack's whole table, and reads what entries
    /// have counted. Returns the dump's number.
    ///
    /// # Errors
    /// The system's.
    pub fn begin_dump(&self) -> io::Result<u64> {
        let mut flows = lock(&self.flows);
        for entry in self.cache.flows()? {
            flows.count_entry(&passage(&entry), carried(&entry), false);
        }
        Ok(flows.begin_dump())
    }

    /// Shows flows of conntrack that the engine has.
    ///
    /// # Errors
    /// The system's.
    pub fn see<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> io::Result<()> {
        self.note(entries)
    }

    /// Ends a dump that was complete: flows which it has not shown are over.
    ///
    /// # Errors
    /// The system's.
    pub fn end_dump(&self, dump: u64) -> io::Result<()> {
        let missing = lock(&self.flows).missing(dump);
        for chunk in missing.chunks(BATCH) {
            self.forget(chunk.iter().copied())?;
            let mut flows = lock(&self.flows);
            for key in chunk {
                flows.end(key);
            }
        }
        Ok(())
    }

    /// Adds to flows of conntrack what the cache has carried of them, where packets are counted.
    pub(crate) fn add_carried(&self, kernel_flows: &mut [KernelFlow]) {
        let flows = lock(&self.flows);
        for flow in kernel_flows {
            add(flow, flows.carried(&key_of(flow)));
        }
    }

    /// Whether a flow is in the cache, or why not.
    ///
    /// # Errors
    /// The system's.
    pub fn state(&self, key: &FlowKey) -> io::Result<CacheState> {
        let (standing, reply) = {
            let flows = lock(&self.flows);
            (flows.standing(key, None), flows.reply(key))
        };
        let is_current = |ends: Ends| {
            let entry = self.cache.find(&tuple(key.protocol, ends))?;
            io::Result::Ok(entry.is_some_and(|entry| entry.is_current))
        };
        let is_cached = match reply {
            Some(reply) => [is_current(key.original)?, is_current(reply)?],
            None => [false; 2],
        };
        Ok(CacheState { standing, is_cached })
    }

    fn follow(&self, engine: &Mutex<Engine>, sockets: &mut CacheSockets) -> io::Result<()> {
        let (mut entries, mut doubts) = (Vec::new(), Vec::new());
        let mut beaten: Option<Instant> = None;
        // What has happened before is not known.
        self.void()?;
        self.attach(&sockets.doubts);
        self.read_addresses(&mut sockets.addresses)?;
        self.wants_resync.store(true, Ordering::Relaxed);
        while !self.is_stopped.load(Ordering::Relaxed) {
            self.turns.fetch_add(1, Ordering::Relaxed);
            // Doubts go first: they stop packets on a wrong way.
            sockets.doubts.take(&mut doubts)?;
            self.act(&doubts, sockets)?;
            doubts.clear();
            if beaten.is_none_or(|when| when.elapsed() >= BEAT) {
                self.cache.beat(LEASE)?;
                beaten = Some(Instant::now());
            }
            if !sockets.updates.take(&mut entries)? {
                self.overruns.fetch_add(1, Ordering::Relaxed);
                self.void()?;
                self.wants_resync.store(true, Ordering::Relaxed);
            }
            self.note(entries.iter())?;
            entries.clear();
            self.propose_due(engine, &mut sockets.requests)?;
            // The wait comes last: a call that arrives during it ends it.
            let next = lock(&self.flows).next_due();
            let patience = next.map_or(BEAT, |when| {
                // A little later, so that one turn proposes many.
                when.saturating_duration_since(Instant::now()).saturating_add(PAUSE).min(BEAT)
            });
            sockets.updates.wait_beside(&sockets.doubts, patience)?;
        }
        Ok(())
    }

    /// Takes note of flows as conntrack has them now.
    fn note<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> io::Result<()> {
        let mut flows = lock(&self.flows);
        let now = Instant::now();
        let over: Vec<_> = entries.filter_map(|entry| flows.note(entry, now)).collect();
        self.take_out(&mut flows, &over)
    }

    /// Voids the cache where doubts say so, and follows devices and addresses.
    fn act(&self, doubts: &[Doubt], sockets: &mut CacheSockets) -> io::Result<()> {
        let attached: HashSet<u32> = self.cache.devices().into_iter().collect();
        // A device that the cache does not use says nothing about the cache's packets.
        let concerns = |doubt: &Doubt| match doubt.topic {
            Topic::Device | Topic::Neighbour => {
                doubt.device.is_none_or(|device| attached.contains(&device))
            }
            _ => true,
        };
        if doubts.iter().any(concerns) {
            self.void()?;
        }
        let has = |topics: [Topic; 2]| doubts.iter().any(|doubt| topics.contains(&doubt.topic));
        if has([Topic::Device, Topic::Overrun]) {
            self.attach(&sockets.doubts);
        }
        if has([Topic::Address, Topic::Overrun]) {
            self.read_addresses(&mut sockets.addresses)?;
        }
        Ok(())
    }

    /// Attaches the cache to the devices that are there, and detaches it from others. A device that
    /// refuses it, such as one that is gone already, is left to the kernel.
    fn attach(&self, doubts: &Doubts) {
        let wanted: Vec<_> = doubts
            .devices()
            .filter(|device| device.is_ethernet() && !self.excluded_devices.contains(&device.name))
            .collect();
        for device in self.cache.devices() {
            if !wanted.iter().any(|wanted| wanted.index == device) {
                self.cache.detach(device);
            }
        }
        let attached: HashSet<u32> = self.cache.devices().into_iter().collect();
        let failures =
            wanted.iter().filter(|device| !attached.contains(&device.index)).filter_map(|device| {
                let error = self.cache.attach(device.index).err()?;
                Some((device.name.clone(), error.to_string()))
            });
        let failures = failures.collect();
        *lock(&self.unattached) = failures;
    }

    fn read_addresses(&self, addresses: &mut Addresses) -> io::Result<()> {
        let local = addresses.all()?.iter().map(|address| address.address).collect();
        let mut flows = lock(&self.flows);
        let refused = flows.set_local(local);
        self.take_out(&mut flows, &refused)
    }

    /// Proposes the flows whose time has come.
    fn propose_due(&self, engine: &Mutex<Engine>, requests: &mut Requests) -> io::Result<()> {
        loop {
            let due: Vec<(FlowKey, Ends)> = {
                let mut flows = lock(&self.flows);
                let keys = flows.take_due(Instant::now());
                keys.into_iter().filter_map(|key| Some((key, flows.reply(&key)?))).collect()
            };
            if due.is_empty() {
                return Ok(());
            }
            let is_ours: Vec<bool> = {
                let engine = lock(engine);
                due.iter().map(|(key, reply)| engine.has_offloaded(&flow_of(key, *reply))).collect()
            };
            let (ours, others): (Vec<_>, Vec<_>) =
                due.iter().map(|(key, _)| *key).zip(is_ours).partition(|(_, is_ours)| *is_ours);
            let questions: Vec<_> =
                ours.iter().map(|(key, _)| (key.protocol, key.original)).collect();
            // Windows first: from the first entry on, conntrack misses packets.
            let is_there = requests.make_liberal(&questions)?;
            let mut flows = lock(&self.flows);
            for (key, _) in &others {
                flows.drop_candidate(key);
            }
            let mut proposals = Vec::new();
            for ((key, _), is_there) in ours.iter().zip(is_there) {
                if is_there {
                    proposals.extend(flows.propose(key).into_iter().flatten());
                } else {
                    flows.drop_candidate(key);
                    self.vanished.fetch_add(1, Ordering::Relaxed);
                }
            }
            self.proposed.fetch_add(proposals.len() as u64 / 2, Ordering::Relaxed);
            self.cache.propose(&proposals.iter().map(proposal).collect::<Vec<_>>())?;
        }
    }

    /// Takes flows out of the cache, and counts what it has carried of them.
    fn take_out(
        &self,
        flows: &mut MutexGuard<'_, CachedFlows>,
        passages: &[[Passage; 2]],
    ) -> io::Result<()> {
        for chunk in passages.chunks(BATCH) {
            let removed: Vec<Proposal> = chunk.iter().flatten().map(proposal).collect();
            for entry in self.cache.remove(&removed)? {
                flows.count_entry(&passage(&entry), carried(&entry), true);
            }
        }
        Ok(())
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds what the cache has carried to the counters of a flow that has some.
pub(crate) fn add(flow: &mut KernelFlow, carried: [Carried; 2]) {
    for ((packets, bytes), more) in flow.counters.iter_mut().flatten().zip(carried) {
        *packets += more.packets;
        *bytes += more.bytes;
    }
}

/// The key of a flow of the kernel.
pub(crate) fn key_of(flow: &KernelFlow) -> FlowKey {
    let (src, dst) = flow.original;
    FlowKey { protocol: flow.protocol.0, original: Ends { src, dst } }
}

fn flow_of(key: &FlowKey, reply: Ends) -> KernelFlow {
    KernelFlow {
        protocol: Protocol(key.protocol),
        original: (key.original.src, key.original.dst),
        reply: (reply.src, reply.dst),
        is_replied: true,
        is_assured: true,
        state: None,
        timeout: None,
        counters: None,
    }
}

fn tuple(protocol: u8, ends: Ends) -> Tuple {
    Tuple { protocol, source: ends.src, destination: ends.dst }
}

fn proposal(passage: &Passage) -> Proposal {
    let Passage { protocol, arriving, leaving } = *passage;
    Proposal { arriving: tuple(protocol, arriving), leaving: tuple(protocol, leaving) }
}

fn passage(entry: &CachedFlow) -> Passage {
    let ends = |tuple: &Tuple| Ends { src: tuple.source, dst: tuple.destination };
    Passage {
        protocol: entry.arriving.protocol,
        arriving: ends(&entry.arriving),
        leaving: ends(&entry.leaving),
    }
}

fn carried(entry: &CachedFlow) -> Carried {
    Carried { packets: entry.packets, bytes: entry.bytes }
}

/// Time between two beats.
const BEAT: Duration = Duration::from_secs(1);
/// How long the cache works after a beat.
const LEASE: Duration = Duration::from_secs(5);
/// Added to the wait for a flow that is due.
const PAUSE: Duration = Duration::from_millis(20);
/// Flows that are taken out by one call.
const BATCH: usize = 64;
