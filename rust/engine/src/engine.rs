//! The engine: tables and packets in, verdicts out.
//!
//! Time, randomness and bytes are arguments. `process` touches one packet; upkeep
//! ([`Engine::expire`]) has a budget; nothing blocks, logs or reads a clock.

pub mod checkpoint;
pub mod decisions;
pub(crate) mod explain;
pub(crate) mod kernel_flow;
pub(crate) mod offload;
pub mod view;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::affinity::Affinity;
use crate::clock::{Clock, Tick};
use crate::config::Config;
use crate::conntrack::STALE;
use crate::conntrack::ports::Leases;
use crate::conntrack::timeouts::Timeouts;
use crate::counters::Counters;
use crate::engine::checkpoint::CarriedFlow;
use crate::fragment::Released;
use crate::hash::HashKey;
use crate::ledger::{Ledger, Standing};
use crate::pipeline::{Candidate, FamilyState, Packet, Shared, version};
use crate::rng::{Rng, mix64};
use crate::service::{NodeView, ServiceTable};
use crate::verdict::{Action, Cause, Verdict};
use crate::wire::Wire;

/// Service NAT without input or output.
#[derive(Debug)]
pub struct Engine {
    pub(crate) shared: Shared,
    pub(crate) v4: FamilyState<Ipv4Addr>,
    pub(crate) v6: FamilyState<Ipv6Addr>,
    key: HashKey,
    /// For the next daemon.
    carried: Vec<CarriedFlow>,
}

/// Flow numbers have 31 bits (the index keeps one for the direction).
const MAX_FLOWS: usize = 1 << 30;

