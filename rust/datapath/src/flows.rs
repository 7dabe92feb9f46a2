//! What becomes of flows that the kernel carries: its events, and now and then a look at all of them, go to the engine.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Carried, Census, Engine, Outcome};
use kbe_nat_netlink::conntrack::{Change, Conntrack, Ends, Entry, Waker};
use kbe_nat_netlink::monotonic;

/// Follows the kernel's flows, seen from outside.
#[derive(Debug)]
pub struct FlowWatch {
    waker: Waker,
    is_stopped: AtomicBool,
    /// Looks at all flows that were asked for, and the newest of these that has been answered.
    asked: AtomicU64,
    answered: AtomicU64,
    /// How often backends have left.
    left: AtomicU64,
    changes: AtomicU64,
    overruns: AtomicU64,
    ended: AtomicU64,
    turns: AtomicU64,
}

impl FlowWatch {
    /// The waker is that of the [`Conntrack`] which it will run with.
    #[must_use]
    pub fn new(waker: Waker) -> Self {
        Self {
            waker,
            is_stopped: AtomicBool::default(),
            asked: AtomicU64::default(),
            answered: AtomicU64::default(),
            left: AtomicU64::default(),
            changes: AtomicU64::default(),
            overruns: AtomicU64::default(),
            ended: AtomicU64::default(),
            turns: AtomicU64::default(),
        }
    }

    /// Tells the engine what becomes of the flows whose connmark has the bit `mark`, until [`FlowWatch::stop`] is called.
    ///
    /// # Errors
    /// The system's.
    pub fn run(&self, engine: &Mutex<Engine>, conntrack: &mut Conntrack, mark: u32) -> io::Result<()> {
        let (mut changes, mut looked): (_, Option<Instant>) = (Vec::new(), None);
        let (mut left, mut again) = (0, None::<Instant>);
        while !self.is_stopped.load(Ordering::Relaxed) {
            self.turns.fetch_add(1, Ordering::Relaxed);
            let asked = self.asked.load(Ordering::Acquire);
            let newest = self.left.load(Ordering::Acquire);
            if newest != left {
                (left, again) = (newest, Some(Instant::now() + PATIENT));
            }
            let is_again = again.is_some_and(|when| when <= Instant::now());
            if is_again {
                again = None;
            }
            let is_due = is_again || looked.is_none_or(|when| when.elapsed() >= EVERY);
            if is_due || asked != self.answered.load(Ordering::Relaxed) {
                self.look(engine, conntrack, mark)?;
                looked = Some(Instant::now());
                self.answered.store(asked, Ordering::Release);
            }
            if !conntrack.receive(PATIENCE, &mut changes)? {
                self.overruns.fetch_add(1, Ordering::Relaxed);
                // What was lost is found by a look at all flows.
                looked = None;
            }
            self.changes.fetch_add(changes.len() as u64, Ordering::Relaxed);
            for some in changes.chunks(AT_ONCE) {
                let now = monotonic();
                let mut over = Vec::new();
                let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
                for change in some {
                    match change {
                        Change::New(entry) if entry.mark & mark != 0 => {
                            if engine.observe(now, &carried(entry), None) == Outcome::End {
                                over.push((entry.protocol, entry.original));
                            }
                        }
                        Change::Ended(entry) if entry.mark & mark != 0 => engine.ended(now, &carried(entry)),
                        Change::New(_) | Change::Ended(_) => {}
                    }
                }
                drop(engine);
                self.end(conntrack, &over)?;
            }
            changes.clear();
            let orphans = engine.lock().unwrap_or_else(PoisonError::into_inner).take_orphans();
            let orphans: Vec<_> =
                orphans.into_iter().map(|(protocol, src, dst)| (protocol.0, Ends { src, dst })).collect();
            self.end(conntrack, &orphans)?;
        }
        Ok(())
    }

    /// Ends [`FlowWatch::run`] soon.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Asks for a look at all flows, and returns a number that [`FlowWatch::answered`] reaches when it is done.
    pub fn ask(&self) -> u64 {
        let number = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.waker.wake();
        number
    }

    /// Backends have left: looks at all flows soon for those that nobody would miss, and once more when an answer to a handshake
    /// would have come.
    pub fn backends_left(&self) {
        self.left.fetch_add(1, Ordering::AcqRel);
        self.ask();
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

    /// How often it went round: more often from one moment to the next, unless it hangs.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Looks at all flows once.
    ///
    /// # Errors
    /// The system's: the kernel cannot show them.
    pub fn look(&self, engine: &Mutex<Engine>, conntrack: &mut Conntrack, mark: u32) -> io::Result<()> {
        let (mut census, mut over) = (Census::default(), Vec::new());
        let is_whole = conntrack.dump(mark, |entries| {
            for some in entries.chunks(AT_ONCE) {
                let now = monotonic();
                let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
                let ended = some
                    .iter()
                    .filter(|entry| engine.observe(now, &carried(entry), Some(&mut census)) == Outcome::End);
                over.extend(ended.map(|entry| (entry.protocol, entry.original)));
            }
        })?;
        if is_whole {
            engine.lock().unwrap_or_else(PoisonError::into_inner).end_unseen(census);
        }
        self.end(conntrack, &over)
    }

    fn end(&self, conntrack: &mut Conntrack, flows: &[(u8, Ends)]) -> io::Result<()> {
        for &(protocol, original) in flows {
            let has_ended = conntrack.end(protocol, original)?;
            self.ended.fetch_add(u64::from(has_ended), Ordering::Relaxed);
        }
        Ok(())
    }
}

fn carried(entry: &Entry) -> Carried {
    Carried {
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

/// How long a wait for events lasts, at most. Waking up more often costs others: with 20 ms, bulk TCP that needed all processors lost a
/// twentieth.
const PATIENCE: Duration = Duration::from_millis(200);
/// Flows that are told to the engine at a time, for which packets wait.
const AT_ONCE: usize = 64;
/// Longer than the engine gives a handshake.
const PATIENT: Duration = Duration::from_millis(1500);
/// All flows are looked at so often. The kernel says nothing of those that began while nobody listened
/// (`nf_conntrack_events=2`).
const EVERY: Duration = Duration::from_secs(30);
