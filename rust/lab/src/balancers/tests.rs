//! Known answers about the lab's strategies.

use std::net::SocketAddr;

use kbe_nat_engine::Backend;

use super::fixture::{backend, build, map, spec, throw, without};
use super::{Builder, NAMES};
use crate::spec::StrategySpec;

const KEYS: u64 = 100_000;

fn moves(before: &[SocketAddr], after: &[SocketAddr]) -> f64 {
    let moved = before.iter().zip(after).filter(|(old, new)| old != new).count();
    moved as f64 / before.len() as f64
}

fn mapping(builder: &mut dyn Builder, backends: &[Backend]) -> Vec<SocketAddr> {
    map(&*builder.build(backends).expect("they fit"), backends, KEYS)
}

/// Of ring, anchor and rendezvous only the keys of the leaver move, and back when it returns.
#[test]
fn only_keys_of_the_leaver_move() {
    for name in ["anchor", "rendezvous"] {
        let mut builder = build(&spec(name));
        let all = without(20, &[]);
        let before = mapping(&mut *builder, &all);
        for leaver in [0, 7, 19] {
            let after = mapping(&mut *builder, &without(20, &[leaver]));
            let address = backend(leaver, 1).address;
            for (old, new) in before.iter().zip(&after) {
                assert!(old == new || *old == address, "{name}");
                assert_ne!(*new, address, "{name}");
            }
            assert_eq!(mapping(&mut *builder, &all), before, "{name}: the last to leave returns");
        }
    }
}

/// One of N that comes takes 1 / (N + 1) of the keys, and no key moves between the others.
#[test]
fn keys_move_to_the_newcomer_alone() {
    for (name, tolerance) in [("jump", 0.003), ("anchor", 0.003)] {
        let mut builder = build(&spec(name));
        let before = mapping(&mut *builder, &without(19, &[]));
        let after = mapping(&mut *builder, &without(20, &[]));
        let address = backend(19, 1).address;
        assert!(before.iter().zip(&after).all(|(old, new)| old == new || *new == address));
        let share = moves(&before, &after);
        assert!((share - 1.0 / 20.0).abs() < tolerance, "{name}: {share}");
    }
}

/// Several leave in any order, others come: still nothing moves that need not.
#[test]
fn anchor_moves_least_whatever_the_history() {
    let mut builder = build(&spec("anchor"));
    let mut absent: Vec<u32> = Vec::new();
    let mut before = mapping(&mut *builder, &without(12, &absent));
    for change in [3, 0, 11, 5, 3, 7, 0, 1, 11, 5] {
        if absent.contains(&change) {
            absent.retain(|&number| number != change);
        } else {
            absent.push(change);
        }
        let after = mapping(&mut *builder, &without(12, &absent));
        let address = backend(change, 1).address;
        let is_least = before
            .iter()
            .zip(&after)
            .all(|(old, new)| old == new || *old == address || *new == address);
        assert!(is_least, "after {change} changed");
        let counts = |b: u32| after.iter().filter(|a| **a == backend(b, 1).address).count() as f64;
        let present: Vec<u32> = (0..12).filter(|b| !absent.contains(b)).collect();
        let mean = KEYS as f64 / present.len() as f64;
        assert!(present.iter().all(|&b| (counts(b) - mean).abs() < 6.0 * mean.sqrt()));
        before = after;
    }
}

/// From N to N + 1 a key keeps its backend with chance 1 / (N + 1) only.
#[test]
fn modulo_moves_almost_everything() {
    let mut builder = build(&spec("modulo"));
    let before = mapping(&mut *builder, &without(9, &[]));
    let after = mapping(&mut *builder, &without(10, &[]));
    assert!((moves(&before, &after) - 0.9).abs() < 0.01);
}

#[test]
fn shares_follow_weights() {
    let list = [backend(0, 2), backend(1, 4), backend(2, 0), backend(3, 14)];
    for name in NAMES {
        let loads = throw(&*build(&spec(name)).build(&list).expect("they fit"), 4, 100_000);
        assert_eq!(loads[2], 0, "{name}: a drained backend");
        if name != "lcd" {
            let share = f64::from(loads[3]) / 100_000.0;
            assert!((share - 0.7).abs() < 0.3, "{name}: {loads:?}");
        }
    }
}

/// n balls into n bins: about ln n / ln ln n in the fullest with one draw, ln ln n / ln d with d.
#[test]
fn two_choices_are_worth_an_exponent() {
    let fullest = |draws| {
        let spec = StrategySpec { draws: Some(draws), ..spec("lcd") };
        let list = without(10_000, &[]);
        let balancer = build(&spec).build(&list).expect("they fit");
        throw(&*balancer, 10_000, 10_000).into_iter().max().expect("many bins")
    };
    assert!((6..=10).contains(&fullest(1)), "{}", fullest(1));
    // ln ln 10,000 / ln 2 is 3.2, and a constant.
    assert!((3..=4).contains(&fullest(2)), "{}", fullest(2));
    assert!((2..=3).contains(&fullest(4)), "{}", fullest(4));
}

#[test]
fn no_backend_is_no_choice() {
    for name in NAMES {
        for list in [vec![], vec![backend(0, 0)]] {
            let balancer = build(&spec(name)).build(&list).expect("they fit");
            let request = kbe_nat_engine::balance::Request {
                source: 1,
                flow: 1,
                loads: kbe_nat_engine::balance::Loads::default(),
            };
            let mut state = kbe_nat_engine::balance::State::new(0);
            assert_eq!(balancer.pick(&request, &mut state), None, "{name}");
        }
    }
}

#[test]
fn wrong_parameters_are_errors() {
    let rows = [
        (
            r#"{"name": "bounded", "epsilon": 0}"#,
            "strategy bounded: epsilon: 0 is not from 0.000001 to 1000",
        ),
        (
            r#"{"name": "ring", "decay": 1}"#,
            "strategy ring: decay: strategy \"ring\" has no such parameter",
        ),
        (r#"{"name": "lcd", "draws": 0}"#, "strategy lcd: draws: at least 1"),
        (r#"{"name": "maglev"}"#, "strategy maglev: unknown strategy"),
        (r#"{"name": "python"}"#, "strategy python: no class was given"),
    ];
    for (text, expected) in rows {
        let spec = serde_json::from_str(text).expect("a strategy");
        let refusal = super::builder(&spec, None, 1);
        let refusal = refusal.expect_err("it is wrong").to_string();
        assert!(refusal.starts_with(expected), "{refusal}");
    }
}

/// Eight backends: a list of units; an entry of 16 bytes each; five arrays of 4,096 buckets and the
/// backend of each, the fifth holds those that do not work.
#[test]
fn memory_is_that_of_the_tables() {
    let list = without(8, &[]);
    for (name, bytes) in
        [("modulo", 8 * 4), ("jump", 8 * 4), ("lcd", 8 * 16), ("anchor", (6 * 4096 - 8) * 4)]
    {
        let balancer = build(&spec(name)).build(&list).expect("they fit");
        assert_eq!(balancer.memory_bytes(), Some(bytes), "{name}");
    }
}
