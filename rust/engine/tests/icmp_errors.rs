//! ICMP and ICMPv6: errors about translated packets, and echoes: F82 to F85.

mod scene;

use std::net::{IpAddr, SocketAddr};

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Action, Cause, Config, FrontendKind, Meta, ServiceSpec, Verdict};
use scene::*;

/// Type and code of packet too big, or fragmentation needed.
fn too_big(family: Family) -> (u8, u8) {
    if family == Family::V4 { (3, 4) } else { (2, 0) }
}

/// Type and code of time exceeded.
fn time_exceeded(family: Family) -> (u8, u8) {
    if family == Family::V4 { (11, 0) } else { (3, 0) }
}

const MTU: [u8; 4] = [0, 0, 5, 0];

/// A flow whose packets were translated, and what a later big packet of each side looks like on
/// both sides.
struct Flow {
    family: Family,
    scene: Scene,
    /// The client's packet as it sent it, and as the backend's network saw it.
    asked: [Vec<u8>; 2],
    /// The backend's packet as it sent it, and as the client's network saw it.
    answered: [Vec<u8>; 2],
}

impl Flow {
    fn new(family: Family, protocol: Protocol, masquerade: bool) -> Self {
        let specs = vec![spec("one", protocol, family.vip(), &[family.backend(0)])];
        let mut scene = match masquerade {
            true => Scene::masqueraded(Config::default(), specs),
            false => Scene::new(Config::default(), specs),
        };
        let packet = |src, dst, flags| match protocol {
            Protocol::TCP => {
                tcp(src, dst, &Tcp { payload: vec![0x5a; 1300], ..Tcp::new(flags, 1, 1) })
            }
            Protocol::SCTP => sctp(src, dst, 0, &[0x5a; 1300]),
            _ => udp(src, dst, &[0x5a; 1300]),
        };
        let (client, vip) = (family.client(1, 5555), family.vip());
        // A second client with this port, so that a masqueraded one gets another.
        scene.translate(packet(family.client(2, 5555), vip, ACK));
        let asked = packet(client, vip, ACK);
        let (_, sent) = scene.send(asked.clone());
        let (source, backend) = ends(&sent);
        assert_eq!(masquerade && family == Family::V4, source != client);
        let answered = packet(backend, source, ACK);
        let (_, returned) = scene.send(answered.clone());
        Self { family, scene, asked: [asked, sent], answered: [answered, returned] }
    }

    fn all(mut check: impl FnMut(Flow)) {
        for family in FAMILIES {
            for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
                for masquerade in [false, true] {
                    check(Self::new(family, protocol, masquerade));
                }
            }
        }
    }

    /// An error from `src` about the translated packet of the client, quoted up to `length` bytes.
    fn about_asked(&self, src: IpAddr, kind: (u8, u8), length: usize) -> Vec<u8> {
        let quote = &self.asked[1][..length.min(self.asked[1].len())];
        icmp(src, ends(quote).0.ip(), kind, MTU, quote)
    }
}

/// A quote must be what was sent, as far as it reaches; but not a checksum that it does not hold in
/// full, or that lies over more than the quote, as SCTP's does: nobody can check those.
#[track_caller]
fn assert_quotes(quote: &[u8], sent: &[u8]) {
    let protocol = if sent[0] >> 4 == 4 { sent[9] } else { sent[6] };
    let (place, length) = match Protocol(protocol) {
        Protocol::TCP => (l4(sent) + 16, 2),
        Protocol::UDP => (l4(sent) + 6, 2),
        _ => (l4(sent) + 8, 4),
    };
    let reach = if Protocol(protocol) == Protocol::SCTP { sent.len() } else { place + length };
    for (at, (quoted, sent)) in quote.iter().zip(sent).enumerate() {
        let is_open = quote.len() < reach && (place..place + length).contains(&at);
        assert!(quoted == sent || is_open, "byte {at} of {} quoted", quote.len());
    }
}

