//! Who gets which backend: F50, F66 and F67.

mod scene;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Action, Backend, Cause, Config, ServiceSpec, Strategy};
use scene::*;

/// A UDP service port that remembers its clients.
fn sticky(family: Family, backends: &[u8], seconds: u32) -> ServiceSpec {
    let backends: Vec<_> = backends.iter().map(|&number| family.backend(number)).collect();
    ServiceSpec {
        affinity: Some(seconds),
        strategy: Strategy::Random,
        ..spec("sticky", Protocol::UDP, family.vip(), &backends)
    }
}

/// The backend that a new flow of this client gets.
#[track_caller]
fn ask(scene: &mut Scene, family: Family, client: u32, port: u16) -> SocketAddr {
    let packet = scene.expect(
        udp(family.client(client, port), family.vip(), b"x"),
        Action::Translate,
        Cause::New,
    );
    ends(&packet).1
}

#[test]
fn f66_a_client_keeps_its_backend_for_the_timeout() {
    for family in FAMILIES {
        let mut scene = Scene::new(Config::default(), vec![sticky(family, &[0, 1, 2, 3], 10_800)]);
        let first: Vec<_> = (0..50).map(|client| ask(&mut scene, family, client, 1)).collect();
        // Each new flow begins the time anew.
        for port in 2..6 {
            scene.sweep(10_799.0);
            for client in 0..50 {
                assert_eq!(ask(&mut scene, family, client, port), first[client as usize]);
            }
        }
        assert_eq!(scene.engine.occupancy().affinities, 50);
        scene.sweep(10_800.3);
        assert_eq!(scene.engine.occupancy().affinities, 0);
        let moved =
            (0..50).filter(|&client| ask(&mut scene, family, client, 9) != first[client as usize]);
        assert!(moved.count() > 20, "over, and drawn anew");
    }
}

#[test]
fn f66_affinity_holds_by_address_and_service_port() {
    let backends: Vec<_> = (0..4).map(|number| Family::V4.backend(number)).collect();
    let other = SocketAddr::from(([10, 96, 0, 11], 80));
    let unstuck = ServiceSpec {
        strategy: Strategy::RoundRobin,
        ..spec("other", Protocol::UDP, other, &backends)
    };
    let specs = vec![sticky(Family::V4, &[0, 1, 2, 3], 100), unstuck];
    let mut scene = Scene::new(Config::default(), specs);
    let first = ask(&mut scene, Family::V4, 1, 1);
    for port in 2..50 {
        assert_eq!(ask(&mut scene, Family::V4, 1, port), first);
    }
    let elsewhere: Vec<_> = (0..4)
        .map(|port| scene.translate(udp(Family::V4.client(1, 100 + port), other, b"x")).1)
        .collect();
    assert_eq!(elsewhere, backends, "another service port remembers nothing");
}

#[test]
fn f66_affinity_survives_new_endpoints_and_moves_from_lost_ones() {
    let mut scene = Scene::new(Config::default(), vec![sticky(Family::V4, &[0, 1], 10_800)]);
    let first: Vec<_> = (0..40).map(|client| ask(&mut scene, Family::V4, client, 1)).collect();
    scene.serve(vec![sticky(Family::V4, &[5, 1, 4, 0, 3], 10_800)]);
    for client in 0..40 {
        assert_eq!(ask(&mut scene, Family::V4, client, 2), first[client as usize]);
    }
    scene.serve(vec![sticky(Family::V4, &[5, 1, 4, 3], 10_800)]);
    let second: Vec<_> = (0..40).map(|client| ask(&mut scene, Family::V4, client, 3)).collect();
    for (first, second) in first.iter().zip(&second) {
        assert_ne!(*second, Family::V4.backend(0));
        assert!(
            *first == Family::V4.backend(0) || first == second,
            "only who lost its backend moves"
        );
    }
    for client in 0..40 {
        assert_eq!(
            ask(&mut scene, Family::V4, client, 4),
            second[client as usize],
            "and stays there"
        );
    }
}

#[test]
fn f66_a_drained_endpoint_gets_no_new_flows_of_its_clients() {
    let mut scene = Scene::new(Config::default(), vec![sticky(Family::V4, &[0, 1], 10_800)]);
    for client in 0..20 {
        ask(&mut scene, Family::V4, client, 1);
    }
    let mut drained = sticky(Family::V4, &[0, 1], 10_800);
    drained.cluster_backends[0].weight = 0;
    scene.serve(vec![drained]);
    for client in 0..20 {
        assert_eq!(ask(&mut scene, Family::V4, client, 2), Family::V4.backend(1));
    }
}

