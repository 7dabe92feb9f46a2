//! Keeps the engine's flows in step with the kernel's connection tracking.
//!
//! The kernel carries flows by itself in the datapath `first-packet`, so the engine learns from
//! here which of them began, as whom, and which ended. There are two sources:
//!
//! - Events come at once, but they are incomplete. The kernel drops events when the socket's
//!   buffer is full, and tells nothing of flows that began while nobody listened
//!   (`nf_conntrack_events=2`).
//! - While somebody watches flows ([`ConntrackSync::watch_flows`]), events about changes come too:
//!   these move states, and begin no flow. Nobody else needs them, and they are five a connection,
//!   so they have a budget for each second ([`Budget`]). A watcher on a busy node misses changes of
//!   states, never a beginning or an end.
//! - A resync dumps the kernel's flows. It is complete, but costs a pass of the kernel over its
//!   table. A full resync runs at the start, every [`INTERVAL`], on request, and after an overrun
//!   of events; overruns that follow each other share resyncs ([`Pace`]). A resync of some
//!   frontends runs when a backend of theirs is removed.
//!
//! Invariants:
//!
//! - Flows end in the kernel because an operator asked for it, or because a resync found them
//!   where their frontend does not lead; never because of an event. Another program may translate
//!   one of our frontends too: if an event ended its flow, each of its packets would begin one.
//! - Only a full resync that the kernel did not interrupt says which flows are missing. The events
//!   that have come meanwhile go ahead of that: they know which of these others have deleted.
//! - A flow is identified by its ends, whatever its connmark: other programs write connmarks too.
//! - The engine's lock is held for [`BATCH`] flows at a time, because packets wait for it. No
//!   system call is made under it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Engine, KernelFlow, Outcome, Resync};
use kbe_nat_netlink::conntrack::{Change, Ends, Entry, Events, Requests, Selection, Waker};
use kbe_nat_netlink::{Family, Pace, monotonic};

use crate::cache_sync::{self, CacheSync};
use crate::cached_flows::FlowKey;
use crate::ended_flows::EndedFlows;
use crate::kernel_flows::{is_restored, kernel_flow};
use crate::locking::lock;
use crate::paced_selections::{PATIENCE, PacedSelections};
use crate::selections::merge;
use crate::thread_time::thread_time;
use crate::update_budget::{Budget, UPDATES};

/// Tells an engine what becomes of the kernel's flows. One thread runs it, others use the rest.
#[derive(Debug)]
pub struct ConntrackSync {
    waker: Waker,
    /// The cache that carries established flows past the kernel's conntrack.
    cache: Option<Arc<CacheSync>>,
    is_stopped: AtomicBool,
    /// Full resyncs that were requested.
    requested: AtomicU64,
    /// The newest of these requests that is done.
    completed: Mutex<u64>,
    completion: Condvar,
    /// Flows to resync soon.
    selections: Mutex<Vec<Selection>>,
    ended_flows: EndedFlows,
    changes: AtomicU64,
    overruns: AtomicU64,
    resyncs: AtomicU64,
    delayed_resyncs: AtomicU64,
    ended: AtomicU64,
    forgotten: AtomicU64,
    turns: AtomicU64,
}

impl ConntrackSync {
    /// `waker` is that of the [`Events`] which [`ConntrackSync::run`] gets. Flows leave `cache`
    /// before they end in the kernel, and what it has carried of them is added to their counters.
    #[must_use]
    pub fn new(waker: Waker, cache: Option<Arc<CacheSync>>) -> Self {
        Self {
            waker,
            cache,
            is_stopped: AtomicBool::default(),
            requested: AtomicU64::default(),
            completed: Mutex::default(),
            completion: Condvar::default(),
            selections: Mutex::default(),
            ended_flows: EndedFlows::default(),
            changes: AtomicU64::default(),
            overruns: AtomicU64::default(),
            resyncs: AtomicU64::default(),
            delayed_resyncs: AtomicU64::default(),
            ended: AtomicU64::default(),
            forgotten: AtomicU64::default(),
            turns: AtomicU64::default(),
        }
    }

