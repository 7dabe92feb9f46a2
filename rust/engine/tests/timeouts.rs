//! How long flows live: each state's timeout, idle connections, and clocks that jump: F40, F51, F52.

mod scene;

use std::net::SocketAddr;

use kbe_nat_engine::conntrack::timeouts::Timeouts;
use kbe_nat_engine::reject::{RejectWith, reject};
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Action, Cause, Config, Meta, Midstream};
use scene::*;

const V4: Family = Family::V4;

/// A way to bring a flow into a state.
type Path = fn(&mut Scene);

fn syn_sent(scene: &mut Scene) {
    Connection::begin(scene, V4.client(1, 5555), V4.vip()).expect("sent on");
}

fn syn_recv(scene: &mut Scene) {
    let mut connection = Connection::begin(scene, V4.client(1, 5555), V4.vip()).expect("sent on");
    let _ = connection.server(scene, SYN | ACK, b"");
}

fn syn_sent2(scene: &mut Scene) {
    let mut connection = Connection::begin(scene, V4.client(1, 5555), V4.vip()).expect("sent on");
    let _ = connection.server(scene, SYN, b"");
}

fn tcp_established(scene: &mut Scene) {
    Connection::sole(scene);
}

/// The first `steps` of a close by the client.
fn closing(scene: &mut Scene, steps: usize) {
    let mut connection = Connection::sole(scene);
    let ways: [(bool, u8); 4] = [(true, FIN | ACK), (false, ACK), (false, FIN | ACK), (true, ACK)];
    for (is_client, flags) in ways.into_iter().take(steps) {
        let _ = match is_client {
            true => connection.client(scene, flags, b""),
            false => connection.server(scene, flags, b""),
        };
    }
}

fn reset(scene: &mut Scene) {
    let mut connection = Connection::sole(scene);
    assert_eq!(connection.client(scene, RST, b"").cause, Cause::Established);
}

fn unacknowledged(scene: &mut Scene) {
    assert_eq!(Connection::sole(scene).client(scene, ACK | PSH, b"data").cause, Cause::Established);
}

fn retransmitted(scene: &mut Scene) {
    let mut connection = Connection::sole(scene);
    let _ = connection.client(scene, ACK | PSH, b"data");
    for _ in 0..3 {
        connection.seq[0] = connection.seq[0].wrapping_sub(4);
        let _ = connection.client(scene, ACK | PSH, b"data");
    }
}

/// A server that takes nothing for now.
fn shut(scene: &mut Scene) {
    let connection = Connection::sole(scene);
    let shut = Tcp { window: 0, ..Tcp::new(ACK, connection.seq[1], connection.seq[0]) };
    scene.translate(tcp(V4.backend(0), V4.client(1, 5555), &shut));
}

/// A stray acknowledgement, which nobody answers.
fn picked_up(scene: &mut Scene) {
    scene.translate(tcp(V4.client(1, 5555), V4.vip(), &Tcp::new(ACK, 100, 200)));
}

fn udp_asked(scene: &mut Scene) {
    scene.translate(udp(V4.client(1, 53), V4.vip(), b"x"));
}

fn udp_streaming(scene: &mut Scene) {
    let (source, backend) = scene.translate(udp(V4.client(1, 53), V4.vip(), b"x"));
    scene.pass(3.0);
    scene.translate(udp(backend, source, b"x"));
    scene.translate(udp(V4.client(1, 53), V4.vip(), b"x"));
}

fn pinged(scene: &mut Scene, family: Family) {
    let vip = SocketAddr::new(family.vip().ip(), 0);
    let backend = SocketAddr::new(family.backend(0).ip(), 0);
    scene.serve(vec![spec("ping", family.icmp(), vip, &[backend])]);
    scene.translate(echo(family.client(1, 0).ip(), vip.ip(), true, 77, b"ping"));
}

