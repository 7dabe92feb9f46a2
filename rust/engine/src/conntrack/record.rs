//! The record of a flow, in two parts by use.
//!
//! A packet of an established flow touches the hot part and nothing else: both directions' ends,
//! the deadline, the state and the counters fit one cache line for IPv4 and two for IPv6. The cold
//! part holds the rest: the backend, the place in the list of unassured flows, and TCP's windows.
//!
//! The rewrite of a direction is not stored: it is the reverse of the other direction's ends, and
//! the reply's checksum deltas are the inverse of the original's.

use super::index::FlowId;
use super::state::State;
use super::tcp::Tracking;
use crate::clock::Tick;
use crate::tuple::{Address, Direction, Ends, Protocol, WireEnds};
use crate::verdict::Verdict;
use crate::wire::checksum::Delta;

/// The generation of no service table: the next packet of a flow that has it is assessed anew.
pub(crate) const STALE: u32 = u32::MAX;

/// The part of a record that a packet of an established flow touches.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Hot<A> {
    /// By direction: client to frontend, and backend to client (or to the leased source).
    pub(crate) ends: [WireEnds<A>; 2],
    /// The flow is gone after this moment.
    pub(crate) deadline: Tick,
    /// The service table under which its backend was last found to be there, or [`STALE`].
    pub(crate) generation: u32,
    /// The change that the original direction's rewrite makes to an IP header checksum; the
    /// reply's is the inverse.
    pub(crate) l3: Delta,
    /// The same for a transport checksum.
    pub(crate) l4: Delta,
    pub(crate) protocol: Protocol,
    /// Changed by [`Hot::set_state`].
    pub(crate) state: State,
    /// Changed by [`Hot::set_flags`].
    pub(crate) flags: u8,
    /// Half a byte for each direction, see [`Hot::fast_flags`]. Follows from state and flags.
    pub(crate) fast: u8,
    /// By direction; the overflow is carried to [`super::tcp::Side::packets_high`].
    pub(crate) packets: [u32; 2],
    pub(crate) bytes: [u64; 2],
}

impl<A: Address> Hot<A> {
    /// Flag: a reply was seen.
    pub(crate) const REPLIED: u8 = 1;
    /// Flag: both sides have answered; never evicted.
    pub(crate) const ASSURED: u8 = 2;
    /// Flag: the sender of original packets masquerades them.
    pub(crate) const MASQUERADE: u8 = 4;
    /// Flag: the port that the backend answers to is leased.
    pub(crate) const LEASED: u8 = 8;
    /// Flag: it is offloaded: the kernel translates its packets, and says when it is over.
    pub(crate) const OFFLOADED: u8 = 16;
    /// Flag: an operator has taken it out of the kernel's table after it was offloaded.
    pub(crate) const FORGOTTEN: u8 = 32;
    /// Flag: a look at the kernel's flows has found it ahead of the event that tells of it.
    pub(crate) const AHEAD: u8 = 64;

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The ends of a packet of this direction, before the rewrite.
    pub(crate) fn ends(&self, direction: Direction) -> Ends<A> {
        self.ends[direction as usize].ends()
    }

    /// The ends after the rewrite.
    #[inline]
    pub(crate) fn translation(&self, direction: Direction) -> WireEnds<A> {
        self.ends[direction.opposite() as usize].reply()
    }

    /// The change that the rewrite makes to the checksums of IP header and transport.
    #[inline]
    pub(crate) fn deltas(&self, direction: Direction) -> (Delta, Delta) {
        match direction {
            Direction::Original => (self.l3, self.l4),
            Direction::Reply => (self.l3.inverse(), self.l4.inverse()),
        }
    }

    pub(crate) fn set_state(&mut self, state: State) {
        self.state = state;
        self.settle();
    }

    /// Clears the flags `off`, and sets the flags `on`.
    pub(crate) fn set_flags(&mut self, off: u8, on: u8) {
        self.flags = self.flags & !off | on;
        self.settle();
    }

    /// Works out [`Hot::fast_flags`].
    ///
    /// A datagram may turn [`State::Udp`] into a stream once there were replies, and the first
    /// reply sets a flag, so neither is fast. A connection is fast when both sides have confirmed
    /// it: an acknowledgement then moves windows and the deadline, but neither state nor flags.
    #[inline(always)]
    pub(super) fn settle(&mut self) {
        let masquerade = if self.has(Self::MASQUERADE) { Verdict::MASQUERADE } else { 0 };
        let original = Verdict::FLOW | masquerade;
        let both = original | (Verdict::FLOW | Verdict::REPLY) << 4;
        let confirmed = Self::REPLIED | Self::ASSURED;
        self.fast = match self.state {
            State::Udp if !self.has(Self::REPLIED) => original,
            State::UdpStream => both,
            State::TcpEstablished if self.flags & confirmed == confirmed => both,
            _ => 0,
        };
    }

    /// The flags of the verdict on a packet of this direction that may take the fast path: it
    /// changes neither state nor flags. Else 0.
    #[inline(always)]
    pub(crate) fn fast_flags(&self, direction: Direction) -> u8 {
        self.fast >> (4 * direction as u8) & 15
    }

    /// Counts a packet; whether that fitted, see [`super::FlowTable::carry_packets`].
    #[inline(always)]
    pub(crate) fn count(&mut self, direction: Direction, bytes: u32) -> bool {
        let side = direction as usize;
        self.bytes[side] = self.bytes[side].wrapping_add(bytes.into());
        let (packets, has_run_over) = self.packets[side].overflowing_add(1);
        self.packets[side] = packets;
        !has_run_over
    }

    #[inline]
    pub(crate) fn is_expired(&self, now: Tick) -> bool {
        now > self.deadline
    }

    /// Whether nothing is known of its end.
    pub(crate) fn is_alive(&self, now: Tick) -> bool {
        self.has(Self::OFFLOADED) || !self.is_expired(now)
    }
}

/// The part that only new, changing and ending flows touch, and TCP's windows.
#[derive(Clone, Debug)]
pub(crate) struct Cold {
    /// When it began; see [`crate::clock::between`].
    pub(crate) created: Tick,
    /// The backend's record in the ledger.
    pub(crate) backend: u32,
    /// Neighbours in the list of unassured flows, oldest first; `next` also links free records.
    pub(super) prev: FlowId,
    pub(super) next: FlowId,
    pub(crate) tracking: Tracking,
}

const _: () = assert!(size_of::<Hot<std::net::Ipv4Addr>>() == 64, "one cache line");
const _: () = assert!(size_of::<Hot<std::net::Ipv6Addr>>() == 128, "two cache lines");
const _: () = assert!(size_of::<Cold>() == 48, "with hot record and index 133.4 bytes a flow");
