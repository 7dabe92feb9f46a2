//! Rules of nf_tables that `nft` cannot write, as expressions (`linux/netfilter/nf_tables.h`).

use crate::attribute::{put, put_nested};

/// A rule that `nft` cannot write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Packets go to queues, spread over them by their addresses.
    Queue {
        /// The first queue's number.
        first: u16,
        /// How many there are.
        total: u16,
        /// Packets go on when nobody listens.
        is_bypassed: bool,
        /// By nf_tables' own expression, or by iptables' target: kernels have one or the other, and
        /// `nft` knows only the first.
        is_native: bool,
    },
    /// The destination becomes what a map has for some bits of the packet mark, and others of its
    /// bits are cleared. `nft` would clear them only ahead of the look-up or not at all.
    Translate {
        /// Bits that are looked up.
        index: u32,
        /// Bits that stay.
        kept: u32,
        /// The map: to address and port.
        map: String,
    },
}

impl Rule {
    /// Adds its expressions, in a table of this family.
    pub(crate) fn put(&self, bytes: &mut Vec<u8>, family: u8) {
        match self {
            &Rule::Queue { first, total, is_bypassed, is_native } => {
                put_queue(bytes, [first, total, is_bypassed.into()], is_native);
            }
            Rule::Translate { index, kept, map } => {
                put_translation(bytes, family, *index, *kept, map)
            }
        }
    }
}

fn put_queue(bytes: &mut Vec<u8>, [first, total, flags]: [u16; 3], is_native: bool) {
    if is_native {
        put_expression(bytes, "queue", |bytes| {
            for (kind, value) in [(QUEUE_NUMBER, first), (QUEUE_TOTAL, total), (QUEUE_FLAGS, flags)]
            {
                put(bytes, kind, &value.to_be_bytes());
            }
        });
        return;
    }
    put_expression(bytes, "target", |bytes| {
        put(bytes, TARGET_NAME, &terminated("NFQUEUE"));
        put(bytes, TARGET_REVISION, &3u32.to_be_bytes());
        // struct xt_NFQ_info_v3, as long as iptables makes it.
        let info: Vec<u8> =
            [first, total, flags, 0].iter().flat_map(|value| value.to_ne_bytes()).collect();
        put(bytes, TARGET_INFO, &info);
    });
}

fn put_translation(bytes: &mut Vec<u8>, family: u8, index: u32, kept: u32, map: &str) {
    put_masked_mark(bytes, REGISTER, index);
    put_masked_mark(bytes, OTHER_REGISTER, kept);
    put_expression(bytes, "meta", |bytes| {
        put(bytes, META_KEY, &MARK.to_be_bytes());
        put(bytes, META_SOURCE, &OTHER_REGISTER.to_be_bytes());
    });
    put_expression(bytes, "lookup", |bytes| {
        put(bytes, LOOKUP_SET, &terminated(map));
        put(bytes, LOOKUP_SOURCE, &REGISTER.to_be_bytes());
        put(bytes, LOOKUP_DESTINATION, &REGISTER.to_be_bytes());
    });
    put_expression(bytes, "nat", |bytes| {
        // The port stands behind the address.
        let port = if family == libc::AF_INET6 as u8 { REGISTER + 1 } else { SMALL_REGISTER + 1 };
        put(bytes, NAT_TYPE, &DESTINATION.to_be_bytes());
        put(bytes, NAT_FAMILY, &u32::from(family).to_be_bytes());
        put(bytes, NAT_ADDRESS, &REGISTER.to_be_bytes());
        put(bytes, NAT_PORT, &port.to_be_bytes());
    });
}

/// The packet mark's bits in a register.
fn put_masked_mark(bytes: &mut Vec<u8>, register: u32, mask: u32) {
    put_expression(bytes, "meta", |bytes| {
        put(bytes, META_DESTINATION, &register.to_be_bytes());
        put(bytes, META_KEY, &MARK.to_be_bytes());
    });
    put_expression(bytes, "bitwise", |bytes| {
        put(bytes, BITWISE_SOURCE, &register.to_be_bytes());
        put(bytes, BITWISE_DESTINATION, &register.to_be_bytes());
        put(bytes, BITWISE_LENGTH, &4u32.to_be_bytes());
        put_nested(bytes, BITWISE_MASK, |bytes| put(bytes, DATA_VALUE, &mask.to_ne_bytes()));
        put_nested(bytes, BITWISE_XOR, |bytes| put(bytes, DATA_VALUE, &[0; 4]));
    });
}

