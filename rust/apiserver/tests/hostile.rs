//! Bytes that no API server sends: an error with the field, never a panic, and the other objects.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use kbe_nat_apiserver::{Document, Event, Frames, List, MAX_OBJECT, Refusal};
use proptest::prelude::*;

fn delimited(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = content.len();
    if number >= 16 {
        field = vec![(number << 3 | 2) | 0x80, number >> 4];
    }
    while length > 0x7f {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend_from_slice(content);
    field
}

fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

fn envelope(version: &str, kind: &str, content: &[u8]) -> Vec<u8> {
    let name = [delimited(1, version.as_bytes()), delimited(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), delimited(1, &name), delimited(2, content)].concat()
}

fn metadata(name: &str) -> Vec<u8> {
    let fields = [
        delimited(1, name.as_bytes()),
        delimited(3, b"shop"),
        delimited(6, b"7"),
        delimited(17, b"\xff\xff no field of managedFields is read"),
    ];
    delimited(1, &fields.concat())
}

fn service(name: &str, spec: &[u8]) -> Vec<u8> {
    [metadata(name), delimited(2, spec)].concat()
}

fn list(items: &[&[u8]]) -> Vec<u8> {
    let head = delimited(1, &delimited(2, b"9"));
    let items = items.iter().map(|item| delimited(2, item)).collect::<Vec<_>>().concat();
    envelope("v1", "ServiceList", &[head, items].concat())
}

fn items(answer: Vec<u8>) -> Vec<Result<Vec<u8>, Box<Refusal>>> {
    let document = Document::parse(answer.into()).unwrap();
    List::new(document).unwrap().collect()
}

fn refusal_of(kind: &str, content: &[u8]) -> Box<Refusal> {
    let version = if kind == "EndpointSlice" { "discovery.k8s.io/v1" } else { "v1" };
    let document = Document::parse(envelope(version, kind, content).into()).unwrap();
    document.json().unwrap_err()
}

#[test]
fn a_wrong_object_is_refused_with_its_field_and_the_others_apply() {
    let port = |inner: &[u8]| delimited(1, inner);
    for (spec, path, reason) in [
        (delimited(3, b"\xff"), "spec.clusterIP", "UTF-8"),
        (delimited(18, b"\xc3"), "spec.clusterIPs[0]", "UTF-8"),
        (number(3, 1), "spec.clusterIP", "wire type"),
        (delimited(12, b"80"), "spec.healthCheckNodePort", "wire type"),
        (delimited(2, &delimited(1, b"\xff")), "spec.selector", "UTF-8"),
        (
            [port(&number(3, 80)), port(&delimited(3, b"80"))].concat(),
            "spec.ports[1].port",
            "wire type",
        ),
        (port(&delimited(4, &number(1, 2))), "spec.ports[0].targetPort", "type 2"),
        (
            port(&delimited(4, &[number(1, 1), delimited(3, b"\xff")].concat())),
            "spec.ports[0].targetPort",
            "UTF-8",
        ),
        (
            delimited(14, &delimited(1, &delimited(1, b""))),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            "wire type",
        ),
        (port(b"\x0a\x05web"), "spec.ports[0].name", "underflow"),
        (vec![0xbb, 6], "spec", ""),
        (vec![0xff; 11], "spec", ""),
    ] {
        let wrong = service("wrong", &spec);
        let found = items(list(&[&service("a", b""), &wrong, &service("b", b"")]));
        let [Ok(first), Err(refusal), Ok(last)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(refusal.path, path, "{refusal:?}");
        assert!(refusal.reason.contains(reason), "{refusal:?}");
        let Refusal { kind, namespace, name, resource_version, .. } = &**refusal;
        assert_eq!([kind, namespace, name, resource_version], ["Service", "shop", "wrong", "7"]);
        for (text, name) in [(first, "a"), (last, "b")] {
            let head = format!("{{\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"shop\"");
            assert!(text.starts_with(head.as_bytes()), "{}", String::from_utf8_lossy(text));
        }
    }
}

#[test]
fn a_path_leads_through_arrays() {
    let endpoint = |inner: &[u8]| delimited(2, inner);
    let hint = delimited(8, &delimited(1, &number(1, 0)));
    let slice = [metadata("a"), endpoint(b""), endpoint(b""), endpoint(&hint)].concat();
    assert_eq!(refusal_of("EndpointSlice", &slice).path, "endpoints[2].hints.forZones[0].name");
    let slice = [metadata("a"), endpoint(&delimited(4, &number(3, 0)))].concat();
    assert_eq!(refusal_of("EndpointSlice", &slice).path, "endpoints[0].targetRef.name");
    let node = [metadata("a"), delimited(2, &number(7, 1))].concat();
    assert_eq!(refusal_of("Node", &node).path, "spec.podCIDRs");
    let far =
        [metadata("a"), delimited(1, &delimited(8, b"\x08\xff\xff\xff\xff\xff\x7f"))].concat();
    assert_eq!(refusal_of("Node", &far).path, "metadata.creationTimestamp");
}

#[test]
fn an_object_whose_metadata_is_damaged_is_named_as_far_as_it_can_be() {
    let damaged = delimited(1, &[delimited(1, b"a"), delimited(11, b"\xff")].concat());
    let refusal = refusal_of("Service", &damaged);
    assert_eq!((refusal.name.as_str(), refusal.path.as_str()), ("a", "metadata.labels"));
    let refusal = refusal_of("Service", b"\x0a");
    assert_eq!((refusal.name.as_str(), refusal.path.as_str()), ("", "metadata"));
}

#[test]
fn a_list_that_is_cut_anywhere_is_refused_whole() {
    let answer = list(&[&service("a", b""), &service("b", b"")]);
    for length in 0..answer.len() {
        let cut = Bytes::copy_from_slice(&answer[..length]);
        assert!(Document::parse(cut).and_then(List::new).is_err(), "{length}");
    }
    // The envelope is whole, and its content is not.
    let content = [delimited(2, b""), vec![0x12, 5, 1]].concat();
    let document = Document::parse(envelope("v1", "ServiceList", &content).into()).unwrap();
    let error = List::new(document).unwrap_err();
    assert_eq!(error.to_string(), "5 bytes are announced where 1 are left");
}

#[test]
fn answers_of_other_kinds_are_errors() {
    for (answer, expected) in [
        (b"{\"kind\":\"Status\"}".to_vec(), "does not begin"),
        (b"k8s\0".to_vec(), "envelope is empty"),
        (envelope("v1", "Status", b""), "\"Status\" in place of a list"),
        ([envelope("v1", "ServiceList", b""), delimited(3, b"gzip")].concat(), "\"gzip\""),
        (
            [envelope("v1", "ServiceList", b""), delimited(4, b"application/json")].concat(),
            "\"application/json\"",
        ),
        (envelope("v1", "ServiceList", &number(2, 0)), "a number in place of a message"),
        (envelope("v1", "ServiceList", &delimited(1, &number(2, 0))), "metadata.resourceVersion"),
        (envelope("v1", "ServiceList", &[0x13]), "wire type 3"),
    ] {
        let error = Document::parse(answer.into()).and_then(List::new).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let refusal = refusal_of("Secret", &metadata("a"));
    assert_eq!((refusal.name.as_str(), refusal.reason.contains("not read")), ("a", true));
}

#[test]
fn an_object_that_is_too_large_is_refused_unread() {
    let large = service("a", &delimited(10, &vec![b'x'; MAX_OBJECT]));
    let found = items(list(&[&large, &service("b", b"")]));
    let [Err(refusal), Ok(_)] = &found[..] else { panic!("{found:?}") };
    assert!(refusal.name == "a" && refusal.reason.contains("at most"), "{refusal:?}");
}

#[test]
fn unknown_fields_are_skipped_unread() {
    let unknown = [
        delimited(90 & 0x1f, b"\xff\xff"),
        vec![0xb8, 6, 1],
        vec![0xb9, 6, 1, 2, 3, 4, 5, 6, 7, 8],
        vec![0xbd, 6, 1, 2, 3, 4],
        // Groups in groups, to the depth that is allowed.
        [0xbb, 6].repeat(40),
        [0xbc, 6].repeat(40),
    ]
    .concat();
    let object = [service("a", &unknown), unknown].concat();
    assert!(items(list(&[&object]))[0].is_ok());
    let deep = [0xbb, 6].repeat(100_000);
    let refusal = refusal_of("Service", &service("a", &deep));
    assert!(refusal.reason.contains("recursion"), "{refusal:?}");
}

#[test]
fn frames_are_cut_wherever_the_chunks_are() {
    let event = |name: &str| {
        let object = envelope("v1", "Service", &service(name, b""));
        let content = [delimited(1, b"ADDED"), delimited(2, &delimited(1, &object))].concat();
        [&(content.len() as u32).to_be_bytes()[..], &content].concat()
    };
    let stream = [event("a"), event("b"), event("c")].concat();
    for size in 1..stream.len() {
        let mut frames = Frames::new(MAX_OBJECT);
        let mut events = Vec::new();
        for chunk in stream.chunks(size) {
            events.extend(frames.feed(chunk).unwrap().into_iter().map(Event::parse));
        }
        assert_eq!((events.len(), frames.pending()), (3, 0));
        for event in events {
            let event = event.unwrap();
            assert!(event.change == "ADDED" && event.object.is_ok());
        }
    }
}

#[test]
fn a_frame_that_is_too_long_ends_the_stream_before_it_is_buffered() {
    let mut frames = Frames::new(100);
    let fits = [&100_u32.to_be_bytes()[..], &[0; 99]].concat();
    assert_eq!(frames.feed(&fits), Ok(vec![]));
    assert_eq!(frames.feed(&[0]).map(|frames| frames.len()), Ok(1));
    let error = frames.feed(&101_u32.to_be_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "a frame of 101 bytes, of 100 at most");
    for _ in 0..3 {
        assert_eq!(frames.feed(&[0; 1000]), Err(error.clone()));
        assert_eq!(frames.pending(), 0);
    }
}

#[test]
fn frames_that_are_no_events_are_errors() {
    let object = envelope("v1", "Service", b"");
    for (frame, expected) in [
        (vec![], "without a type"),
        (delimited(2, &delimited(1, &object)), "without a type"),
        (delimited(1, b"ADDED"), "does not begin"),
        ([delimited(1, b"ADDED"), delimited(2, &delimited(1, b"{}"))].concat(), "does not begin"),
        (delimited(1, b"\xff"), "type: "),
        (vec![0x0a], "type: invalid varint"),
    ] {
        let error = Event::parse(frame.into()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer_or_an_error(bytes: Vec<u8>, kind in 0..5_usize) {
        let kind = ["ServiceList", "EndpointSliceList", "NodeList", "ServiceCIDRList", "Status"][kind];
        for version in ["v1", "discovery.k8s.io/v1", "networking.k8s.io/v1"] {
            let document = Document::parse(envelope(version, kind, &bytes).into()).unwrap();
            let _ = document.json();
            if let Ok(list) = List::new(document) {
                prop_assert!(list.count() <= bytes.len());
            }
        }
        let _ = Event::parse(bytes.into());
    }
}
