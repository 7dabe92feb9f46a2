//! Translated packets that kube-proxy's filter chains look at a second time, and those that this
//! node itself gets: F106.

mod scene;

use std::net::{IpAddr, SocketAddr};

use kbe_nat_engine::service::UnknownPort;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{
    Action, Cause, Config, FrontendKind, Mode, NodePorts, NodeView, ServiceSpec, Verdict,
};
use scene::*;

/// This node's address.
fn own(family: Family) -> IpAddr {
    family.client(99, 0).ip()
}

/// A service port on UDP at the family's frontend with one backend, and what others serve.
fn scene(family: Family, mode: Mode, backend: SocketAddr, others: Vec<ServiceSpec>) -> Scene {
    let mut scene = Scene::new(Config::default(), Vec::new());
    let unknown_port = if mode == Mode::Nftables { UnknownPort::Reject } else { UnknownPort::Pass };
    let addresses = vec![own(family)];
    scene.node = NodeView {
        node_ports: NodePorts { addresses: addresses.clone(), ..NodePorts::default() },
        addresses,
        mode,
        unknown_port,
        masquerade_all: true,
        ..NodeView::default()
    };
    let mut specs = vec![spec("default/asked", Protocol::UDP, family.vip(), &[backend])];
    specs.extend(others);
    scene.serve(specs);
    scene
}

/// A service port that is reached at one more place, of this kind.
fn at(
    kind: FrontendKind,
    place: SocketAddr,
    family: Family,
    backends: &[SocketAddr],
) -> ServiceSpec {
    let vip = SocketAddr::new(family.vip().ip(), 9);
    let mut spec = spec("default/other", Protocol::UDP, vip, backends);
    let mut frontend = spec.frontends[0];
    frontend.kind = kind;
    frontend.port = place.port();
    frontend.address = (kind != FrontendKind::NodePort).then_some(place.ip());
    spec.frontends.push(frontend);
    spec
}

#[test]
fn what_this_node_itself_gets_keeps_its_source() {
    for family in FAMILIES {
        let mut scene = scene(family, Mode::Iptables, SocketAddr::new(own(family), 53), Vec::new());
        let (verdict, _) = scene.send(udp(family.client(1, 4000), family.vip(), b"x"));
        assert_eq!((verdict.action, verdict.flags & Verdict::MASQUERADE), (Action::Translate, 0));
        // The node's own packets pass POSTROUTING on their way to lo.
        let (verdict, _) = scene.send(udp(SocketAddr::new(own(family), 4000), family.vip(), b"x"));
        assert_eq!(verdict.flags & Verdict::MASQUERADE, Verdict::MASQUERADE);
    }
}

#[test]
fn a_frontend_that_another_service_refuses() {
    for family in FAMILIES {
        for mode in [Mode::Iptables, Mode::Nftables] {
            let local = SocketAddr::new(own(family), 53);
            let remote = family.client(7, 53);
            for (kind, place) in [
                (FrontendKind::NodePort, local),
                (FrontendKind::ExternalIp, local),
                (FrontendKind::LoadBalancer, local),
                (FrontendKind::ExternalIp, remote),
            ] {
                let mut scene = scene(family, mode, place, vec![at(kind, place, family, &[])]);
                let packet = udp(family.client(1, 4000), family.vip(), b"x");
                // In iptables mode what is masqueraded is accepted ahead of refusals where it is
                // forwarded.
                if mode == Mode::Iptables && place == remote {
                    scene.expect(packet, Action::Translate, Cause::New);
                    continue;
                }
                scene.expect(packet, Action::Reject, Cause::NoEndpoints);
                assert!(scene.flows().is_empty());
                // With endpoints elsewhere only, the policy Local drops.
                let mut confined = at(kind, place, family, &[family.backend(1)]);
                confined.is_external_local = true;
                scene.serve(vec![
                    spec("default/asked", Protocol::UDP, family.vip(), &[place]),
                    confined,
                ]);
                let packet = udp(family.client(1, 4001), family.vip(), b"x");
                scene.expect(packet, Action::Drop, Cause::NoLocalEndpoints);
            }
        }
    }
}

#[test]
fn f106_a_cluster_ip_as_endpoint_is_translated_to_once() {
    for family in FAMILIES {
        let alias = SocketAddr::new(family.router(), 53);
        let served = spec("default/other", Protocol::UDP, alias, &[family.vip()]);
        let scene_of = |mode| scene(family, mode, alias, vec![served.clone()]);
        let mut iptables = scene_of(Mode::Iptables);
        let sent = iptables.expect(
            udp(family.client(1, 4000), family.vip(), b"x"),
            Action::Translate,
            Cause::New,
        );
        assert_eq!(ends(&sent).1, alias);
        let mut nftables = scene_of(Mode::Nftables);
        nftables.expect(
            udp(family.client(1, 4000), family.vip(), b"x"),
            Action::Reject,
            Cause::UnknownPort,
        );
    }
}

