//! Answers that are known: which ports each way gives, when they run out, and how they collide.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use super::*;
use crate::cidr::Cidr;
use crate::tuple::Protocol;

const SOURCE: [u8; 4] = [10, 0, 2, 15];

/// Leases of one address with a search and its port in one step.
struct Scene(Leases);

impl Scene {
    fn new(ports: (u16, u16), allocation: &Allocation, mapping: Mapping) -> Self {
        let range = PortRange { ports, ..PortRange::default() };
        Self(Leases::new(range, allocation, mapping, HashKey::new(1), Rng::new(3)))
    }

    fn find(&self, claim: &Claim) -> Option<u16> {
        self.0.find(claim, &mut self.0.cursor(), |_| true)
    }

    fn open(&mut self, claim: &Claim) -> Option<u16> {
        let mut cursor = self.0.cursor();
        let port = self.0.find(claim, &mut cursor, |_| true)?;
        self.0.sign(claim, port, cursor);
        Some(port)
    }
}

fn claim(client: u32, port: u16, backend: u8) -> Claim {
    let client = SocketAddr::new(Ipv4Addr::from_bits(0x0a01_0000 + client).into(), port);
    let backend = SocketAddr::from(([172, 17, 0, backend], 9876));
    Claim { client, remote: Remote { protocol: Protocol::TCP, source: SOURCE.into(), backend } }
}

fn preserving(ports: (u16, u16)) -> Scene {
    Scene::new(ports, &Allocation::Preserve, Mapping::EndpointDependent)
}

#[test]
fn f31_every_port_is_leased_once_and_then_none() {
    let mut scene = preserving((1024, 65_535));
    let flow = claim(0, 40_000, 3);
    let mut seen = BTreeSet::new();
    while let Some(port) = scene.open(&flow) {
        assert!(seen.insert(port), "{port} twice");
    }
    assert_eq!(seen.len(), 65_536 - 1024 - 2768);
    let leases = &mut scene.0;
    assert_eq!((leases.count(), leases.most(), leases.limit()), (seen.len(), 61_744, 61_744));
    let other = Claim { remote: Remote { protocol: Protocol::UDP, ..flow.remote }, ..flow };
    leases.take(&other, 1024);
    assert_eq!((leases.count(), leases.most()), (61_745, 61_744), "one remote's");
    leases.give_back(&other, 1024);
    assert!(!seen.iter().any(|port| (30_000..=32_767).contains(port)), "F33: a node port");
    leases.give_back(&flow, 50_000);
    assert_eq!(scene.find(&flow), Some(50_000));
    for port in seen {
        scene.0.give_back(&flow, port);
    }
    assert!(scene.0.taken.is_empty());
}

#[test]
fn f32_the_original_port_is_kept_while_free() {
    let mut scene = preserving((1024, 65_535));
    let flow = claim(0, 5555, 3);
    assert_eq!(scene.open(&flow), Some(5555));
    assert_ne!(scene.find(&flow).expect("ports are free"), 5555);
    let elsewhere = Claim { remote: Remote { protocol: Protocol::UDP, ..flow.remote }, ..flow };
    assert_eq!(scene.find(&elsewhere), Some(5555));
    let mut cursor = scene.0.cursor();
    assert_ne!(scene.0.find(&elsewhere, &mut cursor, |port| port != 5555), Some(5555));
    assert_ne!(scene.find(&claim(0, 31_000, 3)), Some(31_000), "F33: a node port");
    assert_ne!(scene.find(&claim(0, 80, 3)), Some(80), "below the range");
}

/// A draw over all ports would mostly fall on an end of a narrow range, and on the port behind it.
#[test]
fn f32_a_port_that_is_not_kept_is_drawn_from_the_range_alone() {
    let mut scene = preserving((40_000, 49_999));
    let ports: Vec<u16> =
        (0..200).map(|n| scene.open(&claim(n, 80, 3)).expect("ports are free")).collect();
    let followers = ports.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
    assert!(followers < 5, "{ports:?}");
    let low = ports.iter().filter(|&&port| port < 45_000).count();
    assert!((60..=140).contains(&low), "{low} of 200 in the lower half");
}

#[test]
fn positions_and_ports_of_a_range_are_inverse() {
    for (ports, reserved, count) in [
        ((1024, u16::MAX), (30_000, 32_767), 61_744),
        ((29_999, 32_768), (30_000, 32_767), 2),
        ((31_000, 40_000), (30_000, 32_767), 7_233),
        ((10, 20), (15, 15), 10),
        ((0, u16::MAX), (1, 0), 65_536),
        ((30_100, 30_200), (30_000, 32_767), 0),
        ((20, 10), (15, 15), 0),
    ] {
        let range = PortRange { ports, reserved };
        let listed: Vec<u16> = (0..=u16::MAX).filter(|&port| range.contains(port)).collect();
        assert_eq!((range.count(), listed.len()), (count, count), "{range:?}");
        for (position, &port) in (0..).zip(&listed) {
            assert_eq!((range.port(position), range.position(port)), (port, position));
        }
    }
}

