//! The states of flows, TCP's above all, and time: F40 to F52.

mod scene;

use std::collections::HashSet;
use std::net::SocketAddr;

use kbe_nat_engine::conntrack::timeouts::Timeouts;
use kbe_nat_engine::reject::{RejectWith, reject};
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Action, Cause, Config, InvalidTcp, Meta, Midstream, Strategy};
use proptest::prelude::{any, prop, proptest};
use scene::*;

const V4: Family = Family::V4;

fn scene_of(backends: u8) -> Scene {
    Scene::new(Config::default(), specs(V4, backends))
}

fn established(scene: &mut Scene) -> Connection {
    Connection::establish(scene, V4.client(1, 5555), V4.vip())
}

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
    established(scene);
}

/// The first `steps` of a close by the client.
fn closing(scene: &mut Scene, steps: usize) {
    let mut connection = established(scene);
    let ways: [(bool, u8); 4] = [(true, FIN | ACK), (false, ACK), (false, FIN | ACK), (true, ACK)];
    for (is_client, flags) in ways.into_iter().take(steps) {
        let _ = match is_client {
            true => connection.client(scene, flags, b""),
            false => connection.server(scene, flags, b""),
        };
    }
}

fn reset(scene: &mut Scene) {
    let mut connection = established(scene);
    assert_eq!(connection.client(scene, RST, b"").cause, Cause::Established);
}

fn unacknowledged(scene: &mut Scene) {
    assert_eq!(established(scene).client(scene, ACK | PSH, b"data").cause, Cause::Established);
}

fn retransmitted(scene: &mut Scene) {
    let mut connection = established(scene);
    let _ = connection.client(scene, ACK | PSH, b"data");
    for _ in 0..3 {
        connection.seq[0] = connection.seq[0].wrapping_sub(4);
        let _ = connection.client(scene, ACK | PSH, b"data");
    }
}

