//! Records by hand: what is proposed, taken out and counted.

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
        state: (protocol == Protocol::TCP).then_some(TCP_ESTABLISHED),
        timeout: None,
        counters: None,
    }
}

fn key(entry: &Entry) -> FlowKey {
    FlowKey { protocol: entry.protocol, original: entry.original }
}

struct Scene {
    flows: CachedFlows,
    now: Instant,
}

impl Scene {
    fn new(limit: usize, ranges: &[Cidr]) -> Self {
        Self { flows: CachedFlows::new(limit, ranges.to_vec()), now: Instant::now() }
    }

    fn hears(&mut self, entry: &Entry) -> Option<[Passage; 2]> {
        self.flows.note(entry, self.now)
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
fn a_flow_is_taken_out_once_and_its_record_stays_until_conntrack_has_ended_it() {
    let mut scene = Scene::new(8, &[]);
    let connection = entry(Protocol::TCP, 1);
    scene.hears(&connection);
    let [[there, back]] = scene.proposes(TCP_AGE)[..] else { panic!("one") };
    let carried = |packets| Carried { packets, bytes: 100 * packets };
    scene.flows.count_entry(&there, carried(7), false);
    scene.flows.count_entry(&there, carried(9), false);
    // Room was short: the entry is another one.
    scene.flows.count_entry(&there, carried(2), false);
    assert_eq!(scene.flows.carried(&key(&connection)), [carried(11), carried(0)]);
    let closing = Entry { state: Some(8), ..connection.clone() };
    assert_eq!(scene.hears(&closing), Some([there, back]));
    assert_eq!(scene.hears(&closing), None, "once");
    scene.flows.count_entry(&there, carried(3), true);
    scene.flows.count_entry(&back, carried(5), true);
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
    let dump = scene.flows.begin_dump();
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
