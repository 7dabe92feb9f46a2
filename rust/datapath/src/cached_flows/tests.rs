//! Records by hand: what is proposed, taken out and counted.

use proptest::prelude::*;

use kbe_nat_netlink::conntrack::TCP_ESTABLISHED;

use super::*;

fn end(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// An established flow of the client's port, as conntrack has it.
fn entry(protocol: Protocol, port: u16) -> Entry {
    let client = SocketAddr::new(end("10.0.0.1:1").ip(), port);
    Entry {
        id: Some(u32::from(port)),
        mark: None,
        uses: None,
        protocol: protocol.0,
        original: Ends { src: client, dst: end("10.96.0.1:80") },
        reply: Ends { src: end("10.1.0.1:8080"), dst: client },
        is_replied: true,
        is_assured: true,
        needs_conntrack: false,
        state: (protocol == Protocol::TCP).then_some(TCP_ESTABLISHED),
        timeout: Some(ESTABLISHED),
        counters: None,
        started: None,
    }
}

fn key(entry: &Entry) -> FlowKey {
    FlowKey { protocol: entry.protocol, original: entry.original }
}

fn carried(packets: u64) -> Carried {
    Carried { packets, bytes: 100 * packets }
}

/// As it is when nothing of the flow has come for so many seconds since it had this timeout.
fn rested(entry: &Entry, timeout: u32, seconds: u32) -> Entry {
    Entry { timeout: Some(timeout - seconds), ..entry.clone() }
}

const ESTABLISHED: u32 = 432_000;

struct Scene {
    flows: CachedFlows,
    now: Instant,
}

impl Scene {
    fn new(limit: usize, ranges: &[Cidr]) -> Self {
        Self { flows: CachedFlows::new(limit, ranges.to_vec()), now: Instant::now() }
    }

    fn hears(&mut self, entry: &Entry) -> Option<[Passage; 2]> {
        let mut over = Vec::new();
        self.flows.note(entry, self.now, &mut over);
        assert!(over.len() <= 1);
        over.pop()
    }

    /// A look after so many seconds, at which conntrack shows these; what is taken out.
    fn looks(&mut self, seconds: u64, entries: &[Entry]) -> Vec<[Passage; 2]> {
        self.now += Duration::from_secs(seconds);
        self.flows.begin_look(ESTABLISHED);
        self.sees(entries)
    }

    fn sees(&mut self, entries: &[Entry]) -> Vec<[Passage; 2]> {
        let mut over = Vec::new();
        entries.iter().for_each(|entry| self.flows.look(entry, self.now, &mut over));
        over
    }

    /// Both entries of a flow have counted so many packets.
    fn carries(&mut self, passages: &[Passage; 2], packets: u64, is_current: bool) {
        for passage in passages {
            self.flows.count_entry(passage, carried(packets), Some(is_current));
        }
    }

    /// The flows that are due after this time; each is proposed.
    fn proposes(&mut self, after: Duration) -> Vec<[Passage; 2]> {
        let due = self.flows.take_due(self.now + after);
        due.iter().filter_map(|key| self.flows.propose(key)).collect()
    }
}

#[test]
fn udp_is_proposed_at_once_and_tcp_after_a_second() {
    let mut scene = Scene::new(8, &[]);
    let (datagrams, connection) = (entry(Protocol::UDP, 1), entry(Protocol::TCP, 2));
    assert_eq!(scene.hears(&datagrams), None);
    assert_eq!(scene.hears(&connection), None);
    assert_eq!(scene.hears(&connection), None, "the event of our own change");
    let [[there, back]] = scene.proposes(Duration::ZERO)[..] else { panic!("UDP alone") };
    assert_eq!((there.arriving, there.leaving.dst), (datagrams.original, datagrams.reply.src));
    assert_eq!((back.arriving, back.leaving), (datagrams.reply, datagrams.original.reversed()));
    assert!(scene.proposes(TCP_AGE - Duration::from_millis(1)).is_empty());
    assert_eq!(scene.proposes(TCP_AGE).len(), 1);
    assert!(scene.proposes(TCP_AGE).is_empty(), "once");
}

#[test]
fn a_connection_that_ends_meanwhile_is_not_proposed() {
    let mut scene = Scene::new(8, &[]);
    let connection = entry(Protocol::TCP, 1);
    scene.hears(&connection);
    assert_eq!(scene.hears(&Entry { state: Some(4), ..connection.clone() }), None);
    assert!(scene.proposes(TCP_AGE).is_empty());
    assert_eq!(scene.flows.count(), 0);
    // What is not confirmed by both sides, and what has no ports.
    scene.hears(&Entry { is_assured: false, ..connection.clone() });
    scene.hears(&Entry { protocol: Protocol::SCTP.0, ..connection });
    assert_eq!(scene.flows.count(), 0);
}

#[test]
fn what_an_earlier_cache_has_carried_counts_for_the_same_flow_alone() {
    let mut scene = Scene::new(8, &[]);
    let (kept, other, gone) =
        (entry(Protocol::TCP, 1), entry(Protocol::UDP, 2), entry(Protocol::UDP, 3));
    for flow in [&kept, &other, &gone] {
        scene.hears(flow);
    }
    for [there, _] in scene.proposes(TCP_AGE) {
        scene.flows.count_entry(&there, carried(7), Some(true));
    }
    let saved = scene.flows.all_carried();
    let mut next = Scene::new(8, &[]);
    next.flows.inherit(&saved, next.now);
    // Ahead of the first dump.
    assert_eq!(next.flows.carried(&key(&kept), kept.id), [carried(7), carried(0)]);
    let successor = Entry { id: Some(99), ..other.clone() };
    assert_eq!(next.flows.carried(&key(&other), successor.id), [carried(0); 2], "another flow");
    let dump = next.flows.begin_look(ESTABLISHED);
    for flow in [&kept, &successor] {
        next.flows.look(flow, next.now, &mut Vec::new());
    }
    assert_eq!(next.flows.missing(dump), [key(&gone)]);
    // It is cached again, by an entry that begins at nothing.
    let proposals = next.proposes(TCP_AGE);
    let again = proposals.iter().map(|[there, _]| there);
    let again = again.filter(|there| there.arriving == kept.original).collect::<Vec<_>>();
    next.flows.count_entry(again[0], carried(2), Some(true));
    assert_eq!(next.flows.carried(&key(&kept), kept.id), [carried(9), carried(0)]);
    assert_eq!(next.flows.end(&key(&kept)), [carried(9), carried(0)]);
}

#[test]
fn a_flow_is_taken_out_once_and_its_record_stays_until_conntrack_has_ended_it() {
    let mut scene = Scene::new(8, &[]);
    let connection = entry(Protocol::TCP, 1);
    scene.hears(&connection);
    let [[there, back]] = scene.proposes(TCP_AGE)[..] else { panic!("one") };
    scene.flows.count_entry(&there, carried(7), Some(true));
    scene.flows.count_entry(&there, carried(9), Some(true));
    // Room was short: the entry is another one.
    scene.flows.count_entry(&there, carried(2), Some(true));
    assert_eq!(scene.flows.carried(&key(&connection), connection.id), [carried(11), carried(0)]);
    let closing = Entry { state: Some(8), ..connection.clone() };
    assert_eq!(scene.hears(&closing), Some([there, back]));
    assert_eq!(scene.hears(&closing), None, "once");
    scene.flows.count_entry(&there, carried(3), None);
    scene.flows.count_entry(&back, carried(5), None);
    assert_eq!(scene.flows.standing(&key(&connection), None), Standing::Over);
    assert_eq!(scene.flows.end(&key(&connection)), [carried(12), carried(5)]);
    assert_eq!(scene.flows.count(), 0);
}

#[test]
fn another_flow_with_the_same_ends_takes_the_place_of_the_former() {
    let mut scene = Scene::new(8, &[]);
    let datagrams = entry(Protocol::UDP, 1);
    scene.hears(&datagrams);
    let former = scene.proposes(Duration::ZERO);
    let reply = Ends { src: end("10.1.0.2:8080"), ..datagrams.reply };
    assert_eq!(scene.hears(&Entry { reply, id: Some(9), ..datagrams.clone() }), Some(former[0]));
    let [[there, _]] = scene.proposes(Duration::ZERO)[..] else { panic!("the later one") };
    assert_eq!(there.leaving.dst, end("10.1.0.2:8080"));
}

#[test]
fn a_dump_that_is_complete_ends_what_it_has_not_shown() {
    let mut scene = Scene::new(8, &[]);
    let flows = [1, 2, 3].map(|port| entry(Protocol::UDP, port));
    scene.hears(&flows[0]);
    scene.hears(&flows[1]);
    let dump = scene.flows.begin_look(ESTABLISHED);
    scene.hears(&flows[0]);
    scene.hears(&flows[2]);
    assert_eq!(scene.flows.missing(dump), [key(&flows[1])], "not what began during the dump");
}

#[test]
fn what_is_excluded_is_never_proposed_and_leaves_the_cache() {
    let range = Cidr::new(end("10.1.0.0:0").ip(), 16).expect("a range");
    let datagrams = entry(Protocol::UDP, 1);
    let standing = |scene: &Scene| scene.flows.standing(&key(&datagrams), Some(datagrams.reply));
    let mut scene = Scene::new(8, &[range]);
    scene.hears(&datagrams);
    assert_eq!((scene.flows.count(), standing(&scene)), (0, Standing::Range));

    let mut scene = Scene::new(8, &[]);
    scene.hears(&datagrams);
    assert_eq!(standing(&scene), Standing::Waiting);
    scene.proposes(Duration::ZERO);
    assert_eq!(standing(&scene), Standing::Proposed);
    let service = (Protocol::UDP.0, datagrams.original.dst);
    assert_eq!(scene.flows.exclude_services([service].into()).len(), 1);
    assert_eq!(standing(&scene), Standing::Service);
    scene.flows.exclude_services(HashSet::new());
    scene.hears(&datagrams);
    assert_eq!(scene.proposes(Duration::ZERO).len(), 1, "it is excluded no more");
    assert_eq!(scene.flows.set_local([datagrams.reply.dst.ip()].into()).len(), 1);
    assert_eq!(standing(&scene), Standing::Local);
    scene.flows.end(&key(&datagrams));
    scene.hears(&datagrams);
    assert_eq!(scene.flows.count(), 0);
    // The address of the frontend, and of whom the backend sees, may be the node's.
    scene.flows.set_local([datagrams.original.dst.ip()].into());
    scene.hears(&datagrams);
    assert_eq!(standing(&scene), Standing::Waiting);
}

#[test]
fn memory_is_bounded() {
    let mut scene = Scene::new(2, &[]);
    for port in 1..=3 {
        scene.hears(&entry(Protocol::TCP, port));
    }
    assert_eq!((scene.flows.count(), scene.flows.refused()), (2, 1));
    // Connections that come and go leave places in the queue behind, until they are due.
    for port in 4..100 {
        scene.flows.end(&key(&entry(Protocol::TCP, port - 1)));
        scene.flows.end(&key(&entry(Protocol::TCP, 1)));
        scene.hears(&entry(Protocol::TCP, port));
    }
    assert!(scene.flows.due.iter().all(|queue| queue.len() <= 8));
    scene.proposes(TCP_AGE);
    assert!(scene.flows.due.iter().all(VecDeque::is_empty));
}

#[test]
fn a_connection_that_both_ends_use_is_kept_for_as_long_as_an_established_one() {
    let mut scene = Scene::new(8, &[]);
    let connection = entry(Protocol::TCP, 1);
    scene.hears(&connection);
    let [passages] = scene.proposes(TCP_AGE)[..] else { panic!("one") };
    let none: [[Ends; 2]; 0] = [];
    let renewals = |scene: &mut Scene, packets: [u64; 2], timeout| {
        scene.now += Duration::from_secs(30);
        scene.flows.begin_look(ESTABLISHED);
        for (passage, packets) in passages.iter().zip(packets) {
            scene.flows.count_entry(passage, carried(packets), Some(true));
        }
        scene.sees(&[Entry { timeout: Some(timeout), ..connection.clone() }]);
        scene.flows.take_renewals().0
    };
    assert_eq!(renewals(&mut scene, [0, 0], 299), none, "nothing was carried");
    assert_eq!(renewals(&mut scene, [9, 0], 299), none, "the other end may be gone");
    assert_eq!(
        renewals(&mut scene, [9, 1], 270),
        [[connection.original, connection.reply]],
        "it has answered since"
    );
    assert_eq!(renewals(&mut scene, [9, 1], 300), none, "nothing since");
    assert_eq!(renewals(&mut scene, [19, 2], ESTABLISHED - 1), none, "it has the time");
    assert_eq!(renewals(&mut scene, [29, 3], 300), [[connection.original, connection.reply]]);
    // An end that conntrack knows of has its own timeout.
    scene.hears(&Entry { state: Some(4), ..connection.clone() });
    assert_eq!(renewals(&mut scene, [39, 4], 10), none);
}

#[test]
fn a_flow_that_the_cache_has_dropped_is_proposed_again_while_it_lives() {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let mut scene = Scene::new(8, &[]);
        let flow = entry(protocol, 1);
        scene.hears(&flow);
        let passages = scene.proposes(TCP_AGE);
        // Carried, idle, and at last seen by conntrack alone.
        scene.now += Duration::from_secs(30);
        scene.flows.begin_look(ESTABLISHED);
        scene.carries(&passages[0], 5, true);
        scene.sees(std::slice::from_ref(&flow));
        assert!(scene.proposes(TCP_AGE).is_empty());
        scene.looks(30, &[rested(&flow, ESTABLISHED, 30)]);
        assert!(scene.proposes(TCP_AGE).is_empty(), "it is idle");
        scene.looks(30, &[rested(&flow, ESTABLISHED, 1)]);
        assert_eq!(scene.flows.standing(&key(&flow), None), Standing::Proposed);
        if protocol == Protocol::TCP {
            assert!(scene.proposes(Duration::ZERO).is_empty(), "it may be ending");
        }
        assert_eq!(scene.proposes(TCP_AGE), passages);
        // What ends meanwhile is taken out, since the cache may have the former proposals.
        scene.looks(30, &[rested(&flow, ESTABLISHED, 1)]);
        assert_eq!(scene.flows.finish(&key(&flow)), Some(passages[0]));
        assert!(scene.proposes(TCP_AGE).is_empty());
    }
}