/// A server that takes nothing for now.
fn shut(scene: &mut Scene) {
    let connection = established(scene);
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
        let mut scene = scene_of(1);
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
fn f41_rst_that_is_not_exact() {
    let mut scene = scene_of(1);
    let mut connection = established(&mut scene);
    let _ = connection.client(&mut scene, ACK | PSH, b"hello");
    let _ = connection.server(&mut scene, ACK | PSH, b"world");
    let _ = connection.client(&mut scene, ACK, b"");
    let exact = connection.seq;
    for (offset, side) in
        [(1u32, 0), (u32::MAX, 0), (1000, 0), (1 << 31, 0), (1, 1), (u32::MAX, 1), (1 << 30, 1)]
    {
        let segment = Tcp::new(RST, exact[side].wrapping_add(offset), 0);
        let verdict = match side {
            0 => connection.client_segment(&mut scene, &segment),
            _ => connection.server_segment(&mut scene, &segment),
        };
        assert_eq!(
            (verdict.action, verdict.cause),
            (Action::Translate, Cause::Invalid),
            "{offset}"
        );
        assert_eq!(scene.state(), Some("ESTABLISHED"));
    }
    assert_eq!(scene.count(Cause::Invalid), 7);
    let verdict = connection.server_segment(&mut scene, &Tcp::new(RST, exact[1], 0));
    assert_eq!((verdict.action, verdict.cause), (Action::Translate, Cause::Established));
    assert_eq!(scene.state(), Some("CLOSE"));
}

#[test]
fn f42_blind_rst_flood() {
    for invalid in [InvalidTcp::Translate, InvalidTcp::Drop] {
        let config = Config { invalid, ..Config::default() };
        let mut scene = Scene::new(config, specs(V4, 1));
        let mut connection = established(&mut scene);
        let _ = connection.client(&mut scene, ACK | PSH, b"hello");
        let _ = connection.server(&mut scene, ACK, b"");
        let before = scene.flows()[0].timeout;
        scene.pass(60.0);
        for guess in 0..2000u32 {
            let seq = guess.wrapping_mul(2_147_483) | 1;
            if seq != connection.seq[0] && seq != connection.seq[1] {
                let _ = connection.client_segment(&mut scene, &Tcp::new(RST | ACK, seq, seq));
                let _ = connection.server_segment(&mut scene, &Tcp::new(RST, seq, 0));
            }
        }
        assert_eq!(scene.state(), Some("ESTABLISHED"));
        assert!(scene.flows()[0].timeout < before - 59.0, "guesses refresh nothing");
        assert_eq!(connection.client(&mut scene, ACK | PSH, b"alive").cause, Cause::Established);
        assert_eq!(connection.server(&mut scene, ACK | PSH, b"alive").cause, Cause::Established);
        assert_eq!(scene.state(), Some("ESTABLISHED"));
    }
}

#[test]
fn f43_syn_on_an_established_tuple() {
    // The client has forgotten the connection and begins another; the backend challenges (RFC 5961,
    // 4).
    let mut scene = scene_of(1);
    let connection = established(&mut scene);
    let syn = Tcp::new(SYN, 77_000, 0);
    assert_eq!(connection.client_segment(&mut scene, &syn).cause, Cause::Established);
    assert_eq!(
        scene.state(),
        Some("ESTABLISHED"),
        "a SYN alone changes nothing: anyone could send it"
    );
    let challenge = Tcp::new(ACK, connection.seq[1], connection.seq[0]);
    assert_eq!(connection.server_segment(&mut scene, &challenge).cause, Cause::Established);
    let rst = Tcp::new(RST, challenge.ack, 0);
    assert_eq!(connection.client_segment(&mut scene, &rst).cause, Cause::Established);
    assert_eq!(scene.state(), Some("CLOSE"));
    // The retransmitted SYN begins anew.
    assert_eq!(connection.client_segment(&mut scene, &syn).cause, Cause::New);
    let answer = Tcp::new(SYN | ACK, 88_000, 77_001);
    assert_eq!(connection.server_segment(&mut scene, &answer).cause, Cause::Established);
    assert_eq!(scene.state(), Some("SYN_RECV"));
    assert_eq!(scene.count(Cause::Invalid), 0);
}

#[test]
fn f43_syn_that_the_backend_accepts_at_once() {
    // The backend has forgotten the connection too: it answers the SYN, and no packet is invalid.
    let mut scene = scene_of(1);
    let old = established(&mut scene);
    let mut connection = Connection { seq: [5_000_001, 9_000_000], ..old };
    let syn = Tcp::new(SYN, 5_000_000, 0);
    let _ = connection.client_segment(&mut scene, &syn);
    assert_eq!(connection.server(&mut scene, SYN | ACK, b"").cause, Cause::Established);
    assert_eq!(scene.state(), Some("SYN_RECV"));
    let _ = connection.client(&mut scene, ACK, b"");
    for _ in 0..10 {
        let _ = connection.client(&mut scene, ACK | PSH, &[7; 1000]);
        let _ = connection.server(&mut scene, ACK | PSH, &[8; 1000]);
    }
    assert_eq!(scene.state(), Some("ESTABLISHED"));
    assert_eq!(scene.count(Cause::Invalid), 0);
}

#[test]
fn f44_the_same_port_again_and_again() {
    let mut scene = scene_of(3);
    let mut backends = HashSet::new();
    for round in 0..2000 {
        let connection = Connection::begin(&mut scene, V4.client(1, 5555), V4.vip());
        let mut connection = connection.expect("always admitted").complete(&mut scene);
        backends.insert(connection.backend);
        if round % 3 == 0 {
            let _ = connection.server(&mut scene, RST | ACK, b"");
            assert_eq!(scene.state(), Some("CLOSE"));
        } else {
            connection.close(&mut scene);
            assert_eq!(scene.state(), Some("TIME_WAIT"));
        }
    }
    assert_eq!(backends.len(), 3, "each may have another backend");
    assert_eq!(scene.engine.occupancy().flows, 1);
}

#[test]
fn f44_a_refused_connection_may_be_tried_at_once() {
    let mut scene = scene_of(2);
    let first = Connection::begin(&mut scene, V4.client(1, 5555), V4.vip()).expect("sent on");
    let refusal = Tcp::new(RST | ACK, 0, first.seq[0]);
    assert_eq!(first.server_segment(&mut scene, &refusal).cause, Cause::Established);
    assert_eq!(scene.state(), Some("CLOSE"));
    let second = Connection::begin(&mut scene, V4.client(1, 5555), V4.vip()).expect("sent on");
    assert_ne!(first.backend, second.backend);
}

#[test]
fn f45_simultaneous_open() {
    let mut scene = scene_of(1);
    let mut connection =
        Connection::begin(&mut scene, V4.client(1, 5555), V4.vip()).expect("sent on");
    assert_eq!(connection.server(&mut scene, SYN, b"").cause, Cause::Established);
    assert_eq!(scene.state(), Some("SYN_SENT2"));
    // Both answer the other's SYN with their own, and an ACK.
    let again = |seq: u32, ack: u32| Tcp::new(SYN | ACK, seq.wrapping_sub(1), ack);
    let [client, server] = connection.seq;
    assert_eq!(
        connection.client_segment(&mut scene, &again(client, server)).cause,
        Cause::Established
    );
    assert_eq!(
        connection.server_segment(&mut scene, &again(server, client)).cause,
        Cause::Established
    );
    let _ = connection.client(&mut scene, ACK | PSH, b"a");
    let _ = connection.server(&mut scene, ACK | PSH, b"b");
    assert_eq!(scene.state(), Some("ESTABLISHED"));
    assert_eq!(scene.count(Cause::Invalid), 0);
}

#[test]
fn f45_simultaneous_close() {
    let mut scene = scene_of(1);
    let mut connection = established(&mut scene);
    let [client, server] = connection.seq;
    // Neither FIN has seen the other.
    let _ = connection.client_segment(&mut scene, &Tcp::new(FIN | ACK, client, server));
    let _ = connection.server_segment(&mut scene, &Tcp::new(FIN | ACK, server, client));
    connection.seq = [client.wrapping_add(1), server.wrapping_add(1)];
    assert_eq!(connection.client(&mut scene, ACK, b"").cause, Cause::Established);
    assert_eq!(connection.server(&mut scene, ACK, b"").cause, Cause::Established);
    assert_eq!(scene.state(), Some("TIME_WAIT"));
    assert_eq!(scene.count(Cause::Invalid), 0);
    scene.sweep(121.0);
    assert_eq!(scene.engine.occupancy().flows, 0);
}

#[test]
fn f45_a_backend_that_opens_is_nobodys() {
    let mut scene = scene_of(1);
    let syn = tcp(V4.backend(0), V4.client(1, 5555), &Tcp::new(SYN, 1, 0));
    scene.expect(syn, Action::Accept, Cause::NotOurs);
    assert_eq!(scene.engine.occupancy().flows, 0);
}

#[test]
fn f46_midstream_is_picked_up_alike_everywhere() {
    let choose = |seed: u64, strategy: Strategy, client: u32| {
        let specs =
            specs(V4, 3).into_iter().map(|spec| kbe_nat_engine::ServiceSpec { strategy, ..spec });
        let config = Config { seed, secret: seed, ..Config::default() };
        let mut scene = Scene::new(config, specs.collect());
        scene.translate(tcp(V4.client(client, 5555), V4.vip(), &Tcp::new(ACK, 100, 200))).1
    };
    for strategy in Strategy::ALL {
        let mut chosen = HashSet::new();
        for client in 0..20 {
            let backend = choose(1, strategy, client);
            assert_eq!(backend, choose(2, strategy, client), "{}", strategy.name());
            chosen.insert(backend);
        }
        // A consistent strategy chooses by itself, whatever its shares are.
        let is_spread = chosen.len() == 3 || strategy.is_consistent();
        assert!(is_spread, "{}: all to one", strategy.name());
    }
}

#[test]
fn f46_midstream_under_a_consistent_strategy_stays_with_its_backend() {
    for strategy in [Strategy::Maglev { size: None }, Strategy::Rendezvous, Strategy::SourceHash] {
        let specs: Vec<_> = specs(V4, 3)
            .into_iter()
            .map(|spec| kbe_nat_engine::ServiceSpec { strategy, ..spec })
            .collect();
        for client in 0..20 {
            let mut scene = Scene::new(Config::default(), specs.clone());
            let mut connection =
                Connection::establish(&mut scene, V4.client(client, 5555), V4.vip());
            // The engine is started again, and nothing is left of its tables.
            let mut scene =
                Scene::new(Config { seed: 9, secret: 8, ..Config::default() }, specs.clone());
            assert_eq!(connection.client(&mut scene, ACK | PSH, b"on").cause, Cause::New);
            assert_eq!(connection.server(&mut scene, ACK | PSH, b"on").cause, Cause::Established);
        }
    }
}

#[test]
fn f46_midstream_by_policy() {
    let data = || tcp(V4.client(1, 5555), V4.vip(), &Tcp::new(ACK | PSH, 100, 200));
    for (midstream, action) in
        [(Midstream::Reject, Action::Reject), (Midstream::Drop, Action::Drop)]
    {
        let mut scene = Scene::new(Config { midstream, ..Config::default() }, specs(V4, 3));
        scene.expect(data(), action, Cause::Midstream);
        assert_eq!(scene.engine.occupancy().flows, 0);
    }
    let rst = reject(&data(), RejectWith::TcpReset).expect("it may be refused");
    assert_intact(&rst);
    assert_eq!(ends(&rst), (V4.vip(), V4.client(1, 5555)));
    assert_eq!((rst[20 + 13], &rst[24..28]), (RST, &200u32.to_be_bytes()[..]));
    // What the kernel calls INVALID picks nothing up: a RST, a FIN, a SYN-ACK, or what no TCP
    // sends.
    let mut scene = scene_of(3);
    let stray = |flags| tcp(V4.client(1, 5555), V4.vip(), &Tcp::new(flags, 100, 200));
    scene.expect(stray(RST), Action::Drop, Cause::Midstream);
    scene.expect(stray(RST | ACK), Action::Drop, Cause::Midstream);
    scene.expect(stray(FIN), Action::Drop, Cause::Midstream);
    scene.expect(stray(FIN | ACK), Action::Drop, Cause::Midstream);
    scene.expect(stray(SYN | ACK), Action::Drop, Cause::Midstream);
    for flags in [0, SYN | FIN, SYN | RST, FIN | SYN | RST | PSH | ACK | URG, PSH | URG] {
        scene.expect(stray(flags), Action::Drop, Cause::Invalid);
    }
    assert_eq!(scene.engine.occupancy().flows, 0);
}

/// A connection's segments in flight, of which some are lost, swapped or repeated.
#[test]
fn f47_loss_reordering_and_repetition() {
    for invalid in [InvalidTcp::Translate, InvalidTcp::Drop] {
        let mut scene = Scene::new(Config { invalid, ..Config::default() }, specs(V4, 1));
        let mut connection = established(&mut scene);
        let mut random = 1u32;
        for round in 0..300 {
            let base = connection.seq;
            let segments: Vec<Tcp> = (0..5u32)
                .map(|n| Tcp {
                    payload: vec![n as u8; 1400],
                    options: vec![1, 1, 8, 10, 0, 0, 0, n as u8, 0, 0, 0, 0],
                    ..Tcp::new(ACK, base[1].wrapping_add(1400 * n), base[0])
                })
                .collect();
            for _ in 0..8 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let verdict =
                    connection.server_segment(&mut scene, &segments[(random >> 16) as usize % 5]);
                assert_eq!(verdict.cause, Cause::Established, "round {round}");
                // A duplicate acknowledgement that names what came behind the gap.
                let mut sack = Tcp::new(ACK, base[0], base[1]);
                sack.options = vec![1, 1, 5, 10];
                sack.options.extend(base[1].wrapping_add(1400).to_be_bytes());
                sack.options.extend(base[1].wrapping_add(2800).to_be_bytes());
                assert_eq!(connection.client_segment(&mut scene, &sack).cause, Cause::Established);
            }
            for segment in &segments {
                assert_eq!(
                    connection.server_segment(&mut scene, segment).cause,
                    Cause::Established
                );
            }
            connection.seq[1] = base[1].wrapping_add(5 * 1400);
            assert_eq!(connection.client(&mut scene, ACK, b"").cause, Cause::Established);
        }
        assert_eq!(scene.state(), Some("ESTABLISHED"));
    }
}