#[test]
fn an_explanation_lists_where_it_is_refused() {
    for family in FAMILIES {
        let refused = SocketAddr::new(own(family), 53);
        let nobody = at(FrontendKind::ExternalIp, refused, family, &[]);
        let mut scene = scene(family, Mode::Nftables, refused, vec![nobody.clone()]);
        let both = [refused, family.backend(1)];
        scene.serve(vec![spec("default/asked", Protocol::UDP, family.vip(), &both), nobody]);
        let packet = udp(family.client(1, 4000), family.vip(), b"x");
        let told = scene.engine.explain(scene.now, &packet, Default::default());
        assert_eq!(told.candidates, [family.backend(1)]);
        assert_eq!(told.refused, [(refused, Action::Reject, Cause::NoEndpoints)]);
        // By turns: the first one refuses.
        assert_eq!((told.verdict.action, told.backend), (Action::Reject, Some(refused)));
        scene.expect(packet, Action::Reject, Cause::NoEndpoints);
        scene.expect(
            udp(family.client(1, 4000), family.vip(), b"x"),
            Action::Translate,
            Cause::New,
        );
    }
}

#[test]
fn a_cluster_ip_that_the_node_has_is_the_nodes() {
    for family in FAMILIES {
        for mode in [Mode::Iptables, Mode::Nftables] {
            let mut scene = scene(family, mode, family.backend(1), Vec::new());
            // As NodeLocal DNSCache has it.
            scene.node.addresses.push(family.vip().ip());
            let nobody = spec("default/nobody", Protocol::TCP, family.vip(), &[]);
            scene.serve(vec![
                spec("default/asked", Protocol::UDP, family.vip(), &[family.backend(1)]),
                nobody,
            ]);
            scene.expect(
                udp(family.client(1, 4000), family.vip(), b"x"),
                Action::Translate,
                Cause::New,
            );
            // What others send to its other ports takes INPUT, where no rule about them hangs.
            let other = SocketAddr::new(family.vip().ip(), 9999);
            scene.expect(udp(family.client(1, 4000), other, b"x"), Action::Pass, Cause::NotOurs);
            let refused = tcp(family.client(1, 4000), family.vip(), &Tcp::new(SYN, 1, 0));
            let (action, cause) = match mode {
                Mode::Iptables => (Action::Pass, Cause::NotOurs),
                Mode::Nftables => (Action::Reject, Cause::NoEndpoints),
            };
            scene.expect(refused, action, cause);
            // The node's own packets take OUTPUT.
            let own = SocketAddr::new(own(family), 4000);
            scene.expect(
                tcp(own, family.vip(), &Tcp::new(SYN, 1, 0)),
                Action::Reject,
                Cause::NoEndpoints,
            );
        }
    }
}

/// What a first flow found out about its backend's address spares the next ones the look, and is
/// over with the table and the view of the node that it was found in.
#[test]
fn what_was_found_about_a_backend_holds_for_its_table_alone() {
    for family in FAMILIES {
        let backend = family.client(7, 53);
        let asked = || spec("default/asked", Protocol::UDP, family.vip(), &[backend]);
        let mut scene = scene(family, Mode::Nftables, backend, Vec::new());
        let mut port = 4000;
        let mut open = |scene: &mut Scene| {
            port += 1;
            let (verdict, _) = scene.send(udp(family.client(1, port), family.vip(), b"x"));
            (verdict.action, verdict.cause, verdict.flags & Verdict::MASQUERADE != 0)
        };
        let is_sent = (Action::Translate, Cause::New, true);
        assert_eq!([open(&mut scene), open(&mut scene)], [is_sent; 2]);
        scene.serve(vec![asked(), at(FrontendKind::ExternalIp, backend, family, &[])]);
        let is_refused = (Action::Reject, Cause::NoEndpoints, false);
        assert_eq!([open(&mut scene), open(&mut scene)], [is_refused; 2]);
        scene.serve(vec![asked()]);
        assert_eq!([open(&mut scene), open(&mut scene)], [is_sent; 2]);
        scene.node.addresses.push(backend.ip());
        scene.serve(vec![asked()]);
        let is_delivered = (Action::Translate, Cause::New, false);
        assert_eq!([open(&mut scene), open(&mut scene)], [is_delivered; 2]);
    }
}