fn tunnelled(scene: &mut Scene) {
    let (vip, backend) =
        (SocketAddr::new(V4.vip().ip(), 0), SocketAddr::new(V4.backend(0).ip(), 0));
    scene.serve(vec![spec("gre", Protocol(47), vip, &[backend])]);
    scene.translate(ip(V4.client(1, 0).ip(), vip.ip(), Protocol(47), b"\0\0\x08\0inner"));
}

/// An association after these chunks: true is from the client.
fn associated(scene: &mut Scene, chunks: &[(bool, u8)]) {
    let client = V4.client(1, 5555);
    let (mut source, mut backend) = (client, V4.backend(0));
    for &(is_client, chunk) in chunks {
        if is_client {
            (source, backend) = scene.translate(sctp(client, V4.vip(), chunk, b"1234"));
        } else {
            scene.translate(sctp(backend, source, chunk, b"1234"));
        }
    }
}

const INIT: (bool, u8) = (true, 1);
const INIT_ACK: (bool, u8) = (false, 2);
const COOKIE_ECHO: (bool, u8) = (true, 10);
const COOKIE_ACK: (bool, u8) = (false, 11);

/// Every timeout: its name, the kernel's default in seconds, the state's name, and how a flow comes
/// there.
const PATHS: [(&str, f64, Option<&str>, Path); 25] = [
    ("tcp_syn_sent", 120.0, Some("SYN_SENT"), syn_sent),
    ("tcp_syn_recv", 60.0, Some("SYN_RECV"), syn_recv),
    ("tcp_established", 432_000.0, Some("ESTABLISHED"), tcp_established),
    ("tcp_fin_wait", 120.0, Some("FIN_WAIT"), |scene| closing(scene, 1)),
    ("tcp_close_wait", 60.0, Some("CLOSE_WAIT"), |scene| closing(scene, 2)),
    ("tcp_last_ack", 30.0, Some("LAST_ACK"), |scene| closing(scene, 3)),
    ("tcp_time_wait", 120.0, Some("TIME_WAIT"), |scene| closing(scene, 4)),
    ("tcp_close", 10.0, Some("CLOSE"), reset),
    ("tcp_syn_sent2", 120.0, Some("SYN_SENT2"), syn_sent2),
    ("tcp_max_retrans", 300.0, Some("ESTABLISHED"), retransmitted),
    ("tcp_unacknowledged", 300.0, Some("ESTABLISHED"), unacknowledged),
    ("tcp_max_retrans", 300.0, Some("ESTABLISHED"), shut),
    ("tcp_unacknowledged", 300.0, Some("ESTABLISHED"), picked_up),
    ("udp", 30.0, None, udp_asked),
    ("udp_stream", 120.0, None, udp_streaming),
    ("icmp", 30.0, None, |scene| pinged(scene, V4)),
    ("icmpv6", 30.0, None, |scene| pinged(scene, Family::V6)),
    ("generic", 600.0, None, tunnelled),
    ("sctp_closed", 10.0, Some("CLOSED"), |scene| associated(scene, &[INIT, (false, 6)])),
    ("sctp_cookie_wait", 3.0, Some("COOKIE_WAIT"), |scene| associated(scene, &[INIT, INIT_ACK])),
    ("sctp_cookie_echoed", 3.0, Some("COOKIE_ECHOED"), |scene| {
        associated(scene, &[INIT, INIT_ACK, COOKIE_ECHO]);
    }),
    ("sctp_established", 210.0, Some("ESTABLISHED"), |scene| {
        associated(scene, &[INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK]);
    }),
    ("sctp_shutdown_sent", 3.0, Some("SHUTDOWN_SENT"), |scene| {
        associated(scene, &[INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK, (true, 7)]);
    }),
    ("sctp_shutdown_recd", 3.0, Some("SHUTDOWN_RECD"), |scene| {
        associated(scene, &[INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK, (false, 7)]);
    }),
    ("sctp_shutdown_ack_sent", 3.0, Some("SHUTDOWN_ACK_SENT"), |scene| {
        associated(scene, &[INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK, (true, 7), (false, 8)]);
    }),
];