#[test]
fn f47_window_scale_zero_window_and_urgent_data() {
    let mut scene = scene_of(1);
    let client = V4.client(1, 5555);
    let mut syn = Tcp::new(SYN, 100, 0);
    syn.options = vec![2, 4, 5, 0xb4, 1, 3, 3, 7];
    scene.translate(tcp(client, V4.vip(), &syn));
    let connection = Connection {
        client,
        vip: V4.vip(),
        source: client,
        backend: V4.backend(0),
        seq: [101, 501],
    };
    let mut answer = Tcp::new(SYN | ACK, 500, 101);
    answer.options = syn.options.clone();
    let send = |scene: &mut Scene, is_client: bool, segment: &Tcp| {
        let verdict = match is_client {
            true => connection.client_segment(scene, segment),
            false => connection.server_segment(scene, segment),
        };
        assert_eq!(verdict.cause, Cause::Established, "{segment:?}");
    };
    send(&mut scene, false, &answer);
    let opened = Tcp { window: 8000, ..Tcp::new(ACK, 101, 501) };
    send(&mut scene, true, &opened);
    // Far behind 65,535, inside 8,000 << 7.
    let far = Tcp { payload: vec![1; 1400], ..Tcp::new(ACK, 501 + 900_000, 101) };
    send(&mut scene, false, &far);
    let out = Tcp { payload: vec![1; 1400], ..Tcp::new(ACK, 501 + 3_000_000, 101) };
    assert_eq!(connection.server_segment(&mut scene, &out).cause, Cause::Invalid);
    // A closed window, a probe into it, and its answer.
    let closed = Tcp { window: 0, ..Tcp::new(ACK, 101, 901_901) };
    send(&mut scene, true, &closed);
    let probe = Tcp { payload: vec![1], ..Tcp::new(ACK, 901_901, 101) };
    send(&mut scene, false, &probe);
    send(&mut scene, true, &closed);
    let urgent = Tcp { payload: vec![9; 3], ..Tcp::new(ACK | PSH | URG, 101, 901_902) };
    send(&mut scene, true, &urgent);
    // A keep-alive repeats the last byte.
    let keepalive = Tcp { payload: vec![9], ..Tcp::new(ACK, 103, 901_902) };
    send(&mut scene, true, &keepalive);
    assert_eq!(scene.state(), Some("ESTABLISHED"));
}

