//! The programs on packets as a network card gives them, which no veth device does.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Instant;

use super::*;
use crate::bpf::test_run;
use crate::periods;

mod windows;

const NEXT: i32 = -1;
const REDIRECT: i32 = 7;
const LOOPBACK: u32 = 1;

/// A frame of UDP.
fn frame(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut udp = Vec::new();
    udp.extend(source.port().to_be_bytes());
    udp.extend(destination.port().to_be_bytes());
    udp.extend((8 + payload.len() as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    packet_of(&Tuple { protocol: 17, source, destination }, udp, 6)
}

/// A frame of these ends, around what has its checksum at this place.
fn packet_of(ends: &Tuple, mut content: Vec<u8>, sum_at: usize) -> Vec<u8> {
    let protocol = ends.protocol;
    let addresses: Vec<u8> = layout::ends(ends)[8..].to_vec();
    let mut pseudo = addresses.clone();
    pseudo.extend((content.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    let sum = checksum(&[pseudo, content.clone()].concat());
    content[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0; 12];
    if ends.source.is_ipv4() {
        let length = (20 + content.len() as u16).to_be_bytes();
        let mut ip = vec![0x45, 0, length[0], length[1], 0, 7, 0x40, 0, 64, protocol, 0, 0];
        ip.extend(addresses);
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend([8, 0]);
        frame.extend(ip);
    } else {
        let length = (content.len() as u16).to_be_bytes();
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, length[0], length[1], protocol, 64]);
        frame.extend(addresses);
    }
    frame.extend(content);
    frame
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A cache with an entry for a flow, as `egress` makes it of the frame that leaves.
fn with_entry(arriving: Tuple, leaving: Tuple) -> Option<FlowCache> {
    with_entry_by(arriving, leaving, LOOPBACK)
}

/// As `with_entry`, of a frame that has come by this device.
fn with_entry_by(arriving: Tuple, leaving: Tuple, device: u32) -> Option<FlowCache> {
    FlowCache::probe().map_err(|error| eprintln!("skipped: {error}")).ok()?;
    let cache = FlowCache::load(Sizes { flows: 64, proposals: 64 }).unwrap();
    cache.beat(Duration::from_secs(60)).unwrap();
    enter(&cache, arriving, leaving, device);
    assert_eq!(cache.counters().unwrap().entered, 1);
    Some(cache)
}

/// Makes an entry, as `egress` does of a frame of the flow that has come by this device and leaves.
fn enter(cache: &FlowCache, arriving: Tuple, leaving: Tuple, device: u32) {
    cache.propose(&[Proposal { arriving, leaving }]).unwrap();
    let content = frame(leaving.source, leaving.destination, &[1; 64]);
    test_run(cache.egress.as_fd(), &content, &mut [], device, 0).unwrap();
}

fn tuples(addresses: [&str; 3], ports: [u16; 2]) -> (Tuple, Tuple) {
    let [client, frontend, backend] = addresses.map(|address| address.parse().unwrap());
    let tuple = |address, port| Tuple {
        protocol: 17,
        source: SocketAddr::new(client, 4000),
        destination: SocketAddr::new(address, port),
    };
    (tuple(frontend, ports[0]), tuple(backend, ports[1]))
}

const V4: [&str; 3] = ["10.0.0.1", "10.96.0.1", "10.1.0.1"];
const V6: [&str; 3] = ["fd00::1", "fd00:96::1", "fd00:1::1"];

#[test]
fn a_frame_is_translated_byte_for_byte() {
    for (addresses, ports) in [(V4, [80, 8080]), (V6, [80, 8080]), (V4, [80, 80])] {
        let (arriving, leaving) = tuples(addresses, ports);
        let Some(cache) = with_entry(arriving, leaving) else { return };
        let content = frame(arriving.source, arriving.destination, b"odd");
        let mut expected = frame(leaving.source, leaving.destination, b"odd");
        if arriving.source.is_ipv4() {
            expected[22] -= 1;
            expected[24..26].fill(0);
            let sum = checksum(&expected[14..34]);
            expected[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            expected[21] -= 1;
        }
        assert_eq!(sent(&cache, &content), (REDIRECT, expected));
    }
}

/// The answer to a frame of the flow, and the frame as it is then.
fn sent(cache: &FlowCache, content: &[u8]) -> (i32, Vec<u8>) {
    let mut sent = vec![0; content.len()];
    let answer = test_run(cache.ingress.as_fd(), content, &mut sent, 0, 0).unwrap();
    (answer, sent)
}

#[test]
fn a_void_of_a_device_concerns_its_entries_alone() {
    for addresses in [V4, V6] {
        let (arriving, leaving) = tuples(addresses, [80, 8080]);
        let Some(cache) = with_entry(arriving, leaving) else { return };
        let content = frame(arriving.source, arriving.destination, b"odd");
        cache.void_device(LOOPBACK + 1).unwrap();
        assert_eq!(sent(&cache, &content).0, REDIRECT, "another device's");
        assert!(cache.find(&arriving).unwrap().unwrap().is_current);
        cache.void_device(LOOPBACK).unwrap();
        assert_eq!(sent(&cache, &content), (NEXT, content));
        assert!(!cache.find(&arriving).unwrap().unwrap().is_current);
        assert_eq!(cache.counters().unwrap().void, 1);
        assert_eq!(cache.generation(), 0, "of all entries");
    }
}

/// As a packet does that a machine elsewhere sends with a client's addresses.
#[test]
fn a_packet_by_another_device_neither_passes_nor_renews() {
    for addresses in [V4, V6] {
        let (arriving, leaving) = tuples(addresses, [80, 8080]);
        let Some(cache) = with_entry_by(arriving, leaving, LOOPBACK + 1) else { return };
        let content = frame(arriving.source, arriving.destination, b"odd");
        assert_eq!(sent(&cache, &content), (NEXT, content.clone()));
        assert_eq!(cache.counters().unwrap().other_device, 1);
        // One that the kernel has let pass leaves the entry to its own device, until it is over.
        let leaves = frame(leaving.source, leaving.destination, &[1; 64]);
        let confirm = |arrival| {
            test_run(cache.egress.as_fd(), &leaves, &mut [], arrival, 0).unwrap();
        };
        confirm(LOOPBACK);
        assert_eq!(sent(&cache, &content).0, NEXT);
        assert_eq!(cache.counters().unwrap().other_device, 2);
        cache.void().unwrap();
        confirm(0);
        assert_eq!(cache.counters().unwrap().entered, 1, "the node's own packets have not come");
        confirm(LOOPBACK);
        assert_eq!(sent(&cache, &content).0, REDIRECT);
        assert_eq!(cache.counters().unwrap().entered, 2);
    }
}

/// The kernel itself computes the sum of the whole packet anew, and compares.
#[test]
fn what_a_device_has_summed_up_stays_right() {
    const CHECKSUM_COMPLETE: u32 = 1 << 2;
    for addresses in [V4, V6] {
        let (arriving, leaving) = tuples(addresses, [80, 8080]);
        let Some(cache) = with_entry(arriving, leaving) else { return };
        let content = frame(arriving.source, arriving.destination, b"even");
        match test_run(cache.ingress.as_fd(), &content, &mut [], 0, CHECKSUM_COMPLETE) {
            Ok(answer) => assert_eq!(answer, REDIRECT),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                eprintln!("skipped: this kernel cannot make such packets");
            }
            Err(error) => panic!("{addresses:?}: {error}"),
        }
    }
}

/// The value of an entry, as the kernel has it.
fn value(cache: &FlowCache, arriving: &Tuple) -> Vec<u8> {
    cache
        .maps(Family::of(&arriving.source))
        .flows
        .lookup(&cache.secrets.key(arriving))
        .unwrap()
        .unwrap()
}

/// Each of two values with a part of the other one, or all of it.
fn mixtures(first: &[u8], second: &[u8]) -> Vec<Vec<u8>> {
    let mut mixtures = Vec::new();
    for start in (0..first.len()).step_by(4) {
        for end in (start..=first.len()).step_by(4) {
            for (value, other) in [(first, second), (second, first)] {
                let mut mixture = value.to_vec();
                mixture[start..end].copy_from_slice(&other[start..end]);
                mixtures.push(mixture);
            }
        }
    }
    mixtures
}

/// Takes all entries out; how many there were.
fn entries_taken(cache: &FlowCache) -> usize {
    let flows = cache.flows().unwrap();
    let flows = flows
        .into_iter()
        .map(|CachedFlow { arriving, leaving, .. }| Proposal { arriving, leaving });
    // Proposals of other ends, which are not there, are passed over.
    cache.remove(&flows.collect::<Vec<_>>()).unwrap().len()
}

/// Another flow of the same client, to another backend.
fn another(arriving: Tuple, leaving: Tuple, number: u16) -> (Tuple, Tuple) {
    let source = SocketAddr::new(arriving.source.ip(), 10_000 + number);
    let destination = SocketAddr::new(leaving.destination.ip(), 20_000 + number);
    (Tuple { source, ..arriving }, Tuple { source, destination, ..leaving })
}

/// What a program reads while the kernel gives an entry's memory to another flow: parts of both, or
/// the other flow's alone.
#[test]
fn a_packet_never_gets_parts_of_another_flows_entry() {
    for addresses in [V4, V6] {
        let (arriving, leaving) = tuples(addresses, [80, 8080]);
        let Some(cache) = with_entry(arriving, leaving) else { return };
        let (other, elsewhere) = another(arriving, leaving, 1);
        enter(&cache, other, elsewhere, LOOPBACK);
        let (first, second) = (value(&cache, &arriving), value(&cache, &other));
        let content = frame(arriving.source, arriving.destination, b"odd");
        let (_, translated) = sent(&cache, &content);
        let flows = &cache.maps(Family::of(&arriving.source)).flows;
        for torn in mixtures(&first, &second) {
            flows.update(&cache.secrets.key(&arriving), &torn).unwrap();
            let is_whole = torn[SEALED..] == first[SEALED..];
            let expected = if is_whole { (REDIRECT, &translated) } else { (NEXT, &content) };
            let (answer, frame) = sent(&cache, &content);
            assert_eq!((answer, &frame), expected, "{torn:?} of {first:?} and {second:?}");
        }
        assert!(cache.counters().unwrap().torn > 20, "{:?}", cache.counters());
    }
}

/// Ends of two flows may have one digest.
#[test]
fn what_stands_under_another_flows_key_is_not_taken_for_its_own() {
    for addresses in [V4, V6] {
        let (arriving, leaving) = tuples(addresses, [80, 8080]);
        let Some(cache) = with_entry(arriving, leaving) else { return };
        let (other, elsewhere) = another(arriving, leaving, 1);
        let maps = cache.maps(Family::of(&arriving.source));
        maps.flows.update(&cache.secrets.key(&other), &value(&cache, &arriving)).unwrap();
        let content = frame(other.source, other.destination, b"odd");
        assert_eq!(sent(&cache, &content), (NEXT, content));
        assert_eq!(cache.find(&other).unwrap(), None);
        if !arriving.source.is_ipv4() {
            // Nor where the seals are the same: these two bits do not change the sum.
            let IpAddr::V6(address) = arriving.source.ip() else { panic!("{arriving:?}") };
            let mut octets = address.octets();
            octets[7] ^= 0x80;
            octets[15] ^= 0x80;
            let source = SocketAddr::new(octets.into(), arriving.source.port());
            let other = Tuple { source, ..arriving };
            maps.flows.update(&cache.secrets.key(&other), &value(&cache, &arriving)).unwrap();
            let content = frame(other.source, other.destination, b"odd");
            assert_eq!(sent(&cache, &content), (NEXT, content));
        }
        let mine = cache.secrets.proposal(&Proposal { arriving, leaving });
        maps.proposals.update(&cache.secrets.key(&elsewhere), &mine).unwrap();
        let content = frame(elsewhere.source, elsewhere.destination, b"odd");
        test_run(cache.egress.as_fd(), &content, &mut [], LOOPBACK, 0).unwrap();
        assert_eq!(cache.counters().unwrap().entered, 1);
    }
}

/// What a program reads while user space gives a proposal's memory to another flow.
#[test]
fn a_packet_never_makes_an_entry_of_parts_of_two_proposals() {
    for addresses in [V4, V6] {
        let (arriving, leaving) = tuples(addresses, [80, 8080]);
        let Some(cache) = with_entry(arriving, leaving) else { return };
        let (other, elsewhere) = another(arriving, leaving, 1);
        let proposals = &cache.maps(Family::of(&arriving.source)).proposals;
        let first = cache.secrets.proposal(&Proposal { arriving, leaving });
        let second = cache.secrets.proposal(&Proposal { arriving: other, leaving: elsewhere });
        let content = frame(leaving.source, leaving.destination, b"odd");
        entries_taken(&cache);
        for torn in mixtures(&first, &second) {
            proposals.update(&cache.secrets.key(&leaving), &torn).unwrap();
            test_run(cache.egress.as_fd(), &content, &mut [], LOOPBACK, 0).unwrap();
            let expected = usize::from(torn == first);
            assert_eq!(entries_taken(&cache), expected, "{torn:?} of {first:?} and {second:?}");
        }
    }
}

/// One processor sends packets of a flow while another one puts many flows into a map with little
/// room, so that its elements always go from one flow to another.
#[test]
fn a_packet_never_gets_another_flows_translation_while_the_map_is_overrun() {
    for addresses in [V4, V6] {
        let (arriving, leaving) = tuples(addresses, [80, 8080]);
        let Some(cache) = with_entry(arriving, leaving) else { return };
        let content = frame(arriving.source, arriving.destination, b"odd");
        let (_, translated) = sent(&cache, &content);
        let flows = &cache.maps(Family::of(&arriving.source)).flows;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for number in 0..FLOWS {
            let (other, elsewhere) = another(arriving, leaving, number);
            enter(&cache, other, elsewhere, LOOPBACK);
            enter(&cache, arriving, leaving, LOOPBACK);
            // Each time the flow's element is given up, and the next flows take it.
            let flow = if number % 24 == 0 { &arriving } else { &other };
            keys.extend(cache.secrets.key(flow));
            values.extend(value(&cache, flow));
        }
        let started = Instant::now();
        let is_over = || started.elapsed() > periods::LEASE.mul_f32(0.8);
        let mut carried = 0;
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                while !is_over() {
                    flows.update_all(&keys, &values).unwrap();
                }
            });
            while !is_over() {
                let (answer, frame) = sent(&cache, &content);
                let is_carried = answer == REDIRECT;
                assert_eq!(&frame, if is_carried { &translated } else { &content });
                carried += usize::from(is_carried);
            }
            writer.join().unwrap();
        });
        assert!(carried > 100, "{carried} {:?}", cache.counters());
    }
}

