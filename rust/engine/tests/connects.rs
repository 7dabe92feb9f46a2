//! Connect times: from the client's first SYN to the backend's SYN-ACK.

mod scene;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{
    CONNECT_BOUNDS, Config, ConnectTimes, KernelFlow, Meta, ServiceSpec, Strategy,
};
use scene::*;

/// The connect times of the sole service port that has any, and how many backends have some.
fn times(scene: &Scene) -> (ConnectTimes, usize) {
    let stats = scene.engine.service_stats();
    let mut measured = stats.iter().filter(|service| service.connects.count() > 0);
    let Some(service) = measured.next() else { return (ConnectTimes::default(), 0) };
    assert!(measured.next().is_none(), "one service port");
    let backends = service.backends.iter().filter(|each| each.connects.is_some()).count();
    (service.connects, backends)
}

/// The bounds of the bucket that has all of the connections, in milliseconds.
fn bucket(times: &ConnectTimes) -> (u64, u64) {
    let buckets: Vec<usize> = (0..times.counts.len()).filter(|&at| times.counts[at] > 0).collect();
    let [at] = buckets[..] else { unreachable!("{:?}", times.counts) };
    let bound = |at: usize| CONNECT_BOUNDS.get(at).map_or(u64::MAX, |bound| bound / 1_000_000);
    (at.checked_sub(1).map_or(0, bound), bound(at))
}

#[test]
fn a_backend_is_timed_from_syn_to_syn_ack() {
    for family in FAMILIES {
        let mut scene = Scene::with_backends(family, 1);
        let connection =
            Connection::begin(&mut scene, family.client(1, 5555), family.vip()).expect("served");
        scene.pass(0.06);
        assert_eq!(times(&scene).1, 0, "no answer yet");
        let mut connection = connection.complete(&mut scene);
        scene.pass(7.0);
        let _ = connection.server(&mut scene, SYN | ACK, b"");
        let _ = connection.client(&mut scene, ACK | PSH, b"hello");
        let _ = connection.server(&mut scene, ACK | PSH, b"world");
        let (measured, backends) = times(&scene);
        assert_eq!((measured.count(), backends), (1, 1), "once");
        assert_eq!(bucket(&measured), (50, 100));
        assert!((59_990_000..60_010_000).contains(&measured.nanoseconds));
    }
}

#[test]
fn a_repeated_syn_begins_no_new_wait() {
    for family in FAMILIES {
        let mut scene = Scene::with_backends(family, 1);
        let connection =
            Connection::begin(&mut scene, family.client(1, 5555), family.vip()).expect("served");
        scene.pass(1.0);
        let syn = Tcp::new(SYN, connection.seq[0].wrapping_sub(1), 0);
        let _ = connection.client_segment(&mut scene, &syn);
        scene.pass(0.01);
        connection.complete(&mut scene);
        assert_eq!(bucket(&times(&scene).0), (1000, 3000));
    }
}

#[test]
fn segments_that_are_no_answer_are_not_timed() {
    for family in FAMILIES {
        let begin = || {
            let mut scene = Scene::with_backends(family, 1);
            let begun = Connection::begin(&mut scene, family.client(1, 5555), family.vip());
            scene.pass(0.06);
            (scene, begun.expect("served"))
        };
        // A refusal.
        let (mut scene, mut connection) = begin();
        let _ = connection.server(&mut scene, RST | ACK, b"");
        assert_eq!(times(&scene).1, 0);
        // A simultaneous open: nobody has answered the SYN.
        let (mut scene, mut connection) = begin();
        let _ = connection.server(&mut scene, SYN, b"");
        let _ = connection.server(&mut scene, SYN | ACK, b"");
        assert_eq!(times(&scene).1, 0);
        // A stray acknowledgement fits nothing, and the answer counts.
        let (mut scene, connection) = begin();
        let _ = connection.server_segment(&mut scene, &Tcp::new(ACK, 1, 77));
        connection.complete(&mut scene);
        assert_eq!(bucket(&times(&scene).0), (50, 100));
    }
}

#[test]
fn other_protocols_have_no_connect_time() {
    let mut scene = Scene::plain(Config::default());
    for family in FAMILIES {
        let client = family.client(1, 1000);
        let (source, backend) = scene.translate(udp(client, family.vip(), b"ask"));
        scene.translate(udp(backend, source, b"answer"));
    }
    assert_eq!(times(&scene).1, 0);
}

#[test]
fn connect_times_outlive_their_backend() {
    let family = Family::V4;
    let mut scene = Scene::with_backends(family, 1);
    let mut connection = Connection::sole(&mut scene);
    let measured = times(&scene);
    assert_eq!((measured.0.count(), measured.1), (1, 1));
    connection.close(&mut scene);
    scene.serve(specs(family, 0));
    scene.sweep(1e6);
    assert_eq!(times(&scene), (measured.0, 0), "its service port keeps them");
}

#[test]
fn f52_a_clock_that_jumps_back_measures_nothing() {
    let mut scene = Scene::with_backends(Family::V4, 1);
    scene.pass(100.0);
    let connection = Connection::begin(&mut scene, Family::V4.client(1, 5555), Family::V4.vip())
        .expect("served");
    scene.now -= 50_000_000_000;
    connection.complete(&mut scene);
    assert_eq!(times(&scene).1, 0);
}

