//! The devices that the cache of established flows stands on, and what changes of devices and of
//! their neighbours void of it.
//!
//! Theory of operation. Rules, routes and routing rules may lead any flow elsewhere, so a change of
//! them voids all entries. What changes at one device voids the entries whose packets come or leave
//! by it, and a neighbour with another link address those that are sent to the former one. So a pod
//! that changes its own link address time and again takes nobody's flows out of the cache but its
//! own.
//!
//! The cache looks at packets ahead of filters of tc (ingress, clsact), which would not see what it
//! carries. So it stands on no device with such filters.
//!
//! A packet that the cache sends has its bytes and nothing beside: no mark, and no metadata that a
//! route or a filter gave it. So the cache stands on those kinds of devices alone of which it is
//! known that they ask for no more, and on none by which packets of one flow may leave in several
//! ways: by a program of a route, or encrypted by the network card. Where routes look at the DSCP
//! of each packet it stands nowhere.
//!
//! Does not say which flows are cached: that is `cache_sync`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kbe_nat_flowcache as flowcache;
use kbe_nat_flowcache::{CachedFlow, FlowCache};
use kbe_nat_netlink::doubts::{Device, Doubt, Doubts, LinkAddress, Topic};
use kbe_nat_netlink::links::{ANY_DEVICE, IPSEC_ALONE, Link, Links};

use crate::bridges::Bridges;
use crate::locking::lock;
use crate::thread_time::thread_time;

/// Puts the cache on devices as they come, takes it off, and voids what has to do with them.
#[derive(Debug)]
pub(crate) struct CacheDevices {
    cache: Arc<FlowCache>,
    /// Names of devices that the cache is not to stand on.
    excluded: HashSet<String>,
    /// Devices that the cache was put on. The kernel takes it off one that goes, whose entries are
    /// to be void all the same.
    former: Mutex<HashSet<u32>>,
    /// Numbers and names of devices that the cache does not stand on, with the reason.
    left_out: Mutex<BTreeMap<u32, (String, String)>>,
    device_voids: AtomicU64,
    neighbour_voids: AtomicU64,
    moves: AtomicU64,
    pub(crate) bridges: Bridges,
    /// Devices by which packets make detours; `None`: to be read.
    detours: Mutex<Option<HashSet<u32>>>,
    /// Until then no look whether others' programs stand behind ours.
    stay: Mutex<Option<Instant>>,
    /// Until then no search for the entries of a neighbour, since the last one took so long.
    rest: Mutex<Option<Instant>>,
}

impl CacheDevices {
    /// The cache stands nowhere yet.
    pub(crate) fn new(cache: Arc<FlowCache>, excluded: HashSet<String>) -> Self {
        Self {
            cache,
            excluded,
            former: Mutex::default(),
            left_out: Mutex::default(),
            device_voids: AtomicU64::default(),
            neighbour_voids: AtomicU64::default(),
            moves: AtomicU64::default(),
            bridges: Bridges::default(),
            detours: Mutex::default(),
            stay: Mutex::default(),
            rest: Mutex::default(),
        }
    }

    /// Devices that the cache does not stand on, but for loopback and ports of others, with the
    /// reason.
    pub(crate) fn left_out(&self) -> Vec<(String, String)> {
        let mut rows: Vec<_> = lock(&self.left_out).values().cloned().collect();
        rows.sort();
        rows
    }

    /// The name of such a device, with the reason.
    pub(crate) fn left_out_by_number(&self, device: u32) -> Option<(String, String)> {
        lock(&self.left_out).get(&device).cloned()
    }

    /// How often the entries of a device became void, how many entries with their neighbour, and
    /// how often programs went behind those of others.
    pub(crate) fn counts(&self) -> [u64; 3] {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [&self.device_voids, &self.neighbour_voids, &self.moves].map(count)
    }

