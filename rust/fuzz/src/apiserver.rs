//! Property: an object that is written in protobuf comes back as the JSON that says the same,
//! whatever else its bytes hold and wherever a stream is cut; and bytes that are damaged give one
//! sound JSON text, a refusal or an error, in memory that is bounded by their length.

use kbe_nat_apiserver::{Document, Event, Frames, List};
use serde_json::{Map, Value, json};

use crate::script::Script;

/// Writes objects as the input says, reads them, damages them, and reads the input as it is.
///
/// # Panics
/// When the property does not hold.
pub fn run(input: &[u8]) {
    check(input);
    let mut script = Script::new(input);
    while !script.is_over() {
        let (version, kind, schema) = KINDS[script.below(KINDS.len())];
        let (content, mut object) = message(&mut script, schema);
        let item = Value::Object(object.clone());
        object.insert("apiVersion".to_owned(), version.into());
        object.insert("kind".to_owned(), kind.into());
        let answer = envelope(version, kind, &content);
        assert_eq!(read(&answer), Some(Value::Object(object.clone())));
        let list = envelope(version, &format!("{kind}List"), &list(&content, script.below(4)));
        for text in items(&list) {
            assert_eq!(text, Some(item.clone()));
        }
        let mut frame = frame(&answer);
        stream(&mut script, &frame, &Value::Object(object));
        for mut bytes in [answer, list] {
            script.edits(&mut bytes, 3);
            check(&bytes);
        }
        script.edits(&mut frame, 3);
        check(&frame);
    }
}

/// Reads bytes as everything that they might be.
fn check(bytes: &[u8]) {
    read(bytes);
    let count = items(bytes).len();
    assert!(count <= bytes.len(), "{count} items");
    let mut frames = Frames::new(LIMIT);
    for chunk in bytes.chunks(7) {
        let Ok(whole) = frames.feed(chunk) else {
            assert_eq!(frames.pending(), 0);
            return;
        };
        for frame in whole {
            assert!(frame.len() <= LIMIT);
            if let Ok(event) = Event::parse(frame) {
                event.object.map(|text| sound(&text, bytes.len())).unwrap_or_default();
            }
        }
        assert!(frames.pending() <= LIMIT + 4);
    }
}

fn read(answer: &[u8]) -> Option<Value> {
    let document = Document::parse(answer.to_vec().into()).ok()?;
    let text = document.json().ok()?;
    Some(sound(&text, answer.len()))
}

fn items(answer: &[u8]) -> Vec<Option<Value>> {
    let list = Document::parse(answer.to_vec().into()).and_then(List::new);
    list.into_iter()
        .flatten()
        .map(|item| item.ok().map(|text| sound(&text, answer.len())))
        .collect()
}

/// The value of a text, which is no longer than the bytes explain.
fn sound(text: &[u8], length: usize) -> Value {
    // An empty endpoint, two bytes, is `{"conditions":{}},`; a control character is `\u0000`.
    assert!(text.len() <= 200 + 12 * length, "{} bytes of {length}", text.len());
    match serde_json::from_slice(text) {
        Ok(value) => value,
        Err(error) => unreachable!("{error}: {}", String::from_utf8_lossy(text)),
    }
}

fn stream(script: &mut Script, frame: &[u8], object: &Value) {
    let size = script.below(frame.len()) + 1;
    let mut frames = Frames::new(frame.len());
    let twice = [frame, frame].concat();
    let mut count = 0;
    for chunk in twice.chunks(size) {
        for frame in frames.feed(chunk).into_iter().flatten() {
            let event = Event::parse(frame);
            let event = event.ok().map(|event| (event.change, event.object));
            let Some((change, Ok(text))) = event else { unreachable!("a sound event") };
            assert_eq!(change, "MODIFIED");
            assert_eq!(&sound(&text, twice.len()), object);
            count += 1;
        }
    }
    assert_eq!((count, frames.pending()), (2, 0));
}

