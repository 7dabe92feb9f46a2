//! Services and endpoints that come, go and change under connections: F48 to F50.

mod scene;

use std::net::SocketAddr;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Action, Cause, Config, Strategy};
use scene::*;

const V4: Family = Family::V4;

#[test]
fn f48_syn_before_the_service_exists() {
    let mut scene = Scene::new(Config::default(), Vec::new());
    let syn = || tcp(V4.client(1, 5555), V4.vip(), &Tcp::new(SYN, 1, 0));
    for _ in 0..5 {
        scene.expect(syn(), Action::Pass, Cause::NotOurs);
    }
    assert_eq!(scene.engine.occupancy().flows, 0, "nothing that could pin the flow");
    scene.serve(specs(V4, 3));
    Connection::establish(&mut scene, V4.client(1, 5555), V4.vip());
}

#[test]
fn f49_endpoint_leaves_under_established_connections() {
    let mut scene = Scene::with_backends(V4, 2);
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
    let mut scene = Scene::with_backends(V4, 2);
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
    let mut scene = Scene::with_backends(V4, 2);
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
    let mut scene = Scene::with_backends(V4, 2);
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
    let mut scene = Scene::with_backends(V4, 2);
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
    let mut scene = Scene::with_backends(V4, 2);
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
