//! TCP connection tracking: the states of nf_conntrack, and enough of both windows to tell an exact
//! RST from a guessed one.
//!
//! The engine forwards; it does not police. A segment that does not fit changes no state and
//! refreshes nothing (F41, F42), and is translated or dropped as configured, but never leaves with
//! untranslated addresses (F47).
//!
//! States are those of `Documentation/networking/nf_conntrack-sysctl.rst`: FIN_WAIT after the first
//! FIN, CLOSE_WAIT when it is acknowledged, LAST_ACK after the second FIN, TIME_WAIT when that is
//! acknowledged.
//!
//! `Tracking::advance` asks in this order: are the flags possible; is it a RST, which needs the
//! exact number; is it a SYN on an open connection, which is let through unmoved so that the other
//! end can challenge it (RFC 5961); does it lie in both windows. Only a segment that has passed all
//! of this is noted and moves the state. Each `Side` holds what that side has sent. Its receiver
//! is the other side's record, so a check always compares two of them: a side may send as far as
//! the other has acknowledged and announced.
//!
//! Where the handshake was not seen, or a segment only in part, windows are not known and not
//! checked (`LIBERAL`).

mod side;

use super::state::State;
use super::timeouts::{Timeout, Timeouts};
use crate::clock::{Stamp, Tick};
use crate::tuple::Direction;
use crate::wire::tcp::{Flags, Segment};
pub(crate) use side::Side;
use side::is_before;

/// Both sides of a connection, by direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tracking {
    pub(crate) sides: [Side; 2],
}

/// The effect of a segment on its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// It fits; the connection is now in this state.
    To(State),
    /// It fits but refreshes nothing: a SYN on an open connection, which the other side will
    /// challenge (RFC 5961, 4), or a SYN that is sent again.
    Unmoved,
    /// It does not fit.
    Invalid,
    /// A SYN on a connection that is over: a new connection begins (RFC 9293, 3.6.1).
    Reopened,
}

impl Tracking {
    /// A connection whose first segment is `segment`, travelling from the client: a SYN, or an
    /// acknowledgement in mid-stream.
    #[inline(always)]
    pub(crate) fn opening(segment: &Segment, now: Stamp) -> (State, Self) {
        let mut tracking = Self::default();
        let side = &mut tracking.sides[Direction::Original as usize];
        side.note(segment, false);
        if segment.flags.is_opening() {
            tracking.note_syn(now);
            return (State::TcpSynSent, tracking);
        }
        side.set(Side::SHUT, segment.window == 0);
        tracking.ignore_windows();
        (State::TcpEstablished, tracking)
    }

    /// Notes when the client's first SYN came. It stands where the answer's sequence number will
    /// stand, which counts only once the backend has sent something.
    #[inline(always)]
    fn note_syn(&mut self, now: Stamp) {
        let side = &mut self.sides[Direction::Reply as usize];
        (side.end, side.flags) = (now.0, Side::SYN_TIMED);
    }

    /// When the client's first SYN came, if the backend has not sent anything yet.
    #[inline]
    pub(crate) fn syn_time(&self) -> Option<Stamp> {
        let side = &self.sides[Direction::Reply as usize];
        side.has(Side::SYN_TIMED).then_some(Stamp(side.end))
    }

    /// No connect time will be measured any more.
    pub(crate) fn forget_syn(&mut self) {
        self.sides[Direction::Reply as usize].set(Side::SYN_TIMED, false);
    }

    /// The record without the moment of a SYN: another engine has another clock.
    pub(crate) fn untimed(&self) -> Self {
        let mut tracking = *self;
        let side = &mut tracking.sides[Direction::Reply as usize];
        if side.has(Side::SYN_TIMED) {
            side.set(Side::SYN_TIMED, false);
            side.end = 0;
        }
        tracking
    }

    /// Windows are not checked any more, because one side's segments are not known in full. A
    /// fragment's segment is longer than what was seen of it, so the other side acknowledges more.
    pub(crate) fn ignore_windows(&mut self) {
        for side in &mut self.sides {
            side.set(Side::LIBERAL, true);
        }
    }

