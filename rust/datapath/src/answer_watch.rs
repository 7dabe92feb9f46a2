//! Tells an engine when backends answer, in the datapath `first-packet`.
//!
//! The engine sees the SYN of a connection, and the kernel carries the SYN-ACK. Its events tell of
//! that, among others that nobody here needs: a connection makes about six, and the kernel makes
//! them for all flows of the namespace. So listening has a [`Budget`]: once a second's events are
//! used up, the watch leaves the kernel's group until it is over, and answers that come meanwhile
//! are not measured.
//!
//! A connection is measured or not by when its answer comes, whatever its connect time: the engine
//! has noted its SYN in any case. So the share that is measured is a fair sample.
//!
//! The thread is another one than that of [`crate::ConntrackSync`]: a resync keeps that one busy
//! for up to a second, in which events would wait.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kbe_nat_engine::Engine;
use kbe_nat_netlink::conntrack::{Answers, Waker};

use crate::kernel_flows::kernel_flow;
use crate::update_budget::{Budget, UPDATES};

/// Tells an engine of answers. One thread runs it, others use the rest.
#[derive(Debug)]
pub struct AnswerWatch {
    waker: Waker,
    is_stopped: AtomicBool,
    turns: AtomicU64,
    updates: AtomicU64,
    pauses: AtomicU64,
}

impl AnswerWatch {
    /// `waker` is that of the [`Answers`] which [`AnswerWatch::run`] gets.
    #[must_use]
    pub fn new(waker: Waker) -> Self {
        Self {
            waker,
            is_stopped: AtomicBool::default(),
            turns: AtomicU64::default(),
            updates: AtomicU64::default(),
            pauses: AtomicU64::default(),
        }
    }

    /// Tells the engine of answers, until [`AnswerWatch::stop`] is called.
    ///
    /// # Errors
    /// The system's.
    pub fn run(&self, engine: &Mutex<Engine>, answers: &mut Answers) -> io::Result<()> {
        let (mut found, mut budget) = (Vec::new(), Budget::new(Instant::now(), UPDATES));
        while !self.is_stopped.load(Ordering::Relaxed) {
            self.turns.fetch_add(1, Ordering::Relaxed);
            let pause = budget.pause(Instant::now());
            answers.listen(pause.is_none())?;
            let updates = answers.receive(pause.unwrap_or(PATIENCE), &mut found)?;
            self.updates.fetch_add(updates as u64, Ordering::Relaxed);
            self.pauses.fetch_add(u64::from(budget.spend(updates)), Ordering::Relaxed);
            if !found.is_empty() {
                let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
                for answer in found.drain(..) {
                    engine.note_answer(answer.time, &kernel_flow(&answer.entry));
                }
            }
        }
        Ok(())
    }

    /// Ends [`AnswerWatch::run`] soon.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Turns of the loop: the number grows unless the loop hangs.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Changes of flows for which the kernel has made an event, about, those of other programs'
    /// flows included.
    pub fn updates(&self) -> u64 {
        self.updates.load(Ordering::Relaxed)
    }

    /// Seconds of which a part was not listened to.
    pub fn pauses(&self) -> u64 {
        self.pauses.load(Ordering::Relaxed)
    }
}

/// How long a wait lasts without any event.
const PATIENCE: Duration = Duration::from_secs(1);
