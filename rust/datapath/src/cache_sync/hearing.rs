//! What is heard of conntrack's events about changes.

use std::io;
use std::time::{Duration, Instant};

use kbe_nat_netlink::conntrack::{Entry, Updates};

use crate::update_budget::Budget;

/// Listens, but for the rest of a second in which too much has changed already.
pub(super) struct Hearing {
    budget: Budget,
    /// How long it does not listen now.
    pub(super) pause: Option<Duration>,
}

/// What one turn has heard, beside the entries.
pub(super) struct Heard {
    /// The kernel has dropped events.
    pub(super) is_overrun: bool,
    /// Flows may have changed since the last turn of which nothing is told.
    pub(super) has_lost: bool,
    /// A pause begins.
    pub(super) is_enough: bool,
}

impl Hearing {
    pub(super) fn new() -> Self {
        Self { budget: Budget::new(Instant::now(), EVENTS), pause: None }
    }

    /// Adds flows of which events tell to `entries`.
    pub(super) fn take(
        &mut self,
        updates: &mut Updates,
        entries: &mut Vec<Entry>,
    ) -> io::Result<Heard> {
        let was_paused = self.pause.is_some();
        self.pause = self.budget.pause(Instant::now());
        updates.listen(self.pause.is_none())?;
        let is_overrun = !updates.take(entries)?;
        // Ahead of a look: what changes from now on is heard.
        let has_lost = is_overrun || was_paused && self.pause.is_none();
        Ok(Heard { is_overrun, has_lost, is_enough: self.budget.spend(entries.len()) })
    }
}

/// Events about changes in a second that are listened to: those of some 400 connections.
const EVENTS: usize = 1000;