#[test]
fn sequential_ports_follow_each_other_around_the_range() {
    let mut scene =
        Scene::new((29_990, 32_777), &Allocation::Sequential, Mapping::EndpointDependent);
    let ports: Vec<u16> =
        (0..40).map(|n| scene.open(&claim(n, 5555, n as u8)).expect("ports are free")).collect();
    let range = scene.0.range;
    assert_eq!(range.count(), 20, "F33: node ports are passed over");
    for pair in ports.windows(2) {
        assert_eq!(range.position(pair[1]), (range.position(pair[0]) + 1) % 20, "{ports:?}");
    }
}

/// RFC 6056, algorithm 3: towards one remote the counter shows, towards all it does not.
#[test]
fn hashed_ports_follow_each_other_towards_one_remote_alone() {
    let mut scene = Scene::new((1024, 65_535), &Allocation::Hashed, Mapping::EndpointDependent);
    let range = scene.0.range;
    let count = range.count() as u32;
    let mut offsets = BTreeMap::<u8, BTreeSet<u32>>::new();
    for n in 0..200u32 {
        let backend = (n % 8) as u8;
        let port = scene.open(&claim(n, 5555, backend)).expect("ports are free");
        // One counter for all: take it off, and the hash of the remote is left.
        let offset = (range.position(port) + count - n) % count;
        offsets.entry(backend).or_default().insert(offset);
    }
    assert!(offsets.values().all(|offsets| offsets.len() == 1), "{offsets:?}");
    assert_eq!(offsets.values().collect::<BTreeSet<_>>().len(), 8, "an offset for each remote");
    let other = Leases::new(
        range,
        &Allocation::Hashed,
        Mapping::EndpointDependent,
        HashKey::new(2),
        Rng::new(3),
    );
    let elsewhere = other.find(&claim(0, 5555, 0), &mut other.cursor(), |_| true);
    let here = scene.0.find(&claim(0, 5555, 0), &mut other.cursor(), |_| true);
    assert_ne!(elsewhere, here, "the secret decides");
}

/// The i-th of n flows finds its first draw taken with probability i / m: n(n - 1) / 2m collide in
/// the mean, with the variance of so many independent draws.
#[test]
fn random_ports_collide_by_the_birthday_paradox() {
    let (flows, ports) = (2000u32, 20_000);
    let mut collisions = 0;
    for seed in 0..50 {
        let range = PortRange { ports: (40_000, 59_999), ..PortRange::default() };
        let (key, rng) = (HashKey::new(seed), Rng::new(seed));
        let leases = Leases::new(range, &Allocation::Random, Mapping::EndpointDependent, key, rng);
        let mut scene = Scene(leases);
        for client in 0..flows {
            scene.open(&claim(client, 5555, 1)).expect("ports are free");
        }
        let statistics = scene.0.statistics();
        assert_eq!(statistics.allocations, u64::from(flows));
        assert!(statistics.probes >= statistics.allocations + statistics.collisions);
        collisions += statistics.collisions;
    }
    let chances = (0..flows).map(|leased| f64::from(leased) / f64::from(ports));
    let (mean, variance) =
        chances.fold((0.0, 0.0), |(mean, variance), p| (mean + p, variance + p * (1.0 - p)));
    let (mean, deviation) = (mean * 50.0, (variance * 50.0).sqrt());
    assert!((mean / 50.0 - 99.95).abs() < 0.01, "n(n - 1) / 2m");
    let distance = (collisions as f64 - mean) / deviation;
    assert!(
        distance.abs() < 4.0,
        "{collisions} collisions, {mean} expected: {distance} deviations"
    );
}

/// A client's port that may not be leased is a first choice that fails, and a look.
#[test]
fn a_port_outside_of_the_range_that_is_not_kept_collides() {
    for (port, collisions, probes) in [(40_000, 0, 1), (80, 1, 2), (31_000, 1, 2)] {
        let mut scene = preserving((20_000, 59_999));
        scene.open(&claim(0, port, 3)).expect("ports are free");
        let statistics = scene.0.statistics();
        assert_eq!((statistics.collisions, statistics.probes), (collisions, probes), "{port}");
    }
}

