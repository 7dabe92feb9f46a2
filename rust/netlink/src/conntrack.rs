//! Flows of the kernel's connection tracking (`linux/netfilter/nfnetlink_conntrack.h`):
//! dumps, events, and requests to end one.
//!
//! Only flows of the default zone: another zone is another program's view of packets that may be
//! tracked in ours as well.

mod answers;
mod changes;
mod entry;
mod events;
mod requests;
#[cfg(test)]
mod testing;
mod uapi;
mod updates;

pub use answers::{Answer, Answers};
pub use changes::{close_timeout, established_timeout};
pub use entry::{Ends, Entry};
pub use events::{Change, Events, Topic, Waker};
pub use requests::{Requests, Selection, Statistics};
pub use updates::{TCP_ESTABLISHED, Updates};
