//! What a checkpoint may not do, whoever has written it (F10), and how time goes on while nobody
//! runs (F52, F137).

mod scene;

use kbe_nat_engine::checkpoint::{CarriedFlow, CheckpointError};
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Action, Cause, Config};
use scene::Family::V4;
use scene::*;

/// Where version, length, checksum and body of a checkpoint begin.
const VERSION: usize = 8;
const LENGTH: usize = 12;
const CHECKSUM: usize = 20;
const BODY: usize = 24;

fn scene_of_both() -> Scene {
    Scene::plain(Config { max_flows: 1000, max_affinities: 10, ..Config::default() })
}

/// Flows of both families, and a checkpoint of them.
fn written() -> Vec<u8> {
    let mut scene = scene_of_both();
    for family in FAMILIES {
        scene.translate(udp(family.client(1, 53), family.vip(), b"x"));
        scene.translate(tcp(family.client(2, 99), family.vip(), &Tcp::new(SYN, 1, 0)));
    }
    scene.engine.checkpoint(scene.now)
}

/// Refuses these bytes, for the reason that is returned, and changes nothing.
#[track_caller]
fn refusal(bytes: &[u8]) -> CheckpointError {
    let mut scene = scene_of_both();
    let error = scene.engine.restore(scene.now, bytes, 0).expect_err("must be refused");
    assert_eq!(scene.flows(), []);
    error
}

#[test]
fn f10_any_flipped_bit_is_noticed() {
    let whole = written();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            let error = refusal(&bytes);
            let is_right = match at {
                ..VERSION => error == CheckpointError::Foreign,
                VERSION..LENGTH => matches!(error, CheckpointError::Version(_)),
                LENGTH..CHECKSUM => error == CheckpointError::Length,
                _ => error == CheckpointError::Checksum,
            };
            assert!(is_right, "bit {bit} of byte {at}: {error:?}");
        }
    }
}

#[test]
fn f10_cut_longer_empty_foreign_and_later_ones_are_refused() {
    let whole = written();
    for length in 0..whole.len() {
        let error = refusal(&whole[..length]);
        assert!(
            matches!(error, CheckpointError::Foreign | CheckpointError::Length),
            "{length}: {error:?}"
        );
    }
    assert_eq!(refusal(&[&whole[..], b"x"].concat()), CheckpointError::Length);
    assert_eq!(refusal(&vec![0; 1 << 20]), CheckpointError::Foreign);
    assert_eq!(refusal(b"#!/bin/sh\n"), CheckpointError::Foreign);
    for version in [0, 2, u32::MAX] {
        let mut bytes = whole.clone();
        bytes[VERSION..LENGTH].copy_from_slice(&version.to_le_bytes());
        assert_eq!(refusal(&bytes), CheckpointError::Version(version));
    }
}

#[test]
fn f10_what_stands_behind_the_last_value_is_refused() {
    let mut bytes = written();
    bytes.push(0);
    let length = (bytes.len() - BODY) as u64;
    bytes[LENGTH..CHECKSUM].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[BODY..]);
    bytes[CHECKSUM..BODY].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(refusal(&bytes), CheckpointError::Value(length as usize - 1));
}

#[test]
fn f10_sections_of_a_later_version_are_skipped() {
    let mut bytes = written();
    for (number, content) in [(7u32, &b"more"[..]), (8, b"")] {
        bytes.extend(number.to_le_bytes());
        bytes.extend((content.len() as u32).to_le_bytes());
        bytes.extend(content);
    }
    let framed = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let length = (bytes.len() - BODY) as u64;
        bytes[LENGTH..CHECKSUM].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[BODY..]);
        bytes[CHECKSUM..BODY].copy_from_slice(&checksum.to_le_bytes());
        bytes
    };
    let restored = |bytes: &[u8]| {
        let mut scene = scene_of_both();
        scene.engine.restore(scene.now, bytes, 0).map(|_| scene.flows())
    };
    assert_eq!(restored(&framed(&bytes)), restored(&written()));
    let cut = framed(&bytes[..bytes.len() - 9]);
    assert!(matches!(refusal(&cut), CheckpointError::Value(_)));
}

/// So many flows of which a cache has carried something.
fn carried(count: u32) -> Vec<CarriedFlow> {
    let end = |text: &str| text.parse().expect("an address");
    let flow = |id| CarriedFlow {
        protocol: Protocol::UDP,
        id,
        original: (end("[2001:db8::1]:1"), end("[2001:db8::2]:53")),
        reply: (end("[2001:db8::3]:53"), end("[2001:db8::1]:1")),
        packets: [u64::from(id), 1 << 40],
        bytes: [100, u64::MAX],
    };
    (0..count).map(flow).collect()
}

#[test]
fn what_a_cache_has_carried_outlives_a_restart() {
    let config = Config { max_flows: 8, max_affinities: 0, ..Config::default() };
    let mut scene = Scene::plain(config.clone());
    scene.engine.set_carried(carried(9));
    let bytes = scene.engine.checkpoint(scene.now);
    let mut next = Scene::plain(config);
    assert_eq!(next.engine.restore(next.now, &bytes, 0), Ok(0));
    // Of more flows than an engine can have nothing is written.
    assert_eq!(next.engine.carried(), carried(8));
    // Also before anybody has said anew what was carried.
    assert_eq!(next.engine.checkpoint(next.now), bytes);
}

