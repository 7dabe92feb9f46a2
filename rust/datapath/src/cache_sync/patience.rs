//! How long the loop waits.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::cached_flows::CachedFlows;
use crate::locking::lock;

/// How long nothing is to be done about flows, unless something comes.
pub(super) fn patience(flows: &Mutex<CachedFlows>) -> Duration {
    let (now, flows) = (Instant::now(), lock(flows));
    // A little later, so that one turn proposes many.
    let due = flows.next_due().map(|when| when.saturating_duration_since(now) + PAUSE);
    // Nothing wakes us when a RST comes.
    let notices = (flows.count() > 0).then_some(LISTEN);
    [due, notices].into_iter().flatten().fold(BEAT, Duration::min)
}

/// Time between two beats.
pub(super) const BEAT: Duration = Duration::from_secs(1);
/// How often the programs' notices are read.
const LISTEN: Duration = Duration::from_millis(200);
/// Added to the wait for a flow that is due.
const PAUSE: Duration = Duration::from_millis(20);