impl Engine {
    /// An engine that serves nothing yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let config = Config { max_flows: config.max_flows.min(MAX_FLOWS), ..config };
        let key = HashKey::new(config.secret);
        let table = ServiceTable::empty(key);
        Self {
            v4: FamilyState::new(&config, key),
            v6: FamilyState::new(&config, key),
            shared: Shared {
                clock: Clock::default(),
                table: Arc::new(table),
                generation: 0,
                ledger: Ledger::new(mix64(config.seed), key, config.decisions),
                affinity: Affinity::new(config.max_affinities, key),
                leases: Leases::new(
                    config.ports,
                    &config.allocation,
                    config.mapping,
                    key,
                    // Not of both together: whoever gives one number for both would undo them.
                    Rng::new(mix64(config.seed) ^ config.secret),
                ),
                counters: Counters::default(),
                released: Vec::new(),
                orphans: Vec::new(),
                config,
            },
            key,
            carried: Vec::new(),
        }
    }

    /// The key to build a [`ServiceTable`] with.
    #[must_use]
    pub fn hash_key(&self) -> HashKey {
        self.key
    }

    /// The table in force.
    #[must_use]
    pub fn services(&self) -> &Arc<ServiceTable> {
        &self.shared.table
    }

    /// Lets flows live so long from their next packet on.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.shared.config.timeouts = timeouts;
    }

    /// Puts a table in force and returns the one before, so that the caller can drop it where time
    /// does not matter. Flows keep their backend; one that has lost it is decided anew (UDP,
    /// unanswered TCP) or goes on (answered TCP).
    ///
    /// Cost: the part that the two tables do not share. One that was made from the table in force
    /// ([`ServiceTable::with_changes`]) costs a look-up per backend of the service ports that
    /// differ; packets that come meanwhile wait for no more than that.
    pub fn replace_services(&mut self, table: Arc<ServiceTable>) -> Arc<ServiceTable> {
        self.shared.ledger.adopt(&self.shared.table, &table);
        self.shared.generation = (self.shared.generation + 1) % STALE;
        // Unanswered SYNs to backends that are gone are swept out soon.
        self.v4.flows.note_deadline(0);
        self.v6.flows.note_deadline(0);
        std::mem::replace(&mut self.shared.table, table)
    }

    /// Processes one packet that came in at `now`, in nanoseconds of a monotonic clock: rewrites it
    /// in place, and says what is to be done with it. Cost: for a known flow three cache lines, one
    /// more for TCP; nothing is allocated.
    #[inline]
    pub fn process(&mut self, now: u64, packet: &mut Packet<'_>) -> Verdict {
        self.shared.clock.advance(now);
        match version(packet.bytes) {
            4 => self.process_one::<Ipv4Addr>(packet),
            6 => self.process_one::<Ipv6Addr>(packet),
            _ => self.shared.versionless(packet.bytes, packet.meta),
        }
    }

    #[inline(always)]
    fn process_one<A: EngineAddress>(&mut self, packet: &mut Packet<'_>) -> Verdict {
        let (shared, family) = A::split(self);
        let mut candidate = Candidate::OTHER;
        if candidate.note(family, packet.bytes) {
            candidate.guess_flow(family);
        }
        shared.process(family, candidate, packet)
    }

    /// Processes packets that came in together, exactly as one after the other; memory that they
    /// need is fetched for all before the first is touched. `verdicts` gets one for each.
    pub fn process_batch(
        &mut self,
        now: u64,
        packets: &mut [Packet<'_>],
        verdicts: &mut Vec<Verdict>,
    ) {
        self.shared.clock.advance(now);
        verdicts.reserve(packets.len());
        let mut rest = packets;
        while let Some(first) = rest.first() {
            let done = match version(first.bytes) {
                4 => self.process_run::<Ipv4Addr>(rest, verdicts),
                6 => self.process_run::<Ipv6Addr>(rest, verdicts),
                _ => {
                    verdicts.push(self.shared.versionless(first.bytes, first.meta));
                    1
                }
            };
            rest = &mut rest[done..];
        }
    }

    /// Processes the packets of one family at the front, and returns how many they were.
    fn process_run<A: EngineAddress>(
        &mut self,
        packets: &mut [Packet<'_>],
        verdicts: &mut Vec<Verdict>,
    ) -> usize {
        let (shared, family) = A::split(self);
        let mut candidates = [Candidate::OTHER; CHUNK];
        let run = Candidate::of_all(family, packets, &mut candidates);
        let first = verdicts.len();
        verdicts.resize(first + run, Verdict::new(Action::Pass, Cause::NotOurs));
        let verdicts = &mut verdicts[first..];
        shared.process_all(family, &candidates[..run], &mut packets[..run], verdicts);
        run
    }

    /// Fragments that were held and are decided now, those of the caller: of several drivers each
    /// has its own tickets.
    pub fn released(&mut self, is_own: impl Fn(u32) -> bool) -> Vec<Released> {
        self.shared.released.extract_if(.., |released| is_own(released.ticket)).collect()
    }

    /// Ends flows and forgets clients and fragments whose time is over, looking at no more than
    /// `budget` of each kind; returns how many flows ended. A flow that is over is never used,
    /// whether this was called or not.
    pub fn expire(&mut self, now: u64, budget: usize) -> usize {
        let tick = self.shared.clock.advance(now);
        let before = self.shared.counters.expired;
        self.expire_family::<Ipv4Addr>(tick, budget);
        self.expire_family::<Ipv6Addr>(tick, budget);
        let ledger = &self.shared.ledger;
        self.shared.affinity.expire(tick, budget, |sticky| {
            ledger.backend(sticky.backend.0).birth != sticky.backend.1
        });
        (self.shared.counters.expired - before) as usize
    }

    fn expire_family<A: EngineAddress>(&mut self, now: Tick, budget: usize) {
        let (shared, family) = A::split(self);
        family.fragments.expire(now, budget);
        shared.release_given_up(family);
        let mut budget = budget;
        loop {
            let (generation, ledger) = (shared.generation, &shared.ledger);
            // For the client no connection has begun: its next SYN may choose another backend.
            let expired = family.flows.sweep(now, &mut budget, |hot, cold| {
                hot.generation != generation
                    && hot.state.is_unanswered()
                    && ledger.backend(cold.backend).standing != Standing::Listed
            });
            let Some(id) = expired else { return };
            shared.end_flow(family, id);
            shared.counters.expired += 1;
        }
    }

    /// When [`Engine::expire`] has something to do next, in the caller's nanoseconds; `None` when
    /// nothing is pending. Never later than the first end of a flow.
    #[must_use]
    pub fn next_expiry(&self) -> Option<u64> {
        let flows = [self.v4.flows.earliest_deadline(), self.v6.flows.earliest_deadline()];
        let fragments =
            [self.v4.fragments.earliest_deadline(), self.v6.fragments.earliest_deadline()];
        flows.into_iter().chain(fragments).flatten().min().map(|tick| self.shared.clock.after(tick))
    }

    /// Packets by action since the start.
    pub fn actions(&self) -> impl Iterator<Item = (Action, u64)> {
        let count =
            |action| Cause::ALL.iter().map(|&cause| self.shared.counters.of(action, cause)).sum();
        Action::ALL.into_iter().map(move |action| (action, count(action)))
    }

    /// Packets by cause since the start, without causes that did not occur.
    pub fn causes(&self) -> impl Iterator<Item = (Cause, u64)> {
        let count =
            |cause| Action::ALL.iter().map(|&action| self.shared.counters.of(action, cause)).sum();
        Cause::ALL.iter().map(move |&cause| (cause, count(cause))).filter(|&(_, count)| count > 0)
    }

    /// The node's view in force.
    #[must_use]
    pub fn node(&self) -> &NodeView {
        self.shared.table.node()
    }
}

/// The engine's part for one family.
pub(crate) trait EngineAddress: Wire {
    fn split(engine: &mut Engine) -> (&mut Shared, &mut FamilyState<Self>);
    fn state_of(engine: &Engine) -> &FamilyState<Self>;
}

impl EngineAddress for Ipv4Addr {
    #[inline]
    fn split(engine: &mut Engine) -> (&mut Shared, &mut FamilyState<Self>) {
        (&mut engine.shared, &mut engine.v4)
    }

    fn state_of(engine: &Engine) -> &FamilyState<Self> {
        &engine.v4
    }
}

impl EngineAddress for Ipv6Addr {
    #[inline]
    fn split(engine: &mut Engine) -> (&mut Shared, &mut FamilyState<Self>) {
        (&mut engine.shared, &mut engine.v6)
    }

    fn state_of(engine: &Engine) -> &FamilyState<Self> {
        &engine.v6
    }
}

/// Packets whose memory is fetched together; more would push each other out of the nearest cache.
const CHUNK: usize = 64;
