//! Property: whatever the bytes are, reading them as a packet or as a quote never panics, all
//! offsets lie inside them, and the ways of reading agree.

use std::net::{Ipv4Addr, Ipv6Addr};

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::wire::tcp::Segment;
use kbe_nat_engine::wire::{Headers, Layer4, Malformed, Wire, sctp};

use crate::packets;
use crate::script::Script;

/// Reads the input as it is, and as the edits of a valid packet.
///
/// # Panics
/// When the property does not hold.
pub fn run(input: &[u8]) {
    check(input);
    let mut script = Script::new(input);
    let seeds = packets::seeds();
    while !script.is_over() {
        let mut packet = seeds[script.below(seeds.len())].clone();
        for _ in 0..=script.below(4) {
            script.edit(&mut packet);
            check(&packet);
        }
    }
}

fn check(bytes: &[u8]) {
    check_family::<Ipv4Addr>(bytes);
    check_family::<Ipv6Addr>(bytes);
    let _ = (Segment::parse(bytes), sctp::first_chunk(bytes), packets::sums(bytes));
}

fn check_family<A: Wire>(bytes: &[u8]) {
    let parsed = A::parse(bytes);
    if let Some(plain) = A::plain(bytes) {
        match parsed {
            Ok(parsed) => {
                assert_eq!(
                    (plain.ends.ends(), plain.protocol),
                    (parsed.tuple.ends, parsed.tuple.protocol)
                );
                assert_eq!(plain.end, parsed.end);
            }
            Err(why) => {
                assert_eq!(
                    (why, plain.protocol),
                    (Malformed::TransportLength, Protocol::TCP),
                    "{plain:?}"
                );
            }
        }
    }
    let quoted = A::parse_quoted(bytes);
    if let Some(quoted) = &quoted {
        check_offsets(quoted, bytes);
    }
    let fragment = A::fragment(bytes);
    if let Some(fragment) = fragment {
        assert!(fragment.length as usize <= bytes.len() || parsed.is_err(), "{fragment:?}");
        assert!(fragment.offset.is_multiple_of(8) && fragment.offset <= 0xfff8, "{fragment:?}");
    }
    let Ok(headers) = parsed else { return };
    check_offsets(&headers, bytes);
    assert_eq!(headers.is_fragment, fragment.is_some());
    match quoted {
        Some(quoted) => {
            assert_eq!((headers.tuple, headers.layer4), (quoted.tuple, quoted.layer4));
            assert_eq!((headers.l4, headers.end), (quoted.l4, quoted.end));
        }
        // A quote must hold 8 bytes of whatever follows the IP header.
        None => {
            assert!(headers.layer4 == Layer4::LaterFragment || headers.transport(bytes).len() < 8)
        }
    }
    let transport = headers.transport(bytes);
    match headers.layer4 {
        Layer4::Tcp if !headers.is_fragment => assert!(Segment::parse(transport).is_some()),
        Layer4::Sctp => assert!(transport.len() >= sctp::HEADER),
        _ => {}
    }
}

fn check_offsets<A: Wire>(headers: &Headers<A>, bytes: &[u8]) {
    let (l4, end) = (usize::from(headers.l4), headers.end as usize);
    assert!(l4 <= end && end <= bytes.len(), "{headers:?} of {} bytes", bytes.len());
    assert_eq!(headers.transport(bytes).len(), end - l4);
}