    /// Voids what doubts are about, and follows the devices. Returns what entries had counted that
    /// are gone.
    pub(crate) fn act(
        &self,
        doubts: &[Doubt],
        known: &Doubts,
        links: &mut Links,
    ) -> io::Result<Vec<CachedFlow>> {
        let attached: HashSet<u32> = self.cache.devices().into_iter().collect();
        let (mut devices, mut neighbours) = (BTreeSet::new(), BTreeSet::new());
        let mut is_about_all = false;
        for doubt in doubts {
            match (doubt.topic, doubt.device) {
                // Packets that the cache has sent leave by devices that it stands on.
                (Topic::Neighbour | Topic::Device | Topic::Address, Some(device))
                    if !attached.contains(&device) => {}
                (Topic::Neighbour, Some(device)) => match doubt.link {
                    Some(link) => _ = neighbours.insert((device, link)),
                    None => _ = devices.insert(device),
                },
                (Topic::Device | Topic::Address, Some(device)) => _ = devices.insert(device),
                // Below: what counts is whether there are some.
                (Topic::Filter, _) => {}
                _ => is_about_all = true,
            }
        }
        let mut voided = Vec::new();
        if is_about_all {
            self.cache.void()?;
        } else {
            neighbours.retain(|(device, _)| !devices.contains(device));
            voided = self.void_neighbours(&neighbours, &mut devices)?;
            for device in devices {
                self.void_device(device)?;
            }
        }
        let has = |topics: &[Topic]| doubts.iter().any(|doubt| topics.contains(&doubt.topic));
        let has_detours = has(&[Topic::Detour, Topic::Ipsec, Topic::Reread]);
        if has_detours {
            *lock(&self.detours) = None;
        }
        if has_detours || has(&[Topic::Device, Topic::Filter]) {
            voided.extend(self.attach(known, links)?);
        }
        self.bridges.look();
        self.move_back();
        Ok(voided)
    }

    /// Attaches the cache to the devices that are there, and detaches it from others. A device that
    /// refuses it, such as one that is gone already, is left to the kernel. Returns what entries
    /// had counted that are gone.
    pub(crate) fn attach(&self, known: &Doubts, links: &mut Links) -> io::Result<Vec<CachedFlow>> {
        let mut remembered = lock(&self.detours);
        let detours = match &mut *remembered {
            Some(devices) => devices,
            remembered => remembered.insert(links.detours()?),
        };
        let links = links.all()?;
        self.bridges.note(known.devices());
        let attached: HashSet<u32> = self.cache.devices().into_iter().collect();
        let (mut wanted, mut left_out) = (HashSet::new(), BTreeMap::new());
        let mut returning = HashSet::new();
        for device in known.devices().filter(|device| device.is_on_its_own()) {
            // One that is gone by now is refused below.
            let link = links.get(&device.index).cloned().unwrap_or_default();
            let detour = detour(detours, device.index);
            let reason = refusal(&self.excluded, device, &link, detour).or_else(|| {
                wanted.insert(device.index);
                if attached.contains(&device.index) {
                    return None;
                }
                returning.extend(self.left_out_by_number(device.index).map(|_| device.index));
                self.cache.attach(device.index).err().map(|error| error.to_string())
            });
            if let Some(reason) = reason {
                left_out.insert(device.index, (device.name.clone(), reason));
                continue;
            }
            let link = flowcache::Link {
                kind: &link.kind,
                flags: link.flags,
                leads_elsewhere: link.leads_elsewhere,
                is_shaped: link.is_shaped,
            };
            self.cache.set_peer(device.index, link.may_be_peer())?;
        }
        let former = std::mem::replace(&mut *lock(&self.former), wanted.clone());
        for device in attached.union(&former).copied().filter(|device| !wanted.contains(device)) {
            self.cache.detach(device);
            self.cache.set_peer(device, false)?;
            self.void_device(device)?;
        }
        *lock(&self.left_out) = left_out;
        // Now that packets are seen again: what is known of them is old.
        if returning.is_empty() { Ok(Vec::new()) } else { self.cache.void_arrivals(&returning) }
    }

    /// Puts programs last on devices where others have come behind them since: those would not see
    /// cached packets, whatever they are for.
    fn move_back(&self) {
        let (started, mut stay) = (Instant::now(), lock(&self.stay));
        if stay.is_some_and(|end| started < end) {
            return;
        }
        let moved = self.cache.move_back();
        self.moves.fetch_add(moved as u64, Ordering::Relaxed);
        // Two programs that both want to be last take turns, and each takes a lock of the system's.
        let rest = if moved > 0 { started.elapsed() * STAY } else { LOOK };
        *stay = Some(Instant::now() + rest.max(LOOK));
    }

