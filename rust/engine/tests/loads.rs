//! What counts as load of a backend: as in IPVS, a flow that is closing is 1/256 of one that is
//! not.

mod scene;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Config, KernelFlow, Outcome, Strategy};
use scene::*;

/// Service ports of two backends that go by least connections.
fn least_connections(config: Config, family: Family) -> Scene {
    let mut specs = specs(family, 2);
    specs.iter_mut().for_each(|spec| spec.strategy = Strategy::LeastConn);
    Scene::new(config, specs)
}

/// Opens connections until the first backend gets one; how many the second one got before.
fn rounds(scene: &mut Scene, family: Family, mut after: impl FnMut(&mut Scene, Connection)) -> u32 {
    for number in 0..1000 {
        let connection = Connection::establish(scene, family.client(2 + number, 99), family.vip());
        if connection.backend == family.backend(0) {
            return number;
        }
        after(scene, connection);
    }
    u32::MAX
}

#[test]
fn a_connection_outweighs_256_that_are_closing() {
    for family in FAMILIES {
        let mut scene = least_connections(Config::default(), family);
        Connection::establish(&mut scene, family.client(1, 99), family.vip());
        let closed = rounds(&mut scene, family, |scene, mut connection| connection.close(scene));
        // Equals take turns, and the second backend had the last one.
        assert_eq!(closed, 256);
        assert_eq!(scene.active(), 258, "all of them are flows alive");
        scene.sweep(121.0);
        assert_eq!(scene.active(), 2);
        // TIME_WAIT is over: two stand against none, then against one, and the turn after a tie.
        assert_eq!(rounds(&mut scene, family, |_, _| ()), 2);
    }
}

#[test]
fn a_restart_keeps_what_is_closing() {
    let family = Family::V4;
    let mut scene = least_connections(Config::default(), family);
    Connection::establish(&mut scene, family.client(1, 99), family.vip());
    for number in 2..102 {
        let client = family.client(number, 98);
        Connection::establish(&mut scene, client, family.vip()).close(&mut scene);
    }
    let saved = scene.engine.checkpoint(scene.now);
    let now = scene.now;
    let mut scene = least_connections(Config::default(), family);
    scene.now = now;
    let restored = scene.engine.restore(scene.now, &saved, 0).expect("its own checkpoint");
    assert_eq!(restored, 101);
    let closed = rounds(&mut scene, family, |scene, mut connection| connection.close(scene));
    assert!((156..=157).contains(&closed), "{closed} beside 100 of before");
}

/// The kernel tells the state of flows that it carries: 3 is ESTABLISHED, 7 TIME_WAIT.
#[test]
fn flows_of_the_kernel_close_as_it_says() {
    let family = Family::V4;
    let mut scene = least_connections(Config::default(), family);
    let seen = |scene: &mut Scene, backend, client, state| {
        let client = family.client(client, 99);
        let flow = KernelFlow {
            state: Some(state),
            is_replied: true,
            ..kernel_flow(Protocol::TCP, client, family, family.backend(backend))
        };
        assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
    };
    for client in 1000..1010 {
        seen(&mut scene, 0, client, 3);
        seen(&mut scene, 1, client + 100, 3);
    }
    for client in 1100..1110 {
        seen(&mut scene, 1, client, 7);
    }
    let open = rounds(&mut scene, family, |_, _| ());
    assert_eq!(open, 10, "ten against ten that are closing");
}

#[test]
fn an_association_counts_while_it_is_established() {
    use kbe_nat_engine::conntrack::state::State;
    let active = [State::TcpSynSent, State::TcpSynRecv, State::TcpEstablished, State::TcpSynSent2];
    let others = [State::Udp, State::UdpStream, State::Icmp, State::Generic];
    for state in active.into_iter().chain(others).chain([State::SctpEstablished]) {
        assert!(!state.is_inactive(), "{state:?}");
    }
    let closing = [State::TcpFinWait, State::TcpCloseWait, State::TcpLastAck, State::TcpTimeWait];
    let half = [State::TcpClose, State::SctpClosed, State::SctpCookieWait, State::SctpCookieEchoed];
    let shut = [State::SctpShutdownSent, State::SctpShutdownRecd, State::SctpShutdownAckSent];
    for state in closing.into_iter().chain(half).chain(shut) {
        assert!(state.is_inactive(), "{state:?}");
    }
}

/// The kernel's numbers: 3 is ESTABLISHED, 4 FIN_WAIT, 7 TIME_WAIT, 8 CLOSE.
#[test]
fn connections_that_are_over_are_counted_apart() {
    for family in FAMILIES {
        let mut scene = Scene::with_backends(family, 1);
        for (client, state) in [3, 4, 7, 8, 7].into_iter().enumerate() {
            let flow = KernelFlow {
                state: Some(state),
                is_replied: true,
                ..kernel_flow(
                    Protocol::TCP,
                    family.client(client as u32, 99),
                    family,
                    family.backend(0),
                )
            };
            assert_eq!(scene.engine.observe(scene.now, &flow, None), Outcome::Keep);
        }
        let services = scene.engine.service_stats();
        let service = services.iter().find(|each| each.traffic.flows > 0).expect("one is served");
        let backend = &service.backends[0];
        assert_eq!((backend.active, backend.inactive, backend.over), (2, 1, 3));
        assert_eq!(service.active(), 2);
    }
}
