//! What endpoints may still have when they get no new flows, where the engine translates every
//! packet.

mod scene;

use std::collections::HashSet;
use std::net::SocketAddr;

use kbe_nat_engine::{Action, Cause, Config, ServiceSpec};
use scene::*;

/// The family's three service ports, with these endpoints and others that serve still.
fn served(family: Family, listed: &[u8], serving: &[u8]) -> Vec<ServiceSpec> {
    let of =
        |numbers: &[u8]| numbers.iter().map(|&number| family.backend(number)).collect::<Vec<_>>();
    specs(family, 0)
        .into_iter()
        .map(|own| ServiceSpec {
            serving_backends: of(serving),
            ..spec(&own.name, own.protocol, family.vip(), &of(listed))
        })
        .collect()
}

/// Where a client's datagram goes.
fn asked(scene: &mut Scene, family: Family, client: u32) -> SocketAddr {
    scene.translate(udp(family.client(client, 53), family.vip(), b"x")).1
}

/// The datagrams of `count` clients that go to this endpoint.
fn clients_of(scene: &mut Scene, family: Family, count: u32, backend: u8) -> Vec<u32> {
    (0..count).filter(|&client| asked(scene, family, client) == family.backend(backend)).collect()
}

#[test]
fn f124_datagrams_stay_with_an_endpoint_while_it_serves() {
    for family in FAMILIES {
        let mut scene = Scene::new(Config::default(), served(family, &[0, 1], &[]));
        let clients = clients_of(&mut scene, family, 10, 0);
        assert_eq!(clients.len(), 5);
        scene.serve(served(family, &[1], &[0]));
        for &client in &clients {
            assert_eq!(asked(&mut scene, family, client), family.backend(0), "it serves still");
        }
        for client in 20..30 {
            assert_eq!(
                asked(&mut scene, family, client),
                family.backend(1),
                "no new flow goes there"
            );
        }
        scene.serve(served(family, &[0, 1], &[]));
        for &client in &clients {
            assert_eq!(asked(&mut scene, family, client), family.backend(0), "it is back");
        }
        scene.serve(served(family, &[1], &[]));
        for &client in &clients {
            assert_eq!(asked(&mut scene, family, client), family.backend(1), "it serves no more");
        }
    }
}

#[test]
fn f124_connections_need_an_endpoint_in_a_list_until_they_are_answered() {
    let family = Family::V4;
    for serving in [&[0][..], &[]] {
        let mut scene = Scene::new(Config::default(), served(family, &[0], &[]));
        let (one, other) = (family.client(1, 1000), family.client(2, 1000));
        let init = |client| sctp(client, family.vip(), 1, b"init");
        let syn = |client| tcp(client, family.vip(), &Tcp::new(SYN, 1, 0));
        for client in [one, other] {
            assert_eq!(scene.translate(syn(client)).1, family.backend(0));
            assert_eq!(scene.translate(init(client)).1, family.backend(0));
        }
        scene.translate(tcp(family.backend(0), other, &Tcp::new(SYN | ACK, 1, 2)));
        scene.translate(sctp(family.backend(0), other, 2, b"init ack"));
        scene.serve(served(family, &[1], serving));
        assert_eq!(scene.translate(syn(one)).1, family.backend(1));
        assert_eq!(scene.translate(init(one)).1, family.backend(1));
        assert_eq!(
            scene.translate(tcp(other, family.vip(), &Tcp::new(ACK, 2, 2))).1,
            family.backend(0)
        );
        assert_eq!(scene.translate(sctp(other, family.vip(), 10, b"cookie")).1, family.backend(0));
    }
}

#[test]
fn f124_an_answer_to_an_association_that_nobody_waits_for_is_dropped() {
    let family = Family::V4;
    let mut scene = Scene::new(Config::default(), served(family, &[0], &[]));
    let client = family.client(1, 1000);
    scene.translate(sctp(client, family.vip(), 1, b"init"));
    scene.serve(served(family, &[1], &[]));
    scene.expect(sctp(family.backend(0), client, 2, b"init ack"), Action::Drop, Cause::BackendGone);
    assert!(scene.flows().is_empty());
}