/// A sound answer of each kind, with all of its fields, and frames.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let choices = [1; 400];
    let mut seeds = Vec::new();
    for (version, kind, schema) in KINDS {
        let (content, _) = message(&mut Script::new(&choices), schema);
        let answer = envelope(version, kind, &content);
        seeds.push(frame(&answer));
        seeds.push(answer);
        seeds.push(envelope(version, &format!("{kind}List"), &list(&content, 2)));
    }
    seeds
}

fn list(item: &[u8], count: usize) -> Vec<u8> {
    [delimited(1, &delimited(2, b"7")), delimited(2, item).repeat(count)].concat()
}

fn frame(answer: &[u8]) -> Vec<u8> {
    let content = [delimited(1, b"MODIFIED"), delimited(2, &delimited(1, answer))].concat();
    [&(content.len() as u32).to_be_bytes()[..], &content].concat()
}

fn envelope(version: &str, kind: &str, content: &[u8]) -> Vec<u8> {
    let name = [delimited(1, version.as_bytes()), delimited(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), delimited(1, &name), delimited(2, content)].concat()
}

/// A message as the script fills it, and the JSON of it.
fn message(script: &mut Script, schema: &[Field]) -> (Vec<u8>, Map<String, Value>) {
    let (mut bytes, mut object) = (Vec::new(), Map::new());
    for field in schema {
        if script.below(8) == 7 {
            // No message has this field, so it is skipped unread.
            bytes.extend(delimited(200, script.take(3)));
        }
        match field.presence {
            Repeated => {
                let mut array = Vec::new();
                for _ in 0..script.below(3) {
                    let (part, value) = content(script, field);
                    bytes.extend(part);
                    array.push(value);
                }
                if !array.is_empty() {
                    object.insert(field.name.to_owned(), array.into());
                }
            }
            Pointer if !script.chance() => (),
            presence => {
                let (part, value) = content(script, field);
                bytes.extend(part);
                let empty = [json!(""), json!(0), json!(false), json!({})].contains(&value);
                if !(presence == Omitted && empty) {
                    object.insert(field.name.to_owned(), value);
                }
            }
        }
    }
    (bytes, object)
}

fn content(script: &mut Script, field: &Field) -> (Vec<u8>, Value) {
    let number = field.number;
    match field.kind {
        Text => {
            let text = text(script);
            (delimited(number, text.as_bytes()), text.into())
        }
        Number => {
            let value = script.u32().cast_signed() >> script.below(32);
            (numeric(number, i64::from(value)), value.into())
        }
        Bool => {
            let value = script.chance();
            (numeric(number, i64::from(value)), value.into())
        }
        Texts => {
            let (mut bytes, mut object) = (Vec::new(), Map::new());
            for _ in 0..script.below(3) {
                let (name, value) = (text(script), text(script));
                let entry = [delimited(1, name.as_bytes()), delimited(2, value.as_bytes())];
                bytes.extend(delimited(number, &entry.concat()));
                // Of two equal names the last one counts.
                object.insert(name, value.into());
            }
            (bytes, object.into())
        }
        IntOrString => {
            let (value, text) = (i32::from(script.u16()), text(script));
            let is_text = script.chance();
            let parts = [
                numeric(1, i64::from(is_text)),
                numeric(2, i64::from(value)),
                delimited(3, text.as_bytes()),
            ];
            let json = if is_text { text.into() } else { value.into() };
            (delimited(number, &parts.concat()), json)
        }
        Message(schema) => {
            let (content, object) = message(script, schema);
            (delimited(number, &content), object.into())
        }
    }
}

fn text(script: &mut Script) -> String {
    let length = script.below(4);
    String::from_utf8_lossy(script.take(length)).into_owned()
}

fn numeric(number: u32, value: i64) -> Vec<u8> {
    [varint(u64::from(number) << 3), varint(value.cast_unsigned())].concat()
}

