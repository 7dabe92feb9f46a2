//! Rules of nf_tables that `nft` cannot write, as expressions (`linux/netfilter/nf_tables.h`).

use std::fmt;

use super::table::c_string;
use super::uapi::{
    NFTA_BITWISE_DREG, NFTA_BITWISE_LEN, NFTA_BITWISE_MASK, NFTA_BITWISE_SREG, NFTA_BITWISE_XOR,
    NFTA_DATA_VALUE, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_HASH_DREG, NFTA_HASH_LEN,
    NFTA_HASH_MODULUS, NFTA_HASH_OFFSET, NFTA_HASH_SEED, NFTA_HASH_SREG, NFTA_LIST_ELEM,
    NFTA_LOOKUP_DREG, NFTA_LOOKUP_SET, NFTA_LOOKUP_SREG, NFTA_META_DREG, NFTA_META_KEY,
    NFTA_META_SREG, NFTA_NAT_FAMILY, NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_PROTO_MIN, NFTA_NAT_TYPE,
    NFTA_NG_DREG, NFTA_NG_MODULUS, NFTA_NG_OFFSET, NFTA_NG_TYPE, NFTA_PAYLOAD_BASE,
    NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_LEN, NFTA_PAYLOAD_OFFSET, NFTA_QUEUE_FLAGS, NFTA_QUEUE_NUM,
    NFTA_QUEUE_TOTAL, NFTA_TARGET_INFO, NFTA_TARGET_NAME, NFTA_TARGET_REV,
};
use crate::attribute::{put, put_nest};
use crate::family::Family;

/// A rule that `nft` cannot write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Sends packets to queues.
    Queue {
        /// The first queue's number.
        first: u16,
        /// How many queues there are.
        total: u16,
        /// Packets go on when no process listens.
        bypass: bool,
        /// Each goes to the queue of the processor that carries it, in turn from the first to the
        /// last; without it packets are spread by their addresses.
        fanout: bool,
        /// By nf_tables' own expression, or by iptables' target: kernels have one or the other, and
        /// `nft` knows only the first.
        native: bool,
    },
    /// Translates the destination to the value that a map has for some bits of the packet mark, and
    /// clears bits of the mark. `nft` would clear them ahead of the look-up or not at all.
    DnatByMark {
        /// The bits that are looked up.
        key: u32,
        /// The bits that stay.
        keep: u32,
        /// The map: to address and port.
        map: String,
    },
    /// Translates the destination to the value that a map has for it, its protocol and port, and
    /// the number of a slot. `nft` writes this rule with a new map alone: of one that is there it
    /// takes the type of the port for TCP's. Packets of protocols without ports must not come here.
    DnatBySlot {
        /// How the slot is chosen.
        draw: Draw,
        /// How many slots there are.
        size: u32,
        /// The number of the first one.
        first: u32,
        /// The map: to address and port.
        map: String,
    },
}

/// How the kernel chooses one of several slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Draw {
    /// At random.
    Random,
    /// By a hash of the source address.
    Source {
        /// The seed of the hash.
        seed: u32,
    },
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue { native: true, .. } => formatter.write_str("queue"),
            Self::Queue { native: false, .. } => formatter.write_str("NFQUEUE"),
            Self::DnatByMark { map, .. } => write!(formatter, "dnat by map {map}"),
            Self::DnatBySlot { map, size, .. } => {
                write!(formatter, "dnat by one of {size} slots in map {map}")
            }
        }
    }
}

impl Rule {
    /// Appends its expressions, in a table of this family.
    pub(super) fn put(&self, bytes: &mut Vec<u8>, family: Family) {
        match self {
            &Rule::Queue { first, total, bypass, fanout, native } => {
                // The flags of iptables' target are the same.
                let flags = if bypass { libc::NFT_QUEUE_FLAG_BYPASS } else { 0 }
                    | if fanout { libc::NFT_QUEUE_FLAG_CPU_FANOUT } else { 0 };
                put_queue(bytes, [first, total, flags as u16], native);
            }
            Rule::DnatByMark { key, keep, map } => {
                put_dnat_by_mark(bytes, family, *key, *keep, map);
            }
            Rule::DnatBySlot { draw, size, first, map } => {
                put_destination(bytes, family);
                put_slot(bytes, family, *draw, *size, *first);
                put_dnat(bytes, family, map);
            }
        }
    }
}