#[test]
fn f47_what_does_not_fit_changes_nothing() {
    for invalid in [InvalidTcp::Translate, InvalidTcp::Drop] {
        let mut scene = Scene::new(Config { invalid, ..Config::default() }, specs(V4, 1));
        let mut connection = established(&mut scene);
        let [client, server] = connection.seq;
        let far = 1u32 << 30;
        let strays = [
            (
                false,
                Tcp { payload: vec![1; 100], ..Tcp::new(ACK, server.wrapping_add(far), client) },
            ),
            (
                false,
                Tcp { payload: vec![1; 100], ..Tcp::new(ACK, server.wrapping_sub(far), client) },
            ),
            (false, Tcp::new(ACK, server, client.wrapping_add(far))),
            (false, Tcp::new(FIN | ACK, server.wrapping_add(far), client)),
            (true, Tcp::new(FIN | ACK, client.wrapping_add(far), server)),
            (true, Tcp::new(FIN | SYN, client, server)),
            (false, Tcp::new(0, server, client)),
        ];
        for (is_client, stray) in strays {
            let verdict = match is_client {
                true => connection.client_segment(&mut scene, &stray),
                false => connection.server_segment(&mut scene, &stray),
            };
            let expected =
                if invalid == InvalidTcp::Drop { Action::Drop } else { Action::Translate };
            assert_eq!((verdict.action, verdict.cause), (expected, Cause::Invalid), "{stray:?}");
            assert_eq!(scene.state(), Some("ESTABLISHED"));
        }
        let _ = connection.client(&mut scene, ACK | PSH, b"goes on");
        assert_eq!(connection.server(&mut scene, ACK | PSH, b"goes on").cause, Cause::Established);
    }
}