    /// Takes a segment of a known connection into account. Cost: constant.
    pub(crate) fn advance(
        &mut self,
        state: State,
        direction: Direction,
        segment: &Segment,
    ) -> Progress {
        let flags = segment.flags;
        if !flags.is_possible() {
            return Progress::Invalid;
        }
        // A RST comes before the windows: it needs the exact number, which is a stricter test, and
        // a host that knows nothing of the connection sends one without an acknowledgement.
        if flags.has(Flags::RST) {
            return self.reset(state, direction, segment.seq);
        }
        let is_original = direction == Direction::Original;
        if flags.has(Flags::SYN) && !flags.has(Flags::ACK) && is_original {
            match state {
                State::TcpTimeWait | State::TcpClose => return Progress::Reopened,
                State::TcpEstablished
                | State::TcpFinWait
                | State::TcpCloseWait
                | State::TcpLastAck => {
                    // A forged SYN must not end a connection, so the backend's answer decides: a
                    // challenge ACK (RFC 5961, 4), or a SYN-ACK from a host that restarted.
                    self.sides[0].set(Side::SYN_PENDING, true);
                    return Progress::Unmoved;
                }
                _ => {}
            }
        }
        let is_answer = flags.has(Flags::SYN | Flags::ACK) && !is_original;
        if is_answer && self.sides[0].has(Side::SYN_PENDING) && !state.is_half_open() {
            return self.restart(segment);
        }
        // Before the SYN-ACK nothing can be acknowledged: the kernel's table calls this invalid.
        if flags.has(Flags::ACK) && !flags.has(Flags::SYN) && state == State::TcpSynSent {
            return Progress::Invalid;
        }
        let sender = &self.sides[direction as usize];
        let receiver = &self.sides[direction.opposite() as usize];
        if !flags.has(Flags::SYN) && !sender.is_in_window(receiver, segment) {
            return Progress::Invalid;
        }
        self.note(direction, segment);
        // A client that repeats its SYN for ever must not keep the flow alive.
        if state == State::TcpSynSent && is_original && flags.is_opening() {
            return Progress::Unmoved;
        }
        Progress::To(next(state, is_original, flags))
    }

    /// As [`Tracking::advance`] for nothing but an acknowledgement on an established connection:
    /// takes it into account; false if it does not fit, and nothing was done.
    #[inline(always)]
    pub(crate) fn acknowledge(&mut self, direction: Direction, segment: &Segment) -> bool {
        let sender = &self.sides[direction as usize];
        let receiver = &self.sides[direction.opposite() as usize];
        let fits = sender.is_in_window(receiver, segment);
        if fits {
            self.note(direction, segment);
        }
        fits
    }

    /// How long the connection lives in `state`, given what is outstanding; as
    /// nf_conntrack_proto_tcp.c.
    #[inline(always)]
    pub(crate) fn timeout(&self, state: State, is_replied: bool, timeouts: &Timeouts) -> Tick {
        let usual = timeouts.of(state);
        let [one, other] = &self.sides;
        let flags = one.flags | other.flags;
        // Picked up in mid-stream: a single stray segment must not hold a flow for days.
        let is_one_sided = state == State::TcpEstablished && !is_replied;
        let shorter = if one.retransmissions.max(other.retransmissions) >= 3 {
            Timeout::TcpMaxRetrans
        } else if flags & Side::UNACKNOWLEDGED != 0 || is_one_sided {
            Timeout::TcpUnacknowledged
        } else if flags & Side::SHUT != 0 {
            Timeout::TcpMaxRetrans
        } else {
            return usual;
        };
        usual.min(timeouts.get(shorter))
    }

    /// A RST closes an open connection only with exactly the sequence number that the other side
    /// expects next (RFC 5961, 3.2; the kernel's rule).
    fn reset(&mut self, state: State, direction: Direction, seq: u32) -> Progress {
        let other = &self.sides[direction.opposite() as usize];
        if !other.has(Side::ACKED) || seq == other.ack {
            return Progress::To(State::TcpClose);
        }
        if state.is_half_open() && !is_before(seq, other.ack) {
            Progress::To(State::TcpClose)
        } else {
            Progress::Invalid
        }
    }