#[test]
fn what_conntrack_must_see_each_packet_of_is_never_cached() {
    let mut scene = Scene::new(8, &[]);
    let plain = entry(Protocol::TCP, 1);
    let special = Entry { needs_conntrack: true, ..plain.clone() };
    scene.hears(&special);
    assert!(scene.proposes(TCP_AGE).is_empty());
    assert_eq!(scene.flows.standing(&key(&plain), None), Standing::Special);
    // Found when it is asked about, or later.
    scene.flows.end(&key(&plain));
    scene.hears(&plain);
    let passages = scene.proposes(TCP_AGE);
    assert_eq!(scene.hears(&special), Some(passages[0]));
    assert_eq!(scene.hears(&plain), None);
    assert_eq!(scene.flows.standing(&key(&plain), None), Standing::Special);
    assert_eq!(scene.flows.count(), 0, "it takes no place");
}

#[test]
fn the_end_of_a_former_flow_leaves_a_later_one_with_the_same_ends() {
    let mut scene = Scene::new(8, &[]);
    let flow = entry(Protocol::UDP, 7);
    scene.hears(&flow);
    let passages = scene.proposes(Duration::ZERO);
    assert!(scene.flows.is_another(&key(&flow), Some(6)));
    assert_eq!(scene.flows.finish_with(&key(&flow), Some(6)), None);
    assert_eq!(scene.flows.standing(&key(&flow), None), Standing::Proposed);
    assert!(!scene.flows.is_another(&key(&flow), Some(7)));
    assert!(!scene.flows.is_another(&key(&flow), None), "its number is not known");
    assert_eq!(scene.flows.finish_with(&key(&flow), Some(7)), Some(passages[0]));
}