fn delimited(number: u32, content: &[u8]) -> Vec<u8> {
    [&varint(u64::from(number) << 3 | 2)[..], &varint(content.len() as u64), content].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A field of a message.
struct Field {
    number: u32,
    name: &'static str,
    kind: Kind,
    presence: Presence,
}

enum Kind {
    Text,
    Number,
    Bool,
    Texts,
    IntOrString,
    Message(&'static [Field]),
}

#[derive(Clone, Copy, PartialEq)]
enum Presence {
    /// JSON leaves it out when it is empty.
    Omitted,
    Always,
    Pointer,
    Repeated,
}

use Kind::{Bool, IntOrString, Message, Number, Text, Texts};
use Presence::{Always, Omitted, Pointer, Repeated};

const fn field(number: u32, name: &'static str, kind: Kind, presence: Presence) -> Field {
    Field { number, name, kind, presence }
}

const METADATA: Kind = Message(&[
    field(1, "name", Text, Omitted),
    field(3, "namespace", Text, Omitted),
    field(6, "resourceVersion", Text, Omitted),
    field(11, "labels", Texts, Omitted),
    field(12, "annotations", Texts, Omitted),
]);
const SERVICE: &[Field] = &[
    field(1, "metadata", METADATA, Always),
    field(
        2,
        "spec",
        Message(&[
            field(
                1,
                "ports",
                Message(&[
                    field(1, "name", Text, Omitted),
                    field(3, "port", Number, Always),
                    field(4, "targetPort", IntOrString, Always),
                    field(5, "nodePort", Number, Omitted),
                ]),
                Repeated,
            ),
            field(2, "selector", Texts, Omitted),
            field(3, "clusterIP", Text, Omitted),
            field(18, "clusterIPs", Text, Repeated),
            field(13, "publishNotReadyAddresses", Bool, Omitted),
            field(
                14,
                "sessionAffinityConfig",
                Message(&[field(
                    1,
                    "clientIP",
                    Message(&[field(1, "timeoutSeconds", Number, Pointer)]),
                    Pointer,
                )]),
                Pointer,
            ),
            field(22, "internalTrafficPolicy", Text, Pointer),
        ]),
        Always,
    ),
    field(
        3,
        "status",
        Message(&[field(
            1,
            "loadBalancer",
            Message(&[field(
                1,
                "ingress",
                Message(&[field(1, "ip", Text, Omitted), field(3, "ipMode", Text, Pointer)]),
                Repeated,
            )]),
            Always,
        )]),
        Always,
    ),
];
const SLICE: &[Field] = &[
    field(1, "metadata", METADATA, Always),
    field(4, "addressType", Text, Always),
    field(
        2,
        "endpoints",
        Message(&[
            field(1, "addresses", Text, Repeated),
            field(
                2,
                "conditions",
                Message(&[
                    field(1, "ready", Bool, Pointer),
                    field(3, "terminating", Bool, Pointer),
                ]),
                Always,
            ),
            field(6, "nodeName", Text, Pointer),
            field(
                8,
                "hints",
                Message(&[field(
                    2,
                    "forNodes",
                    Message(&[field(1, "name", Text, Always)]),
                    Repeated,
                )]),
                Pointer,
            ),
        ]),
        Repeated,
    ),
    field(
        3,
        "ports",
        Message(&[field(1, "name", Text, Pointer), field(3, "port", Number, Pointer)]),
        Repeated,
    ),
];
const RANGES: &[Field] = &[
    field(1, "metadata", METADATA, Always),
    field(2, "spec", Message(&[field(1, "cidrs", Text, Repeated)]), Always),
];
const KINDS: [(&str, &str, &[Field]); 3] = [
    ("v1", "Service", SERVICE),
    ("discovery.k8s.io/v1", "EndpointSlice", SLICE),
    ("networking.k8s.io/v1", "ServiceCIDR", RANGES),
];
/// Bytes of a frame that is damaged.
const LIMIT: usize = 4096;
