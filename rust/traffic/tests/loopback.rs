//! Every kind of traffic over loopback, of both families.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use kbe_nat_traffic::{Asking, Flows, Held, Load, Ports, Server, bulk, connect, ping};

const WAIT: Duration = Duration::from_secs(5);

/// Ports of a process and a test of its own: other tests run beside this one.
fn ports(test: u16) -> Ports {
    let first = 20_000 + (std::process::id() % 600) as u16 * 20 + test * 4;
    Ports { udp: first, bulk: first + 1, short: first + 2, exchange: first + 3 }
}

/// A server counts what it has done a moment after its client has seen it.
fn eventually(is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < end, "not within 30 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn loopbacks(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}

#[test]
fn pings_are_answered_by_name_in_both_loops() {
    let ports = ports(0);
    let server = Server::start("this", &ports).expect("the ports are free");
    for to in loopbacks(ports.udp) {
        for (rate, is_fresh) in
            [(None, false), (None, true), (Some(2_000.0), false), (Some(2_000.0), true)]
        {
            let settle = Duration::ZERO;
            let asking = Asking { count: 100, rate, wait: WAIT, is_fresh, settle };
            let pings = ping(to, &asking).expect("sockets can be opened");
            assert_eq!((pings.sent, pings.answered, pings.servers["this"]), (100, 100, 100));
            assert_eq!(pings.latencies.count, 100);
            assert!(rate.is_none() || pings.seconds > 0.049, "2,000 a second are kept");
        }
    }
    eventually(|| server.counts().answered == 800);
}

#[test]
fn a_flood_is_counted_and_not_answered() {
    let ports = ports(1);
    let server = Server::start("this", &ports).expect("the ports are free");
    for (to, count) in loopbacks(ports.udp).into_iter().zip([1_000, 2_000]) {
        let load = Load { packets: 1_000, rate: Some(20_000.0), burst: 100, payload: 32 };
        let flows = Flows::open(to, 4, Duration::ZERO).expect("sockets can be opened");
        let flood = flows.flood(&load);
        assert_eq!((flood.sent, flood.refused), (1_000, 0));
        assert!(flood.seconds > 0.044 && flood.cpu_ns > 0.0);
        // Of which the first packet of each flow is answered.
        eventually(|| server.counts().datagrams - server.counts().answered == count);
    }
    eventually(|| server.counts().answered == 8);
}

#[test]
fn connections_are_validated_held_and_closed_in_order() {
    let ports = ports(2);
    let server = Server::start("this", &ports).expect("the ports are free");
    let span = Duration::from_millis(20);
    for to in loopbacks(ports.short) {
        let short = connect(to, span, 2, WAIT, false).expect("sockets can be opened");
        assert!(short.opened > 1 && short.failed == 0 && short.servers.is_empty());
    }
    for to in loopbacks(ports.exchange) {
        let valid = connect(to, span, 2, WAIT, true).expect("sockets can be opened");
        assert!(valid.failed == 0 && valid.servers["this"] == valid.opened);
        let mut held = Held::open(to, 200, WAIT).expect("sockets can be opened");
        assert_eq!((held.opened().opened, held.opened().failed), (200, 0));
        eventually(|| server.counts().open == 200);
        let closed = held.close();
        assert_eq!((closed.opened, closed.failed, closed.latencies.count), (200, 0, 200));
        assert_eq!(held.close().opened, 0);
    }
    let wrong = loopbacks(ports.short)[0];
    let refused = connect(wrong, span, 1, WAIT, true).expect("sockets can be opened");
    assert!(
        refused.opened == 0 && refused.failed > 0,
        "a server that answers nothing is no answer"
    );
}

#[test]
fn streams_are_received_whole() {
    let ports = ports(3);
    let server = Server::start("this", &ports).expect("the ports are free");
    for to in loopbacks(ports.bulk) {
        assert_eq!(bulk(to, 3, 2, Duration::ZERO).expect("the server takes it").bytes, 6 << 20);
    }
    assert_eq!(server.counts().bytes, 12 << 20);
    drop(server);
    bulk(loopbacks(ports.bulk)[0], 1, 1, Duration::ZERO).expect_err("nothing listens any more");
    let taken = Server::start("first", &ports).expect("the ports are free again");
    Server::start("second", &ports).expect_err("the ports are taken");
    drop(taken);
}

#[test]
fn what_settles_is_in_neither_the_bytes_nor_the_time() {
    let ports = ports(4);
    let server = Server::start("this", &ports).expect("the ports are free");
    let settle = Duration::from_secs(3);
    for to in loopbacks(ports.udp) {
        let before = server.counts().answered;
        let asking = Asking { count: 10, rate: None, wait: WAIT, is_fresh: false, settle };
        let pings = ping(to, &asking).expect("sockets can be opened");
        assert_eq!((pings.sent, pings.answered, pings.latencies.count), (10, 10, 10));
        assert!(pings.seconds < 2.0);
        // On an idle machine there are thirty.
        eventually(|| server.counts().answered >= before + 10 + 3);
        let before = server.counts().answered;
        let flows = Flows::open(to, 2, settle).expect("sockets can be opened");
        eventually(|| server.counts().answered >= before + 2 * 3);
        let load = Load { packets: 10, rate: None, burst: 10, payload: 32 };
        assert_eq!(flows.flood(&load).sent, 10);
    }
    for to in loopbacks(ports.bulk) {
        let before = server.counts().bytes;
        let stream = bulk(to, 1, 1, settle).expect("the server takes it");
        assert_eq!(stream.bytes, 1 << 20);
        assert!(stream.seconds < 2.5);
        assert!(server.counts().bytes > before + (1 << 20), "a byte now and then");
    }
}
