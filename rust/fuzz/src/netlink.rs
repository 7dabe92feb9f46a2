//! Property: whatever a netlink message says, reading it as a packet of a queue or as a flow never
//! panics, and a packet lies inside its message.

use kbe_nat_netlink::Message;
use kbe_nat_netlink::attribute::{attributes, messages};
use kbe_nat_netlink::conntrack::Entry;

use crate::script::Script;

/// Reads the input as it is, and as the edits of sound messages.
///
/// # Panics
/// When the property does not hold.
pub fn run(input: &[u8]) {
    check(input);
    let mut script = Script::new(input);
    let seeds = seeds();
    while !script.is_over() {
        let mut message = seeds[script.below(seeds.len())].clone();
        for _ in 0..=script.below(4) {
            script.edit(&mut message);
            check(&message);
        }
    }
}

fn check(bytes: &[u8]) {
    if let Some(message) = Message::parse(bytes) {
        assert!(message.payload.start <= message.payload.end && message.payload.end <= bytes.len());
    }
    let _ = Entry::parse(bytes);
    let mut length = 0;
    for (_, message) in messages(bytes) {
        length += message.len();
        let _ = (Message::parse(message), Entry::parse(message));
    }
    assert!(length <= bytes.len(), "messages do not overlap");
    let values: usize = attributes(bytes).map(|(_, value)| value.len() + 4).sum();
    assert!(values <= bytes.len(), "attributes do not overlap");
}

/// A packet of a queue with all that the kernel may say of it, and flows of both families.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let vlan = [attribute(1, &[0x81, 0]), attribute(2, &[0, 42])].concat();
    let payload = crate::packets::seeds().swap_remove(0);
    let packet = [
        attribute(1, &[0, 0, 1, 2, 8, 0, 3]),
        attribute(3, &[0, 0, 0x10, 0]),
        attribute(5, &[0, 0, 0, 5]),
        attribute(6, &[0, 0, 0, 6]),
        attribute(14, &[0, 0, 0, 3]),
        attribute(13, &[0, 1, 0, 0]),
        attribute(19 | NESTED, &vlan),
        attribute(10, &payload),
    ];
    let mut seeds = vec![message(3 << 8, &packet.concat())];
    for (source, target, size) in [(1, 2, 4), (3, 4, 16)] {
        let tuple = |kind, from: u8, to: u8| {
            let ends =
                [attribute(source, &vec![from; size]), attribute(target, &vec![to; size])].concat();
            let ports =
                [attribute(1, &[6]), attribute(2, &[0x9c, 0x40]), attribute(3, &[0, 80])].concat();
            let parts = [attribute(1 | NESTED, &ends), attribute(2 | NESTED, &ports)].concat();
            attribute(kind | NESTED, &parts)
        };
        let tcp = attribute(1 | NESTED, &attribute(1, &[3]));
        let counters = [attribute(1, &[0; 8]), attribute(2, &[1; 8])].concat();
        let flow = [
            tuple(1, 10, 11),
            tuple(2, 12, 10),
            attribute(3, &[0, 0, 1, 0x8e]),
            attribute(4 | NESTED, &tcp),
            attribute(7, &[0, 0, 0, 60]),
            attribute(8, &[0, 0, 0x10, 0]),
            attribute(9 | NESTED, &counters),
            attribute(10 | NESTED, &counters),
        ];
        seeds.push(message(1 << 8, &flow.concat()));
    }
    seeds
}

fn message(kind: u16, attributes: &[u8]) -> Vec<u8> {
    let length = 20 + attributes.len() as u32;
    let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 14]].concat();
    [&header, attributes].concat()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len() as u16;
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

const NESTED: u16 = 0x8000;