#[test]
fn idle_flows_make_room_first_and_return_when_they_live() {
    let mut scene = Scene::new(2, &[]);
    let [idle, busy, late] = [1, 2, 3].map(|port| entry(Protocol::UDP, port));
    scene.hears(&idle);
    scene.hears(&busy);
    let passages = scene.proposes(Duration::ZERO);
    for turn in 1..=2 {
        let seconds = 30 * turn;
        let shown = [rested(&idle, ESTABLISHED, seconds), busy.clone()];
        scene.now += Duration::from_secs(30);
        scene.flows.begin_look(ESTABLISHED);
        scene.carries(&passages[1], u64::from(seconds), true);
        scene.sees(&shown);
    }
    assert_eq!(scene.hears(&late), Some(passages[0]), "the idle one");
    assert_eq!(scene.flows.standing(&key(&idle), None), Standing::Aside);
    assert_eq!((scene.flows.count(), scene.proposes(Duration::ZERO).len()), (2, 1));
    scene.looks(30, std::slice::from_ref(&idle));
    assert!(scene.proposes(Duration::ZERO).is_empty(), "no place is free");
    scene.flows.end(&key(&late));
    scene.looks(30, &[rested(&idle, ESTABLISHED, 30)]);
    assert!(scene.proposes(Duration::ZERO).is_empty(), "it is idle");
    scene.looks(30, std::slice::from_ref(&idle));
    assert_eq!(scene.proposes(Duration::ZERO), [passages[0]]);
}

