//! How long this thread has run, for work that is to take a share of a processor at most: a busy
//! machine, whose other threads run meanwhile, makes no such work longer.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub(crate) fn thread_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}