#[test]
fn f82_too_big_for_the_backends_link() {
    Flow::all(|mut flow| {
        let before = flow.scene.flows();
        flow.scene.pass(10.0);
        for length in [28 + l4(&flow.asked[1]), 548, 1232, usize::MAX] {
            let error = flow.about_asked(flow.family.router(), too_big(flow.family), length);
            let (verdict, translated) = flow.scene.send(error.clone());
            assert_eq!((verdict.action, verdict.cause), (Action::Translate, Cause::Related));
            assert_eq!(verdict.flags, Verdict::FLOW | Verdict::REPLY);
            assert_intact(&translated);
            assert_eq!(translated.len(), error.len(), "the quote keeps its length");
            let (src, dst) = ends(&translated);
            assert_eq!(src.ip(), flow.family.router(), "a router keeps its address (F83)");
            assert_eq!(dst.ip(), flow.family.client(1, 0).ip());
            // The quote is what the client sent, to the byte.
            let at = l4(&translated);
            let quote = &translated[at + 8..];
            assert_quotes(quote, &flow.asked[0]);
            assert_eq!(translated[at + 4..at + 8], MTU);
        }
        // Neither ended nor refreshed (RFC 4787 REQ-12, RFC 5508 REQ-6).
        let after = flow.scene.flows();
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before.packets, after.packets);
        }
        let left =
            |flows: &[kbe_nat_engine::view::Flow]| flows.iter().map(|f| f.timeout).sum::<f64>();
        assert!(left(&flow.scene.flows()) < left(&before) - 19.0);
    });
}

#[test]
fn f82_too_big_for_the_clients_link() {
    Flow::all(|mut flow| {
        let error = icmp(
            flow.family.router(),
            flow.family.vip().ip(),
            too_big(flow.family),
            MTU,
            &flow.answered[1],
        );
        let (verdict, translated) = flow.scene.send(error);
        assert_eq!((verdict.action, verdict.cause), (Action::Translate, Cause::Related));
        assert_eq!(verdict.flags & Verdict::REPLY, 0);
        assert_intact(&translated);
        assert_eq!(ends(&translated).1.ip(), flow.family.backend(0).ip());
        assert_eq!(translated[l4(&translated) + 8..], flow.answered[0]);
    });
}

#[test]
fn f82_errors_of_the_ends_themselves_hide_the_other_address() {
    Flow::all(|mut flow| {
        let unreachable = if flow.family == Family::V4 { (3, 3) } else { (1, 4) };
        let error = flow.about_asked(flow.family.backend(0).ip(), unreachable, 576);
        let (verdict, translated) = flow.scene.send(error);
        assert_eq!(verdict.cause, Cause::Related);
        assert_intact(&translated);
        assert_eq!(ends(&translated).0.ip(), flow.family.vip().ip(), "no pod address leaks");
        // The client refuses the answer.
        let client = flow.family.client(1, 0).ip();
        let error = icmp(client, flow.family.vip().ip(), unreachable, [0; 4], &flow.answered[1]);
        let (verdict, translated) = flow.scene.send(error);
        assert_eq!(verdict.cause, Cause::Related);
        assert_intact(&translated);
        let (src, dst) = ends(&translated);
        assert_eq!(src.ip(), ends(&flow.asked[1]).0.ip(), "masqueraded as its packets are");
        assert_eq!(dst.ip(), flow.family.backend(0).ip());
    });
}

#[test]
fn f83_traceroute_through_a_frontend() {
    Flow::all(|mut flow| {
        for hop in 0..3u8 {
            let router = match flow.family.router() {
                IpAddr::V4(router) => {
                    IpAddr::from((u32::from(router) + u32::from(hop)).to_be_bytes())
                }
                IpAddr::V6(router) => {
                    IpAddr::from((u128::from(router) + u128::from(hop)).to_be_bytes())
                }
            };
            let mut error = flow.about_asked(router, time_exceeded(flow.family), 576);
            // Where it died its time to live was 1, and the router has brought the header checksum
            // along.
            let quote = l4(&error) + 8;
            let message = l4(&error);
            if flow.family == Family::V4 {
                error[quote + 8] = 1;
                seal_ipv4(&mut error[quote..]);
            } else {
                error[quote + 7] = 1;
            }
            let body = error[message + 8..].to_vec();
            let rest = error[message + 4..message + 8].try_into().expect("four bytes");
            let error = icmp(router, ends(&error).1.ip(), time_exceeded(flow.family), rest, &body);
            let (verdict, translated) = flow.scene.send(error);
            assert_eq!((verdict.action, verdict.cause), (Action::Translate, Cause::Related));
            assert_intact(&translated);
            assert_eq!(ends(&translated).0.ip(), router, "every hop is shown");
            let quoted = ends(&translated[l4(&translated) + 8..]);
            assert_eq!(quoted, (flow.family.client(1, 5555), flow.family.vip()));
        }
    });
}

