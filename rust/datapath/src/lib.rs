//! The one loop: packets from a queue go to the engine, verdicts back to the queue, with upkeep in
//! between.
//!
//! A driver implements [`PacketQueue`]: [`KernelQueue`] here, captures and the `netfilterqueue`
//! package in Python. Several loops, one to a thread and a queue, may share an engine.

mod answer_watch;
mod backend_ids;
mod bridges;
mod cache_devices;
mod cache_sync;
mod cached_flows;
mod conntrack_sync;
mod ended_flows;
mod kernel;
mod kernel_flows;
mod locking;
mod paced_selections;
mod selections;
mod thread_time;
mod update_budget;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use kbe_nat_engine::{Cause, Engine, Packet, Released, Verdict};

pub use answer_watch::AnswerWatch;
pub use backend_ids::BackendIdMap;
pub use cache_devices::uncached_devices;
pub use cache_sync::{CacheSockets, CacheState, CacheSync};
pub use cached_flows::{FlowKey, Standing};
pub use conntrack_sync::ConntrackSync;
pub use kernel::{KernelQueue, Marks, Rewrite};
pub use kernel_flows::kernel_flow;

/// A source of packets that wants a verdict for each.
pub trait PacketQueue {
    /// Why it fails.
    type Error;

    /// Takes packets that came in together, waiting for them a moment; there may be none. Returns
    /// the time in nanoseconds of the driver's monotonic clock, or `None` when there will be no
    /// more.
    ///
    /// # Errors
    /// The driver's own.
    fn receive(&mut self) -> Result<Option<u64>, Self::Error>;

    /// Opens the queue for new packets. The loop calls this once, ahead of its first `receive`.
    ///
    /// # Errors
    /// The driver's own.
    fn start(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Lets new packets pass by the queue, and returns whether the driver can do so. The loop still
    /// receives the packets that are in the queue.
    ///
    /// # Errors
    /// The driver's own.
    fn bypass(&mut self) -> Result<bool, Self::Error> {
        Ok(false)
    }

    /// The packets that were received last.
    fn packets(&mut self) -> Vec<Packet<'_>>;

    /// Whether a fragment waits here under this ticket.
    fn holds(&self, ticket: u32) -> bool;

    /// Sends on, refuses or drops the packets that were received last, and the fragments in
    /// `released`, which wait here.
    ///
    /// # Errors
    /// The driver's own.
    fn set_verdicts(
        &mut self,
        verdicts: &[Verdict],
        released: Vec<Released>,
    ) -> Result<(), Self::Error>;
}

/// A loop, from outside.
#[derive(Debug, Default)]
pub struct Loop {
    is_stopped: AtomicBool,
    packets: AtomicU64,
    /// Batches with packets, by [`BATCH_SIZES`].
    batches: [AtomicU64; BATCH_SIZES.len() + 1],
    panics: AtomicU64,
    turns: AtomicU64,
}

impl Loop {
    /// Passes every packet of `queue` through `engine` until the queue ends or [`Loop::stop`] is
    /// called. Before it ends, packets that were received get their verdicts, and so do packets
    /// that wait in a queue which can be bypassed.
    ///
    /// A defect of the engine costs the packets of one batch, not the loop: its tables are
    /// consistent between packets (F15).
    ///
    /// # Errors
    /// The driver's own.
    pub fn run<Q: PacketQueue>(
        &self,
        engine: &Mutex<Engine>,
        queue: &mut Q,
    ) -> Result<(), Q::Error> {
        let mut verdicts = Vec::new();
        // Only now: packets that came earlier would wait for a loop that does not run yet.
        queue.start()?;
        while !self.is_stopped.load(Ordering::Relaxed) {
            if self.turn(engine, queue, &mut verdicts)?.is_none() {
                return Ok(());
            }
        }
        // The kernel drops what is in a queue that is unbound, so the queue is emptied first.
        if queue.bypass()? {
            while self.turn(engine, queue, &mut verdicts)?.is_some_and(|count| count > 0) {}
        }
        Ok(())
    }