fn put_queue(bytes: &mut Vec<u8>, [first, total, flags]: [u16; 3], native: bool) {
    if native {
        put_expression(bytes, "queue", |bytes| {
            for (kind, value) in
                [(NFTA_QUEUE_NUM, first), (NFTA_QUEUE_TOTAL, total), (NFTA_QUEUE_FLAGS, flags)]
            {
                put(bytes, kind, &value.to_be_bytes());
            }
        });
        return;
    }
    put_expression(bytes, "target", |bytes| {
        put(bytes, NFTA_TARGET_NAME, &c_string("NFQUEUE"));
        put(bytes, NFTA_TARGET_REV, &3u32.to_be_bytes());
        // struct xt_NFQ_info_v3, as long as iptables makes it.
        let info: Vec<u8> =
            [first, total, flags, 0].iter().flat_map(|value| value.to_ne_bytes()).collect();
        put(bytes, NFTA_TARGET_INFO, &info);
    });
}

fn put_dnat_by_mark(bytes: &mut Vec<u8>, family: Family, key: u32, keep: u32, map: &str) {
    // Both are read ahead of the change: the look-up needs bits that the change clears.
    put_masked_mark(bytes, REGISTER, key);
    put_masked_mark(bytes, OTHER_REGISTER, keep);
    put_expression(bytes, "meta", |bytes| {
        put(bytes, NFTA_META_KEY, &MARK.to_be_bytes());
        put(bytes, NFTA_META_SREG, &OTHER_REGISTER.to_be_bytes());
    });
    put_dnat(bytes, family, map);
}

/// Address, protocol and port, side by side from the first register on.
fn put_destination(bytes: &mut Vec<u8>, family: Family) {
    let (offset, length) = match family {
        Family::V4 => (16, 4),
        Family::V6 => (24, 16),
    };
    let behind = SMALL_REGISTER + length / 4;
    put_payload(bytes, SMALL_REGISTER, NETWORK, offset, length);
    put_expression(bytes, "meta", |bytes| {
        put(bytes, NFTA_META_DREG, &behind.to_be_bytes());
        put(bytes, NFTA_META_KEY, &PROTOCOL.to_be_bytes());
    });
    put_payload(bytes, behind + 1, TRANSPORT, 2, 2);
}

/// The number of a slot, behind the destination.
fn put_slot(bytes: &mut Vec<u8>, family: Family, draw: Draw, size: u32, first: u32) {
    let (offset, length) = match family {
        Family::V4 => (12, 4),
        Family::V6 => (8, 16),
    };
    let slot = SMALL_REGISTER + length / 4 + 2;
    match draw {
        Draw::Random => put_expression(bytes, "numgen", |bytes| {
            put(bytes, NFTA_NG_DREG, &slot.to_be_bytes());
            put(bytes, NFTA_NG_MODULUS, &size.to_be_bytes());
            put(bytes, NFTA_NG_TYPE, &RANDOM.to_be_bytes());
            put(bytes, NFTA_NG_OFFSET, &first.to_be_bytes());
        }),
        Draw::Source { seed } => {
            put_payload(bytes, OTHER_REGISTER, NETWORK, offset, length);
            put_expression(bytes, "hash", |bytes| {
                put(bytes, NFTA_HASH_SREG, &OTHER_REGISTER.to_be_bytes());
                put(bytes, NFTA_HASH_DREG, &slot.to_be_bytes());
                put(bytes, NFTA_HASH_LEN, &length.to_be_bytes());
                put(bytes, NFTA_HASH_MODULUS, &size.to_be_bytes());
                put(bytes, NFTA_HASH_SEED, &seed.to_be_bytes());
                put(bytes, NFTA_HASH_OFFSET, &first.to_be_bytes());
            });
        }
    }
}

fn put_payload(bytes: &mut Vec<u8>, register: u32, base: u32, offset: u32, length: u32) {
    put_expression(bytes, "payload", |bytes| {
        put(bytes, NFTA_PAYLOAD_DREG, &register.to_be_bytes());
        put(bytes, NFTA_PAYLOAD_BASE, &base.to_be_bytes());
        put(bytes, NFTA_PAYLOAD_OFFSET, &offset.to_be_bytes());
        put(bytes, NFTA_PAYLOAD_LEN, &length.to_be_bytes());
    });
}

