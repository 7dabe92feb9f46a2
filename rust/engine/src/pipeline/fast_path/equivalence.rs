//! The fast path does what the slow path does: the same packets go through two engines, of which
//! one knows only the slow path, and after each batch both must have come to the same verdicts,
//! bytes, records, counters and deadlines.
//!
//! Packets are generated around what a connection would send next, so that most of them fit and the
//! others miss by little. Between them time passes, tables change, flows are forgotten by the
//! kernel, and counters come close to their ends. The engine under test gets its packets in
//! batches, one at a time, or with a wrong guess.

mod first_packets;
mod stage;
mod steps;

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::Candidate;
use crate::conntrack::state::State;
use crate::conntrack::{FlowId, Hot};
use crate::engine::{Engine, EngineAddress};
use crate::pipeline::{Meta, Packet};
use crate::tuple::{Direction, Protocol};
use crate::verdict::Verdict;
use stage::*;
use steps::*;

proptest! {
    #[test]
    fn the_fast_path_does_what_the_slow_path_does(
        secret in any::<u64>(),
        steps in prop::collection::vec((step(), way(), prop::bool::weighted(0.2)), 1..300),
    ) {
        let mut stage = Stage::new(secret);
        for flow in 0..FLOWS {
            stage.open(flow, Some(2), false);
        }
        let mut batch = Vec::new();
        for (step, way, ends_batch) in &steps {
            let is_packet = matches!(step, Step::Segment { .. } | Step::Datagram { .. });
            if !is_packet && !batch.is_empty() {
                stage.send(&std::mem::take(&mut batch), *way);
            }
            stage.take(step, &mut batch);
            if *ends_batch && !batch.is_empty() {
                stage.send(&std::mem::take(&mut batch), *way);
            }
        }
        stage.send(&batch, Way::Batch);
    }
}

/// The fast path itself forwards packets of established flows, in both directions.
#[test]
fn packets_of_established_flows_take_the_fast_path() {
    fn is_forwarded<A: EngineAddress>(engine: &mut Engine, bytes: &mut [u8]) -> bool {
        let (shared, family) = A::split(engine);
        let mut packet = Packet { bytes, meta: Meta::default() };
        let mut candidate = Candidate::OTHER;
        assert!(candidate.note(family, packet.bytes));
        candidate.guess_flow(family);
        shared.fast_path(family, candidate, candidate.guess, &mut packet).is_some()
    }
    let mut stage = Stage::new(1);
    let segment =
        Segment { flags: ACK | PSH, seq: 0, ack: 0, window: 500, payload: 9, options: 12 };
    for flow in 0..FLOWS {
        stage.open(flow, None, false);
    }
    for flow in 0..FLOWS {
        for is_reply in [false, true] {
            let mut bytes = if stage.peers[flow].protocol == Protocol::UDP {
                stage.packet(flow, is_reply, &datagram(true))
            } else {
                stage.segment(flow, is_reply, &segment)
            };
            let is_v6 = stage.peers[flow].vip.is_ipv6();
            assert!(
                if is_v6 {
                    is_forwarded::<Ipv6Addr>(&mut stage.fast, &mut bytes)
                } else {
                    is_forwarded::<Ipv4Addr>(&mut stage.fast, &mut bytes)
                },
                "{flow} {is_reply}"
            );
        }
    }
}

/// Half a byte of the record says what a packet of each direction may do.
#[test]
fn the_record_says_which_packets_are_fast() {
    let mut stage = Stage::new(1);
    stage.open(0, None, false);
    stage.open(2, None, false);
    let flags = |stage: &Stage, id: FlowId| {
        [Direction::Original, Direction::Reply]
            .map(|side| stage.fast.v4.flows.hot(id).fast_flags(side))
    };
    let both = [Verdict::FLOW | Verdict::MASQUERADE, Verdict::FLOW | Verdict::REPLY];
    assert_eq!(flags(&stage, 0), both, "a stream");
    assert_eq!(flags(&stage, 1), both, "an established connection");
    stage.fast.v4.flows.hot_mut(0).set_state(State::Udp);
    assert_eq!(flags(&stage, 0), [0; 2], "the next datagram may make it a stream");
    stage.fast.v4.flows.hot_mut(0).set_flags(Hot::<Ipv4Addr>::REPLIED, 0);
    assert_eq!(flags(&stage, 0), [both[0], 0], "a reply is to be noted");
    for flag in [Hot::<Ipv4Addr>::REPLIED, Hot::<Ipv4Addr>::ASSURED] {
        let hot = stage.fast.v4.flows.hot_mut(1);
        hot.set_flags(flag, 0);
        assert_eq!(flags(&stage, 1), [0; 2]);
        stage.fast.v4.flows.hot_mut(1).set_flags(0, flag);
    }
    for state in [State::TcpSynRecv, State::TcpFinWait, State::TcpTimeWait, State::Free] {
        stage.fast.v4.flows.hot_mut(1).set_state(state);
        assert_eq!(flags(&stage, 1), [0; 2]);
    }
    stage.fast.v4.flows.remove(0);
    assert_eq!(flags(&stage, 0), [0; 2], "an ended flow, though the index may still lead to it");
}

/// Unacknowledged data shortens the life of a connection, and the engine expires it then.
#[test]
fn f40_the_fast_path_tells_of_a_life_that_it_shortens() {
    for way in [Way::Batch, Way::OneByOne] {
        let mut stage = Stage::new(1);
        stage.open(2, None, false);
        // The sweep has still the deadlines of the handshake, until it looks again.
        stage.take(&Step::Pass(2000), &mut Vec::new());
        stage.take(&Step::Expire, &mut Vec::new());
        let before = stage.fast.next_expiry();
        let segment = Segment { flags: ACK, seq: 0, ack: 0, window: 1000, payload: 9, options: 0 };
        let bytes = stage.segment(2, false, &segment);
        stage.send(&[(bytes, Meta::default())], way);
        assert!(stage.fast.next_expiry() < before);
    }
}