proptest! {
    /// Whatever is sent on a tuple: while its flow lives, no answer leaves with the pod's address.
    #[test]
    fn f47_no_reply_leaks(
        steps in prop::collection::vec((any::<bool>(), any::<u8>(), any::<u8>(), any::<u8>(), 0usize..40), 1..60),
        drop in any::<bool>(),
    ) {
        let invalid = if drop { InvalidTcp::Drop } else { InvalidTcp::Translate };
        let mut scene = Scene::new(Config { invalid, ..Config::default() }, specs(V4, 1));
        let mut connection = established(&mut scene);
        for (is_client, flags, seq, ack, length) in steps {
            // Near to what is expected, so that many of them fit.
            let [own, other] = if is_client { connection.seq } else { [connection.seq[1], connection.seq[0]] };
            let segment = Tcp {
                payload: vec![3; length],
                ..Tcp::new(flags & 0x3f, own.wrapping_add(seq.into()).wrapping_sub(2), other.wrapping_add(ack.into()).wrapping_sub(2))
            };
            if is_client {
                let verdict = connection.client_segment(&mut scene, &segment);
                if verdict.cause == Cause::New {
                    connection.seq[0] = segment.seq.wrapping_add(1);
                }
                // What begins a connection anew may be refused; then there is no flow that could
                // answer.
                if scene.flows().is_empty() {
                    break;
                }
            } else {
                let _ = connection.server_segment(&mut scene, &segment);
            }
        }
    }
}

