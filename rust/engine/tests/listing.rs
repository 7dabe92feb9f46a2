//! Lists of flows that are made page by page while the engine goes on (F138).

mod scene;

use std::collections::HashSet;
use std::net::SocketAddr;

use kbe_nat_engine::Config;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::view::Filter;
use scene::*;

/// One packet of each of these clients, in both families.
fn ask(scene: &mut Scene, clients: std::ops::Range<u32>) {
    for client in clients {
        for family in FAMILIES {
            scene.translate(udp(family.client(client, 53), family.vip(), b"x"));
        }
    }
}

fn sources(clients: std::ops::Range<u32>) -> HashSet<SocketAddr> {
    clients.flat_map(|client| FAMILIES.map(|family| family.client(client, 53))).collect()
}

#[test]
fn f138_pages_hold_every_flow_once_whatever_their_size() {
    let mut scene = Scene::plain(Config::default());
    ask(&mut scene, 0..100);
    for budget in [1, 2, 7, 99, 100, 101, 199, 200, 201, usize::MAX, 0] {
        let mut listing = scene.engine.listing(Filter::default());
        let mut found = Vec::new();
        while let Some(page) = scene.engine.next_flows(&mut listing, budget) {
            assert!(page.len() <= budget.max(1), "no more records than that were looked at");
            found.extend(page);
        }
        assert_eq!(found, scene.flows(), "in pages of {budget}");
        assert!(scene.engine.next_flows(&mut listing, budget).is_none(), "the end stays the end");
    }
    assert_eq!(scene.flows().len(), 200);
    for limit in [0, 1, 150, 200, 1000] {
        assert_eq!(scene.engine.flows(&Filter::default(), limit).len(), limit.min(200));
    }
}

#[test]
fn f138_a_flow_that_lives_through_a_list_is_in_it_once() {
    let mut scene = Scene::plain(Config::default());
    // Every other flow will end while the list is made, and others will begin in its record.
    for client in 0..50 {
        ask(&mut scene, client..client + 1);
        ask(&mut scene, 1000 + client..1001 + client);
    }
    let mut listing = scene.engine.listing(Filter::default());
    let mut found = Vec::new();
    let mut new = 2000;
    for step in 0.. {
        let Some(page) = scene.engine.next_flows(&mut listing, 3) else { break };
        found.extend(page.into_iter().map(|flow| flow.source));
        for family in FAMILIES {
            let source = Some(family.client(1000 + step, 53).ip().into());
            scene.engine.delete_flows(&Filter { source, ..Filter::default() });
        }
        scene.pass(0.2);
        ask(&mut scene, new..new + 2);
        ask(&mut scene, 0..50);
        new += 2;
    }
    let once: HashSet<_> = found.iter().copied().collect();
    assert_eq!(once.len(), found.len(), "none twice");
    assert!(once.is_superset(&sources(0..50)), "none lost");
    assert!(once.is_disjoint(&sources(2000..new)), "none that began later");
}

#[test]
fn f138_flows_are_ended_page_by_page() {
    let mut scene = Scene::plain(Config::default());
    ask(&mut scene, 0..100);
    scene.pass(0.2);
    let filter = Filter { protocol: Some(Protocol::UDP), ..Filter::default() };
    let mut listing = scene.engine.listing(filter.clone());
    let mut ended = 0;
    while let Some(count) = scene.engine.end_next_flows(&mut listing, 7) {
        assert!(count <= 7);
        ended += count;
        ask(&mut scene, 5000 + ended as u32..5001 + ended as u32);
    }
    assert_eq!(ended, 200);
    let left: HashSet<_> = scene.flows().iter().map(|flow| flow.source).collect();
    assert!(left.is_disjoint(&sources(0..100)));
    assert!(!left.is_empty(), "those that began meanwhile go on");
    assert_eq!(scene.engine.delete_flows(&filter), left.len());
    assert_eq!(scene.engine.occupancy().flows, 0);
}