#[test]
fn as_many_as_there_is_room_for_stay_whatever_processors_they_come_by() {
    let processors = map::processors().unwrap();
    if processors < 2 {
        eprintln!("skipped: there is one processor");
        return;
    }
    let (arriving, leaving) = tuples(V4, [80, 8080]);
    let Some(_) = with_entry(arriving, leaving) else { return };
    let room = 600_u16;
    let cache = FlowCache::load(Sizes::holding(room.into()).unwrap()).unwrap();
    let flows = &cache.maps(Family::V4).flows;
    let enter = |number| {
        let (flow, _) = another(arriving, leaving, number);
        flows.update(&cache.secrets.key(&flow), &vec![0; layout::flow_length(Family::V4)]).unwrap();
    };
    // Another processor that has taken elements has free ones left over.
    for (processor, numbers) in [(0, 0..1), (1, 1..room)] {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                stay_on(processor);
                numbers.for_each(enter);
            });
        });
    }
    let mut count = 0;
    flows.for_each(|_, _| count += 1).unwrap();
    assert_eq!(count, room);
}

/// Has this thread run on one processor alone.
fn stay_on(processor: u8) {
    let thread = std::fs::read_link("/proc/thread-self").unwrap();
    let mut taskset = Command::new("taskset");
    taskset.args(["-p", "-c", &processor.to_string()]).arg(thread.file_name().unwrap());
    assert!(taskset.output().unwrap().status.success(), "{taskset:?}");
}

/// Where in a value the seal begins.
const SEALED: usize = 32;
const FLOWS: u16 = 512;
