//! ICMP errors about translated packets (RFC 5508, section 4; RFC 7915 for what a quote must hold).
//!
//! The quoted packet is turned back into what its sender sent, so that the sender recognises it.
//! The outer source is changed only if the other end of the flow sent the error; a router keeps its
//! address, so traceroute shows it (F83).

use super::ChecksumState;
use crate::tuple::{Ends, WireEnds};
use crate::wire::checksum::{self, Delta};
use crate::wire::{Headers, Layer4, Wire, icmp, tcp, udp};

/// The packet that an error quotes: its headers, with offsets from the quote's first byte.
pub(crate) fn quote<A: Wire>(packet: &[u8], headers: &Headers<A>) -> Option<Headers<A>> {
    A::parse_quoted(headers.transport(packet).get(icmp::HEADER..)?)
}

/// Whether the error's own checksum is right; one that is not must not be believed (RFC 5508,
/// REQ-3).
pub(crate) fn is_intact<A: Wire>(packet: &[u8], headers: &Headers<A>) -> bool {
    let bytes = headers.transport(packet);
    let Ends { src, dst, .. } = headers.tuple.ends;
    let pseudo = match A::VERSION {
        6 => A::pseudo_header(src, dst, headers.tuple.protocol, bytes.len()),
        _ => 0,
    };
    checksum::complete(pseudo, bytes) == [0, 0]
}

/// Rewrites an error that quotes `quote` so that the quote reads `sent` and the error goes to its
/// sender. All checksums follow; a quoted transport checksum only if the quote reaches that far.
pub(crate) fn apply<A: Wire>(
    packet: &mut [u8],
    headers: &Headers<A>,
    quote: &Headers<A>,
    sent: &Ends<A>,
) {
    let outer = headers.tuple.ends;
    let src = if outer.src == quote.tuple.ends.dst { sent.dst } else { outer.src };
    let to = Ends { src, dst: sent.src, ..outer };
    let (l3, _) = super::deltas(headers.tuple.protocol, &outer.into(), &to.into());
    A::write_addresses(packet, to.src, to.dst, l3);

    let Some((header, quoted)) = headers.transport_mut(packet).split_at_mut_checked(icmp::HEADER)
    else {
        return;
    };
    let translated = quoted.len().min(usize::from(quote.l4) + tcp::MIN_HEADER);
    let mut before = [0; MAX_TRANSLATED];
    let before = &mut before[..translated.min(MAX_TRANSLATED)];
    before.copy_from_slice(&quoted[..before.len()]);
    rewrite_quote(quoted, quote, sent);
    // RFC 4443 alone puts a pseudo header under the checksum.
    let mut change = Delta::between(before, &quoted[..before.len()]);
    if A::VERSION == 6 {
        change = change.and(l3);
    }
    let updated = change.update([header[icmp::CHECKSUM], header[icmp::CHECKSUM + 1]]);
    header[icmp::CHECKSUM..icmp::CHECKSUM + 2].copy_from_slice(&updated);
}

fn rewrite_quote<A: Wire>(quoted: &mut [u8], quote: &Headers<A>, sent: &Ends<A>) {
    let (from, to) = (quote.tuple.ends.into(), WireEnds::from(*sent));
    let (l3, l4) = super::deltas(quote.tuple.protocol, &from, &to);
    A::write_addresses(quoted, sent.src, sent.dst, l3);
    // The CRC lies over the whole packet; a quote that is cut keeps what its sender never sent, and
    // no receiver can check it.
    let is_whole = A::parse(quoted).is_ok_and(|whole| !whole.is_fragment);
    let bytes = quote.transport_mut(quoted);
    let place = match quote.layer4 {
        Layer4::Tcp => tcp::CHECKSUM,
        Layer4::Udp => udp::CHECKSUM,
        Layer4::EchoRequest | Layer4::EchoReply => icmp::CHECKSUM,
        _ => usize::MAX,
    };
    match quote.layer4 {
        Layer4::Sctp if is_whole => super::rewrite_sctp(bytes, to.ports, ChecksumState::Complete),
        Layer4::Tcp | Layer4::Udp | Layer4::Sctp => bytes[..4].copy_from_slice(&to.ports),
        Layer4::EchoRequest | Layer4::EchoReply => {
            let id = icmp::IDENTIFIER..icmp::IDENTIFIER + 2;
            bytes[id].copy_from_slice(&super::identifier(&to));
        }
        _ => {}
    }
    if let Some(field) = place.checked_add(2).and_then(|end| bytes.get_mut(place..end)) {
        let checksum = [field[0], field[1]];
        let is_udp = quote.layer4 == Layer4::Udp;
        field.copy_from_slice(&if is_udp { l4.update_udp(checksum) } else { l4.update(checksum) });
    }
}

/// An IPv4 header with options or IPv6 with extension headers as long as they come in practice, and
/// a TCP header; a quote whose transport header lies behind that is not translated.
const MAX_TRANSLATED: usize = 256;

/// Whether a quote can be translated: its transport header lies within what [`apply`] looks at.
pub(crate) fn is_translatable<A>(quote: &Headers<A>) -> bool {
    usize::from(quote.l4) + tcp::MIN_HEADER <= MAX_TRANSLATED
}