#[test]
fn f40_each_states_timeout() {
    for (name, seconds, state, path) in PATHS {
        for wanted in [None, Some(1.5), Some(47.0)] {
            let mut timeouts = Timeouts::default();
            if let Some(wanted) = wanted {
                timeouts.set(name, wanted).expect("known");
            }
            let seconds = wanted.unwrap_or(seconds);
            let mut scene = Scene::new(Config { timeouts, ..Config::default() }, specs(V4, 1));
            path(&mut scene);
            assert_eq!(scene.state(), state, "{name}");
            let left = scene.flows()[0].timeout;
            assert!((seconds..seconds + 0.1).contains(&left), "{name}: {left} s left of {seconds}");
            scene.sweep(seconds - 0.5);
            assert_eq!(scene.flows().len(), 1, "{name} is alive before {seconds} s");
            scene.sweep(0.7);
            assert_eq!(scene.flows().len(), 0, "{name} is over after {seconds} s");
            assert_eq!(scene.engine.occupancy().flows, 0);
            assert_eq!(scene.engine.occupancy().expired, 1);
        }
    }
}

#[test]
fn f40_what_is_over_is_not_used_without_a_sweep_either() {
    for (family, seconds, cause) in
        [(V4, 29.0, Cause::Established), (V4, 30.2, Cause::New), (Family::V6, 30.2, Cause::New)]
    {
        let mut scene = Scene::plain(Config::default());
        scene.translate(udp(family.client(1, 53), family.vip(), b"x"));
        scene.pass(seconds);
        scene.expect(udp(family.client(1, 53), family.vip(), b"x"), Action::Translate, cause);
    }
}

#[test]
fn f40_next_expiry_is_never_late() {
    for (name, _, _, path) in PATHS {
        let mut scene = Scene::with_backends(V4, 1);
        path(&mut scene);
        let mut wakes = 0;
        while !scene.flows().is_empty() {
            scene.now = scene.engine.next_expiry().expect("a flow is there");
            scene.engine.expire(scene.now, 1000);
            wakes += 1;
            assert!(wakes < 10, "{name}");
        }
        assert_eq!(scene.engine.next_expiry(), None);
    }
}

#[test]
fn f40_datagrams_keep_their_flow_alive() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let (client, vip) = (family.client(1, 53), family.vip());
        let (_, backend) = scene.translate(udp(client, vip, b"first"));
        for _ in 0..5 {
            scene.sweep(29.0);
            scene.expect(udp(client, vip, b"more"), Action::Translate, Cause::Established);
        }
        scene.expect(udp(backend, client, b"answer"), Action::Translate, Cause::Established);
        for _ in 0..5 {
            // A stream by now.
            scene.expect(udp(client, vip, b"more"), Action::Translate, Cause::Established);
            scene.expect(udp(backend, client, b"answer"), Action::Translate, Cause::Established);
            scene.sweep(115.0);
        }
        scene.sweep(10.0);
        assert_eq!(scene.flows(), []);
    }
}

#[test]
fn f51_idle_established() {
    let mut scene = Scene::with_backends(V4, 3);
    let mut connection = Connection::sole(&mut scene);
    scene.sweep(2.0 * 3600.0 + 300.0);
    assert_eq!(connection.client(&mut scene, ACK | PSH, b"late").cause, Cause::Established);
    assert_eq!(connection.server(&mut scene, ACK, b"").cause, Cause::Established);
    scene.sweep(432_001.0);
    assert_eq!(scene.engine.occupancy().flows, 0);
    // Not silence: picked up again, or with the policy for it refused by a RST.
    let (verdict, _) = scene.send(tcp(connection.client, V4.vip(), &Tcp::new(ACK, 1, 2)));
    assert_eq!((verdict.action, verdict.cause), (Action::Translate, Cause::New));

    let config = Config { midstream: Midstream::Reject, ..Config::default() };
    let mut scene = Scene::new(config, specs(V4, 3));
    let connection = Connection::sole(&mut scene);
    scene.sweep(432_001.0);
    let late =
        tcp(connection.client, V4.vip(), &Tcp::new(ACK, connection.seq[0], connection.seq[1]));
    let late = scene.expect(late, Action::Reject, Cause::Midstream);
    assert!(reject(&late, RejectWith::TcpReset).is_some_and(|answer| answer[33] == RST));
}