#[test]
fn the_kernels_answer_gives_the_time_of_an_offloaded_connection() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let client = family.client(1, 1000);
        let (_, backend) = scene.translate(tcp(client, family.vip(), &Tcp::new(SYN, 1, 0)));
        let flow = kernel_flow(Protocol::TCP, client, family, backend);
        let _ = scene.engine.observe(scene.now, &flow, None);
        scene.pass(0.06);
        let answered = KernelFlow { state: Some(2), is_replied: true, ..flow };
        let other = KernelFlow { reply: (family.backend(77), client), ..answered };
        assert!(!scene.engine.note_answer(scene.now, &other), "another backend's");
        // A look at all flows tells of the answer, but not when it came.
        let _ = scene.engine.observe(scene.now, &answered, None);
        assert_eq!(times(&scene).1, 0);
        assert!(scene.engine.note_answer(scene.now, &answered));
        assert!(!scene.engine.note_answer(scene.now, &answered), "once");
        assert_eq!(bucket(&times(&scene).0), (50, 100));
    }
}

#[test]
fn a_connection_whose_syn_was_not_seen_is_not_timed() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let client = family.client(1, 1000);
        let flow = KernelFlow {
            state: Some(2),
            is_replied: true,
            ..kernel_flow(Protocol::TCP, client, family, family.backend(1))
        };
        assert!(!scene.engine.note_answer(scene.now, &flow), "of a flow that is not known");
        let _ = scene.engine.observe(scene.now, &flow, None);
        assert!(!scene.engine.note_answer(scene.now, &flow), "the standby has served it");
    }
}

#[test]
fn a_handshake_that_a_restart_divides_is_not_timed() {
    let family = Family::V4;
    let mut scene = Scene::with_backends(family, 1);
    let connection =
        Connection::begin(&mut scene, family.client(1, 5555), family.vip()).expect("served");
    let saved = scene.engine.checkpoint(scene.now);
    let mut later = Scene::with_backends(family, 1);
    later.now = scene.now;
    later.engine.restore(later.now, &saved, 0).expect("it is sound");
    assert_eq!(later.engine.checkpoint(later.now), saved, "no moment is in it");
    connection.complete(&mut later);
    assert_eq!(later.state(), Some("ESTABLISHED"));
    assert_eq!(times(&later).1, 0);
}

const PEAK_EWMA: Strategy = Strategy::PeakEwma { decay: None };

/// TCP over these backends, chosen by connect time.
fn by_latency(family: Family, backends: &[u8]) -> Vec<ServiceSpec> {
    let backends: Vec<_> = backends.iter().map(|&number| family.backend(number)).collect();
    let spec = spec("default/t:", Protocol::TCP, family.vip(), &backends);
    vec![ServiceSpec { strategy: PEAK_EWMA, ..spec }]
}

/// Opens a connection of this client, which the second backend answers late; whether it has it.
fn is_at_late_one(scene: &mut Scene, family: Family, number: u32, is_offloaded: bool) -> bool {
    let client = family.client(number, 5555);
    let connection = Connection::begin(scene, client, family.vip()).expect("served");
    let is_late = connection.backend == family.backend(1);
    if is_offloaded {
        let flow = kernel_flow(Protocol::TCP, client, family, connection.backend);
        let _ = scene.engine.observe(scene.now, &flow, None);
        scene.pass(if is_late { 0.06 } else { 0.001 });
        assert!(scene.engine.note_answer(scene.now, &flow));
    } else {
        scene.pass(if is_late { 0.06 } else { 0.001 });
        connection.complete(scene);
    }
    is_late
}

#[test]
fn late_answers_cost_a_backend_its_share() {
    for family in FAMILIES {
        for is_offloaded in [false, true] {
            let mut scene = Scene::new(Config::default(), by_latency(family, &[0, 1, 2]));
            let late = (0..100)
                .filter(|&number| is_at_late_one(&mut scene, family, number, is_offloaded))
                .count();
            // An even share is 33. Before its first answer it has no more than the others.
            assert!((1..=3).contains(&late), "{late} of 100, offloaded: {is_offloaded}");
            let syn = tcp(family.client(200, 5555), family.vip(), &Tcp::new(SYN, 1, 0));
            let told = scene.engine.explain(scene.now, &syn, Meta::default());
            let reason = &told.steps.iter().find(|(check, _)| *check == "strategy").unwrap().1;
            assert!(reason.starts_with("peak-ewma gives ") && reason.contains(" ms, and it has "));
        }
    }
}

/// A late backend is gone, and the next one has its record in the books.
#[test]
fn another_backend_is_not_taken_for_the_late_one() {
    let family = Family::V4;
    let mut scene = Scene::new(Config::default(), by_latency(family, &[1]));
    let mut connection =
        Connection::begin(&mut scene, family.client(1, 5555), family.vip()).expect("served");
    scene.pass(0.06);
    connection = connection.complete(&mut scene);
    connection.close(&mut scene);
    scene.serve(by_latency(family, &[0]));
    scene.sweep(1e3);
    for number in 2..5 {
        assert!(!is_at_late_one(&mut scene, family, number, false));
    }
    scene.serve(by_latency(family, &[0, 2]));
    // The first backend has three flows, and it alone has a connect time.
    let connection = Connection::establish(&mut scene, family.client(9, 5555), family.vip());
    assert_eq!(connection.backend, family.backend(2));
}
