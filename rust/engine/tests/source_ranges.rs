//! Source ranges of a load balancer, as programs give them to the engine: ranges of one family
//! restrict that family alone.

mod scene;

use kbe_nat_engine::Cidr;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Action, Cause, Config, Frontend, FrontendKind, ServiceSpec};
use scene::*;

/// A load balancer of this family that lets in the sources of these ranges.
fn balancer(family: Family, source_ranges: Vec<Cidr>) -> ServiceSpec {
    let vip = family.vip();
    let frontend =
        Frontend { kind: FrontendKind::LoadBalancer, address: Some(vip.ip()), port: vip.port() };
    let plain = spec("default/balancer:", Protocol::UDP, vip, &[family.backend(0)]);
    ServiceSpec { frontends: vec![frontend], source_ranges, ..plain }
}

/// The 256 addresses around this family's client 0.
fn around_clients(family: Family) -> Cidr {
    Cidr::new(family.client(0, 1).ip(), if family == Family::V4 { 24 } else { 120 })
        .expect("a range")
}

#[test]
fn source_ranges_of_the_other_family_restrict_nobody() {
    for (family, other) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
        let ask = |client| udp(family.client(client, 5000), family.vip(), b"x");
        let (near, far) = (1, 70_000);
        for (ranges, is_far_let_in) in [
            (vec![], true),
            (vec![around_clients(other)], true),
            (vec![around_clients(family)], false),
            (vec![around_clients(other), around_clients(family)], false),
        ] {
            let mut scene = Scene::new(Config::default(), vec![balancer(family, ranges.clone())]);
            scene.expect(ask(near), Action::Translate, Cause::New);
            let (action, cause) = if is_far_let_in {
                (Action::Translate, Cause::New)
            } else {
                (Action::Drop, Cause::SourceRange)
            };
            let (verdict, _) = scene.send(ask(far));
            assert_eq!((verdict.action, verdict.cause), (action, cause), "{family:?} {ranges:?}");
        }
    }
}