#[test]
fn f10_a_full_engine_keeps_within_the_limit_that_it_names() {
    for max_flows in [1, 7, 1000] {
        let config = Config { max_flows, max_affinities: 0, ..Config::default() };
        let mut scene = Scene::plain(config.clone());
        let before = scene.engine.checkpoint(scene.now).len();
        for n in 0..max_flows as u32 {
            for family in FAMILIES {
                scene.translate(udp(family.client(n, 53), family.vip(), b"x"));
            }
        }
        scene.engine.set_carried(carried(max_flows as u32));
        // What was carried is a section, with its number and length.
        let flows = scene.engine.checkpoint(scene.now).len() - before - 8;
        let limit = |max_flows| {
            Scene::plain(Config { max_flows, ..config.clone() }).engine.checkpoint_limit()
        };
        assert_eq!(limit(max_flows + max_flows) - limit(max_flows), flows, "{max_flows} flows");
        assert!(before + 8 + flows <= limit(max_flows));
    }
}

#[test]
fn f10_no_flow_lives_longer_than_a_packet_would_keep_it() {
    let client = V4.client(1, 53);
    let specs = vec![spec("u", Protocol::UDP, V4.vip(), &[V4.backend(0)])];
    let mut scene = Scene::new(Config::default(), specs.clone());
    scene.translate(udp(client, V4.vip(), b"x"));
    let mut bytes = scene.engine.checkpoint(scene.now);
    // The only flow's remaining time stands behind the names, and its own kind and ends.
    let names = 4 + 4 + 1;
    let left = BODY + names + 4 + 4 + 2 * (5 + 5 + 2 + 2);
    let ticks = u32::from_le_bytes(bytes[left..left + 4].try_into().expect("four bytes"));
    assert_eq!(f64::from(ticks), (30e9 / f64::from(1 << 26)).ceil(), "this is where it stands");
    bytes[left..left + 4].fill(0xff);
    let checksum = crc32c::crc32c(&bytes[BODY..]);
    bytes[CHECKSUM..BODY].copy_from_slice(&checksum.to_le_bytes());
    let mut scene = Scene::new(Config::default(), specs);
    assert_eq!(scene.engine.restore(scene.now, &bytes, 0), Ok(1));
    assert_eq!(scene.flows()[0].timeout.round(), 30.0, "not nine years");
    scene.sweep(31.0);
    assert_eq!(scene.flows(), []);
}

/// A new engine's time begins with it, and the flow is older.
#[test]
fn flows_keep_their_age() {
    for family in FAMILIES {
        let mut scene = scene_of_both();
        scene.translate(udp(family.client(1, 53), family.vip(), b"x"));
        scene.pass(20.0);
        let checkpoint = scene.engine.checkpoint(scene.now);
        let mut scene = scene_of_both();
        assert_eq!(scene.engine.restore(scene.now, &checkpoint, 5 * SECOND), Ok(1));
        assert_eq!(scene.flows()[0].age.round(), 25.0);
        scene.sweep(3.0);
        assert_eq!(scene.flows()[0].age.round(), 28.0);
        let again = scene.engine.checkpoint(scene.now);
        let mut scene = scene_of_both();
        assert_eq!(scene.engine.restore(scene.now, &again, 0), Ok(1));
        assert_eq!(scene.flows()[0].age.round(), 28.0);
    }
}

#[test]
fn f137_flows_that_must_have_ended_meanwhile_are_left_out() {
    let mut scene = scene_of_both();
    for family in FAMILIES {
        scene.translate(udp(family.client(1, 53), family.vip(), b"x"));
    }
    scene.pass(20.0);
    for family in FAMILIES {
        let (client, vip) = (family.client(2, 99), family.vip());
        scene.translate(tcp(client, vip, &Tcp::new(SYN, 1, 0)));
    }
    let checkpoint = scene.engine.checkpoint(scene.now);
    // UDP lives for 30 s and has 10 left; packets may have renewed it after the checkpoint.
    // SYN_SENT lives for 120.
    for (away, udp_left, syn_left) in [
        (0, Some(10.0), Some(120.0)),
        (25, Some(5.0), Some(95.0)),
        (31, None, Some(89.0)),
        (121, None, None),
    ] {
        let mut scene = scene_of_both();
        let restored = scene.engine.restore(scene.now, &checkpoint, away * SECOND).expect("whole");
        let left = |protocol| {
            let mut left: Vec<f64> = scene
                .flows()
                .iter()
                .filter(|flow| flow.protocol == protocol)
                .map(|flow| flow.timeout.round())
                .collect();
            left.dedup();
            left
        };
        assert_eq!(left(Protocol::UDP), Vec::from_iter(udp_left), "{away} s");
        assert_eq!(left(Protocol::TCP), Vec::from_iter(syn_left), "{away} s");
        assert_eq!(restored, scene.flows().len());
    }
    let mut scene = scene_of_both();
    assert_eq!(scene.engine.restore(scene.now, &checkpoint, u64::MAX), Ok(0));
    scene.expect(udp(V4.client(1, 53), V4.vip(), b"x"), Action::Translate, Cause::New);
}