/// The destination becomes what a map has for the key that begins in the first register.
fn put_dnat(bytes: &mut Vec<u8>, family: Family, map: &str) {
    put_expression(bytes, "lookup", |bytes| {
        put(bytes, NFTA_LOOKUP_SET, &c_string(map));
        put(bytes, NFTA_LOOKUP_SREG, &REGISTER.to_be_bytes());
        // The value takes the place of its key, which has served.
        put(bytes, NFTA_LOOKUP_DREG, &REGISTER.to_be_bytes());
    });
    put_expression(bytes, "nat", |bytes| {
        // The port stands behind the address.
        let port = match family {
            Family::V4 => SMALL_REGISTER + 1,
            Family::V6 => REGISTER + 1,
        };
        put(bytes, NFTA_NAT_TYPE, &DNAT.to_be_bytes());
        put(bytes, NFTA_NAT_FAMILY, &u32::from(family.number()).to_be_bytes());
        put(bytes, NFTA_NAT_REG_ADDR_MIN, &REGISTER.to_be_bytes());
        put(bytes, NFTA_NAT_REG_PROTO_MIN, &port.to_be_bytes());
    });
}

/// The packet mark's bits in a register.
fn put_masked_mark(bytes: &mut Vec<u8>, register: u32, mask: u32) {
    put_expression(bytes, "meta", |bytes| {
        put(bytes, NFTA_META_DREG, &register.to_be_bytes());
        put(bytes, NFTA_META_KEY, &MARK.to_be_bytes());
    });
    put_expression(bytes, "bitwise", |bytes| {
        put(bytes, NFTA_BITWISE_SREG, &register.to_be_bytes());
        put(bytes, NFTA_BITWISE_DREG, &register.to_be_bytes());
        // The kernel computes (register & mask) ^ xor, and wants both operands.
        put(bytes, NFTA_BITWISE_LEN, &4u32.to_be_bytes());
        put_nest(bytes, NFTA_BITWISE_MASK, |bytes| {
            // A mark stands in a register in the host's byte order.
            put(bytes, NFTA_DATA_VALUE, &mask.to_ne_bytes())
        });
        put_nest(bytes, NFTA_BITWISE_XOR, |bytes| put(bytes, NFTA_DATA_VALUE, &[0; 4]));
    });
}

fn put_expression(bytes: &mut Vec<u8>, name: &str, fill: impl FnOnce(&mut Vec<u8>)) {
    put_nest(bytes, NFTA_LIST_ELEM, |bytes| {
        put(bytes, NFTA_EXPR_NAME, &c_string(name));
        put_nest(bytes, NFTA_EXPR_DATA, fill);
    });
}

