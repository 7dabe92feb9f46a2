//! Flows of the kernel's connection tracking (`linux/netfilter/nfnetlink_conntrack.h`):
//! dumps, events, and requests to end one.
//!
//! Only flows of the default zone: another zone is another program's view of packets that may be
//! tracked in ours as well.

mod entry;
mod events;
mod requests;
mod uapi;

pub use entry::{Ends, Entry};
pub use events::{Change, Events, Topic, Waker};
pub use requests::{Requests, Selection, Statistics};
