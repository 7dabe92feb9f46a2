//! The loop by hand, on a cache of the kernel's: skipped where there can be none.
#![allow(clippy::unwrap_used)]

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_flowcache::Sizes;
use kbe_nat_netlink::conntrack::Updates;

use super::*;

/// A cache with so many flows that are due.
fn with_due(count: u16) -> Option<(CacheSync, Requests)> {
    FlowCache::probe().map_err(|error| eprintln!("skipped: {error}")).ok()?;
    let cache = FlowCache::load(Sizes { flows: 64, proposals: 64 }).unwrap();
    let (_, waker) = Updates::open(1 << 20).unwrap();
    let limit = usize::from(count);
    let sync = CacheSync::new(waker, Arc::new(cache), limit, Vec::new(), HashSet::new());
    let end = |text: &str, port| SocketAddr::new(text.parse().unwrap(), port);
    let entries: Vec<_> = (0..count)
        .map(|port| Entry {
            id: Some(port.into()),
            mark: None,
            uses: None,
            protocol: Protocol::UDP.0,
            original: Ends { src: end("192.0.2.1", port), dst: end("198.51.100.1", 53) },
            reply: Ends { src: end("203.0.113.1", 53), dst: end("192.0.2.1", port) },
            is_replied: true,
            is_assured: true,
            needs_conntrack: false,
            state: None,
            timeout: None,
            counters: None,
            started: None,
        })
        .collect();
    sync.note(entries.iter()).unwrap();
    Some((sync, Requests::open().unwrap()))
}

#[test]
fn a_turn_proposes_some_flows_and_says_whether_more_are_due() {
    let Some((sync, mut requests)) = with_due(150) else { return };
    let engine = Mutex::new(Engine::new(kbe_nat_engine::Config::default()));
    let mut turn = || sync.propose_due(&engine, &mut requests).unwrap();
    // Doubts are looked at between two turns.
    assert!(turn() && turn(), "64 of 150 flows each");
    assert!(!turn());
    assert_eq!(sync.counts().0, 0, "the engine has none of them");
}
