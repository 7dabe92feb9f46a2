//! Memory: F30. Alone in its file, since it counts what this process allocates.

// The only way to count allocations is to be the allocator.
#![allow(unsafe_code)]

mod scene;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use kbe_nat_engine::{Action, Cause, Config, Engine, Meta, Packet, Verdict};
use scene::*;

/// The system's allocator, which counts what the test's own thread asks for.
struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

fn count(calls: usize, bytes: isize) {
    // A thread that is ending counts no more.
    let _ = CALLS.try_with(|cell| cell.set(cell.get() + calls));
    let _ = LIVE.try_with(|cell| cell.set(cell.get() + bytes));
}

// SAFETY: every call is handed on as it is to the system's allocator; the counters are plain cells
// that do not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as isize);
        // SAFETY: the caller keeps `alloc`'s contract, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as isize));
        // SAFETY: as above; `pointer` came from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations and the growth in bytes while `run` runs.
fn allocated(run: impl FnOnce()) -> (usize, isize) {
    let before = (CALLS.get(), LIVE.get());
    run();
    (CALLS.get() - before.0, LIVE.get() - before.1)
}

fn process(engine: &mut Engine, now: u64, packet: &mut [u8]) -> Verdict {
    engine.process(now, &mut Packet { bytes: packet, meta: Meta::default() })
}

/// Bytes that a flow may take, as `conntrack.rs` counts them: hot and cold record, two entries of
/// the index.
fn bytes_per_flow(family: Family) -> f64 {
    if family == Family::V4 { 133.4 } else { 197.4 }
}

#[test]
fn f30_flows_take_what_is_documented() {
    const FLOWS: u32 = 20_000;
    const DECISIONS: u32 = 1000;
    for family in FAMILIES {
        let config = Config {
            max_flows: FLOWS as usize,
            decisions: DECISIONS as usize,
            ..Config::default()
        };
        let mut scene = Scene::new(config, specs(family, 3));
        let mut packets: Vec<Vec<u8>> =
            (0..FLOWS + 5000).map(|n| udp(family.client(n, 5), family.vip(), b"x")).collect();
        let now = scene.now;
        let (_, grown) = allocated(|| {
            for packet in &mut packets {
                let verdict = process(&mut scene.engine, now, packet);
                assert_eq!(verdict.action, Action::Translate);
            }
        });
        assert_eq!(scene.engine.occupancy().flows, FLOWS as usize);
        // The index has whole buckets, and each table some bytes of its own.
        let flows = bytes_per_flow(family) * f64::from(FLOWS) * 1.02 + 4096.0;
        // The flight recorder has 64 bytes for each decision.
        let most = flows + f64::from(64 * DECISIONS);
        assert!(
            (most * 0.9..most).contains(&(grown as f64)),
            "{grown} bytes, {} a flow",
            grown as f64 / f64::from(FLOWS)
        );
    }
}

#[test]
fn f30_nothing_is_allocated_on_the_path_of_known_flows() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config { max_flows: 1000, ..Config::default() });
        let connection = Connection::establish(&mut scene, family.client(1, 5555), family.vip());
        let (client, vip, backend) = (connection.client, connection.vip, connection.backend);
        let (_, asked) = scene.send(udp(client, vip, b"x"));
        let echoed = icmp(
            family.router(),
            client.ip(),
            if family == Family::V4 { (3, 4) } else { (2, 0) },
            [0; 4],
            &asked,
        );
        let [sequence, other] = connection.seq;
        let packets = [
            tcp(client, vip, &Tcp { payload: vec![1; 100], ..Tcp::new(ACK, sequence, other) }),
            tcp(backend, client, &Tcp::new(ACK, other, sequence)),
            tcp(backend, client, &Tcp::new(RST, other.wrapping_add(9), 0)),
            udp(client, vip, b"again"),
            udp(ends(&asked).1, client, b"answer"),
            udp(client, family.client(7, 7), b"not ours"),
            echoed,
            vec![0x45; 30],
        ];
        let mut buffers: Vec<Vec<u8>> = packets.to_vec();
        for round in 0..1000 {
            for (buffer, packet) in buffers.iter_mut().zip(&packets) {
                buffer.copy_from_slice(packet);
            }
            let now = scene.now + round * 100_000_000;
            let (calls, _) = allocated(|| {
                for buffer in &mut buffers {
                    let _ = process(&mut scene.engine, now, buffer);
                }
                scene.engine.expire(now, 100);
            });
            assert_eq!(calls, 0, "round {round}");
        }
        assert_eq!(scene.count(Cause::New), 2);
    }
}

#[test]
fn f30_new_flows_in_a_table_that_was_full_once_allocate_nothing() {
    let mut scene =
        Scene::new(Config { max_flows: 500, ..Config::default() }, specs(Family::V4, 3));
    let vip = Family::V4.vip();
    let mut packets: Vec<Vec<u8>> =
        (0..2000).map(|n| udp(Family::V4.client(n, 5), vip, b"x")).collect();
    let now = scene.now;
    for packet in &mut packets[..600] {
        let _ = process(&mut scene.engine, now, packet);
    }
    let (calls, _) = allocated(|| {
        for packet in &mut packets[600..] {
            assert_eq!(process(&mut scene.engine, now, packet).cause, Cause::New);
        }
    });
    assert_eq!(calls, 0);
}

#[test]
fn f30_other_tables_stay_within_their_limits() {
    let config =
        Config { max_flows: 100, max_affinities: 200, max_fragments: 50, ..Config::default() };
    let mut sticky = specs(Family::V4, 3);
    for spec in &mut sticky {
        spec.affinity = Some(10_800);
    }
    let mut scene = Scene::new(config, sticky);
    let round = |scene: &mut Scene, first: u32| {
        for n in first..first + 2000 {
            let packet = udp(Family::V4.client(n, 5), Family::V4.vip(), &[1; 100]);
            let _ = scene.send(packet.clone());
            let _ = scene.send(fragments(&packet, 56).swap_remove(1));
            let _ = scene.engine.released(|_| true);
        }
    };
    round(&mut scene, 0);
    let (_, grown) = allocated(|| round(&mut scene, 2000));
    let occupancy = scene.engine.occupancy();
    assert_eq!((occupancy.flows, occupancy.affinities), (100, 200));
    assert!(occupancy.held_fragments <= 50);
    assert!(grown.abs() < 20_000, "{grown} bytes more after as much again");
}