    /// Tells the engine what becomes of the kernel's flows, until [`ConntrackSync::stop`] is
    /// called.
    ///
    /// # Errors
    /// The system's.
    pub fn run(
        &self,
        engine: &Mutex<Engine>,
        events: &mut Events,
        requests: &mut Requests,
    ) -> io::Result<()> {
        let mut newest_full = None::<Instant>;
        let mut frontends = PacedSelections::new(Instant::now());
        let budget = Budget::new(Instant::now(), UPDATES);
        let mut hearing = Hearing { events, pace: Pace::new(), budget };
        while !self.is_stopped.load(Ordering::Relaxed) {
            self.turns.fetch_add(1, Ordering::Relaxed);
            // Read ahead of the dump, so that a request that comes during it gets another dump.
            let requested = self.requested.load(Ordering::Acquire);
            let selections = std::mem::take(&mut *lock(&self.selections));
            let started = Instant::now();
            frontends.add(selections, started);
            // Flows of removed backends go ahead of the full resync, which takes longer.
            let due = frontends.take_due(started);
            if !due.is_empty() {
                let started = thread_time();
                self.resync_selections(engine, requests, &due)?;
                frontends.rest(Instant::now(), thread_time().saturating_sub(started));
            }
            let is_wanted = self.cache.as_ref().is_some_and(|cache| cache.takes_resync());
            if self.cache.as_ref().is_some_and(|cache| cache.takes_loss()) {
                self.note_loss(&mut hearing.pace);
            }
            let started = Instant::now();
            let is_due = is_wanted
                || hearing.pace.is_due(started)
                || newest_full.is_none_or(|when| when.elapsed() >= INTERVAL);
            if is_due || requested != self.completed_request() {
                self.resync_all(engine, &mut hearing, requests)?;
                self.complete(requested);
                newest_full = Some(Instant::now());
            }
            // The wait comes last: a request that arrives during it wakes the loop, and is served
            // at once.
            let now = Instant::now();
            let rest = hearing.pace.patience(now).unwrap_or(PATIENCE);
            let patience = frontends.patience(now).min(rest);
            let pause = hearing.budget.pause(now);
            hearing.events.hear_updates(self.ended_flows.is_watched() && pause.is_none())?;
            let patience = pause.map_or(patience, |pause| patience.min(pause));
            self.hear(engine, &mut hearing, requests, patience, None)?;
            // Other threads delete flows from the engine, and leave the kernel to this one.
            self.end_orphans(engine, requests)?;
        }
        Ok(())
    }

    /// Says to those who wait that a full resync is done, and with it all requests up to this one.
    fn complete(&self, request: u64) {
        self.resyncs.fetch_add(1, Ordering::Relaxed);
        *lock(&self.completed) = request;
        self.completion.notify_all();
    }

    fn note_overrun(&self, pace: &mut Pace) -> io::Result<()> {
        self.overruns.fetch_add(1, Ordering::Relaxed);
        // Only a full resync finds what the lost events said.
        self.note_loss(pace);
        // The kernel may have ended flows that the cache still carries.
        self.cache.as_ref().map_or(Ok(()), |cache| cache.void())
    }

    /// A flood of events is lost time and again: a resync for each would leave time for nothing
    /// else.
    fn note_loss(&self, pace: &mut Pace) {
        let has_to_rest = pace.lose(Instant::now());
        self.delayed_resyncs.fetch_add(u64::from(has_to_rest), Ordering::Relaxed);
    }

    /// Ends [`ConntrackSync::run`] soon.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Requests a full resync, and returns the number that [`ConntrackSync::completed_request`]
    /// reaches when it is done.
    pub fn request(&self) -> u64 {
        // Counted ahead of the wake-up, so that the turn which it begins sees the request.
        let request = self.requested.fetch_add(1, Ordering::AcqRel) + 1;
        self.waker.wake();
        request
    }

    /// The newest request that is done.
    pub fn completed_request(&self) -> u64 {
        *lock(&self.completed)
    }

    /// Runs a full resync now, and returns whether it was done within `timeout`.
    pub fn resync_within(&self, timeout: Duration) -> bool {
        let request = self.request();
        let (_completed, waited) = self
            .completion
            .wait_timeout_while(lock(&self.completed), timeout, |completed| *completed < request)
            .unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }

    /// Requests a resync of the flows to these frontends, which are new or have lost backends. It
    /// is repeated after a while: packets that were decided just before it have their flows in
    /// the kernel by then, and answers to handshakes have come.
    pub fn request_frontends(&self, frontends: impl IntoIterator<Item = (Protocol, SocketAddr)>) {
        let selections = frontends.into_iter().map(|(Protocol(protocol), frontend)| Selection {
            protocol,
            family: Family::of(&frontend),
            destination: Some(frontend),
        });
        lock(&self.selections).extend(selections);
        self.waker.wake();
    }