    /// The answer to a SYN on an open connection: the backend has begun a new one. Its windows are
    /// not known.
    fn restart(&mut self, segment: &Segment) -> Progress {
        for side in &mut self.sides {
            *side = Side { packets_high: side.packets_high, ..Side::default() };
            side.set(Side::LIBERAL, true);
        }
        self.sides[0].end = segment.ack;
        self.sides[0].set(Side::SEEN, true);
        self.note(Direction::Reply, segment);
        Progress::To(State::TcpSynRecv)
    }

    #[inline(always)]
    fn note(&mut self, direction: Direction, segment: &Segment) {
        let both_scale = match direction {
            Direction::Original => true,
            Direction::Reply => self.sides[0].has(Side::SCALED),
        };
        let flags = segment.flags;
        let sender = &mut self.sides[direction as usize];
        sender.note(segment, both_scale);
        let is_refusing_scale =
            flags.has(Flags::SYN) && direction == Direction::Reply && !sender.has(Side::SCALED);
        let is_plain_ack = flags.0 & (Flags::ACK | Flags::SYN | Flags::FIN) == Flags::ACK;
        // A shut window shortens the timeout only while it is the connection's last word, so the
        // other side's acknowledgement clears it.
        if is_plain_ack {
            sender.set(Side::SHUT, segment.window == 0);
        }
        let receiver = &mut self.sides[direction.opposite() as usize];
        if is_plain_ack {
            receiver.set(Side::SHUT, false);
        }
        if is_refusing_scale {
            // Window scaling is in use only if both have offered it (RFC 7323, 2.2).
            receiver.scale = 0;
        }
        // Beyond it only where windows are not checked and not all that was sent is known.
        if flags.has(Flags::ACK) && !is_before(segment.ack, receiver.end) {
            receiver.set(Side::UNACKNOWLEDGED, false);
            receiver.retransmissions = 0;
        }
    }
}