proptest! {
    /// Whatever one client does, another one gets its share, and no count goes astray.
    #[test]
    fn a_client_takes_no_place_of_anothers_share(
        steps in prop::collection::vec((0..4u8, 0..40u16, 0..6u8), 0..400),
        limit in 1..20usize,
    ) {
        let mut scene = Scene::new(limit, &[]);
        let of_client = |client: u8, port| {
            let flow = entry(Protocol::UDP, port + 1);
            let source = SocketAddr::new([10, 0, 0, client].into(), port + 1);
            let original = Ends { src: source, ..flow.original };
            Entry { original, reply: Ends { dst: source, ..flow.reply }, ..flow }
        };
        for (client, port, step) in steps {
            // The first of them has most.
            let flow = of_client(client / 2, port);
            match step {
                0..=2 => { scene.flows.note(&flow, scene.now, &mut Vec::new()); }
                3 => { scene.flows.end(&key(&flow)); }
                4 => { scene.proposes(Duration::ZERO); }
                _ => { scene.looks(30, &[flow]); }
            }
            prop_assert!(scene.flows.count() <= limit);
            let held = scene.flows.records.values().filter(|record| record.stage.has_place());
            prop_assert_eq!(held.count(), scene.flows.count());
        }
        for port in 0..limit as u16 {
            scene.flows.note(&of_client(9, port), scene.now, &mut Vec::new());
        }
        let share = (0..limit as u16).filter(|&port| {
            scene.flows.records.contains_key(&key(&of_client(9, port)))
        });
        prop_assert!(share.count() >= limit / 4);
    }
}
