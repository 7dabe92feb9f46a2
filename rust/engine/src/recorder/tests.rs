//! The ring by itself: which entries, forms and generations it keeps, and for how long.

use super::*;
use crate::backend::Backend;
use crate::service::ServiceSpec;
use crate::tuple::Ends;

fn recorder(capacity: usize) -> Recorder {
    Recorder::new(capacity, HashKey::new(1))
}

fn record(recorder: &mut Recorder, sport: u16, service: u32) {
    let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 96, 0, 1));
    let packet = Ends { src, dst, sport, dport: 80 };
    let answer = Ends { src: Ipv4Addr::new(172, 17, 0, 3), dst: src, sport: 8080, dport: sport };
    let ends = [packet.into(), answer.into()];
    recorder.record(&Ruling::served(7, (&ends, Protocol::TCP), service, Outcome::Strategy));
}

fn port(name: &str, endpoints: u8) -> ServicePort {
    let backend = |last| Backend::new(SocketAddr::from(([172, 17, 0, last], 80)));
    let cluster_backends = (0..endpoints).map(backend).collect();
    ServicePort::new(ServiceSpec { cluster_backends, ..ServiceSpec::new(name, Protocol::TCP) })
        .expect("valid")
}

fn sports(recorder: &Recorder) -> Vec<u16> {
    (recorder.oldest()..recorder.next())
        .map(|sequence| recorder.entry(sequence).expect("in the ring").client().port())
        .collect()
}

#[test]
fn the_newest_entries_stay_in_their_order() {
    for capacity in [1, 2, 3, 1000, 1024, 1025, 3000] {
        let mut recorder = recorder(capacity);
        for count in 0..5000u16 {
            record(&mut recorder, count, 0);
            let first = (count + 1).saturating_sub(capacity as u16);
            if count % 97 == 0 || count > 4990 {
                assert_eq!(sports(&recorder), (first..=count).collect::<Vec<_>>());
                assert!(recorder.entry(u64::from(count) + 1).is_none(), "it is not made yet");
                let overwritten = recorder.oldest().checked_sub(1);
                assert!(overwritten.is_none_or(|sequence| recorder.entry(sequence).is_none()));
            }
        }
    }
}

#[test]
fn memory_is_taken_at_the_first_decision() {
    let mut recorder = recorder(65_536);
    assert_eq!(recorder.ring.capacity(), 0);
    record(&mut recorder, 1, 0);
    assert_eq!(recorder.ring.capacity(), 65_536);
}

#[test]
fn without_capacity_nothing_is_remembered() {
    let mut recorder = recorder(0);
    for generation in 0..10 {
        record(&mut recorder, 1, 3);
        recorder.supersede(3, &port("default/a", 2));
        recorder.begin_generation(generation);
    }
    assert_eq!((recorder.next(), recorder.oldest(), recorder.ring.capacity()), (0, 0, 0));
    assert!(recorder.entry(0).is_none());
    assert!(recorder.forms.is_empty() && recorder.ends.is_empty());
    assert_eq!(recorder.generations.len(), 1);
}

#[test]
fn a_number_means_what_it_meant_then() {
    let mut recorder = recorder(8);
    record(&mut recorder, 0, 3);
    recorder.supersede(3, &port("default/first", 1));
    record(&mut recorder, 1, 3);
    record(&mut recorder, 2, 4);
    recorder.supersede(3, &port("default/second", 2));
    record(&mut recorder, 3, 3);
    let name = |sequence, number| {
        recorder.form(sequence, number).map(|form| (&*form.name, form.endpoints().unwrap().len()))
    };
    assert_eq!(name(0, 3), Some(("default/first", 1)));
    assert_eq!(name(1, 3), Some(("default/second", 2)));
    assert_eq!((name(3, 3), name(2, 4)), (None, None), "they are in force");
}

