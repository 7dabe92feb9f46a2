//! Segments and the window of their connection: lost, repeated, in another order, outside: F47.

mod scene;

use kbe_nat_engine::{Action, Cause, Config, InvalidTcp};
use proptest::prelude::{any, prop, proptest};
use scene::*;

const V4: Family = Family::V4;

/// A connection's segments in flight, of which some are lost, swapped or repeated.
#[test]
fn f47_loss_reordering_and_repetition() {
    for invalid in [InvalidTcp::Translate, InvalidTcp::Drop] {
        let mut scene = Scene::new(Config { invalid, ..Config::default() }, specs(V4, 1));
        let mut connection = Connection::sole(&mut scene);
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
    let mut scene = Scene::with_backends(V4, 1);
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
        let mut connection = Connection::sole(&mut scene);
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
        let mut connection = Connection::sole(&mut scene);
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