/// The first register of 16 bytes, and one that a value of the map does not reach.
const REGISTER: u32 = libc::NFT_REG_1 as u32;
const OTHER_REGISTER: u32 = libc::NFT_REG_4 as u32;
/// The first register of 4 bytes, in the same place.
const SMALL_REGISTER: u32 = libc::NFT_REG32_00 as u32;
const MARK: u32 = libc::NFT_META_MARK as u32;
const DNAT: u32 = libc::NFT_NAT_DNAT as u32;
const PROTOCOL: u32 = libc::NFT_META_L4PROTO as u32;
const NETWORK: u32 = libc::NFT_PAYLOAD_NETWORK_HEADER as u32;
const TRANSPORT: u32 = libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32;
const RANDOM: u32 = libc::NFT_NG_RANDOM as u32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::{attributes, find};

    /// Names and contents of a rule's expressions.
    fn expressions(rule: &Rule, family: Family) -> Vec<(String, Vec<u8>)> {
        let mut bytes = Vec::new();
        rule.put(&mut bytes, family);
        attributes(&bytes)
            .map(|(_, element)| {
                let name = find(element, NFTA_EXPR_NAME).expect("a name");
                let name = String::from_utf8_lossy(name.strip_suffix(b"\0").expect("terminated"));
                (name.into_owned(), find(element, NFTA_EXPR_DATA).expect("contents").to_vec())
            })
            .collect()
    }

    #[test]
    fn packets_are_queued_by_either_expression() {
        let rule =
            |native| Rule::Queue { first: 100, total: 2, bypass: true, fanout: true, native };
        let [(name, native)] = &expressions(&rule(true), Family::V4)[..] else {
            panic!("one expression")
        };
        assert_eq!(name, "queue");
        assert_eq!(find(native, NFTA_QUEUE_NUM), Some(&[0, 100][..]));
        assert_eq!(find(native, NFTA_QUEUE_TOTAL), Some(&[0, 2][..]));
        assert_eq!(find(native, NFTA_QUEUE_FLAGS), Some(&[0, 3][..]));
        let [(name, target)] = &expressions(&rule(false), Family::V4)[..] else {
            panic!("one expression")
        };
        assert_eq!(name, "target");
        assert_eq!(find(target, NFTA_TARGET_NAME), Some(&b"NFQUEUE\0"[..]));
        let info: Vec<u8> =
            [100u16, 2, 3, 0].iter().flat_map(|value| value.to_ne_bytes()).collect();
        assert_eq!(find(target, NFTA_TARGET_INFO), Some(&info[..]));
    }

    #[test]
    fn a_slot_stands_behind_the_destination_that_it_is_looked_up_with() {
        let register = |expression: &[u8], kind| {
            find(expression, kind).and_then(<[u8]>::first_chunk).map(|&own| u32::from_be_bytes(own))
        };
        let rule =
            |draw| Rule::DnatBySlot { draw, size: 5, first: 0x5_0000, map: "standby-slots".into() };
        for (family, address) in [(Family::V4, 1), (Family::V6, 4)] {
            let random = expressions(&rule(Draw::Random), family);
            let names: Vec<_> = random.iter().map(|(name, _)| &name[..]).collect();
            assert_eq!(names, ["payload", "meta", "payload", "numgen", "lookup", "nat"]);
            let places = [
                register(&random[0].1, NFTA_PAYLOAD_DREG),
                register(&random[1].1, NFTA_META_DREG),
                register(&random[2].1, NFTA_PAYLOAD_DREG),
                register(&random[3].1, NFTA_NG_DREG),
            ];
            let expected = [0, address, address + 1, address + 2].map(|n| SMALL_REGISTER + n);
            assert_eq!(places, expected.map(Some));
            let hashed = expressions(&rule(Draw::Source { seed: 7 }), family);
            let names: Vec<_> = hashed.iter().map(|(name, _)| &name[..]).collect();
            assert_eq!(names, ["payload", "meta", "payload", "payload", "hash", "lookup", "nat"]);
            assert_eq!(
                register(&hashed[3].1, NFTA_PAYLOAD_DREG),
                register(&hashed[4].1, NFTA_HASH_SREG)
            );
            assert_eq!(register(&hashed[4].1, NFTA_HASH_DREG), places[3]);
            assert_eq!(register(&hashed[4].1, NFTA_HASH_LEN), Some(4 * address));
            assert_eq!(register(&hashed[4].1, NFTA_HASH_SEED), Some(7));
        }
    }

    #[test]
    fn the_mark_is_looked_up_as_it_was_before_it_is_cleared() {
        let rule = Rule::DnatByMark { key: 0xffff_c000, keep: 0x2fff, map: "backends".into() };
        for (family, port) in [(Family::V4, SMALL_REGISTER + 1), (Family::V6, REGISTER + 1)] {
            let expressions = expressions(&rule, family);
            let names: Vec<_> = expressions.iter().map(|(name, _)| &name[..]).collect();
            assert_eq!(names, ["meta", "bitwise", "meta", "bitwise", "meta", "lookup", "nat"]);
            let register = |place: usize, kind| {
                find(&expressions[place].1, kind)
                    .and_then(<[u8]>::first_chunk)
                    .map(|&own| u32::from_be_bytes(own))
            };
            assert_eq!(
                register(0, NFTA_META_DREG),
                register(5, NFTA_LOOKUP_SREG),
                "before it is cleared"
            );
            assert_eq!(register(2, NFTA_META_DREG), register(4, NFTA_META_SREG), "what stays");
            assert_eq!(
                register(6, NFTA_NAT_REG_PROTO_MIN),
                Some(port),
                "behind an address of this family"
            );
        }
    }
}