#[test]
fn f52_clock_that_jumps_back() {
    let mut scene = Scene::with_backends(V4, 3);
    let mut connection = Connection::sole(&mut scene);
    scene.translate(udp(V4.client(1, 53), V4.vip(), b"x"));
    let year = 365 * 86_400 * SECOND;
    scene.now += year;
    scene.translate(udp(V4.client(2, 53), V4.vip(), b"x"));
    scene.now -= year;
    for _ in 0..3 {
        scene.sweep(1.0);
        assert_eq!(scene.flows().len(), 1, "a year forward ended the others, and none came back");
    }
    // It stands still until the clock has caught up; nothing ends early.
    scene.sweep(86_400.0);
    assert_eq!(scene.flows().len(), 1);
    scene.now += year;
    scene.sweep(0.0);
    assert_eq!(scene.flows().len(), 0);
    let verdict = connection.client(&mut scene, ACK | PSH, b"x");
    assert_eq!((verdict.action, verdict.cause), (Action::Translate, Cause::New));
    // The ends of the clock.
    for now in [0, u64::MAX, 1, u64::MAX - 1] {
        scene.now = now;
        scene.engine.expire(now, 100);
        scene.translate(udp(V4.client(9, 53), V4.vip(), b"x"));
        assert!(!scene.flows().is_empty());
    }
}

#[test]
fn f52_checkpoint_holds_remaining_times() {
    let mut scene = Scene::with_backends(V4, 1);
    scene.translate(udp(V4.client(1, 53), V4.vip(), b"x"));
    scene.pass(10.0);
    let mut connection = Connection::sole(&mut scene);
    let checkpoint = scene.engine.checkpoint(scene.now);
    let left = |scene: &Scene| {
        let mut left: Vec<f64> = scene.flows().iter().map(|flow| flow.timeout.round()).collect();
        left.sort_by(f64::total_cmp);
        left
    };
    assert_eq!(left(&scene), [20.0, 432_000.0]);
    for now in [0, 5, 1_000_000 * SECOND, 1 << 62] {
        let mut scene = Scene::with_backends(V4, 1);
        scene.now = now;
        assert_eq!(scene.engine.restore(now, &checkpoint, 0), Ok(2));
        assert_eq!(left(&scene), [20.0, 432_000.0]);
        let mut connection = connection.clone();
        assert_eq!(connection.client(&mut scene, ACK | PSH, b"x").cause, Cause::Established);
        scene.sweep(21.0);
        assert_eq!(scene.flows().len(), 1);
    }
    assert_eq!(connection.client(&mut scene, ACK, b"").cause, Cause::Established);
}

#[test]
fn f52_looking_ahead_moves_no_time() {
    let mut scene = Scene::with_backends(V4, 1);
    scene.translate(udp(V4.client(1, 53), V4.vip(), b"x"));
    let far = scene.now + 1_000 * SECOND;
    let packet = udp(V4.client(1, 53), V4.vip(), b"x");
    assert_eq!(scene.engine.explain(far, &packet, Meta::default()).verdict.cause, Cause::New);
    scene.expect(packet, Action::Translate, Cause::Established);
}

#[test]
fn f40_timeouts_that_change_hold_from_the_next_packet_on() {
    let mut scene = Scene::with_backends(V4, 1);
    for client in [1, 2] {
        scene.translate(udp(V4.client(client, 53), V4.vip(), b"x"));
    }
    let mut timeouts = Timeouts::default();
    timeouts.set("udp", 5.0).expect("known");
    scene.engine.set_timeouts(timeouts);
    scene.expect(udp(V4.client(2, 53), V4.vip(), b"x"), Action::Translate, Cause::Established);
    scene.sweep(6.0);
    let [flow] = &scene.flows()[..] else { panic!("the other flow has its 30 s") };
    assert_eq!(flow.timeout.round(), 24.0);
}