/// By a walk over the positions one by one, for as long as the way would take any port: the same
/// port, and the looks of the walk, in lists and in bitmaps of leases, around node ports, in ranges
/// that begin or end in the middle of a word, with flows that hold no lease.
#[test]
fn every_port_that_is_passed_over_is_a_look() {
    for (ports, leased) in [
        ((29_900, 32_900), 30),
        ((29_900, 32_900), 200),
        ((40_001, 41_037), 1000),
        ((31_000, 33_767), 990),
        ((30_900, 33_800), 1033),
    ] {
        let range = PortRange { ports, ..PortRange::default() };
        let count = range.count() as u32;
        for allocation in [Allocation::Preserve, Allocation::Sequential] {
            let mut scene = Scene::new(ports, &allocation, Mapping::EndpointDependent);
            let mut rng = Rng::new(leased);
            let mut leases = BTreeSet::new();
            while leases.len() < leased as usize {
                let port = range.port(rng.below(count));
                if leases.insert(port) {
                    scene.0.take(&claim(0, port, 1), port);
                }
            }
            for n in 0..count - leased as u32 {
                let flow = claim(n, ports.0 + (n * 37 % 4000) as u16, 1);
                let mut cursor = scene.0.cursor();
                let is_free = |port: u16| !port.is_multiple_of(7) && !leases.contains(&port);
                let is_preserving = allocation == Allocation::Preserve;
                let is_kept = range.contains(flow.client.port()) && is_free(flow.client.port());
                let start = match is_preserving {
                    true => cursor.clone().rng.below(count),
                    false => cursor.next,
                };
                let walk = (0..count).map(|step| range.port((start + step) % count));
                let (mut looks, mut expected) = (u32::from(is_preserving), None);
                if is_preserving && is_kept {
                    expected = Some(flow.client.port());
                } else {
                    for port in walk {
                        looks += 1;
                        if is_free(port) {
                            expected = Some(port);
                            break;
                        }
                    }
                }
                let port = scene.0.find(&flow, &mut cursor, |port| !port.is_multiple_of(7));
                assert_eq!((port, cursor.probes), (expected, looks), "{ports:?} {allocation:?}");
                assert_eq!(cursor.is_collision, looks > 1 || expected.is_none());
                let Some(port) = port else { break };
                scene.0.sign(&flow, port, cursor);
                leases.insert(port);
            }
        }
    }
}

#[test]
fn random_ports_are_spread_evenly() {
    let mut scene = Scene::new((40_000, 40_999), &Allocation::Random, Mapping::EndpointDependent);
    let mut counts = [0u32; 10];
    for n in 0..10_000 {
        let flow = claim(n, 5555, 1);
        let port = scene.open(&flow).expect("ports are free");
        counts[usize::from(port - 40_000) / 100] += 1;
        scene.0.give_back(&flow, port);
    }
    // Chi-square of nine degrees of freedom: beyond 33.7 once in 10,000.
    let chi: f64 = counts.iter().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
    assert!(chi < 33.7, "{counts:?}");
}

#[test]
fn blocks_serve_as_many_clients_as_there_are_blocks() {
    for size in [1u16, 7, 64, 100, 1000] {
        let allocation = Allocation::Blocks { size, per_client: 1 };
        let mut scene = Scene::new((40_000, 40_999), &allocation, Mapping::EndpointDependent);
        let blocks = 1000 / u32::from(size);
        for client in 0..blocks {
            for n in 0..size {
                assert!(scene.open(&claim(client, 1024 + n, 1)).is_some(), "{size} {client} {n}");
            }
            assert_eq!(scene.open(&claim(client, 9999, 1)), None, "the client's block is full");
            // Towards another backend the block's ports are free again.
            let elsewhere = claim(client, 9999, 2);
            let port = scene.open(&elsewhere).expect("the block is empty there");
            scene.0.give_back(&elsewhere, port);
        }
        assert_eq!(scene.open(&claim(blocks, 1024, 1)), None, "no block is left");
        assert_eq!(scene.0.statistics().log_lines, u64::from(blocks), "a line for each block");
    }
}

#[test]
fn blocks_are_of_one_client_each_and_are_free_after_its_last_flow() {
    let allocation = Allocation::Blocks { size: 10, per_client: 3 };
    let mut scene = Scene::new((40_000, 40_099), &allocation, Mapping::EndpointDependent);
    let mut owners = BTreeMap::new();
    let mut flows = Vec::new();
    for client in [1, 2, 1, 3, 1, 2].iter().cycle().take(60) {
        let flow = claim(*client, 1024 + flows.len() as u16, 1);
        let port = scene.open(&flow).expect("three blocks each");
        let owner = owners.entry((port - 40_000) / 10).or_insert(*client);
        assert_eq!(owner, client, "{port} is in another client's block");
        flows.push((flow, port));
    }
    assert_eq!(owners.values().filter(|&&client| client == 1).count(), 3);
    assert_eq!(scene.open(&claim(1, 60_000, 1)), None, "its limit");
    for (flow, port) in &flows {
        scene.0.give_back(flow, *port);
    }
    assert_eq!(scene.0.statistics().log_lines, 2 * owners.len() as u64);

    for client in 100..110 {
        assert!(scene.open(&claim(client, 1024, 1)).is_some(), "all blocks are free again");
    }
    assert_eq!(scene.open(&claim(111, 1024, 1)), None);
}