#[test]
fn f48_syn_before_the_service_exists() {
    let mut scene = Scene::new(Config::default(), Vec::new());
    let syn = || tcp(V4.client(1, 5555), V4.vip(), &Tcp::new(SYN, 1, 0));
    for _ in 0..5 {
        scene.expect(syn(), Action::Accept, Cause::NotOurs);
    }
    assert_eq!(scene.engine.occupancy().flows, 0, "nothing that could pin the flow");
    scene.serve(specs(V4, 3));
    Connection::establish(&mut scene, V4.client(1, 5555), V4.vip());
}

#[test]
fn f49_endpoint_leaves_under_established_connections() {
    let mut scene = scene_of(2);
    let mut established: Vec<_> =
        (0..10).map(|n| Connection::establish(&mut scene, V4.client(n, 1), V4.vip())).collect();
    let half_open: Vec<_> = (0..10)
        .map(|n| Connection::begin(&mut scene, V4.client(n, 2), V4.vip()).expect("sent on"))
        .collect();
    let (stays, leaves) = (V4.backend(0), V4.backend(1));
    scene.serve(specs(V4, 1));
    for connection in &mut established {
        assert_eq!(connection.client(&mut scene, ACK | PSH, b"on").cause, Cause::Established);
        assert_eq!(connection.server(&mut scene, ACK | PSH, b"on").cause, Cause::Established);
    }
    for mut connection in half_open {
        if connection.backend == leaves {
            let verdict = connection.clone().server(&mut scene, SYN | ACK, b"");
            assert_eq!((verdict.action, verdict.cause), (Action::Drop, Cause::BackendGone));
            // The client's next try goes to one that is there.
            let again =
                Connection::begin(&mut scene, connection.client, connection.vip).expect("sent on");
            assert_eq!(again.backend, stays);
        } else {
            assert_eq!(connection.server(&mut scene, SYN | ACK, b"").cause, Cause::Established);
        }
    }
    for n in 100..120 {
        assert_eq!(Connection::establish(&mut scene, V4.client(n, 1), V4.vip()).backend, stays);
    }
}

#[test]
fn f49_a_connection_that_was_answered_stays_also_before_its_handshake_is_over() {
    let mut scene = scene_of(2);
    let answered: Vec<_> = (0..10)
        .map(|n| {
            let mut connection =
                Connection::begin(&mut scene, V4.client(n, 2), V4.vip()).expect("sent on");
            assert_eq!(connection.server(&mut scene, SYN | ACK, b"").cause, Cause::Established);
            connection
        })
        .collect();
    scene.serve(specs(V4, 1));
    scene.sweep(0.1);
    for mut connection in answered {
        // To the client it is open; another backend would reset it.
        assert_eq!(connection.client(&mut scene, ACK, b"").cause, Cause::Established);
        assert_eq!(connection.server(&mut scene, ACK | PSH, b"on").cause, Cause::Established);
    }
}

#[test]
fn f49_half_open_connections_to_it_are_swept_at_once() {
    let mut scene = scene_of(2);
    for n in 0..10 {
        Connection::begin(&mut scene, V4.client(n, 2), V4.vip()).expect("sent on");
    }
    scene.serve(specs(V4, 1));
    assert!(scene.engine.next_expiry().expect("flows are there") <= scene.now + SECOND / 10);
    scene.sweep(0.1);
    assert!(scene.flows().iter().all(|flow| flow.reply_source == V4.backend(0)));
    assert_eq!(scene.flows().len(), 5);
}