    /// Takes the cache off all devices.
    pub(crate) fn detach(&self) {
        for device in self.cache.devices() {
            self.cache.detach(device);
        }
    }

    /// Takes out the entries that are sent to link addresses which are not valid any more. Where
    /// that took too long lately, the whole device is void instead.
    fn void_neighbours(
        &self,
        neighbours: &BTreeSet<(u32, LinkAddress)>,
        devices: &mut BTreeSet<u32>,
    ) -> io::Result<Vec<CachedFlow>> {
        let (mut voided, mut rest) = (Vec::new(), lock(&self.rest));
        for &(device, link) in neighbours {
            if rest.is_some_and(|end| Instant::now() < end) {
                devices.insert(device);
                continue;
            }
            let started = thread_time();
            voided.extend(self.cache.void_neighbour(device, link)?);
            let took = thread_time().saturating_sub(started);
            // Mostly there are few entries, and many neighbours may change at once.
            *rest = (took > QUICK).then(|| Instant::now() + took * REST);
        }
        self.neighbour_voids.fetch_add(voided.len() as u64, Ordering::Relaxed);
        Ok(voided)
    }

    fn void_device(&self, device: u32) -> io::Result<()> {
        self.device_voids.fetch_add(1, Ordering::Relaxed);
        self.cache.void_device(device)
    }
}

/// The devices of this thread's network namespace, but for loopback and ports of others, that a
/// cache would not stand on now if none were excluded, with the reason.
///
/// # Errors
/// The system's: no CAP_NET_ADMIN.
pub fn uncached_devices() -> io::Result<Vec<(String, String)>> {
    let (known, mut links) = (Doubts::open()?, Links::open()?);
    let (detours, links) = (links.detours()?, links.all()?);
    let mut left_out: Vec<_> = known
        .devices()
        .filter(|device| device.is_on_its_own())
        .filter_map(|device| {
            let detour = detour(&detours, device.index);
            let link = links.get(&device.index)?;
            let reason = refusal(&HashSet::new(), device, link, detour)?;
            Some((device.name.clone(), reason))
        })
        .collect();
    left_out.sort();
    Ok(left_out)
}

/// Why packets of one flow may leave by a device in several ways.
fn detour(detours: &HashSet<u32>, device: u32) -> Option<&'static str> {
    if detours.contains(&ANY_DEVICE) {
        Some("a route or routing rule looks at each packet's DSCP or label (tos, dsfield)")
    } else if detours.contains(&IPSEC_ALONE) {
        Some("a policy lets pass what IPsec has brought alone (ip xfrm, dir fwd)")
    } else if detours.contains(&device) {
        Some(
            "a route's program sees what leaves by it (encap bpf), or it encrypts (offload packet)",
        )
    } else {
        None
    }
}

/// Why the cache is not to stand on a device.
fn refusal(
    excluded: &HashSet<String>,
    device: &Device,
    link: &Link,
    detour: Option<&'static str>,
) -> Option<String> {
    let reason = if excluded.contains(&device.name) {
        "--cache-exclude-device names it"
    } else if !device.is_ethernet() {
        "its packets have no Ethernet header"
    } else if link.takes_metadata {
        "routes or marks say where its tunnel sends each packet (external, gbp)"
    } else if !link.kind.is_empty() && KINDS.split(' ').all(|kind| kind != link.kind) {
        return Some(format!("not tried with devices of the kind {}", link.kind));
    } else if let Some(detour) = detour {
        detour
    } else if link.has_ingress_filters {
        "filters of tc look at what comes in by it, and would not see cached packets"
    } else {
        return None;
    };
    Some(reason.to_owned())
}

/// Kinds of devices (`IFLA_INFO_KIND`) that send a packet by its bytes alone; tunnels do unless
/// they take metadata. Network cards have none.
const KINDS: &str = "bond bridge dsa dummy erspan geneve gretap ip6erspan ip6gretap ipvlan macsec \
                     macvlan macvtap team tun veth vlan vrf vxlan";
/// A search for a neighbour's entries that needs no rest: 3,000 entries.
const QUICK: Duration = Duration::from_millis(1);
/// Time between two looks for programs of others.
const LOOK: Duration = Duration::from_secs(1);
/// Moves take a hundredth of the time at most.
const STAY: u32 = 100;
/// Longer ones take a fifth of a processor at most.
const REST: u32 = 4;
