//! Changes of connections of TCP, and the timeouts that they have.

use super::entry::{Ends, put_tuple};
use super::uapi::{
    CTA_PROTOINFO, CTA_PROTOINFO_STATE, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL,
    CTA_PROTOINFO_TCP_FLAGS_REPLY, CTA_TIMEOUT, IPCTNL_MSG_CT_NEW, SUBSYSTEM, TCP_CLOSE,
    TCP_FLAG_BE_LIBERAL, TCP_FLAG_CLOSE_INIT, TCP_FLAG_DATA_UNACKNOWLEDGED,
};
use crate::attribute::{Head, close, open, put, put_nest};
use crate::family::Family;

/// Seconds for which conntrack keeps an established connection of TCP without packets, in the
/// calling thread's network namespace.
#[must_use]
pub fn established_timeout() -> u32 {
    let text = std::fs::read_to_string(ESTABLISHED_TIMEOUT).unwrap_or_default();
    text.trim().parse().unwrap_or(FIVE_DAYS)
}

/// Seconds for which conntrack keeps a connection of TCP after a RST, in the calling thread's
/// network namespace.
#[must_use]
pub fn close_timeout() -> u32 {
    let text = std::fs::read_to_string(CLOSE_TIMEOUT).unwrap_or_default();
    text.trim().parse().unwrap_or(TEN_SECONDS)
}

/// What is to change of a connection of TCP.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) timeout: Option<u32>,
    pub(super) state: Option<u8>,
    /// The flags of both ends that are to be set.
    pub(super) flags: u8,
    /// Those that are to be set or taken away.
    pub(super) mask: u8,
}

pub(super) const NONE: Changes = Changes { timeout: None, state: None, flags: 0, mask: 0 };
/// Windows do not count, and no data is unacknowledged.
pub(super) const LIBERAL: Changes = Changes {
    flags: TCP_FLAG_BE_LIBERAL,
    mask: TCP_FLAG_BE_LIBERAL | TCP_FLAG_DATA_UNACKNOWLEDGED,
    ..NONE
};
/// As a RST leaves it that is right.
pub(super) const CLOSED: Changes = Changes {
    state: Some(TCP_CLOSE),
    flags: TCP_FLAG_CLOSE_INIT,
    mask: TCP_FLAG_CLOSE_INIT,
    ..NONE
};

/// Appends a request to change a connection of TCP. Only an error is answered.
pub(super) fn put_change(bytes: &mut Vec<u8>, sequence: u32, original: Ends, changes: &Changes) {
    let head = Head {
        subsystem: SUBSYSTEM,
        // Without the flag to create, NEW changes a flow that is there.
        kind: IPCTNL_MSG_CT_NEW as u8,
        sequence,
        family: Some(Family::of(&original.src)),
        ..Head::default()
    };
    let start = open(bytes, head);
    put_tuple(bytes, TCP, Some(original.src), Some(original.dst));
    if let Some(seconds) = changes.timeout {
        put(bytes, CTA_TIMEOUT, &seconds.to_be_bytes());
    }
    let flags = [changes.flags, changes.mask];
    put_nest(bytes, CTA_PROTOINFO, |bytes| {
        put_nest(bytes, CTA_PROTOINFO_TCP, |bytes| {
            if let Some(state) = changes.state {
                put(bytes, CTA_PROTOINFO_STATE, &[state]);
            }
            put(bytes, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, &flags);
            put(bytes, CTA_PROTOINFO_TCP_FLAGS_REPLY, &flags);
        });
    });
    finish(bytes, start);
}

/// Closes one of several requests.
pub(super) fn finish(bytes: &mut Vec<u8>, start: usize) {
    close(bytes, start, 0);
    // The next one begins at a multiple of four.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

const TCP: u8 = libc::IPPROTO_TCP as u8;
const ESTABLISHED_TIMEOUT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
/// The kernel's default.
const FIVE_DAYS: u32 = 432_000;
const CLOSE_TIMEOUT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close";
/// The kernel's default.
const TEN_SECONDS: u32 = 10;
