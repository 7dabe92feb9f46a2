//! A cache without packets, where the kernel lets us have one: maps, counters and generations.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use kbe_nat_flowcache::{FlowCache, Proposal, Sizes, Tuple};

/// A cache, or `None` with the reason on standard error.
fn cache() -> Option<FlowCache> {
    if let Err(error) = FlowCache::probe() {
        eprintln!("skipped: {error}");
        return None;
    }
    Some(FlowCache::load(Sizes { flows: 1024, proposals: 1024 }).unwrap())
}

fn proposal(number: u16, addresses: [&str; 3]) -> Proposal {
    let [client, frontend, backend] = addresses.map(|address| address.parse().unwrap());
    let tuple = |port, destination| Tuple {
        protocol: 17,
        source: (client, number).into(),
        destination: std::net::SocketAddr::new(destination, port),
    };
    Proposal { arriving: tuple(53, frontend), leaving: tuple(5353, backend) }
}

const V4: [&str; 3] = ["10.0.0.1", "10.96.0.1", "10.1.0.1"];
const V6: [&str; 3] = ["fd00::1", "fd00:96::1", "fd00:1::1"];

#[test]
fn the_kernel_takes_the_programs() {
    let Some(cache) = cache() else { return };
    cache.beat(Duration::from_secs(1)).unwrap();
    assert_eq!(cache.devices(), []);
    assert_eq!(cache.flows().unwrap(), []);
    assert!(cache.counters().unwrap().rows().iter().all(|(_, number)| *number == 0));
}

#[test]
fn each_void_is_a_generation() {
    let Some(cache) = cache() else { return };
    cache.void().unwrap();
    cache.beat(Duration::from_secs(1)).unwrap();
    cache.void().unwrap();
    assert_eq!(cache.generation(), 2);
}

#[test]
fn a_device_that_is_not_there_or_not_ethernet_is_refused() {
    let Some(cache) = cache() else { return };
    let (none, loopback) = (cache.attach(i32::MAX as u32), cache.attach(1));
    assert_eq!(none.unwrap_err().raw_os_error(), Some(libc::ENODEV));
    assert_eq!(loopback.unwrap_err().kind(), std::io::ErrorKind::Unsupported);
}

#[test]
fn what_cannot_be_translated_is_refused_whole() {
    let Some(cache) = cache() else { return };
    let good = proposal(1, V4);
    let mixed = Proposal { arriving: good.arriving, leaving: proposal(1, V6).leaving };
    let mut icmp = good;
    (icmp.arriving.protocol, icmp.leaving.protocol) = (1, 1);
    for bad in [mixed, icmp] {
        let error = cache.propose(&[good, bad]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[test]
fn removing_passes_over_what_is_missing() {
    let Some(cache) = cache() else { return };
    let all: Vec<_> = (0..200).map(|number| proposal(number, V4)).collect();
    cache.propose(&all).unwrap();
    // Every third one is gone when all are removed.
    let gone: Vec<_> = all.iter().copied().step_by(3).collect();
    assert_eq!(cache.remove(&gone).unwrap(), []);
    assert_eq!(cache.remove(&all).unwrap(), []);
    assert_eq!(cache.remove(&[proposal(1, V6)]).unwrap(), []);
}