#[test]
fn forms_go_with_their_last_entry() {
    let mut recorder = recorder(4);
    for sport in 0..100 {
        record(&mut recorder, sport, u32::from(sport % 3));
        recorder.supersede(u32::from(sport % 3), &port(&format!("default/{sport}"), 1));
        let sequence = u64::from(sport);
        let form = recorder.form(sequence, u32::from(sport % 3)).expect("just made");
        assert_eq!(*form.name, format!("default/{sport}"));
        assert!(recorder.ends.len() <= 5);
        assert_eq!(recorder.listed, recorder.ends.len());
        assert_eq!(recorder.forms.values().map(VecDeque::len).sum::<usize>(), recorder.ends.len());
    }
}

#[test]
fn the_oldest_lists_are_given_up_and_names_are_not() {
    let mut recorder = recorder(8);
    for sport in 0..6u16 {
        record(&mut recorder, sport, 0);
        recorder.supersede(0, &port(&format!("default/{sport}"), 6));
        assert!(recorder.listed <= 8 * ENDPOINTS);
    }
    let form = |sequence| recorder.form(sequence, 0).expect("an entry needs it");
    assert_eq!((&*form(0).name, form(0).endpoints()), ("default/0", None));
    assert_eq!(form(3).endpoints(), None);
    assert_eq!(form(4).endpoints().map(|list| list.len()), Some(6));
    assert_eq!(form(5).endpoints().map(|list| list.len()), Some(6));
}

#[test]
fn generations_are_those_of_the_decisions() {
    let mut recorder = recorder(3);
    for generation in 1..=20 {
        // Tables under which nothing is decided leave no trace.
        recorder.begin_generation(1000 + generation);
        recorder.begin_generation(generation);
        record(&mut recorder, 1, 0);
        assert!(recorder.generations.len() <= 4);
        let now = u64::from(generation);
        for sequence in recorder.oldest()..recorder.next() {
            assert_eq!(u64::from(recorder.generation(sequence)), sequence + 1, "at {now}");
        }
    }
}

#[test]
fn an_entry_is_read_in_its_own_family() {
    let [src, dst, backend]: [Ipv6Addr; 3] =
        ["fd00::1", "fd00::2", "fd00::3:4"].map(|address| address.parse().expect("an address"));
    let packet = Ends { src, dst, sport: 1, dport: 53 };
    let answer = Ends { src: backend, dst: src, sport: 5353, dport: 1 };
    let ends = [packet.into(), answer.into()];
    let mut recorder = recorder(1);
    recorder.record(&Ruling::served(9, (&ends, Protocol::UDP), 70_000, Outcome::Affinity));
    let entry = recorder.entry(0).expect("the newest");
    assert_eq!((entry.client(), entry.frontend()), (packet.source(), packet.destination()));
    assert_eq!((entry.backend(), entry.outcome()), (Some(answer.source()), Outcome::Affinity));
    assert_eq!((entry.tick(), entry.protocol(), entry.service()), (9, Protocol::UDP, Some(70_000)));
    // An IPv4 entry leaves the rest of the IPv6 addresses in its place.
    record(&mut recorder, 2, 5);
    let entry = recorder.entry(1).expect("the newest");
    assert_eq!(entry.client(), SocketAddr::from(([10, 0, 0, 1], 2)));
    assert_eq!(entry.frontend(), SocketAddr::from(([10, 96, 0, 1], 80)));
    assert_eq!(entry.backend(), Some(SocketAddr::from(([172, 17, 0, 3], 8080))));
    assert_eq!((entry.service(), entry.cause()), (Some(5), Cause::New));
    let refusal = Verdict::new(Action::Reject, Cause::HashChain);
    recorder.record(&Ruling::refused(9, (&ends, Protocol::UDP), None, refusal));
    let entry = recorder.entry(2).expect("the newest");
    assert_eq!((entry.client(), entry.backend()), (packet.source(), None));
    assert_eq!((entry.outcome(), entry.cause()), (Outcome::Reject, Cause::HashChain));
    assert_eq!(entry.service(), None);
}
