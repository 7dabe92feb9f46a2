//! Applying a translation to a packet, in place: new addresses and ports, and checksums that follow
//! by precomputed differences.
//!
//! Everything that is not translated stays byte for byte as it was (F89), padding behind the packet
//! included (F88), and a checksum that was wrong stays wrong (F74).

pub(crate) mod icmp_error;

use crate::tuple::{Protocol, WireEnds};
use crate::wire::checksum::{self, Delta};
use crate::wire::{Headers, Layer4, Wire, icmp, sctp, tcp, udp};

/// Whether the transport checksum of a packet is there yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ChecksumState {
    /// The packet is as it would be on a wire.
    #[default]
    Complete,
    /// The sender left it to the device (CSUMNOTREADY): the field holds no checksum, so it is
    /// computed in full (F71).
    Incomplete,
}

/// The changes that turning `from` into `to` makes to the IP header checksum, and to the transport
/// checksum of this protocol.
#[inline]
pub(crate) fn deltas<A: Wire>(
    protocol: Protocol,
    from: &WireEnds<A>,
    to: &WireEnds<A>,
) -> (Delta, Delta) {
    // A sum of words taken away: each word's complement is 0xffff less the word. Both addresses,
    // and both ports, have an even number of them, so the sums are of unfolded words.
    let words = size_of::<A>() as u32;
    let addresses =
        words * 0xffff - (from.src.words() + from.dst.words()) + (to.src.words() + to.dst.words());
    let port_words = |ends: &WireEnds<A>| {
        let ports = u32::from_ne_bytes(ends.ports);
        (ports & 0xffff) + (ports >> 16)
    };
    let ports =
        if from.ports == to.ports { 0 } else { 2 * 0xffff - port_words(from) + port_words(to) };
    let transport = match protocol {
        // The one checksum without a pseudo header.
        Protocol::ICMP => ports,
        Protocol::TCP | Protocol::UDP | Protocol::ICMPV6 => addresses + ports,
        _ => 0,
    };
    (Delta::from_sum(addresses), Delta::from_sum(transport))
}

/// Rewrites a packet to the ends `to`. `l3` and `l4` are the [`deltas`] of that. Cost: constant,
/// but with an incomplete checksum, and for SCTP whose ports change, a pass over the packet.
#[inline(always)]
pub(crate) fn apply<A: Wire>(
    packet: &mut [u8],
    headers: &Headers<A>,
    to: &WireEnds<A>,
    (l3, l4): (Delta, Delta),
    checksum: ChecksumState,
) {
    A::write_addresses(packet, to.src, to.dst, l3);
    let bytes = headers.transport_mut(packet);
    match headers.layer4 {
        Layer4::Tcp => {
            let Some(header) = bytes.first_chunk_mut::<{ tcp::MIN_HEADER }>() else { return };
            header[..4].copy_from_slice(&to.ports);
            let updated = l4.update([header[tcp::CHECKSUM], header[tcp::CHECKSUM + 1]]);
            header[tcp::CHECKSUM..tcp::CHECKSUM + 2].copy_from_slice(&updated);
        }
        Layer4::Udp => {
            let Some(header) = bytes.first_chunk_mut::<{ udp::HEADER }>() else { return };
            header[..4].copy_from_slice(&to.ports);
            let updated = l4.update_udp([header[udp::CHECKSUM], header[udp::CHECKSUM + 1]]);
            header[udp::CHECKSUM..udp::CHECKSUM + 2].copy_from_slice(&updated);
        }
        Layer4::EchoRequest | Layer4::EchoReply => {
            let Some(header) = bytes.first_chunk_mut::<{ icmp::HEADER }>() else { return };
            let id = icmp::IDENTIFIER..icmp::IDENTIFIER + 2;
            header[id].copy_from_slice(&identifier(to));
            let updated = l4.update([header[icmp::CHECKSUM], header[icmp::CHECKSUM + 1]]);
            header[icmp::CHECKSUM..icmp::CHECKSUM + 2].copy_from_slice(&updated);
        }
        Layer4::Sctp => rewrite_sctp(bytes, to.ports, checksum),
        Layer4::IcmpError | Layer4::IcmpOther | Layer4::Portless | Layer4::LaterFragment => {}
    }
    if checksum == ChecksumState::Incomplete {
        complete_checksum(packet, headers, to);
    }
}

/// The identifier of an echo; its other port is 0.
fn identifier<A>(ends: &WireEnds<A>) -> [u8; 2] {
    // So a bitwise or is whichever port it is, in either direction.
    let [a, b, c, d] = ends.ports;
    [a | c, b | d]
}

