//! Lists of counters that are made page by page, while packets go on.

mod scene;

use kbe_nat_engine::service::ServiceSpec;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::view::{Census, ServiceStats, sort_service_stats};
use kbe_nat_engine::{Config, Engine};
use scene::*;

const V4: Family = Family::V4;

fn service(number: u16, backend: u8) -> ServiceSpec {
    let mut vip = V4.vip();
    vip.set_port(100 + number);
    spec(&format!("s{number}"), Protocol::UDP, vip, &[V4.backend(backend)])
}

fn send(scene: &mut Scene, client: u32, number: u16) {
    let mut vip = V4.vip();
    vip.set_port(number);
    scene.translate(udp(V4.client(client, 1000), vip, b"x"));
}

fn rest(engine: &Engine, census: &mut Census) -> Vec<ServiceStats> {
    let mut services = Vec::new();
    while let Some(page) = engine.next_service_stats(census, 2) {
        assert!(page.len() <= 2);
        services.extend(page);
    }
    sort_service_stats(&mut services);
    services
}

fn flows(services: &[ServiceStats]) -> Vec<(&str, u64)> {
    services.iter().map(|each| (each.name.as_str(), each.traffic.flows)).collect()
}

#[test]
fn pages_make_up_the_whole_list() {
    let mut scene = Scene::plain(Config::default());
    scene.serve((0..5).map(|number| service(number, number as u8)).collect());
    for number in [0, 0, 3, 4, 4, 4] {
        let client = scene.flows().len() as u32 + 1;
        send(&mut scene, client, 100 + number);
    }
    let mut census = scene.engine.census();
    let pages = rest(&scene.engine, &mut census);
    assert_eq!(pages, scene.engine.service_stats());
    assert_eq!(flows(&pages), [("s0", 2), ("s1", 0), ("s2", 0), ("s3", 1), ("s4", 3)]);
    assert_eq!(scene.engine.next_service_stats(&mut census, 2), None);
}

#[test]
fn packets_between_two_pages_belong_to_the_next_list() {
    let mut scene = Scene::plain(Config::default());
    scene.serve((0..3).map(|number| service(number, 9)).collect());
    send(&mut scene, 1, 102);
    let mut census = scene.engine.census();
    let first = scene.engine.next_service_stats(&mut census, 2).expect("there are three");
    assert_eq!(first.len(), 2);
    send(&mut scene, 2, 102);
    send(&mut scene, 1, 102);
    let [last] = &rest(&scene.engine, &mut census)[..] else { panic!("one is left") };
    assert_eq!((last.traffic.flows, last.traffic.packets), (1, [1, 0]));
    let whole = scene.engine.service_stats();
    assert_eq!((whole[2].traffic.flows, whole[2].traffic.packets), (2, [3, 0]));
}

#[test]
fn a_record_that_another_backend_took_meanwhile_has_nothing_of_the_former() {
    let mut scene = Scene::plain(Config::default());
    scene.serve(vec![service(0, 1), service(1, 2)]);
    send(&mut scene, 1, 101);
    // A backend without flows gives its record to the next one when it goes.
    scene.sweep(1e6);
    let mut census = scene.engine.census();
    scene.serve(vec![service(0, 1)]);
    scene.serve(vec![service(0, 1), service(2, 3)]);
    let services = rest(&scene.engine, &mut census);
    let fresh = services.iter().find(|each| each.name == "s2").expect("it is served");
    assert_eq!(fresh.traffic.flows, 0);
    assert_eq!(fresh.backends[0].traffic.flows, 0);
}
