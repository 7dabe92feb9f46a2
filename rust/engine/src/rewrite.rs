//! Applying a translation to a packet, in place: new addresses and ports, and checksums that follow
//! by precomputed differences.
//!
//! Everything that is not translated stays byte for byte as it was (F89), padding behind the packet
//! included (F88), and a checksum that was wrong stays wrong (F74).

pub(crate) mod icmp_error;

use crate::tuple::{Ends, Protocol};
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
pub(crate) fn deltas<A: Wire>(protocol: Protocol, from: &Ends<A>, to: &Ends<A>) -> (Delta, Delta) {
    // A sum of words taken away: each word's complement is 0xffff less the word.
    let away = |sum: u32, words: u32| words * 0xffff - sum;
    let words = size_of::<A>() as u32 / 2;
    let addresses = Delta::from_sum(
        away(from.src.words(), words)
            + to.src.words()
            + away(from.dst.words(), words)
            + to.dst.words(),
    );
    let port =
        |old: u16, new: u16| Delta::from_sum(u32::from(!old.to_be()) + u32::from(new.to_be()));
    let ports = if (from.sport, from.dport) == (to.sport, to.dport) {
        Delta::NONE
    } else {
        port(from.sport, to.sport).and(port(from.dport, to.dport))
    };
    let transport = match protocol {
        // The one checksum without a pseudo header.
        Protocol::ICMP => ports,
        Protocol::TCP | Protocol::UDP | Protocol::ICMPV6 => addresses.and(ports),
        _ => Delta::NONE,
    };
    (addresses, transport)
}

/// Rewrites a packet to the ends `to`. `l3` and `l4` are the [`deltas`] of that. Cost: constant,
/// but with an incomplete checksum, and for SCTP whose ports change, a pass over the packet.
#[inline(always)]
pub(crate) fn apply<A: Wire>(
    packet: &mut [u8],
    headers: &Headers<A>,
    to: &Ends<A>,
    (l3, l4): (Delta, Delta),
    checksum: ChecksumState,
) {
    A::write_addresses(packet, to.src, to.dst, l3);
    let bytes = headers.transport_mut(packet);
    match headers.layer4 {
        Layer4::Tcp => {
            let Some(header) = bytes.first_chunk_mut::<{ tcp::MIN_HEADER }>() else { return };
            write_ports(header, to);
            let updated = l4.update([header[tcp::CHECKSUM], header[tcp::CHECKSUM + 1]]);
            header[tcp::CHECKSUM..tcp::CHECKSUM + 2].copy_from_slice(&updated);
        }
        Layer4::Udp => {
            let Some(header) = bytes.first_chunk_mut::<{ udp::HEADER }>() else { return };
            write_ports(header, to);
            let updated = l4.update_udp([header[udp::CHECKSUM], header[udp::CHECKSUM + 1]]);
            header[udp::CHECKSUM..udp::CHECKSUM + 2].copy_from_slice(&updated);
        }
        Layer4::EchoRequest | Layer4::EchoReply => {
            let Some(header) = bytes.first_chunk_mut::<{ icmp::HEADER }>() else { return };
            // The other port of an echo is 0.
            let id = to.sport | to.dport;
            header[icmp::IDENTIFIER..icmp::IDENTIFIER + 2].copy_from_slice(&id.to_be_bytes());
            let updated = l4.update([header[icmp::CHECKSUM], header[icmp::CHECKSUM + 1]]);
            header[icmp::CHECKSUM..icmp::CHECKSUM + 2].copy_from_slice(&updated);
        }
        Layer4::Sctp => rewrite_sctp(bytes, to, checksum),
        Layer4::IcmpError | Layer4::IcmpOther | Layer4::Portless | Layer4::LaterFragment => {}
    }
    if checksum == ChecksumState::Incomplete {
        complete_checksum(packet, headers, to);
    }
}

#[inline]
fn write_ports<A>(header: &mut [u8], to: &Ends<A>) {
    header[0..2].copy_from_slice(&to.sport.to_be_bytes());
    header[2..4].copy_from_slice(&to.dport.to_be_bytes());
}

/// The CRC covers no addresses, so it changes only with the ports; then by as much as a right one
/// would, so a wrong one stays wrong.
#[inline(never)]
fn rewrite_sctp<A>(bytes: &mut [u8], to: &Ends<A>, checksum: ChecksumState) {
    let Some(header) = bytes.first_chunk::<{ sctp::HEADER }>() else { return };
    let [sport, dport] = [to.sport.to_be_bytes(), to.dport.to_be_bytes()];
    if checksum == ChecksumState::Complete
        && header[..4] == [sport[0], sport[1], dport[0], dport[1]]
    {
        return;
    }
    let field = sctp::CHECKSUM..sctp::CHECKSUM + 4;
    let before = checksum::sctp(bytes);
    write_ports(bytes, to);
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
fn complete_checksum<A: Wire>(packet: &mut [u8], headers: &Headers<A>, to: &Ends<A>) {
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