#[test]
fn f66_affinity_goes_through_a_checkpoint() {
    let mut scene = Scene::new(Config::default(), vec![sticky(Family::V6, &[0, 1, 2], 100)]);
    let first: Vec<_> = (0..30).map(|client| ask(&mut scene, Family::V6, client, 1)).collect();
    scene.pass(60.0);
    let checkpoint = scene.engine.checkpoint(scene.now);
    let config = Config { seed: 77, secret: 5, ..Config::default() };
    let mut late = Scene::new(config.clone(), vec![sticky(Family::V6, &[2, 1, 0], 100)]);
    late.engine.restore(late.now, &checkpoint, 0).expect("whole");
    late.sweep(41.0);
    assert_eq!(late.engine.occupancy().affinities, 0, "it lasts no longer than it would have");
    let mut scene = Scene::new(config, vec![sticky(Family::V6, &[2, 1, 0], 100)]);
    scene.engine.restore(scene.now, &checkpoint, 0).expect("whole");
    scene.sweep(39.0);
    assert_eq!(scene.engine.occupancy().affinities, 30);
    for client in 0..30 {
        assert_eq!(ask(&mut scene, Family::V6, client, 2), first[client as usize]);
    }
}

#[test]
fn f93_a_client_keeps_the_backend_that_another_proxy_bound_it_to() {
    for family in FAMILIES {
        let mut scene = Scene::new(Config::default(), vec![sticky(family, &[0, 1, 2, 3], 100)]);
        let now = scene.now;
        let bind = |scene: &mut Scene, client, name, backend, seconds| {
            let address = family.client(client, 1).ip();
            scene.engine.bind_client(now, name, address, family.backend(backend), seconds)
        };
        for client in 0..40 {
            let backend = (client % 4) as u8;
            // The last would stay longer than this service port remembers anybody.
            let seconds = if client < 30 { 50.0 } else { 1e9 };
            assert!(bind(&mut scene, client, "sticky", backend, seconds));
        }
        for (name, backend) in [("other", 0), ("sticky", 9)] {
            assert!(!bind(&mut scene, 50, name, backend, 50.0));
        }
        assert_eq!(scene.engine.occupancy().affinities, 40);
        for client in [0, 1, 2, 3] {
            let bound = family.backend(client as u8);
            assert_eq!(ask(&mut scene, family, client, 1), bound);
            assert!(!bind(&mut scene, client, "sticky", 3 - client as u8, 50.0), "it is older");
            assert_eq!(ask(&mut scene, family, client, 2), bound);
        }
        scene.sweep(50.3);
        assert_eq!(scene.engine.occupancy().affinities, 4 + 10, "those who came, and the last");
        scene.sweep(50.3);
        assert_eq!(scene.engine.occupancy().affinities, 0);
    }
}

#[test]
fn f50_affinity_to_an_address_that_is_used_again() {
    // Its former flows may still be remembered.
    for seconds in [31.0, 0.0] {
        let mut scene =
            Scene::new(Config::default(), vec![sticky(Family::V4, &[0, 1, 2, 3], 10_800)]);
        let first: Vec<_> = (0..60).map(|client| ask(&mut scene, Family::V4, client, 1)).collect();
        scene.serve(vec![sticky(Family::V4, &[0, 1, 2], 10_800)]);
        scene.sweep(seconds);
        // Another pod gets the address: the clients of the first are not its own.
        scene.serve(vec![sticky(Family::V4, &[0, 1, 2, 3], 10_800)]);
        let reused = Family::V4.backend(3);
        let orphans: Vec<u32> =
            (0..60).filter(|&client| first[client as usize] == reused).collect();
        let back = orphans
            .iter()
            .filter(|&&client| ask(&mut scene, Family::V4, client, 2) == reused)
            .count();
        assert!(orphans.len() > 5);
        assert!(back < orphans.len() / 2 + 3, "{back} of {} drawn anew", orphans.len());
        for client in (0..60).filter(|client| !orphans.contains(client)) {
            assert_eq!(ask(&mut scene, Family::V4, client, 2), first[client as usize]);
        }
    }
}