fn put_expression(bytes: &mut Vec<u8>, name: &str, fill: impl FnOnce(&mut Vec<u8>)) {
    put_nested(bytes, LIST_ELEMENT, |bytes| {
        put(bytes, EXPRESSION_NAME, &terminated(name));
        put_nested(bytes, EXPRESSION_DATA, fill);
    });
}

/// As the kernel wants texts.
pub(crate) fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

pub(crate) const LIST_ELEMENT: u16 = 1;
pub(crate) const DATA_VALUE: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const QUEUE_NUMBER: u16 = 1;
const QUEUE_TOTAL: u16 = 2;
const QUEUE_FLAGS: u16 = 3;
const TARGET_NAME: u16 = 1;
const TARGET_REVISION: u16 = 2;
const TARGET_INFO: u16 = 3;
const META_DESTINATION: u16 = 1;
const META_KEY: u16 = 2;
const META_SOURCE: u16 = 3;
const MARK: u32 = 3;
const BITWISE_SOURCE: u16 = 1;
const BITWISE_DESTINATION: u16 = 2;
const BITWISE_LENGTH: u16 = 3;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
const LOOKUP_SET: u16 = 1;
const LOOKUP_SOURCE: u16 = 2;
const LOOKUP_DESTINATION: u16 = 3;
const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_ADDRESS: u16 = 3;
const NAT_PORT: u16 = 5;
const DESTINATION: u32 = 1;
/// The first register of 16 bytes, and one that a value of the map does not reach.
const REGISTER: u32 = 1;
const OTHER_REGISTER: u32 = 4;
/// The first register of 4 bytes, in the same place.
const SMALL_REGISTER: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::{attributes, find};

    /// Names and contents of a rule's expressions.
    fn expressions(rule: &Rule, family: u8) -> Vec<(String, Vec<u8>)> {
        let mut bytes = Vec::new();
        rule.put(&mut bytes, family);
        attributes(&bytes)
            .map(|(_, element)| {
                let name = find(element, EXPRESSION_NAME).expect("a name");
                let name = String::from_utf8_lossy(name.strip_suffix(b"\0").expect("terminated"));
                (name.into_owned(), find(element, EXPRESSION_DATA).expect("contents").to_vec())
            })
            .collect()
    }

    #[test]
    fn packets_are_queued_by_either_expression() {
        let rule = |is_native| Rule::Queue { first: 100, total: 2, is_bypassed: true, is_native };
        let [(name, native)] = &expressions(&rule(true), 2)[..] else { panic!("one expression") };
        assert_eq!(name, "queue");
        assert_eq!(find(native, QUEUE_NUMBER), Some(&[0, 100][..]));
        assert_eq!(find(native, QUEUE_TOTAL), Some(&[0, 2][..]));
        assert_eq!(find(native, QUEUE_FLAGS), Some(&[0, 1][..]));
        let [(name, target)] = &expressions(&rule(false), 2)[..] else { panic!("one expression") };
        assert_eq!(name, "target");
        assert_eq!(find(target, TARGET_NAME), Some(&b"NFQUEUE\0"[..]));
        let info: Vec<u8> =
            [100u16, 2, 1, 0].iter().flat_map(|value| value.to_ne_bytes()).collect();
        assert_eq!(find(target, TARGET_INFO), Some(&info[..]));
    }

    #[test]
    fn the_mark_is_looked_up_as_it_was_before_it_is_cleared() {
        let rule = Rule::Translate { index: 0xffff_c000, kept: 0x2fff, map: "backends".into() };
        for (family, port) in [(libc::AF_INET, SMALL_REGISTER + 1), (libc::AF_INET6, REGISTER + 1)]
        {
            let found = expressions(&rule, family as u8);
            let names: Vec<_> = found.iter().map(|(name, _)| &name[..]).collect();
            assert_eq!(names, ["meta", "bitwise", "meta", "bitwise", "meta", "lookup", "nat"]);
            let register = |place: usize, kind| {
                find(&found[place].1, kind)
                    .and_then(<[u8]>::first_chunk)
                    .map(|&own| u32::from_be_bytes(own))
            };
            assert_eq!(
                register(0, META_DESTINATION),
                register(5, LOOKUP_SOURCE),
                "before it is cleared"
            );
            assert_eq!(register(2, META_DESTINATION), register(4, META_SOURCE), "what stays");
            assert_eq!(register(6, NAT_PORT), Some(port), "behind an address of this family");
        }
    }
}
