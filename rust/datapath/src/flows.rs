//! What becomes of flows that the kernel carries: its events, and looks at those that are there, go
//! to the engine.
//!
//! Flows are known by their ends, whoever has made them and whatever connmark they have: others
//! write connmarks too.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Engine, KernelFlow, Outcome, Resync};
use kbe_nat_netlink::conntrack::{Change, Ends, Entry, Events, Requests, Selection, Waker};
use kbe_nat_netlink::monotonic;

/// Follows the kernel's flows, seen from outside.
#[derive(Debug)]
pub struct FlowWatch {
    waker: Waker,
    is_stopped: AtomicBool,
    /// Looks at all flows that were asked for, and the newest of these that has been answered.
    asked: AtomicU64,
    answered: AtomicU64,
    /// What is to be looked at soon.
    touched: Mutex<Vec<Selection>>,
    changes: AtomicU64,
    overruns: AtomicU64,
    ended: AtomicU64,
    forgotten: AtomicU64,
    turns: AtomicU64,
}

impl FlowWatch {
    /// The waker is that of the [`Events`] which it will run with.
    #[must_use]
    pub fn new(waker: Waker) -> Self {
        Self {
            waker,
            is_stopped: AtomicBool::default(),
            asked: AtomicU64::default(),
            answered: AtomicU64::default(),
            touched: Mutex::default(),
            changes: AtomicU64::default(),
            overruns: AtomicU64::default(),
            ended: AtomicU64::default(),
            forgotten: AtomicU64::default(),
            turns: AtomicU64::default(),
        }
    }