/// How many of `flows` new flows each backend gets.
fn shares(strategy: Strategy, weights: &[u32], flows: u32, seed: u64) -> Vec<u32> {
    let cluster_backends: Vec<Backend> = weights
        .iter()
        .enumerate()
        .map(|(number, &weight)| Backend {
            weight,
            ..Backend::new(Family::V4.backend(number as u8))
        })
        .collect();
    let spec = ServiceSpec {
        cluster_backends,
        strategy,
        ..spec("w", Protocol::UDP, Family::V4.vip(), &[])
    };
    let config = Config { seed, max_flows: flows as usize, ..Config::default() };
    let mut scene = Scene::new(config, vec![spec]);
    let mut counts = BTreeMap::new();
    for client in 0..flows {
        *counts.entry(ask(&mut scene, Family::V4, client, 53)).or_insert(0) += 1;
    }
    (0..weights.len())
        .map(|n| counts.get(&Family::V4.backend(n as u8)).copied().unwrap_or(0))
        .collect()
}

#[test]
fn f67_new_flows_follow_weights() {
    const FLOWS: u32 = 10_000;
    for strategy in
        [Strategy::Random, Strategy::Cascade, Strategy::Rendezvous, Strategy::SourceHash]
    {
        let counts = shares(strategy, &[1, 2, 7, 0], FLOWS, 5);
        assert_eq!(counts[3], 0, "{}", strategy.name());
        let statistic: f64 = counts
            .iter()
            .zip([0.1, 0.2, 0.7])
            .map(|(&count, share)| {
                let expected = share * f64::from(FLOWS);
                (f64::from(count) - expected).powi(2) / expected
            })
            .sum();
        // Two degrees of freedom: p = 0.001.
        assert!(statistic < 13.8, "{}: {counts:?}", strategy.name());
    }
    // What goes by turns or by load is exact.
    for strategy in [Strategy::WeightedRoundRobin, Strategy::WeightedLeastConn] {
        assert_eq!(
            shares(strategy, &[1, 2, 7, 0], 1000, 5),
            [100, 200, 700, 0],
            "{}",
            strategy.name()
        );
    }
    // Maglev's slots themselves are uneven by about 1 %.
    let counts = shares(Strategy::Maglev { size: None }, &[1, 2, 7, 0], FLOWS, 5);
    assert_eq!(counts[3], 0);
    for (count, expected) in counts.into_iter().zip([1000, 2000, 7000]) {
        assert!(count.abs_diff(expected) < 200, "{count} for {expected}");
    }
}

#[test]
fn f67_one_backend_gets_all_and_drained_ones_nothing() {
    for strategy in Strategy::ALL {
        assert_eq!(shares(strategy, &[3], 50, 1), [50], "{}", strategy.name());
        assert_eq!(shares(strategy, &[0, 1, 0], 50, 1), [0, 50, 0], "{}", strategy.name());
    }
}

#[test]
fn f67_all_drained_refuses() {
    for strategy in Strategy::ALL {
        let mut drained = spec("w", Protocol::UDP, Family::V4.vip(), &[Family::V4.backend(0)]);
        (drained.cluster_backends[0].weight, drained.strategy) = (0, strategy);
        let mut scene = Scene::new(Config::default(), vec![drained]);
        let packet = udp(Family::V4.client(1, 1), Family::V4.vip(), b"x");
        scene.expect(packet, Action::Reject, Cause::NoEndpoints);
        assert_eq!(scene.engine.occupancy().flows, 0);
    }
}

#[test]
fn f67_choices_repeat_under_a_seed() {
    let choices = |seed, strategy| {
        let backends: Vec<_> = (0..5).map(|number| Family::V4.backend(number)).collect();
        let spec =
            ServiceSpec { strategy, ..spec("w", Protocol::UDP, Family::V4.vip(), &backends) };
        let mut scene = Scene::new(Config { seed, ..Config::default() }, vec![spec]);
        (0..100).map(|client| ask(&mut scene, Family::V4, client, 1)).collect::<Vec<_>>()
    };
    for strategy in Strategy::ALL {
        assert_eq!(choices(3, strategy), choices(3, strategy), "{}", strategy.name());
    }
    assert_ne!(choices(3, Strategy::Random), choices(4, Strategy::Random));
}
