//! The states of connections: resets, repeated SYNs, ports used again, simultaneous opens and
//! closes, and segments without a flow: F41 to F46.

mod scene;

use std::collections::HashSet;

use kbe_nat_engine::reject::{RejectWith, reject};
use kbe_nat_engine::{Action, Cause, Config, InvalidTcp, Midstream, Strategy};
use scene::*;

const V4: Family = Family::V4;

#[test]
fn f41_rst_that_is_not_exact() {
    let mut scene = Scene::with_backends(V4, 1);
    let mut connection = Connection::sole(&mut scene);
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
        let mut connection = Connection::sole(&mut scene);
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
    let mut scene = Scene::with_backends(V4, 1);
    let connection = Connection::sole(&mut scene);
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
    let mut scene = Scene::with_backends(V4, 1);
    let old = Connection::sole(&mut scene);
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
    let mut scene = Scene::with_backends(V4, 3);
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
    let mut scene = Scene::with_backends(V4, 2);
    let first = Connection::begin(&mut scene, V4.client(1, 5555), V4.vip()).expect("sent on");
    let refusal = Tcp::new(RST | ACK, 0, first.seq[0]);
    assert_eq!(first.server_segment(&mut scene, &refusal).cause, Cause::Established);
    assert_eq!(scene.state(), Some("CLOSE"));
    let second = Connection::begin(&mut scene, V4.client(1, 5555), V4.vip()).expect("sent on");
    assert_ne!(first.backend, second.backend);
}

#[test]
fn f45_simultaneous_open() {
    let mut scene = Scene::with_backends(V4, 1);
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
    let mut scene = Scene::with_backends(V4, 1);
    let mut connection = Connection::sole(&mut scene);
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
    let mut scene = Scene::with_backends(V4, 1);
    let syn = tcp(V4.backend(0), V4.client(1, 5555), &Tcp::new(SYN, 1, 0));
    scene.expect(syn, Action::Pass, Cause::NotOurs);
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
    // That of `bounded` is where its ring leads, unless a backend is full.
    let bounded = Strategy::Bounded { virtual_nodes: None, epsilon: None };
    let consistent = Strategy::ALL.into_iter().filter(Strategy::is_consistent);
    for strategy in consistent.chain([bounded]) {
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

/// A node that has loads agrees with one that has none.
#[test]
fn f46_midstream_under_bounded_loads_goes_by_the_ring_alone() {
    let strategy = Strategy::Bounded { virtual_nodes: None, epsilon: None };
    let specs =
        || specs(V4, 3).into_iter().map(|spec| kbe_nat_engine::ServiceSpec { strategy, ..spec });
    let mut busy = Scene::new(Config::default(), specs().collect());
    for client in 0..50 {
        Connection::establish(&mut busy, V4.client(client, 5555), V4.vip());
    }
    for client in 100..150 {
        let mut idle = Scene::new(Config::default(), specs().collect());
        let packet = || tcp(V4.client(client, 5555), V4.vip(), &Tcp::new(ACK, 100, 200));
        assert_eq!(busy.translate(packet()).1, idle.translate(packet()).1);
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
    let mut scene = Scene::with_backends(V4, 3);
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