#[test]
fn f83_traceroute_by_echoes() {
    for family in FAMILIES {
        let vip = SocketAddr::new(family.vip().ip(), 0);
        let backend = SocketAddr::new(family.backend(0).ip(), 0);
        let mut scene =
            Scene::new(Config::default(), vec![spec("ping", family.icmp(), vip, &[backend])]);
        let client = family.client(1, 0).ip();
        let asked = echo(client, vip.ip(), true, 4242, b"traceroute");
        let (_, sent) = scene.send(asked.clone());
        let error = icmp(family.router(), client, time_exceeded(family), [0; 4], &sent);
        let translated = scene.expect(error, Action::Translate, Cause::Related);
        assert_intact(&translated);
        assert_eq!(translated[l4(&translated) + 8..], asked);
    }
}

#[test]
fn f84_quotes_of_every_length() {
    Flow::all(|mut flow| {
        let start = l4(&flow.asked[1]);
        for length in 0..start + 60 {
            let dst = ends(&flow.asked[1]).0.ip();
            let quote = &flow.asked[1][..length];
            let error = icmp(flow.family.router(), dst, too_big(flow.family), MTU, quote);
            if length < start + 8 {
                // Ports and whatever else tells the flow are not there: not NATed.
                flow.scene.expect(error, Action::Pass, Cause::NotOurs);
                continue;
            }
            let translated = flow.scene.expect(error, Action::Translate, Cause::Related);
            assert_intact(&translated);
            let quote = &translated[l4(&translated) + 8..];
            assert_quotes(quote, &flow.asked[0]);
        }
    });
}

#[test]
fn f84_errors_about_nothing_known() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let client = family.client(1, 5555);
        let stranger = udp(family.vip(), client, b"never sent");
        let unreachable = if family == Family::V4 { (3, 3) } else { (1, 4) };
        // To a cluster IP: dropped in silence (RFC 5508, REQ-4). To anybody else: not ours.
        let error = icmp(client.ip(), family.vip().ip(), unreachable, [0; 4], &stranger);
        scene.expect(error, Action::Drop, Cause::IcmpUnmatched);
        let error = icmp(
            family.router(),
            client.ip(),
            unreachable,
            [0; 4],
            &udp(client, family.vip(), b"x"),
        );
        scene.expect(error, Action::Pass, Cause::NotOurs);
        // An external address may be that of a host, which hears what others refuse it.
        let host = family.client(8, 80);
        let mut own = spec("default/external", Protocol::UDP, host, &[family.backend(1)]);
        own.frontends[0].kind = FrontendKind::ExternalIp;
        let mut other = Scene::new(Config::default(), vec![own]);
        let error =
            icmp(family.router(), host.ip(), unreachable, [0; 4], &udp(host, client, b"its own"));
        other.expect(error, Action::Pass, Cause::NotOurs);
        // A flow that is over is not known either.
        let (_, sent) = scene.send(udp(client, family.vip(), b"x"));
        scene.pass(31.0);
        let error = icmp(family.router(), client.ip(), unreachable, [0; 4], &sent);
        scene.expect(udp(family.client(9, 9), family.vip(), b"x"), Action::Translate, Cause::New);
        scene.expect(error, Action::Pass, Cause::NotOurs);
    }
}

