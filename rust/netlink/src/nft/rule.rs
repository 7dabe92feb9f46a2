//! Rules of nf_tables that `nft` cannot write, as expressions (`linux/netfilter/nf_tables.h`).

use std::fmt;

use super::table::c_string;
use super::uapi::{
    NFTA_BITWISE_DREG, NFTA_BITWISE_LEN, NFTA_BITWISE_MASK, NFTA_BITWISE_SREG, NFTA_BITWISE_XOR,
    NFTA_DATA_VALUE, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_LIST_ELEM, NFTA_LOOKUP_DREG,
    NFTA_LOOKUP_SET, NFTA_LOOKUP_SREG, NFTA_META_DREG, NFTA_META_KEY, NFTA_META_SREG,
    NFTA_NAT_FAMILY, NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_PROTO_MIN, NFTA_NAT_TYPE,
    NFTA_QUEUE_FLAGS, NFTA_QUEUE_NUM, NFTA_QUEUE_TOTAL, NFTA_TARGET_INFO, NFTA_TARGET_NAME,
    NFTA_TARGET_REV,
};
use crate::attribute::{put, put_nest};
use crate::family::Family;

/// A rule that `nft` cannot write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Sends packets to queues, spread over them by their addresses.
    Queue {
        /// The first queue's number.
        first: u16,
        /// How many queues there are.
        total: u16,
        /// Packets go on when no process listens.
        bypass: bool,
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
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue { native: true, .. } => formatter.write_str("queue"),
            Self::Queue { native: false, .. } => formatter.write_str("NFQUEUE"),
            Self::DnatByMark { map, .. } => write!(formatter, "dnat by map {map}"),
        }
    }
}

impl Rule {
    /// Appends its expressions, in a table of this family.
    pub(super) fn put(&self, bytes: &mut Vec<u8>, family: Family) {
        match self {
            &Rule::Queue { first, total, bypass, native } => {
                let flags = if bypass { libc::NFT_QUEUE_FLAG_BYPASS as u16 } else { 0 };
                put_queue(bytes, [first, total, flags], native);
            }
            Rule::DnatByMark { key, keep, map } => put_dnat(bytes, family, *key, *keep, map),
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

fn put_dnat(bytes: &mut Vec<u8>, family: Family, key: u32, keep: u32, map: &str) {
    // Both are read ahead of the change: the look-up needs bits that the change clears.
    put_masked_mark(bytes, REGISTER, key);
    put_masked_mark(bytes, OTHER_REGISTER, keep);
    put_expression(bytes, "meta", |bytes| {
        put(bytes, NFTA_META_KEY, &MARK.to_be_bytes());
        put(bytes, NFTA_META_SREG, &OTHER_REGISTER.to_be_bytes());
    });
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
        let rule = |native| Rule::Queue { first: 100, total: 2, bypass: true, native };
        let [(name, native)] = &expressions(&rule(true), Family::V4)[..] else {
            panic!("one expression")
        };
        assert_eq!(name, "queue");
        assert_eq!(find(native, NFTA_QUEUE_NUM), Some(&[0, 100][..]));
        assert_eq!(find(native, NFTA_QUEUE_TOTAL), Some(&[0, 2][..]));
        assert_eq!(find(native, NFTA_QUEUE_FLAGS), Some(&[0, 1][..]));
        let [(name, target)] = &expressions(&rule(false), Family::V4)[..] else {
            panic!("one expression")
        };
        assert_eq!(name, "target");
        assert_eq!(find(target, NFTA_TARGET_NAME), Some(&b"NFQUEUE\0"[..]));
        let info: Vec<u8> =
            [100u16, 2, 1, 0].iter().flat_map(|value| value.to_ne_bytes()).collect();
        assert_eq!(find(target, NFTA_TARGET_INFO), Some(&info[..]));
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