    /// Tells the engine what becomes of the kernel's flows, until [`FlowWatch::stop`] is called.
    ///
    /// # Errors
    /// The system's.
    pub fn run(
        &self,
        engine: &Mutex<Engine>,
        events: &mut Events,
        requests: &mut Requests,
    ) -> io::Result<()> {
        let (mut changes, mut looked): (_, Option<Instant>) = (Vec::new(), None);
        let mut again: Vec<(Instant, Vec<Selection>)> = Vec::new();
        while !self.is_stopped.load(Ordering::Relaxed) {
            self.turns.fetch_add(1, Ordering::Relaxed);
            let asked = self.asked.load(Ordering::Acquire);
            let touched =
                std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner));
            self.look_at(engine, requests, &touched)?;
            if !touched.is_empty() {
                again.push((Instant::now() + PATIENT, touched));
            }
            let now = Instant::now();
            let due = again.iter().take_while(|(when, _)| *when <= now).count();
            for (_, touched) in again.drain(..due) {
                self.look_at(engine, requests, &touched)?;
            }
            let is_due = looked.is_none_or(|when| when.elapsed() >= EVERY);
            if is_due || asked != self.answered.load(Ordering::Relaxed) {
                self.look(engine, requests)?;
                looked = Some(Instant::now());
                self.answered.store(asked, Ordering::Release);
            }
            if !events.receive(PATIENCE, &mut changes)? {
                self.overruns.fetch_add(1, Ordering::Relaxed);
                // What was lost is found by a look at all flows.
                looked = None;
            }
            self.changes.fetch_add(changes.len() as u64, Ordering::Relaxed);
            for some in changes.chunks(AT_ONCE) {
                let now = monotonic();
                let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
                for change in some {
                    match change {
                        Change::New(entry) => {
                            // Looks end flows, as kube-proxy's syncs do. If one ended here,
                            // somebody else's translation of a frontend would begin and end with
                            // each packet.
                            let _ = engine.observe(now, &kernel_flow(entry), None);
                        }
                        Change::Ended(entry) => {
                            let is_forgotten = engine.note_end(now, &kernel_flow(entry));
                            self.forgotten.fetch_add(u64::from(is_forgotten), Ordering::Relaxed);
                        }
                    }
                }
            }
            changes.clear();
            let orphans = engine.lock().unwrap_or_else(PoisonError::into_inner).take_orphans();
            let orphans: Vec<_> = orphans
                .into_iter()
                .map(|(protocol, src, dst)| (protocol.0, Ends { src, dst }, None))
                .collect();
            self.end(requests, &orphans)?;
        }
        Ok(())
    }

    /// Ends [`FlowWatch::run`] soon.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Asks for a look at all flows, and returns a number that [`FlowWatch::answered`] reaches when
    /// it is done.
    pub fn ask(&self) -> u64 {
        let number = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.waker.wake();
        number
    }

    /// These frontends have come, or backends of theirs have left: looks soon for flows that do not
    /// go where the frontends lead, and once more when an answer to a handshake would have come,
    /// and what was decided just before has its flow.
    pub fn touch(&self, frontends: impl IntoIterator<Item = (Protocol, SocketAddr)>) {
        let selections = frontends.into_iter().map(|(Protocol(protocol), to)| Selection {
            protocol,
            is_ipv4: to.is_ipv4(),
            destination: Some(to),
        });
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).extend(selections);
        self.waker.wake();
    }

    /// The newest look that is done.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Acquire)
    }

    /// Events so far, those of others' flows included.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// How often events were lost because we were too slow.
    pub fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }

    /// Flows that we have ended in the kernel.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Flows that others have taken out of the kernel's table while both ends were talking.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// How often it went round: more often from one moment to the next, unless it hangs.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Looks at all flows once.
    fn look(&self, engine: &Mutex<Engine>, requests: &mut Requests) -> io::Result<()> {
        let mut resync = Resync::default();
        if self.look_for(engine, requests, None, Some(&mut resync))? {
            engine.lock().unwrap_or_else(PoisonError::into_inner).end_missing(resync);
        }
        Ok(())
    }

    /// Looks at these flows once.
    fn look_at(
        &self,
        engine: &Mutex<Engine>,
        requests: &mut Requests,
        touched: &[Selection],
    ) -> io::Result<()> {
        for wanted in merged(touched) {
            self.look_for(engine, requests, Some(&wanted), None)?;
        }
        Ok(())
    }

    /// Shows flows to the engine and ends those that it wants to be ended; whether it has seen all
    /// that are meant.
    fn look_for(
        &self,
        engine: &Mutex<Engine>,
        requests: &mut Requests,
        wanted: Option<&Selection>,
        mut resync: Option<&mut Resync>,
    ) -> io::Result<bool> {
        let mut over = Vec::new();
        let is_whole = requests.dump(wanted, |entries| {
            for some in entries.chunks(AT_ONCE) {
                let now = monotonic();
                let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
                let ended = some.iter().filter(|entry| {
                    engine.observe(now, &kernel_flow(entry), resync.as_deref_mut()) == Outcome::End
                });
                over.extend(ended.map(|entry| (entry.protocol, entry.original, entry.id)));
            }
        })?;
        self.end(requests, &over)?;
        Ok(is_whole)
    }

    fn end(&self, requests: &mut Requests, flows: &[(u8, Ends, Option<u32>)]) -> io::Result<()> {
        for &(protocol, original, id) in flows {
            let has_ended = requests.end(protocol, original, id)?;
            self.ended.fetch_add(u64::from(has_ended), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Each once; and where many are of one family and protocol, all of those at once, since the kernel
/// passes over all flows for each.
fn merged(touched: &[Selection]) -> Vec<Selection> {
    let all_of = |own: &Selection| Selection { destination: None, ..*own };
    let each: HashSet<Selection> = touched.iter().copied().collect();
    let mut counts: HashMap<Selection, usize> = HashMap::new();
    for own in &each {
        *counts.entry(all_of(own)).or_default() += 1;
    }
    let is_many = |own: &Selection| counts.get(&all_of(own)).is_some_and(|&count| count > FEW);
    let merged: HashSet<Selection> =
        each.iter().map(|own| if is_many(own) { all_of(own) } else { *own }).collect();
    merged.into_iter().collect()
}

fn kernel_flow(entry: &Entry) -> KernelFlow {
    KernelFlow {
        protocol: Protocol(entry.protocol),
        original: (entry.original.src, entry.original.dst),
        reply: (entry.reply.src, entry.reply.dst),
        is_replied: entry.is_replied,
        is_assured: entry.is_assured,
        state: entry.state,
        timeout: entry.timeout,
        counters: entry.counters,
    }
}

/// How long a wait for events lasts, at most. Waking up more often costs others: with 20 ms, bulk
/// TCP that needed all processors lost a twentieth.
const PATIENCE: Duration = Duration::from_millis(200);
/// Flows that are told to the engine at a time, for which packets wait.
const AT_ONCE: usize = 64;
/// Longer than the engine gives a handshake.
const PATIENT: Duration = Duration::from_millis(1500);
/// So many passes of the kernel over its flows cost less than to be shown all flows of a protocol.
const FEW: usize = 8;
/// All flows are looked at so often. The kernel says nothing of those that began while nobody
/// listened (`nf_conntrack_events=2`).
const EVERY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_frontends_of_a_protocol_are_looked_at_in_one_pass() {
        let to = |text: &str, protocol: u8| {
            let destination: SocketAddr = text.parse().expect("an address");
            Selection { protocol, is_ipv4: destination.is_ipv4(), destination: Some(destination) }
        };
        let few: Vec<_> = (0..FEW).map(|port| to(&format!("10.0.0.1:{}", port + 1), 17)).collect();
        let mut twice = few.clone();
        twice.extend(&few);
        let sorted = |touched: &[Selection]| {
            let mut merged = merged(touched);
            merged.sort_unstable_by_key(|own| (own.protocol, own.is_ipv4, own.destination));
            merged
        };
        assert_eq!(sorted(&twice), few, "each once");
        twice.push(to("10.0.0.2:1", 17));
        twice.push(to("10.0.0.2:1", 6));
        twice.push(to("[fd00::2]:1", 17));
        let all = Selection { protocol: 17, is_ipv4: true, destination: None };
        assert_eq!(sorted(&twice), [to("10.0.0.2:1", 6), to("[fd00::2]:1", 17), all]);
        assert_eq!(merged(&[]), []);
    }
}