/// The CRC covers no addresses, so it changes only with the ports; then by as much as a right one
/// would, so a wrong one stays wrong.
#[inline(never)]
fn rewrite_sctp(bytes: &mut [u8], ports: [u8; 4], checksum: ChecksumState) {
    let Some(header) = bytes.first_chunk::<{ sctp::HEADER }>() else { return };
    if checksum == ChecksumState::Complete && header[..4] == ports {
        return;
    }
    let field = sctp::CHECKSUM..sctp::CHECKSUM + 4;
    let before = checksum::sctp(bytes);
    bytes[..4].copy_from_slice(&ports);
    let after = checksum::sctp(bytes);
    for ((byte, before), after) in bytes[field].iter_mut().zip(before).zip(after) {
        *byte = match checksum {
            ChecksumState::Complete => *byte ^ before ^ after,
            ChecksumState::Incomplete => after,
        };
    }
}

/// Computes the whole TCP or UDP checksum of a packet whose ends are `to` already.
#[inline(never)]
fn complete_checksum<A: Wire>(packet: &mut [u8], headers: &Headers<A>, to: &WireEnds<A>) {
    let place = match headers.layer4 {
        Layer4::Tcp => tcp::CHECKSUM,
        Layer4::Udp => udp::CHECKSUM,
        _ => return,
    };
    let mut bytes = headers.transport_mut(packet);
    if headers.layer4 == Layer4::Udp
        && let Some(header) = bytes.first_chunk()
    {
        // Bytes behind the datagram's own length are not part of it; a captured one may say
        // none.
        let length = match udp::length(header) {
            0 => bytes.len(),
            length => length.min(bytes.len()),
        };
        bytes = &mut bytes[..length];
    }
    let pseudo = A::pseudo_header(to.src, to.dst, headers.tuple.protocol, bytes.len());
    bytes[place..place + 2].fill(0);
    let computed = match (checksum::complete(pseudo, bytes), headers.layer4) {
        ([0, 0], Layer4::Udp) => [0xff, 0xff],
        (computed, _) => computed,
    };
    bytes[place..place + 2].copy_from_slice(&computed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::tuple::Ends;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// Ends of which some parts are those of others, as most translations leave them.
    fn ends<A: Wire>(rng: &mut Rng, address: impl Fn(u64) -> A) -> Ends<A> {
        let port = |rng: &mut Rng| [0, 0xffff, rng.below(1 << 16) as u16][rng.below(3) as usize];
        let (src, dst) = (address(rng.below_u64(3)), address(rng.below_u64(3)));
        Ends { src, dst, sport: port(rng), dport: port(rng) }
    }

    /// The sum of `!old + new`, word by word.
    fn by_words(old: &[u8], new: &[u8]) -> Delta {
        let word = |bytes: &[u8]| u16::from_ne_bytes([bytes[0], bytes[1]]);
        let words = old.chunks(2).zip(new.chunks(2));
        Delta::from_sum(words.map(|(old, new)| u32::from(!word(old)) + u32::from(word(new))).sum())
    }

    fn assert_deltas<A: Wire>(address: impl Fn(u64) -> A, bytes: impl Fn(A) -> Vec<u8>) {
        let mut rng = Rng::new(5);
        for _ in 0..5000 {
            let (from, to) = (ends(&mut rng, &address), ends(&mut rng, &address));
            let addresses = |ends: &Ends<A>| [bytes(ends.src), bytes(ends.dst)].concat();
            let ports =
                |ends: &Ends<A>| [ends.sport.to_be_bytes(), ends.dport.to_be_bytes()].concat();
            let l3 = by_words(&addresses(&from), &addresses(&to));
            let by_ports = if ports(&from) == ports(&to) {
                Delta::NONE
            } else {
                by_words(&ports(&from), &ports(&to))
            };
            let deltas = |protocol| deltas(protocol, &from.into(), &to.into());
            assert_eq!(deltas(Protocol::UDP), (l3, l3.and(by_ports)));
            assert_eq!(deltas(Protocol::TCP), (l3, l3.and(by_ports)));
            assert_eq!(deltas(Protocol::ICMP), (l3, by_ports));
            assert_eq!(deltas(Protocol::SCTP), (l3, Delta::NONE));
        }
    }

    #[test]
    fn deltas_are_those_of_the_bytes() {
        let v4 = |number: u64| Ipv4Addr::from([0, 0xffff_ffff, 0x0a60_8001][number as usize]);
        assert_deltas(v4, |address| address.octets().to_vec());
        let v6 = |number: u64| {
            Ipv6Addr::from(
                [0, u128::MAX, 0xfd00_1234_8000_7fff_ffff_0001_0080_fffe][number as usize],
            )
        };
        assert_deltas(v6, |address| address.octets().to_vec());
    }
}