#[test]
fn f84_error_to_somebody_else() {
    Flow::all(|mut flow| {
        // It quotes a packet of the flow but goes to who did not send that packet.
        for dst in
            [flow.family.client(77, 0).ip(), flow.family.backend(1).ip(), flow.family.vip().ip()]
        {
            let error = icmp(flow.family.router(), dst, too_big(flow.family), MTU, &flow.asked[1]);
            flow.scene.expect(error, Action::Drop, Cause::BadIcmp);
        }
    });
}

#[test]
fn f84_error_about_an_error() {
    Flow::all(|mut flow| {
        let inner = flow.about_asked(flow.family.router(), too_big(flow.family), 576);
        let dst = ends(&inner).0.ip();
        let error = icmp(flow.family.router(), dst, time_exceeded(flow.family), [0; 4], &inner);
        flow.scene.expect(error, Action::Drop, Cause::BadIcmp);
    });
}

#[test]
fn f74_bad_icmp_error_is_dropped() {
    Flow::all(|mut flow| {
        let error = flow.about_asked(flow.family.router(), too_big(flow.family), 576);
        let start = l4(&error);
        for place in [start + 1, start + 2, start + 3, start + 6, start + 30, error.len() - 1] {
            let mut bad = error.clone();
            bad[place] ^= 0x10;
            flow.scene.expect(bad, Action::Drop, Cause::BadIcmp);
        }
        flow.scene.expect(error, Action::Translate, Cause::Related);
    });
}

#[test]
fn f85_echo_to_a_frontend_is_not_taken_for_anything_else() {
    for family in FAMILIES {
        let mut scene = Scene::plain(Config::default());
        let client = family.client(1, 0).ip();
        scene.expect(
            echo(client, family.vip().ip(), true, 80, b"ping"),
            Action::Pass,
            Cause::NotOurs,
        );
        scene.expect(
            echo(family.backend(0).ip(), client, false, 80, b"ping"),
            Action::Pass,
            Cause::NotOurs,
        );
        assert_eq!(scene.engine.occupancy().flows, 0);
    }
}

#[test]
fn f85_an_answer_opens_no_flow() {
    for family in FAMILIES {
        let port = |address: SocketAddr| SocketAddr::new(address.ip(), 0);
        let (vip, backend) = (port(family.vip()), port(family.backend(0)));
        let mut scene =
            Scene::new(Config::default(), vec![spec("ping", family.icmp(), vip, &[backend])]);
        for identifier in [0, 7] {
            let answer = echo(family.client(1, 0).ip(), vip.ip(), false, identifier, b"ping");
            let told = scene.engine.explain(scene.now, &answer, Meta::default()).verdict;
            scene.expect(answer, Action::Pass, Cause::NotOurs);
            assert_eq!(told, Verdict::new(Action::Pass, Cause::NotOurs));
        }
        assert_eq!(scene.engine.occupancy().flows, 0);
    }
}

#[test]
fn f85_identifiers_are_translated_without_collision() {
    let (vip, backend) =
        (SocketAddr::new(Family::V4.vip().ip(), 0), SocketAddr::new(Family::V4.backend(0).ip(), 0));
    let specs: Vec<ServiceSpec> = vec![spec("ping", Protocol::ICMP, vip, &[backend])];
    assert_eq!(specs[0].frontends[0].kind, FrontendKind::ClusterIp);
    let mut scene = Scene::masqueraded(Config::default(), specs);
    let mut identifiers = std::collections::HashSet::new();
    for client in 0..200 {
        let client = Family::V4.client(client, 0).ip();
        let request = echo(client, vip.ip(), true, 7777, b"ping");
        let request = scene.expect(request, Action::Translate, Cause::New);
        assert_intact(&request);
        let (source, dst) = ends(&request);
        assert_eq!((source.ip(), dst.ip()), (SNAT, backend.ip()));
        assert!(identifiers.insert(source.port()), "{} twice", source.port());
        let reply = echo(backend.ip(), SNAT, false, source.port(), b"ping");
        let reply = scene.expect(reply, Action::Translate, Cause::Established);
        assert_intact(&reply);
        assert_eq!(ends(&reply), (SocketAddr::new(vip.ip(), 7777), SocketAddr::new(client, 7777)));
    }
}
