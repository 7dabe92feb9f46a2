//! Decides which flows the cache of established flows may carry, in the datapath `cached`.
//!
//! Theory of operation. The cache translates and sends packets by itself, ahead of everything that
//! the kernel would ask about them. It is kept right by these things:
//!
//! - *Proposals.* A flow is proposed once conntrack calls it assured (TCP: for a second), the
//!   engine has it, and nothing excludes it. Its windows are made liberal first, because conntrack
//!   sees a packet now and then only, and would take these for invalid. An entry is made on the
//!   kernel's side alone, when a packet has gone the kernel's whole way and leaves.
//! - *Ends.* [`crate::ConntrackSync`], which ends flows, and hears of those that have ended, calls
//!   [`CacheSync::forget`] before conntrack forgets the flow, and [`CacheSync::end`] after. Events
//!   about changes tell here of TCP that begins to end.
//! - *Floods.* The kernel makes events about changes while clients wait for it. Of many connections
//!   in a second most are short, and are not worth it: the rest of that second's are not listened
//!   to ([`hearing`]), and a look at conntrack's table finds those that have stayed.
//! - *Doubts.* Whatever may send packets another way voids entries: all, or those that
//!   it is about ([`CacheDevices`]). They come back with the next packets that leave.
//! - *The lease.* The cache works for [`LEASE`] after the last beat. If this thread hangs or dies,
//!   all packets go the kernel's way.
//!
//! Invariants:
//!
//! - A proposal has a record (`flows`), made before conntrack was asked whether the flow is there.
//!   So whatever ends the flow later finds the record; a full resync finds what events have lost.
//! - Records, the queue of those that wait, and the cache's maps are bounded. What finds no room
//!   goes the kernel's way.
//! - What was to leave the cache and could not, because the system refused, is taken out first of
//!   all as soon as it can be; until then the cache carries nothing.
//! - One turn of the loop does a bounded part of its work, so that doubts never wait for long.
//! - The lock of the records may be held while the cache is called, and no other lock is taken
//!   under it: not the engine's.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kbe_nat_engine::{Cidr, Engine};
use kbe_nat_flowcache::{CachedFlow, FlowCache, Proposal};
use kbe_nat_netlink::addresses::Addresses;
use kbe_nat_netlink::conntrack::{Ends, Entry, Requests, Waker, established_timeout};
use kbe_nat_netlink::doubts::Topic;

use crate::cache_devices::CacheDevices;
use crate::cached_flows::{CachedFlows, Carried, FlowKey, Passage};
use crate::locking::lock;

mod accounts;
mod hearing;
mod patience;
mod resets;
mod sockets;
mod state;
mod words;

use hearing::{Heard, Hearing};
use patience::{BEAT, patience};
use resets::Resets;
pub use sockets::CacheSockets;
pub use state::CacheState;
pub(crate) use words::add;
use words::{flow_of, passage, proposal};

/// What a cache of flows is kept by. One thread runs it, others use the rest.
#[derive(Debug)]
pub struct CacheSync {
    waker: Waker,
    cache: Arc<FlowCache>,
    flows: Mutex<CachedFlows>,
    /// Flows that are over for `flows`, and still to be taken out of the cache.
    owed: Mutex<Vec<[Passage; 2]>>,
    devices: CacheDevices,
    is_stopped: AtomicBool,
    /// Only conntrack's whole table says what has been missed.
    wants_resync: AtomicBool,
    /// The same, because events were lost.
    has_lost_events: AtomicBool,
    pauses: AtomicU64,
    turns: AtomicU64,
    overruns: AtomicU64,
    delayed: AtomicU64,
    proposed: AtomicU64,
    vanished: AtomicU64,
}

impl CacheSync {
    /// `waker` is that of the updates which [`CacheSync::run`] gets. At most `limit` flows are
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
            devices: CacheDevices::new(Arc::clone(&cache), excluded_devices),
            cache,
            flows: Mutex::new(CachedFlows::new(limit, ranges)),
            owed: Mutex::default(),
            is_stopped: AtomicBool::default(),
            wants_resync: AtomicBool::default(),
            has_lost_events: AtomicBool::default(),
            pauses: AtomicU64::default(),
            turns: AtomicU64::default(),
            overruns: AtomicU64::default(),
            delayed: AtomicU64::default(),
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
        self.devices.detach();
        let counted = self.count_entries(&mut lock(&self.flows));
        self.save_carried(engine);
        outcome.and(counted).and(self.void())
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