    /// The kernel's entry of a flow with these original ends. Of one that is over, the entry that
    /// it had, if somebody has watched ([`ConntrackSync::watch_flows`]). Cost: a question to the
    /// kernel.
    ///
    /// # Errors
    /// The system's.
    pub fn entry(
        &self,
        requests: &mut Requests,
        protocol: Protocol,
        original: Ends,
        is_over: bool,
    ) -> io::Result<Option<Entry>> {
        // Others have no ports in their tuples, and the kernel does not carry them for us.
        if !matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP) {
            return Ok(None);
        }
        let former = || self.ended_flows.find(protocol.0, original);
        match is_over.then(former).flatten() {
            Some(entry) => Ok(Some(entry)),
            None => requests.get(protocol.0, original),
        }
    }

    /// From now on tells the engine of changes of states as they happen, up to a budget, and keeps
    /// the kernel's entries of flows that end; or does so no more.
    pub fn watch_flows(&self, is_watched: bool) {
        self.ended_flows.watch(is_watched);
        // The listening begins at once, whatever the thread waits for.
        self.waker.wake();
    }

    /// Flows that began or ended so far, those of other programs included.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// How often the kernel dropped events because we were too slow.
    pub fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }

    /// Full resyncs so far.
    pub fn resyncs(&self) -> u64 {
        self.resyncs.load(Ordering::Relaxed)
    }

    /// Losses of events whose resync did not come at once, because there were so many.
    pub fn delayed_resyncs(&self) -> u64 {
        self.delayed_resyncs.load(Ordering::Relaxed)
    }

    /// Flows that we have ended in the kernel.
    pub fn ended_flows(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Flows that other programs have deleted from the kernel's table while both ends were talking.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Turns of the loop: the number grows unless the loop hangs.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Waits for events, and tells the engine of them. Returns how many there were.
    fn hear(
        &self,
        engine: &Mutex<Engine>,
        hearing: &mut Hearing<'_>,
        requests: &mut Requests,
        patience: Duration,
        resync: Option<&mut Resync>,
    ) -> io::Result<usize> {
        let (mut changes, mut forgotten) = (Vec::new(), Vec::new());
        if !hearing.events.receive(patience, &mut changes)? {
            self.note_overrun(&mut hearing.pace)?;
        }
        hearing.budget.spend(self.apply(engine, &changes, &mut forgotten, resync)?);
        // They go on whoever sends next, and not with the client's next packet alone.
        requests.restore(&forgotten)?;
        Ok(changes.len())
    }

    /// Tells the engine what happened; flows that begin are in `resync` then. Returns how many
    /// flows have changed, those of other programs included. Adds to `forgotten` the entries that
    /// others have deleted of flows whose ends were talking.
    fn apply(
        &self,
        engine: &Mutex<Engine>,
        changes: &[Change],
        forgotten: &mut Vec<Entry>,
        mut resync: Option<&mut Resync>,
    ) -> io::Result<usize> {
        let updates = changes.iter().filter(|change| matches!(change, Change::Updated(_))).count();
        self.changes.fetch_add((changes.len() - updates) as u64, Ordering::Relaxed);
        // Ahead of the engine, whose events lead watchers here.
        self.ended_flows.note(changes.iter().filter_map(|change| match change {
            Change::Ended(entry) => Some(entry),
            Change::New(_) | Change::Updated(_) => None,
        }));
        for batch in changes.chunks(BATCH) {
            let ended = batch.iter().filter_map(|change| match change {
                Change::New(_) | Change::Updated(_) => None,
                Change::Ended(entry) => Some(self.last_counters(entry)),
            });
            let mut ended = ended.collect::<io::Result<Vec<_>>>()?.into_iter();
            let now = monotonic();
            let mut engine = lock(engine);
            for change in batch {
                match change {
                    Change::New(entry) => {
                        engine.note_begin(now, &kernel_flow(entry), resync.as_deref_mut());
                    }
                    Change::Updated(entry) => engine.note_update(now, &kernel_flow(entry)),
                    Change::Ended(entry) => {
                        let ended = ended.next().flatten();
                        if ended.is_some_and(|flow| engine.note_end(now, &flow)) {
                            self.forgotten.fetch_add(1, Ordering::Relaxed);
                            forgotten.extend(is_restored(entry).then(|| entry.clone()));
                        }
                    }
                }
            }
        }
        if let Some(cache) = &self.cache {
            // Restored, so no event tells of it as of one that has become assured.
            cache.note(changes.iter().filter_map(|change| match change {
                Change::New(entry) if entry.is_assured => Some(entry),
                _ => None,
            }))?;
        }
        Ok(updates)
    }

    /// A flow that has ended, with what the cache has carried of it; `None` if it is known that
    /// another one with the same ends has begun since: then a resync has overtaken the event.
    fn last_counters(&self, entry: &Entry) -> io::Result<Option<KernelFlow>> {
        let mut flow = kernel_flow(entry);
        if let Some(cache) = &self.cache {
            let key = FlowKey { protocol: entry.protocol, original: entry.original };
            let Some(carried) = cache.end(&key, entry.id)? else { return Ok(None) };
            cache_sync::add(&mut flow, carried);
        }
        Ok(Some(flow))
    }

    /// Ends flows in the kernel that were deleted from the engine.
    fn end_orphans(&self, engine: &Mutex<Engine>, requests: &mut Requests) -> io::Result<()> {
        let orphans = lock(engine).take_orphans();
        let flows: Vec<_> = orphans
            .into_iter()
            .map(|(protocol, src, dst)| (protocol.0, Ends { src, dst }, None))
            .collect();
        self.end(requests, &flows)
    }

    fn resync_all(
        &self,
        engine: &Mutex<Engine>,
        hearing: &mut Hearing<'_>,
        requests: &mut Requests,
    ) -> io::Result<()> {
        let (mut resync, started) = (Resync::default(), Instant::now());
        let cache = self.cache.as_ref();
        let number = cache.map(|cache| cache.begin_dump()).transpose()?;
        let is_complete = self.dump(engine, requests, None, Some(&mut resync))?;
        hearing.pace.read(started, Instant::now());
        cache.map_or(Ok(()), |cache| cache.renew(requests))?;
        if let Some(cache) = cache {
            cache.save_carried(engine);
        }
        // A dump that the kernel interrupted may lack flows that are there.
        if is_complete {
            // Under a flood they never end. What is heard later is then taken for lost.
            for _ in 0..TAKES {
                if self.hear(engine, hearing, requests, Duration::ZERO, Some(&mut resync))? == 0 {
                    break;
                }
            }
            if let Some((cache, number)) = cache.zip(number) {
                cache.end_dump(number)?;
            }
            lock(engine).end_missing(resync);
        }
        Ok(())
    }

    fn resync_selections(
        &self,
        engine: &Mutex<Engine>,
        requests: &mut Requests,
        selections: &[Selection],
    ) -> io::Result<()> {
        for selection in merge(selections) {
            self.dump(engine, requests, Some(&selection), None)?;
        }
        Ok(())
    }

    /// Shows flows to the engine, and ends those that the engine wants to end. Returns whether the
    /// dump was complete.
    fn dump(
        &self,
        engine: &Mutex<Engine>,
        requests: &mut Requests,
        selection: Option<&Selection>,
        mut resync: Option<&mut Resync>,
    ) -> io::Result<bool> {
        // Flows are ended after the dump: both use one socket, and the answers would mix.
        let (mut over, mut seen) = (Vec::new(), Ok(()));
        let is_complete = requests.dump(selection, |entries| {
            for batch in entries.chunks(BATCH) {
                let mut flows: Vec<_> = batch.iter().map(kernel_flow).collect();
                if let Some(cache) = &self.cache {
                    cache.add_carried(batch, &mut flows);
                }
                let now = monotonic();
                let mut engine = lock(engine);
                let mut ours = Vec::new();
                for (entry, flow) in batch.iter().zip(&flows) {
                    if engine.observe(now, flow, resync.as_deref_mut()) == Outcome::End {
                        over.push((entry.protocol, entry.original, entry.id));
                    } else if self.cache.is_some() && engine.has_offloaded(flow) {
                        ours.push(entry);
                    }
                }
                drop(engine);
                if let (Some(cache), Ok(())) = (&self.cache, &seen) {
                    seen = cache.see(ours.into_iter());
                }
            }
        })?;
        seen?;
        self.end(requests, &over)?;
        Ok(is_complete)
    }

    fn end(&self, requests: &mut Requests, flows: &[(u8, Ends, Option<u32>)]) -> io::Result<()> {
        if let Some(cache) = &self.cache {
            // First, or packets would go on to a backend that the kernel has forgotten.
            let key = |&(protocol, original, id): &_| (FlowKey { protocol, original }, id);
            cache.forget(flows.iter().map(key))?;
        }
        for &(protocol, original, id) in flows {
            let has_ended = requests.end(protocol, original, id)?;
            self.ended.fetch_add(u64::from(has_ended), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// What is heard of the kernel, and how much.
struct Hearing<'a> {
    events: &'a mut Events,
    pace: Pace,
    budget: Budget,
}

/// Flows that the engine is told of under one lock.
const BATCH: usize = 64;
/// How often events are taken behind a full resync, at most.
const TAKES: usize = 64;
/// Time between full resyncs.
const INTERVAL: Duration = Duration::from_secs(30);
