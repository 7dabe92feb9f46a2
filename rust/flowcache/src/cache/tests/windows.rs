//! A FIN or RST of a flow in the cache: whether it is one of the connection's ends.

use super::*;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const DROP: i32 = 2;
const MIB: u32 = 1 << 20;
/// The client has sent this much, and the endpoint has acknowledged it, and the other way round.
/// Both numbers are about to begin anew at 0.
const CLIENT: u32 = 1_u32.wrapping_neg();
const ENDPOINT: u32 = 2_u32.wrapping_neg();

/// A connection's ends: of questions and of answers, each as they arrive and as they leave.
struct Connection {
    questions: [Tuple; 2],
    answers: [Tuple; 2],
}

impl Connection {
    fn of(addresses: [&str; 3]) -> Self {
        let (arriving, leaving) = tuples(addresses, [80, 8080]);
        let turned = |tuple: Tuple| Tuple {
            protocol: 6,
            source: tuple.destination,
            destination: tuple.source,
        };
        let questions = [arriving, leaving].map(turned).map(turned);
        Self { questions, answers: [turned(leaving), turned(arriving)] }
    }

    /// A cache that has seen a packet each way leave by the kernel.
    fn cache(&self) -> Option<FlowCache> {
        FlowCache::probe().map_err(|error| eprintln!("skipped: {error}")).ok()?;
        let cache = FlowCache::load(Sizes { flows: 64, proposals: 64 }).unwrap();
        cache.beat(Duration::from_secs(60)).unwrap();
        enter(&cache, self.questions, ACK, [CLIENT, ENDPOINT]);
        enter(&cache, self.answers, ACK, [ENDPOINT, CLIENT]);
        Some(cache)
    }
}

/// Makes an entry of a segment with these numbers: its own, and what it acknowledges.
fn enter(cache: &FlowCache, [arriving, leaving]: [Tuple; 2], flags: u8, numbers: [u32; 2]) {
    cache.propose(&[Proposal { arriving, leaving }]).unwrap();
    let content = segment(&leaving, flags, numbers);
    test_run(cache.egress.as_fd(), &content, &mut [], LOOPBACK, 0).unwrap();
    assert!(cache.find(&arriving).unwrap().unwrap().is_current);
}

fn segment(ends: &Tuple, flags: u8, numbers: [u32; 2]) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(ends.source.port().to_be_bytes());
    tcp.extend(ends.destination.port().to_be_bytes());
    tcp.extend(numbers.into_iter().flat_map(u32::to_be_bytes));
    tcp.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet_of(ends, tcp, 16)
}

#[test]
fn what_ends_no_connection_is_dropped_and_leaves_the_entry() {
    for addresses in [V4, V6] {
        let connection = Connection::of(addresses);
        let Some(cache) = connection.cache() else { return };
        let ends = [(connection.questions[0], CLIENT), (connection.answers[0], ENDPOINT)];
        let mut dropped = 0;
        for (arriving, number) in ends {
            for flags in [RST, RST | ACK, FIN | ACK] {
                for distance in [5 * MIB, 1 << 31, (5 * MIB).wrapping_neg()] {
                    let content = segment(&arriving, flags, [number.wrapping_add(distance), 0]);
                    assert_eq!(sent(&cache, &content), (DROP, content), "{flags} {distance:#x}");
                    dropped += 1;
                    assert_eq!(cache.counters().unwrap().out_of_window, dropped);
                }
            }
            let content = segment(&arriving, ACK, [number, 0]);
            assert_eq!(sent(&cache, &content).0, REDIRECT);
        }
        assert!(cache.take_notices().unwrap().0.is_empty());
        assert_eq!(cache.counters().unwrap().ended, 0);
    }
}

#[test]
fn a_segment_that_is_forged_as_well_helps_no_forged_reset() {
    for addresses in [V4, V6] {
        let connection = Connection::of(addresses);
        let Some(cache) = connection.cache() else { return };
        let far = CLIENT.wrapping_add(1 << 31);
        for flags in [ACK, RST, FIN | ACK] {
            let forged = segment(&connection.questions[0], flags, [far, ENDPOINT]);
            let expected = if flags == ACK { REDIRECT } else { DROP };
            assert_eq!(sent(&cache, &forged).0, expected, "{flags}");
        }
    }
}

#[test]
fn what_ends_a_connection_goes_the_kernels_way() {
    for addresses in [V4, V6] {
        let connection = Connection::of(addresses);
        // Segments on their way may be lost, and sent once more: then a RST may follow either.
        for (ahead, distance) in [(0, 0), (0, 3 * MIB), (20 * MIB, 20 * MIB), (20 * MIB, 0)] {
            for flags in [RST, FIN | ACK] {
                let Some(cache) = connection.cache() else { return };
                for sent_bytes in (0..=ahead).step_by(2 * MIB as usize) {
                    let numbers = [CLIENT.wrapping_add(sent_bytes), ENDPOINT];
                    let question = segment(&connection.questions[0], ACK, numbers);
                    assert_eq!(sent(&cache, &question).0, REDIRECT);
                }
                let number = CLIENT.wrapping_add(distance);
                let last = segment(&connection.questions[0], flags, [number, 0]);
                assert_eq!(sent(&cache, &last), (NEXT, last), "{ahead} {distance} {flags}");
                assert_eq!(cache.counters().unwrap().closing, 1);
                for tuple in [connection.questions[0], connection.answers[0]] {
                    assert!(cache.find(&tuple).unwrap().unwrap().is_ended);
                }
            }
        }
    }
}

#[test]
fn the_first_packet_of_a_connection_has_any_number() {
    let connection = Connection::of(V4);
    let Some(cache) = connection.cache() else { return };
    let first = segment(&connection.questions[0], SYN, [CLIENT.wrapping_add(1 << 31), 0]);
    assert_eq!(sent(&cache, &first), (NEXT, first));
}

/// Packets have passed there that the programs have not seen.
#[test]
fn entries_of_a_device_without_programs_measure_nothing() {
    let connection = Connection::of(V4);
    let Some(cache) = connection.cache() else { return };
    let far = segment(&connection.questions[0], RST, [CLIENT.wrapping_add(1 << 31), 0]);
    assert!(cache.void_arrivals(&HashSet::from([LOOPBACK + 1])).unwrap().is_empty());
    assert_eq!(sent(&cache, &far), (DROP, far.clone()));
    let voided = cache.void_arrivals(&HashSet::from([LOOPBACK])).unwrap();
    assert_eq!(voided.len(), 2, "{voided:?}");
    assert_eq!(sent(&cache, &far), (NEXT, far));
}

/// The other way's numbers are a former connection's, or there are none.
#[test]
fn where_the_other_way_is_not_known_the_kernel_judges() {
    for addresses in [V4, V6] {
        let connection = Connection::of(addresses);
        let Some(cache) = connection.cache() else { return };
        let far = CLIENT.wrapping_add(1 << 31);
        for _ in 0..2 {
            let last = segment(&connection.questions[0], RST, [CLIENT, 0]);
            sent(&cache, &last);
            enter(&cache, connection.questions, ACK, [CLIENT, ENDPOINT]);
            let last = segment(&connection.questions[0], RST, [far, 0]);
            assert_eq!(sent(&cache, &last), (NEXT, last));
            let [arriving, leaving] = connection.answers;
            cache.remove(&[Proposal { arriving, leaving }]).unwrap();
        }
    }
}