#[test]
fn f49_a_draining_endpoint_keeps_its_connections_only() {
    let mut scene = scene_of(2);
    let mut connections: Vec<_> =
        (0..10).map(|n| Connection::establish(&mut scene, V4.client(n, 1), V4.vip())).collect();
    let mut specs = specs(V4, 2);
    for spec in &mut specs {
        spec.strategy = Strategy::Random;
        spec.cluster_backends[1].weight = 0;
    }
    scene.serve(specs);
    for connection in &mut connections {
        assert_eq!(connection.client(&mut scene, ACK | PSH, b"on").cause, Cause::Established);
        assert_eq!(connection.server(&mut scene, ACK | PSH, b"on").cause, Cause::Established);
    }
    for n in 100..150 {
        let fresh = Connection::establish(&mut scene, V4.client(n, 1), V4.vip());
        assert_eq!(fresh.backend, V4.backend(0));
    }
}

#[test]
fn f49_udp_moves_at_once() {
    let mut scene = scene_of(2);
    let ask = |scene: &mut Scene, n| scene.translate(udp(V4.client(n, 53), V4.vip(), b"x")).1;
    let before: Vec<_> = (0..10).map(|n| ask(&mut scene, n)).collect();
    scene.serve(specs(V4, 1));
    // An answer that is under way arrives.
    let late = udp(V4.backend(1), V4.client(1, 53), b"late");
    assert_eq!(before[1], V4.backend(1));
    assert_eq!(scene.translate(late), (V4.vip(), V4.client(1, 53)));
    for n in 0..10 {
        assert_eq!(ask(&mut scene, n), V4.backend(0));
    }
}

#[test]
fn f50_endpoint_address_is_used_again_by_another_service() {
    let mut scene = scene_of(2);
    let other = SocketAddr::from(([10, 96, 0, 11], 80));
    let mut old: Vec<_> =
        (0..4).map(|n| Connection::establish(&mut scene, V4.client(n, 1), V4.vip())).collect();
    scene.serve(specs(V4, 1));
    let mut reused = specs(V4, 1);
    reused.push(spec("other", Protocol::TCP, other, &[V4.backend(1)]));
    scene.serve(reused);
    // Flows of the first pod go on to its address until they close: the answer, a RST, is for the
    // new pod to give.
    for connection in old.iter_mut().filter(|connection| connection.backend == V4.backend(1)) {
        assert_eq!(connection.client(&mut scene, ACK | PSH, b"on").cause, Cause::Established);
        let _ = connection.server(&mut scene, RST | ACK, b"");
        let again = Connection::establish(&mut scene, connection.client, V4.vip());
        assert_eq!(again.backend, V4.backend(0));
    }
    // The same client port on the other frontend is another flow.
    let fresh = Connection::establish(&mut scene, V4.client(3, 1), other);
    assert_eq!(fresh.backend, V4.backend(1));
    let stats = scene.engine.service_stats();
    let active = |name: &str| stats.iter().find(|s| s.name == name).map(|s| s.active());
    assert_eq!(active("other"), Some(1));
}

#[test]
fn f51_idle_established() {
    let mut scene = scene_of(3);
    let mut connection = established(&mut scene);
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
    let connection = established(&mut scene);
    scene.sweep(432_001.0);
    let late =
        tcp(connection.client, V4.vip(), &Tcp::new(ACK, connection.seq[0], connection.seq[1]));
    let late = scene.expect(late, Action::Reject, Cause::Midstream);
    assert!(reject(&late, RejectWith::TcpReset).is_some_and(|answer| answer[33] == RST));
}

#[test]
fn f52_clock_that_jumps_back() {
    let mut scene = scene_of(3);
    let mut connection = established(&mut scene);
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
    let mut scene = scene_of(1);
    scene.translate(udp(V4.client(1, 53), V4.vip(), b"x"));
    scene.pass(10.0);
    let mut connection = established(&mut scene);
    let checkpoint = scene.engine.checkpoint(scene.now);
    let left = |scene: &Scene| {
        let mut left: Vec<f64> = scene.flows().iter().map(|flow| flow.timeout.round()).collect();
        left.sort_by(f64::total_cmp);
        left
    };
    assert_eq!(left(&scene), [20.0, 432_000.0]);
    for now in [0, 5, 1_000_000 * SECOND, 1 << 62] {
        let mut scene = scene_of(1);
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
    let mut scene = scene_of(1);
    scene.translate(udp(V4.client(1, 53), V4.vip(), b"x"));
    let far = scene.now + 1_000 * SECOND;
    let packet = udp(V4.client(1, 53), V4.vip(), b"x");
    assert_eq!(scene.engine.explain(far, &packet, Meta::default()).verdict.cause, Cause::New);
    scene.expect(packet, Action::Translate, Cause::Established);
}