    /// Seconds of which a part was not listened to, because too many flows changed.
    pub fn pauses(&self) -> u64 {
        self.pauses.load(Ordering::Relaxed)
    }

    /// Overruns of doubts after which devices were not read anew at once, because they were too
    /// many.
    pub fn delayed(&self) -> u64 {
        self.delayed.load(Ordering::Relaxed)
    }

    /// How often the entries of a device became void, how many with a neighbour, and how often
    /// programs went behind those of others.
    pub fn device_counts(&self) -> [u64; 3] {
        self.devices.counts()
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

    /// Devices that the cache does not stand on, but for loopback and ports of others, with the
    /// reason.
    pub fn left_out(&self) -> Vec<(String, String)> {
        self.devices.left_out()
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

    /// Whether events were lost since the last call: [`CacheSync::see`] is to have conntrack's
    /// whole table when there is time.
    pub(crate) fn takes_loss(&self) -> bool {
        self.has_lost_events.swap(false, Ordering::Relaxed)
    }

    /// All packets go the kernel's way, until those that leave bring the entries back.
    ///
    /// # Errors
    /// The system's.
    pub fn void(&self) -> io::Result<()> {
        self.cache.void()
    }

    /// Takes these flows, with their numbers, out of the cache: conntrack is to forget them.
    ///
    /// # Errors
    /// The system's.
    pub fn forget(&self, flows: impl Iterator<Item = (FlowKey, Option<u32>)>) -> io::Result<()> {
        let mut records = lock(&self.flows);
        let passages: Vec<_> =
            flows.filter_map(|(key, id)| records.finish_with(&key, id)).collect();
        self.take_out(&mut records, &passages)
    }

    /// Takes a flow out of the cache that conntrack has forgotten, and returns what it has carried
    /// of the client's packets, and of answers. `None` if its ends have another number since.
    ///
    /// # Errors
    /// The system's.
    pub fn end(&self, key: &FlowKey, id: Option<u32>) -> io::Result<Option<[Carried; 2]>> {
        let mut flows = lock(&self.flows);
        if flows.is_another(key, id) {
            return Ok(None);
        }
        let passages: Vec<_> = flows.finish(key).into_iter().collect();
        self.take_out(&mut flows, &passages)?;
        Ok(Some(flows.end(key)))
    }

    /// Begins to compare the flows with a dump of conntrack's whole table, and reads what entries
    /// have counted. Returns the dump's number.
    ///
    /// # Errors
    /// The system's.
    pub fn begin_dump(&self) -> io::Result<u64> {
        let mut flows = lock(&self.flows);
        let dump = flows.begin_look(established_timeout());
        self.count_entries(&mut flows)?;
        Ok(dump)
    }

    /// What an entry has carried that conntrack has not counted.
    fn carried(&self, entry: &CachedFlow) -> Carried {
        if self.devices.bridges.count(entry) {
            return Carried::default();
        }
        Carried { packets: entry.packets, bytes: entry.bytes }
    }

    /// Takes note of what the cache's entries have counted.
    fn count_entries(&self, flows: &mut MutexGuard<'_, CachedFlows>) -> io::Result<()> {
        for entry in self.cache.flows()? {
            flows.count_entry(&passage(&entry), self.carried(&entry), Some(entry.is_current));
        }
        Ok(())
    }

    /// Shows flows of conntrack that the engine has.
    ///
    /// # Errors
    /// The system's.
    pub fn see<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> io::Result<()> {
        let (mut flows, now, mut over) = (lock(&self.flows), Instant::now(), Vec::new());
        entries.for_each(|entry| flows.look(entry, now, &mut over));
        self.take_out(&mut flows, &over)
    }

    /// Has checkpoints of the engine hold what the cache has carried, as far as its entries were
    /// read.
    pub(crate) fn save_carried(&self, engine: &Mutex<Engine>) {
        let carried = lock(&self.flows).all_carried();
        lock(engine).set_carried(carried);
    }

    /// Ends a dump that was complete: flows which it has not shown are over.
    ///
    /// # Errors
    /// The system's.
    pub fn end_dump(&self, dump: u64) -> io::Result<()> {
        let missing = lock(&self.flows).missing(dump);
        for chunk in missing.chunks(BATCH) {
            self.forget(chunk.iter().map(|&key| (key, None)))?;
            let mut flows = lock(&self.flows);
            for key in chunk {
                flows.end(key);
            }
        }
        Ok(())
    }

    fn follow(&self, engine: &Mutex<Engine>, sockets: &mut CacheSockets) -> io::Result<()> {
        let (mut entries, mut doubts, mut resets) = (Vec::new(), Vec::new(), Resets::default());
        let (mut beaten, mut echo) = (None::<Instant>, None::<Instant>);
        let mut hearing = Hearing::new();
        // What has happened before is not known.
        self.void()?;
        self.take_out_owed(&mut lock(&self.flows))?;
        let mut voided = self.devices.attach(&sockets.doubts, &mut sockets.links)?;
        self.read_addresses(&mut sockets.addresses)?;
        self.wants_resync.store(true, Ordering::Relaxed);
        while !self.is_stopped.load(Ordering::Relaxed) {
            self.turns.fetch_add(1, Ordering::Relaxed);
            // Doubts go first: they stop packets on a wrong way.
            sockets.doubts.take(&mut doubts)?;
            self.delayed.store(sockets.doubts.delayed(), Ordering::Relaxed);
            let former = self.cache.generation();
            voided.extend(self.devices.act(&doubts, &sockets.doubts, &mut sockets.links)?);
            if self.cache.generation() != former {
                echo = Some(Instant::now() + ECHO);
            } else if echo.is_some_and(|when| when <= Instant::now()) {
                echo = None;
                self.void()?;
            }
            for entry in voided.drain(..) {
                lock(&self.flows).count_entry(&passage(&entry), self.carried(&entry), None);
            }
            if doubts.iter().any(|doubt| matches!(doubt.topic, Topic::Address | Topic::Reread)) {
                self.read_addresses(&mut sockets.addresses)?;
            }
            doubts.clear();
            self.take_out_owed(&mut lock(&self.flows))?;
            if beaten.is_none_or(|when| when.elapsed() >= BEAT) {
                self.cache.beat(LEASE)?;
                beaten = Some(Instant::now());
            }
            self.heed(hearing.take(&mut sockets.updates, &mut entries)?);
            self.note(entries.iter())?;
            entries.clear();
            let has_resets = self.follow_resets(&mut sockets.requests, &mut resets)?;
            let has_more = self.propose_due(engine, &mut sockets.requests)? || has_resets;
            // The wait comes last: a call that arrives during it ends it.
            let until_echo = echo.map(|when| when.saturating_duration_since(Instant::now()));
            let bounds = [until_echo, hearing.pause, has_more.then_some(Duration::ZERO)];
            let patience = bounds.into_iter().flatten().fold(patience(&self.flows), Duration::min);
            sockets.updates.wait_beside(&sockets.doubts, patience)?;
        }
        Ok(())
    }

    /// Flows that have begun unheard are not proposed until conntrack's table is read, and those
    /// that have ended are carried no longer than their ends talk: the programs end a flow
    /// themselves, and other events tell of what conntrack forgets. Nothing goes a wrong way, so
    /// one who opens many flows takes nobody else's out of the cache.
    fn heed(&self, heard: Heard) {
        self.overruns.fetch_add(u64::from(heard.is_overrun), Ordering::Relaxed);
        self.pauses.fetch_add(u64::from(heard.is_enough), Ordering::Relaxed);
        if heard.has_lost {
            self.has_lost_events.store(true, Ordering::Relaxed);
        }
    }

    /// Takes note of flows as conntrack has them now.
    pub(crate) fn note<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> io::Result<()> {
        let (mut flows, now, mut over) = (lock(&self.flows), Instant::now(), Vec::new());
        entries.for_each(|entry| flows.note(entry, now, &mut over));
        self.take_out(&mut flows, &over)
    }

    /// Acts on what the programs tell; returns whether there is more to do.
    fn follow_resets(&self, requests: &mut Requests, resets: &mut Resets) -> io::Result<bool> {
        let followed = resets.follow(&self.cache, &self.flows, requests)?;
        if followed.may_lack {
            // Conntrack forgets the others by itself, after the timeout of what is over.
            self.has_lost_events.store(true, Ordering::Relaxed);
        }
        self.take_out(&mut lock(&self.flows), &followed.over)?;
        Ok(followed.has_more)
    }

    fn read_addresses(&self, addresses: &mut Addresses) -> io::Result<()> {
        let local = addresses.all()?.iter().map(|address| address.address).collect();
        let mut flows = lock(&self.flows);
        let refused = flows.set_local(local);
        self.take_out(&mut flows, &refused)
    }

    /// Proposes some of the flows whose time has come; returns whether there are more.
    fn propose_due(&self, engine: &Mutex<Engine>, requests: &mut Requests) -> io::Result<bool> {
        let now = Instant::now();
        let (due, has_more): (Vec<(FlowKey, Ends)>, bool) = {
            let mut flows = lock(&self.flows);
            let keys = flows.take_due(now);
            let due = keys.into_iter().filter_map(|key| Some((key, flows.reply(&key)?))).collect();
            (due, flows.next_due().is_some_and(|when| when <= now))
        };
        let is_ours: Vec<bool> = {
            let engine = lock(engine);
            due.iter().map(|(key, reply)| engine.has_offloaded(&flow_of(key, *reply))).collect()
        };
        let (ours, others): (Vec<_>, Vec<_>) =
            due.iter().map(|(key, _)| *key).zip(is_ours).partition(|(_, is_ours)| *is_ours);
        let questions: Vec<_> = ours.iter().map(|(key, _)| (key.protocol, key.original)).collect();
        // Windows first: from the first entry on, conntrack misses packets.
        let entries = requests.make_liberal(&questions);
        let mut flows = lock(&self.flows);
        // Those of others, and all that the kernel did not answer for: a resync brings them back.
        let unasked = entries.as_ref().err().map(|_| &ours);
        let dropped = others.iter().chain(unasked.into_iter().flatten());
        let mut over: Vec<_> = dropped.filter_map(|(key, _)| flows.finish(key)).collect();
        let mut proposals = Vec::new();
        for ((key, _), entry) in ours.iter().zip(entries.as_deref().unwrap_or_default()) {
            if let Some(entry) = entry {
                // It may have begun to end, and events leave something out.
                flows.note(entry, now, &mut over);
                proposals.extend(flows.propose(key).into_iter().flatten());
            } else {
                over.extend(flows.finish(key));
                self.vanished.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.take_out(&mut flows, &over)?;
        entries?;
        let proposed = self.cache.propose(&proposals.iter().map(proposal).collect::<Vec<_>>());
        if proposed.is_err() {
            let passages: Vec<_> = ours.iter().filter_map(|(key, _)| flows.finish(key)).collect();
            lock(&self.owed).extend(passages);
        }
        self.proposed.fetch_add(proposals.len() as u64 / 2, Ordering::Relaxed);
        proposed.map(|()| has_more)
    }

    /// Takes flows out of the cache that are over for the records. What the system refuses is owed,
    /// because the records do not name it again.
    fn take_out(
        &self,
        flows: &mut MutexGuard<'_, CachedFlows>,
        passages: &[[Passage; 2]],
    ) -> io::Result<()> {
        lock(&self.owed).extend(passages);
        self.take_out_owed(flows)
    }

    fn take_out_owed(&self, flows: &mut MutexGuard<'_, CachedFlows>) -> io::Result<()> {
        let mut owed = lock(&self.owed);
        while !owed.is_empty() {
            let batch = owed.len().saturating_sub(BATCH)..;
            let removed: Vec<Proposal> =
                owed[batch.clone()].iter().flatten().map(proposal).collect();
            match self.cache.remove(&removed) {
                Ok(entries) => {
                    for entry in entries {
                        flows.count_entry(&passage(&entry), self.carried(&entry), None);
                    }
                    owed.drain(batch);
                }
                Err(error) => {
                    // Its next turn takes them out, or fails, and then the programs are gone.
                    self.waker.wake();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// After all entries became void, they do so once more: a packet that had passed the rules before
/// they changed may have left since, and made an entry. Mostly it leaves within microseconds.
const ECHO: Duration = Duration::from_millis(50);
/// How long the cache works after a beat.
const LEASE: Duration = Duration::from_secs(5);
/// Flows that are taken out by one call.
const BATCH: usize = 64;

#[cfg(test)]
mod tests;