    /// Passes one batch; how many packets it had, or `None` when there will be no more.
    fn turn<Q: PacketQueue>(
        &self,
        engine: &Mutex<Engine>,
        queue: &mut Q,
        verdicts: &mut Vec<Verdict>,
    ) -> Result<Option<u64>, Q::Error> {
        self.turns.fetch_add(1, Ordering::Relaxed);
        let Some(now) = queue.receive()? else { return Ok(None) };
        verdicts.clear();
        let mut packets = queue.packets();
        // The lock is taken after the wait for packets, because other loops share the engine.
        let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
        let is_sound = process_or_drop(&mut packets, verdicts, |packets, verdicts| {
            engine.process_batch(now, packets, verdicts);
        });
        let count = packets.len() as u64;
        // Upkeep shares the batch's lock, and its budget bounds how long other loops wait.
        engine.expire(now, EXPIRY_BUDGET);
        // A fragment goes back by the queue that holds it: packet numbers are the queue's own.
        let released = engine.released(|ticket| queue.holds(ticket));
        // Verdicts are system calls: the other loops need not wait for them.
        drop(engine);
        queue.set_verdicts(verdicts, released)?;
        self.packets.fetch_add(count, Ordering::Relaxed);
        if count > 0 {
            let bucket = BATCH_SIZES.partition_point(|&size| size < count);
            self.batches[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.panics.fetch_add(u64::from(!is_sound), Ordering::Relaxed);
        Ok(Some(count))
    }

    /// Ends [`Loop::run`] soon: when its queue has waited in vain, or its batch is done.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Packets so far.
    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// Batches with packets so far.
    pub fn batches(&self) -> u64 {
        self.batch_sizes().iter().sum()
    }

    /// The same by their sizes: a count for each of [`BATCH_SIZES`], and one for larger batches.
    pub fn batch_sizes(&self) -> [u64; BATCH_SIZES.len() + 1] {
        self.batches.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// How often it went round: more often from one moment to the next, unless it hangs.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Batches that were dropped because the engine failed on them: a defect that should be
    /// reported.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }
}

/// Verdicts on all packets, as `process` says, or a drop for each if it panics; whether it did not.
fn process_or_drop(
    packets: &mut [Packet<'_>],
    verdicts: &mut Vec<Verdict>,
    process: impl FnOnce(&mut [Packet<'_>], &mut Vec<Verdict>),
) -> bool {
    let is_sound = catch_unwind(AssertUnwindSafe(|| process(packets, verdicts))).is_ok();
    if !is_sound {
        // Of a batch that failed no verdict counts: any of its packets may be half rewritten.
        verdicts.clear();
        verdicts.resize(packets.len(), Verdict::drop(Cause::Malformed));
    }
    is_sound
}

/// Packets of a batch, at most, by which batches are counted. The kernel's queue hands out
/// [`kbe_nat_netlink::BATCH`] at a time; other drivers may have more.
pub const BATCH_SIZES: [u64; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
/// Flows that are looked at for expiry after each batch.
pub const EXPIRY_BUDGET: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use kbe_nat_engine::{Action, Config, Meta};

    #[derive(Default)]
    struct Script {
        can_bypass: bool,
        batches: Vec<Vec<Vec<u8>>>,
        current: Vec<Vec<u8>>,
        actions: Vec<Action>,
    }

    impl PacketQueue for Script {
        type Error = ();

        fn receive(&mut self) -> Result<Option<u64>, ()> {
            self.current = self.batches.pop().unwrap_or_default();
            Ok((!self.current.is_empty()).then_some(1))
        }

        fn bypass(&mut self) -> Result<bool, ()> {
            Ok(self.can_bypass)
        }

        fn packets(&mut self) -> Vec<Packet<'_>> {
            self.current.iter_mut().map(|bytes| Packet { bytes, meta: Meta::default() }).collect()
        }

        fn holds(&self, _: u32) -> bool {
            true
        }

        fn set_verdicts(&mut self, verdicts: &[Verdict], _: Vec<Released>) -> Result<(), ()> {
            self.actions.extend(verdicts.iter().map(|verdict| verdict.action));
            Ok(())
        }
    }

    #[test]
    fn every_packet_gets_its_verdict_until_the_queue_ends() {
        let mut queue =
            Script { batches: vec![vec![vec![0xff]], vec![vec![], vec![]]], ..Script::default() };
        let work = Loop::default();
        work.run(&Mutex::new(Engine::new(Config::default())), &mut queue)
            .expect("the script does not fail");
        assert_eq!(queue.actions, [Action::Drop; 3], "no packet is whole");
        assert_eq!((work.packets(), work.batches(), work.panics()), (3, 2, 0));
    }

    #[test]
    fn batches_are_counted_by_their_sizes() {
        let sizes = [1, 2, 3, 4, 64, 65, 256, 257, 300];
        let batches = sizes.iter().map(|&size| vec![vec![0xff]; size]).collect();
        let mut queue = Script { batches, ..Script::default() };
        let work = Loop::default();
        work.run(&Mutex::new(Engine::new(Config::default())), &mut queue)
            .expect("the script does not fail");
        assert_eq!(work.batch_sizes(), [1, 1, 2, 0, 0, 0, 1, 1, 1, 2]);
        assert_eq!(work.batches(), sizes.len() as u64);
    }

    #[test]
    fn a_stopped_loop_takes_nothing() {
        let mut queue = Script { batches: vec![vec![vec![]]], ..Script::default() };
        let work = Loop::default();
        work.stop();
        work.run(&Mutex::new(Engine::new(Config::default())), &mut queue)
            .expect("the script does not fail");
        assert_eq!((work.batches(), queue.batches.len()), (0, 1));
    }

    #[test]
    fn a_queue_that_can_be_bypassed_is_emptied_first() {
        let mut queue = Script {
            can_bypass: true,
            batches: vec![vec![vec![]], vec![vec![]]],
            ..Script::default()
        };
        let work = Loop::default();
        work.stop();
        work.run(&Mutex::new(Engine::new(Config::default())), &mut queue)
            .expect("the script does not fail");
        assert_eq!((work.batches(), queue.actions.len()), (2, 2));
    }

    #[test]
    #[allow(clippy::panic)]
    fn f15_a_panic_costs_one_batch() {
        let mut bytes = [[0u8], [1u8]];
        let [one, two] = &mut bytes;
        let mut packets =
            [one, two].map(|bytes| Packet { bytes: &mut bytes[..], meta: Meta::default() });
        let mut verdicts = Vec::new();
        let is_sound = process_or_drop(&mut packets, &mut verdicts, |_, verdicts| {
            verdicts.push(Verdict::new(Action::Pass, Cause::NotOurs));
            panic!("a defect");
        });
        assert!(!is_sound);
        assert_eq!(verdicts, [Verdict::drop(Cause::Malformed); 2]);
    }
}