#[test]
fn f124_a_restored_flow_stays_with_an_endpoint_that_serves_still() {
    let family = Family::V6;
    let mut scene = Scene::new(Config::default(), served(family, &[0], &[]));
    assert_eq!(asked(&mut scene, family, 1), family.backend(0));
    let checkpoint = scene.engine.checkpoint(scene.now);
    for (serving, expected) in [(&[0][..], 0), (&[], 1)] {
        let mut next = Scene::new(Config::default(), served(family, &[1], serving));
        assert_eq!(next.engine.restore(next.now, &checkpoint, 0), Ok(1));
        assert_eq!(asked(&mut next, family, 1), family.backend(expected));
    }
}

#[test]
fn f66_a_client_does_not_stick_to_an_endpoint_that_was_away() {
    let family = Family::V4;
    let sticky = |listed: &[u8], serving: &[u8]| {
        let mut specs = served(family, listed, serving);
        specs.iter_mut().for_each(|own| own.affinity = Some(100));
        specs
    };
    let mut scene = Scene::new(Config::default(), sticky(&[0], &[]));
    // A flow that stays keeps its record.
    assert_eq!(asked(&mut scene, family, 1), family.backend(0));
    scene.serve(sticky(&[1], &[0]));
    scene.serve(sticky(&[0, 1, 2], &[]));
    let chosen: HashSet<_> = (0..9)
        .map(|n| {
            let vip = family.vip();
            scene.translate(udp(SocketAddr::new(family.client(1, 0).ip(), 100 + n), vip, b"x")).1
        })
        .collect();
    assert_eq!(chosen.len(), 1, "it sticks to its new choice");
    let stats = scene.engine.service_stats();
    let own = stats.iter().find(|own| own.name.starts_with("default/u")).expect("served");
    let flows: u64 = own.backends.iter().map(|own| own.traffic.flows).sum();
    assert_eq!((own.backends.len(), flows), (3, 10), "each endpoint is listed once");
}

#[test]
fn f123_flows_follow_their_frontend_to_the_service_port_that_has_it_now() {
    for family in FAMILIES {
        let mut scene = Scene::new(Config::default(), served(family, &[0, 1, 2], &[]));
        let before: Vec<_> = (0..9).map(|client| asked(&mut scene, family, client)).collect();
        let connection = Connection::establish(&mut scene, family.client(1, 1000), family.vip());
        // Another name for the same: a port of a Service that is renamed.
        let renamed = |listed: &[u8]| {
            let mut specs = served(family, listed, &[]);
            specs.iter_mut().for_each(|own| own.name = own.name.replace("default", "renamed"));
            specs
        };
        scene.serve(renamed(&[0, 1, 2]));
        let after: Vec<_> = (0..9).map(|client| asked(&mut scene, family, client)).collect();
        assert_eq!(after, before);
        assert!(
            scene
                .flows()
                .iter()
                .filter(|own| own.source.port() == 53)
                .all(|own| { own.service.starts_with("renamed/u") })
        );
        // One that has taken the frontend from a service port that goes on elsewhere.
        let mut both = served(family, &[0, 1, 2], &[]);
        both.extend(renamed(&[0, 1, 2]));
        both[3..].iter_mut().for_each(|own| {
            own.frontends[0].port += 1;
        });
        both[..3].iter_mut().for_each(|own| own.cluster_backends.truncate(1));
        scene.serve(both);
        let mut connection = connection;
        assert_eq!(connection.client(&mut scene, ACK | PSH, b"on").cause, Cause::Established);
        for client in 0..9 {
            assert_eq!(asked(&mut scene, family, client), family.backend(0));
        }
        let active: u64 = scene.engine.service_stats().iter().map(|own| own.active()).sum();
        assert_eq!(active, 10, "each counts once");
    }
}