/// The state after a fitting segment without RST.
fn next(state: State, is_original: bool, flags: Flags) -> State {
    use State::{
        TcpCloseWait, TcpEstablished, TcpFinWait, TcpLastAck, TcpSynRecv, TcpSynSent, TcpSynSent2,
        TcpTimeWait,
    };
    let (syn, ack, fin) = (flags.has(Flags::SYN), flags.has(Flags::ACK), flags.has(Flags::FIN));
    match (state, syn, fin) {
        (TcpSynSent, true, _) if !is_original && ack => TcpSynRecv,
        (TcpSynSent, true, _) if !is_original => TcpSynSent2,
        (TcpSynSent2, true, _) if ack => TcpSynRecv,
        (_, true, _) => state,
        (TcpSynRecv | TcpEstablished, _, true) => TcpFinWait,
        (TcpFinWait | TcpCloseWait, _, true) => TcpLastAck,
        (_, _, true) => state,
        (TcpSynRecv, ..) if is_original && ack => TcpEstablished,
        (TcpFinWait, ..) if ack => TcpCloseWait,
        (TcpLastAck, ..) if ack => TcpTimeWait,
        _ => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: u8 = Flags::SYN;
    const ACK: u8 = Flags::ACK;
    const FIN: u8 = Flags::FIN;
    const RST: u8 = Flags::RST;

    fn segment(flags: u8, seq: u32, ack: u32, payload: u32) -> Segment {
        let flags = Flags(flags);
        let length = payload + u32::from(flags.has(SYN)) + u32::from(flags.has(FIN));
        Segment { flags, seq, ack, window: 1000, length, payload, scale: None }
    }

    /// Runs `steps` (original?, flags, seq, ack, payload, expected) over one connection that begins
    /// with a SYN at 100.
    fn run(steps: &[(bool, u8, u32, u32, u32, Progress)]) -> (State, Tracking) {
        let (mut state, mut tracking) = Tracking::opening(&segment(SYN, 100, 0, 0), Stamp(7));
        assert_eq!(state, State::TcpSynSent);
        for &(original, flags, seq, ack, payload, expected) in steps {
            let direction = if original { Direction::Original } else { Direction::Reply };
            let progress = tracking.advance(state, direction, &segment(flags, seq, ack, payload));
            assert_eq!(
                progress, expected,
                "{state:?} {direction:?} {flags:#x} seq {seq} ack {ack}"
            );
            if let Progress::To(next) = progress {
                state = next;
            }
        }
        (state, tracking)
    }

    const HANDSHAKE: [(bool, u8, u32, u32, u32, Progress); 2] = [
        (false, SYN | ACK, 500, 101, 0, Progress::To(State::TcpSynRecv)),
        (true, ACK, 101, 501, 0, Progress::To(State::TcpEstablished)),
    ];

    #[test]
    fn whole_life_of_a_connection() {
        let mut steps = HANDSHAKE.to_vec();
        steps.extend([
            (true, ACK, 101, 501, 10, Progress::To(State::TcpEstablished)),
            (false, ACK, 501, 111, 20, Progress::To(State::TcpEstablished)),
            (true, FIN | ACK, 111, 521, 0, Progress::To(State::TcpFinWait)),
            (false, ACK, 521, 112, 0, Progress::To(State::TcpCloseWait)),
            (false, FIN | ACK, 521, 112, 0, Progress::To(State::TcpLastAck)),
            (true, ACK, 112, 522, 0, Progress::To(State::TcpTimeWait)),
            (true, SYN, 9000, 0, 0, Progress::Reopened),
        ]);
        run(&steps);
    }

    #[test]
    fn f41_only_the_exact_rst_closes() {
        let mut steps = HANDSHAKE.to_vec();
        steps.push((false, ACK, 501, 101, 20, Progress::To(State::TcpEstablished)));
        steps.push((true, ACK, 101, 521, 0, Progress::To(State::TcpEstablished)));
        for (original, seq) in
            [(false, 520), (false, 522), (false, 1400), (false, 100_000), (true, 100), (true, 102)]
        {
            steps.push((original, RST, seq, 0, 0, Progress::Invalid));
        }
        let mut from_backend = steps.clone();
        from_backend.push((false, RST, 521, 0, 0, Progress::To(State::TcpClose)));
        run(&from_backend);
        steps.push((true, RST, 101, 0, 0, Progress::To(State::TcpClose)));
        run(&steps);
    }

    #[test]
    fn f43_syn_on_an_established_connection() {
        let mut steps = HANDSHAKE.to_vec();
        steps.extend([
            (true, SYN, 7000, 0, 0, Progress::Unmoved),
            (false, ACK, 501, 101, 0, Progress::To(State::TcpEstablished)),
            (true, RST, 101, 0, 0, Progress::To(State::TcpClose)),
            (true, SYN, 7000, 0, 0, Progress::Reopened),
        ]);
        run(&steps);
        let mut steps = HANDSHAKE.to_vec();
        steps.extend([
            (true, SYN, 7000, 0, 0, Progress::Unmoved),
            (false, SYN | ACK, 90_000, 7001, 0, Progress::To(State::TcpSynRecv)),
            (true, ACK, 7001, 90_001, 0, Progress::To(State::TcpEstablished)),
        ]);
        run(&steps);
    }

    #[test]
    fn f45_simultaneous_open_and_close() {
        run(&[
            (false, SYN, 500, 0, 0, Progress::To(State::TcpSynSent2)),
            (true, SYN | ACK, 100, 501, 0, Progress::To(State::TcpSynRecv)),
            (true, ACK, 101, 501, 0, Progress::To(State::TcpEstablished)),
            (true, FIN | ACK, 101, 501, 0, Progress::To(State::TcpFinWait)),
            (false, FIN | ACK, 501, 101, 0, Progress::To(State::TcpLastAck)),
            (true, ACK, 102, 502, 0, Progress::To(State::TcpTimeWait)),
        ]);
    }

    #[test]
    fn f47_out_of_window_changes_nothing() {
        let mut steps = HANDSHAKE.to_vec();
        steps.extend([
            (true, ACK, 101 + 5000, 501, 10, Progress::Invalid),
            (true, ACK, 101, 501 + 9999, 10, Progress::Invalid),
            (true, 0, 101, 501, 10, Progress::Invalid),
            (true, SYN | FIN, 101, 501, 0, Progress::Invalid),
            (true, ACK, 101, 501, 10, Progress::To(State::TcpEstablished)),
        ]);
        run(&steps);
    }

    #[test]
    fn window_scaling_counts_only_if_both_offer_it() {
        for (answer, is_wide) in [(Some(7), true), (None, false)] {
            let (state, mut tracking) =
                Tracking::opening(&Segment { scale: Some(7), ..segment(SYN, 100, 0, 0) }, Stamp(7));
            let answer = Segment { scale: answer, ..segment(SYN | ACK, 500, 101, 0) };
            assert_eq!(
                tracking.advance(state, Direction::Reply, &answer),
                Progress::To(State::TcpSynRecv)
            );
            tracking.advance(State::TcpSynRecv, Direction::Original, &segment(ACK, 101, 501, 0));
            let far = segment(ACK, 501 + 100_000, 101, 1);
            let fits = tracking.advance(State::TcpEstablished, Direction::Reply, &far)
                != Progress::Invalid;
            assert_eq!(fits, is_wide);
        }
    }

    #[test]
    fn f40_shorter_lives_while_something_is_outstanding() {
        let timeouts = Timeouts::default();
        let established = State::TcpEstablished;
        let (state, mut tracking) = run(&HANDSHAKE);
        assert_eq!(tracking.timeout(state, true, &timeouts), timeouts.of(established));
        tracking.advance(state, Direction::Original, &segment(ACK, 101, 501, 10));
        assert_eq!(
            tracking.timeout(state, true, &timeouts),
            timeouts.get(Timeout::TcpUnacknowledged)
        );
        for _ in 0..3 {
            tracking.advance(state, Direction::Original, &segment(ACK, 101, 501, 10));
        }
        assert_eq!(tracking.timeout(state, true, &timeouts), timeouts.get(Timeout::TcpMaxRetrans));
        tracking.advance(state, Direction::Reply, &segment(ACK, 501, 111, 0));
        assert_eq!(tracking.timeout(state, true, &timeouts), timeouts.of(established));
    }

    #[test]
    fn f40_a_shut_window_and_a_missing_answer_shorten_life() {
        let timeouts = Timeouts::default();
        let established = timeouts.of(State::TcpEstablished);
        let (state, mut tracking) = run(&HANDSHAKE);
        let shut = Segment { window: 0, ..segment(ACK, 501, 101, 0) };
        tracking.advance(state, Direction::Reply, &shut);
        assert_eq!(tracking.timeout(state, true, &timeouts), timeouts.get(Timeout::TcpMaxRetrans));
        tracking.advance(state, Direction::Reply, &segment(ACK, 501, 101, 0));
        assert_eq!(tracking.timeout(state, true, &timeouts), established);
        let (state, tracking) = Tracking::opening(&segment(ACK, 1, 1, 0), Stamp(7));
        assert_eq!(
            tracking.timeout(state, false, &timeouts),
            timeouts.get(Timeout::TcpUnacknowledged)
        );
    }

    #[test]
    fn f40_a_repeated_syn_refreshes_nothing() {
        run(&[
            (true, SYN, 100, 0, 0, Progress::Unmoved),
            (false, SYN | ACK, 500, 101, 0, Progress::To(State::TcpSynRecv)),
        ]);
    }

    #[test]
    fn mid_stream_pick_up_is_liberal() {
        let (state, mut tracking) = Tracking::opening(&segment(ACK, 1, 1, 5), Stamp(7));
        assert_eq!(state, State::TcpEstablished);
        let far = segment(ACK, 4_000_000_000, 77, 5);
        assert_eq!(
            tracking.advance(state, Direction::Reply, &far),
            Progress::To(State::TcpEstablished)
        );
        let further = segment(ACK, 2_000_000_000, 4_000_000_005, 5);
        assert_eq!(
            tracking.advance(state, Direction::Original, &further),
            Progress::To(State::TcpEstablished)
        );
    }
}
