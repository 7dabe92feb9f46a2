//! One side of a TCP connection: the record of the segments that it has sent.
//!
//! A check always compares two sides. A side may send as far as the other's record allows: the
//! other side's highest acknowledgement plus the largest window that it has announced. A side may
//! acknowledge no more than the other has sent (`end`). The record therefore holds the sender's
//! `end`, `ack` and `window`; a receiver's limits are read from the receiver's own record.
//!
//! Sequence numbers compare modulo 2^32 (RFC 9293, 3.4), so [`is_before`] is the only comparison.
//!
//! The flags hold the rest: whether the fields count yet (`SEEN`, `ACKED`), whether they may be
//! checked (`LIBERAL`), and the reasons for a shorter timeout (`UNACKNOWLEDGED`, `SHUT`). As long
//! as a side has sent nothing, `SYN_TIMED` lends its `end` to the connect time.

use crate::wire::tcp::{Flags, Segment};

/// The record of one side's segments. Sequence numbers compare modulo 2^32 (RFC 9293, 3.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Side {
    /// Behind the highest sequence number sent; with `SYN_TIMED` the moment of the other side's
    /// SYN.
    pub(crate) end: u32,
    /// Highest acknowledgement sent.
    pub(crate) ack: u32,
    /// Largest window announced, scaled.
    pub(crate) window: u32,
    pub(crate) scale: u8,
    pub(crate) flags: u8,
    /// Segments in a row that sent nothing new.
    pub(crate) retransmissions: u8,
    /// Times that the 32 bits of this side's packet counter have run over; of every protocol.
    pub(crate) packets_high: u8,
}

impl Side {
    /// Flag: this side has sent something.
    pub(super) const SEEN: u8 = 1;
    /// Flag: it has acknowledged something, so `ack` counts.
    pub(super) const ACKED: u8 = 2;
    /// Flag: its SYN had a window scale option.
    pub(super) const SCALED: u8 = 4;
    /// Flag: windows are not checked, because the handshake was not seen, or a segment only in
    /// part.
    pub(super) const LIBERAL: u8 = 8;
    /// Flag: it sent a SYN on a connection that was open.
    pub(super) const SYN_PENDING: u8 = 16;
    /// Flag: its last data is not acknowledged.
    pub(super) const UNACKNOWLEDGED: u8 = 32;
    /// Flag: the connection's last acknowledgement came from this side and announced no window.
    pub(super) const SHUT: u8 = 64;

    /// Flag: this side has sent nothing yet, and `end` says when the other side's first SYN came.
    pub(super) const SYN_TIMED: u8 = 128;

    #[inline(always)]
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    #[inline(always)]
    pub(super) fn set(&mut self, flag: u8, on: bool) {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
    }

    /// Takes a segment that this side has sent into its record.
    #[inline(always)]
    pub(super) fn note(&mut self, segment: &Segment, may_scale: bool) {
        let flags = segment.flags;
        if flags.has(Flags::SYN) {
            self.scale = segment.scale.filter(|_| may_scale || !flags.has(Flags::ACK)).unwrap_or(0);
            self.set(Self::SCALED, segment.scale.is_some());
        }
        let end = segment.seq.wrapping_add(segment.length);
        if !self.has(Self::SEEN) || is_before(self.end, end) {
            // A SYN in flight has its own timeout; unacknowledged data is what the shorter one is
            // for.
            self.set(Self::UNACKNOWLEDGED, segment.payload > 0);
            self.end = end;
            self.retransmissions = 0;
        } else if segment.payload > 0 {
            self.retransmissions = self.retransmissions.saturating_add(1);
        }
        // The window of a SYN is never scaled (RFC 7323, 2.2).
        let scale = if flags.has(Flags::SYN) { 0 } else { self.scale };
        self.window = self.window.max(u32::from(segment.window) << scale).max(1);
        if flags.has(Flags::ACK) && (!self.has(Self::ACKED) || is_before(self.ack, segment.ack)) {
            self.ack = segment.ack;
            self.set(Self::ACKED, true);
        }
        self.set(Self::SEEN, true);
    }

    /// Whether a segment of this side lies in both windows: its data in the receiver's, and its
    /// acknowledgement among what the receiver has sent.
    #[inline(always)]
    pub(super) fn is_in_window(&self, receiver: &Self, segment: &Segment) -> bool {
        // A side that has sent nothing yet has announced no window to compare with.
        if self.has(Self::LIBERAL) || !self.has(Self::SEEN) || !receiver.has(Self::SEEN) {
            return true;
        }
        let end = segment.seq.wrapping_add(segment.length);
        // Data may begin up to the right edge of the receiver's window. Its end may lie one window
        // behind the highest sent, since a retransmission still shows that the connection lives.
        let is_acceptable = !is_before(receiver.ack.wrapping_add(receiver.window), segment.seq)
            && !is_before(end, self.end.wrapping_sub(receiver.window));
        // Data that was never sent cannot be acknowledged; an old acknowledgement may be late.
        let reach = self.window.max(MAX_ACK_WINDOW);
        let is_plausible = !segment.flags.has(Flags::ACK)
            || (!is_before(receiver.end, segment.ack)
                && !is_before(segment.ack, receiver.end.wrapping_sub(reach)));
        is_acceptable && is_plausible
    }
}

/// Whether `a` comes before `b` modulo 2^32.
#[inline(always)]
pub(super) fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// How far an acknowledgement may lie behind what was sent, at least (the kernel's MAXACKWINCONST).
const MAX_ACK_WINDOW: u32 = 66_000;