#[test]
fn deterministic_blocks_follow_from_the_clients_address() {
    let networks = [
        Cidr::new(Ipv4Addr::new(10, 1, 0, 0).into(), 30),
        Cidr::new("2001:db8::".parse().expect("an address"), 64),
        Cidr::new(Ipv4Addr::new(10, 1, 1, 0).into(), 24),
    ];
    let clients = networks.into_iter().flatten().collect();
    let allocation = Allocation::Deterministic { size: 10, clients };
    let mut scene = Scene::new((40_000, 40_099), &allocation, Mapping::EndpointDependent);
    // Four addresses of the first network, then those of the second.
    for (client, block) in [(0, 0), (3, 3), (0x100, 4), (0x105, 9)] {
        for n in 0..10 {
            let port = scene.open(&claim(client, 1024 + n, 1)).expect("ten ports");
            assert_eq!((port - 40_000) / 10, block);
        }
        assert_eq!(scene.open(&claim(client, 9999, 1)), None);
    }
    assert_eq!(scene.open(&claim(0x106, 1024, 1)), None, "beyond the last block");
    assert_eq!(scene.open(&claim(4, 1024, 1)), None, "outside of the networks");
    assert_eq!(scene.0.statistics().log_lines, 0, "nothing is logged");
}

/// RFC 4787: independent mappings run out at the ports, dependent ones at ports times remotes.
#[test]
fn mappings_run_out_at_the_ports_or_at_ports_times_remotes() {
    for allocation in [Allocation::Preserve, Allocation::Random, Allocation::Sequential] {
        for (mapping, capacity) in
            [(Mapping::EndpointIndependent, 100), (Mapping::EndpointDependent, 300)]
        {
            let mut scene = Scene::new((40_000, 40_099), &allocation, mapping);
            let served =
                (0..1000u32).filter(|&n| scene.open(&claim(n, 5555, (n % 3) as u8)).is_some());
            assert_eq!(served.count(), capacity, "{allocation:?} {mapping:?}");
            assert_eq!((scene.0.count(), scene.0.limit()), (capacity, 100));
        }
    }
}

#[test]
fn an_independent_mapping_is_the_same_towards_all_backends_until_its_last_flow() {
    let mut scene = Scene::new((1024, 65_535), &Allocation::Random, Mapping::EndpointIndependent);
    let port = scene.open(&claim(1, 5555, 1)).expect("ports are free");
    for backend in 2..20 {
        assert_eq!(scene.open(&claim(1, 5555, backend)), Some(port));
    }
    assert_ne!(scene.open(&claim(1, 5556, 1)), Some(port), "another port, another mapping");
    assert_ne!(scene.open(&claim(2, 5555, 1)), Some(port), "another client, another mapping");
    assert_eq!((scene.0.count(), scene.0.statistics().log_lines), (3, 3));
    for backend in 1..20 {
        assert_eq!(scene.0.count(), 3, "the mapping lives");
        scene.0.give_back(&claim(1, 5555, backend), port);
    }
    assert_eq!((scene.0.count(), scene.0.statistics().log_lines), (2, 4));
    // A tuple that is in use needs a mapping of its own, which ends by itself.
    let flow = claim(3, 5555, 1);
    let first = scene.open(&flow).expect("ports are free");
    let mut cursor = scene.0.cursor();
    let second = scene.0.find(&flow, &mut cursor, |port| port != first).expect("ports are free");
    scene.0.sign(&flow, second, cursor);
    assert_eq!(scene.0.count(), 4);
    scene.0.give_back(&flow, first);
    assert_eq!(scene.find(&flow), Some(second));
    scene.0.give_back(&flow, second);
    assert_eq!(scene.0.count(), 2);
}

/// Another way changes nothing for flows that keep their source: their own port is their best.
#[test]
fn a_source_that_stays_keeps_its_port_whatever_the_way() {
    let blocks = Allocation::Blocks { size: 10, per_client: 1 };
    for allocation in [Allocation::Random, Allocation::Sequential, Allocation::Hashed, blocks] {
        let mut scene = Scene::new((1024, 65_535), &allocation, Mapping::EndpointIndependent);
        let flow = claim(1, 5555, 1);
        let unmasked = Claim { remote: Remote { source: flow.client.ip(), ..flow.remote }, ..flow };
        assert_eq!(scene.open(&unmasked), Some(5555), "{allocation:?}");
        assert_eq!(scene.0.statistics().log_lines, 0, "nobody is hidden");
        scene.0.give_back(&unmasked, 5555);
        assert_eq!(scene.0.count(), 0);
    }
}
