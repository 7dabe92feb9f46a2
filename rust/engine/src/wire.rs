//! Packets as views over bytes: lengths are checked once, then everything that NAT needs is known
//! by value and by offset.
//!
//! Nothing here allocates, copies or panics, whatever the bytes are.

pub mod checksum;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod sctp;
pub mod tcp;
pub mod udp;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::tuple::{Address, Ends, Protocol, Tuple, WireEnds};

/// Why bytes are not a packet that can be processed. The sender is at fault, or the capture was
/// cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// Neither version 4 nor 6, or no byte at all.
    #[error("the IP version is neither 4 nor 6")]
    Version,
    /// The IP header is cut, or its length fields contradict each other or the buffer.
    #[error("the IP header's lengths do not fit the packet")]
    IpLength,
    /// An IPv4 option whose length cannot be.
    #[error("the IPv4 options contradict themselves")]
    Options,
    /// More IPv6 extension headers than are followed, or one that runs over the end.
    #[error("the IPv6 extension headers are too many or run over the end")]
    Extensions,
    /// The transport header is cut, or its length fields contradict the packet.
    #[error("the transport header's lengths do not fit the packet")]
    TransportLength,
    /// A first fragment that does not hold the whole transport header (RFC 1858).
    #[error("the first fragment does not hold the transport header")]
    TinyFragment,
    /// An IPv6 routing header of type 0, deprecated by RFC 5095.
    #[error("the packet carries a type 0 routing header")]
    SourceRoute,
}

/// What follows the IP header, as far as NAT is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Layer4 {
    /// A TCP segment.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// An SCTP packet.
    Sctp,
    /// An ICMP or ICMPv6 echo request.
    EchoRequest,
    /// Its answer.
    EchoReply,
    /// An ICMP or ICMPv6 error, with the quoted packet behind its header.
    IcmpError,
    /// Any other ICMP or ICMPv6 message: never translated.
    IcmpOther,
    /// A protocol without ports that NAT knows of.
    Portless,
    /// A fragment without transport header.
    LaterFragment,
}

/// Place of a fragment in its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Identification (16 bits in IPv4).
    pub id: u32,
    /// Offset of the fragment's payload in the datagram, in bytes.
    pub offset: u32,
    /// Bytes of the datagram's payload that it carries.
    pub length: u32,
    /// Whether more fragments follow behind it.
    pub more: bool,
}

/// A parsed packet: all that the engine needs to know of its headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers<A> {
    /// Who talks to whom.
    pub tuple: Tuple<A>,
    /// What follows the IP header.
    pub layer4: Layer4,
    /// Whether it is a part of a datagram; atomic fragments (RFC 6946) are not.
    pub is_fragment: bool,
    /// Offset of the transport header.
    pub l4: u16,
    /// Where the packet ends by its IP header; what lies behind is padding (F88).
    pub end: u32,
}

impl<A: Wire> Headers<A> {
    /// Those of a plain packet ([`Wire::plain`]) with these ends, which ends at `end`. `None`: its
    /// TCP header says a length that cannot be.
    #[inline(always)]
    pub(crate) fn of_plain(
        protocol: Protocol,
        ends: &WireEnds<A>,
        end: u16,
        packet: &[u8],
    ) -> Option<Self> {
        let end = usize::from(end);
        let layer4 = if protocol == Protocol::TCP {
            transport::<A>(protocol, packet.get(A::HEADER..end)?, true).ok()?.0
        } else {
            Layer4::Udp
        };
        let Ends { src, dst, sport, dport } = ends.ends();
        Some(headers((src, dst, protocol), (layer4, sport, dport), (A::HEADER, end), false))
    }
}

impl<A> Headers<A> {
    /// Transport header and payload.
    #[inline]
    #[must_use]
    pub fn transport<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        packet.get(usize::from(self.l4)..self.end as usize).unwrap_or_default()
    }

    /// The flags of a TCP segment.
    #[must_use]
    pub fn tcp_flags(&self, packet: &[u8]) -> Option<tcp::Flags> {
        match self.layer4 {
            Layer4::Tcp => self.transport(packet).get(tcp::FLAGS).copied().map(tcp::Flags),
            _ => None,
        }
    }

    /// Transport header and payload, to be written to.
    #[inline]
    #[must_use]
    pub fn transport_mut<'a>(&self, packet: &'a mut [u8]) -> &'a mut [u8] {
        packet.get_mut(usize::from(self.l4)..self.end as usize).unwrap_or_default()
    }
}

/// A packet of the most common shape: TCP or UDP right behind an IP header without options or
/// extensions, no fragment. It has the ends, the protocol and the end that [`Wire::parse`] finds
/// too; of TCP the header is not yet looked at.
#[derive(Clone, Copy, Debug)]
pub struct Plain<A> {
    /// Addresses and ports.
    pub ends: WireEnds<A>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where the packet ends by its IP header.
    pub end: u32,
}

/// A family's packets.
pub trait Wire: Address {
    /// Bytes of an IP header without options or extensions.
    const HEADER: usize;

    /// Reads the headers of `packet`.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong with it.
    fn parse(packet: &[u8]) -> Result<Headers<Self>, Malformed>;

    /// Reads the headers of a TCP segment or UDP datagram whose IP header says a length of 0, as if
    /// it said that of the bytes. A capture on a sending host shows segments before its network
    /// device cuts them, and some hosts (Windows, VMware, FreeBSD; Linux above 64 KiB, "BIG TCP")
    /// write the length only then. Jumbograms (RFC 2675) say their length in an option. `None`: it
    /// is no such packet.
    fn parse_captured(packet: &[u8]) -> Option<Headers<Self>>;

    /// The packet if it is a plain one. Cost: a few comparisons; offsets are known to the compiler.
    fn plain(packet: &[u8]) -> Option<Plain<Self>>;

    /// Where a plain packet has its ends; of another one it is a part that means something else, or
    /// `None`.
    fn plain_ends(packet: &[u8]) -> Option<WireEnds<Self>>;

    /// The segment of a plain TCP packet that ends at `end`, if it is nothing but an
    /// acknowledgement: see [`tcp::Segment::plain_ack`].
    fn plain_ack(packet: &[u8], end: u16) -> Option<tcp::Segment>;

    /// Gives a plain UDP packet new ends and the checksums that follow from them.
    fn rewrite_plain_udp(
        packet: &mut [u8],
        to: &WireEnds<Self>,
        l3: checksum::Delta,
        l4: checksum::Delta,
    );

    /// The same for a plain TCP packet with a whole header.
    fn rewrite_plain_tcp(
        packet: &mut [u8],
        to: &WireEnds<Self>,
        l3: checksum::Delta,
        l4: checksum::Delta,
    );

    /// Reads a packet that is quoted in an ICMP error and so may be cut behind 8 bytes of transport
    /// header (RFC 792): its headers, or `None` when not even those are there. `end` is where the
    /// quote ends.
    fn parse_quoted(quote: &[u8]) -> Option<Headers<Self>>;

    /// The place of a parsed packet in its datagram, if it is a fragment.
    fn fragment(packet: &[u8]) -> Option<Fragment>;

    /// Writes new addresses, and brings the IP header's own checksum along where the family has
    /// one.
    fn write_addresses(packet: &mut [u8], src: Self, dst: Self, delta: checksum::Delta);

    /// The unfolded sum of the pseudo header (RFC 9293 3.1, RFC 8200 8.1) for a transport length in
    /// bytes.
    fn pseudo_header(src: Self, dst: Self, protocol: Protocol, length: usize) -> u32 {
        let length = length as u32;
        src.words()
            + dst.words()
            + u32::from(u16::from(protocol.0).to_be())
            + u32::from((length as u16).to_be())
            + u32::from(((length >> 16) as u16).to_be())
    }
}

/// Where a packet goes; port 0 if it has none. `None` for what is no packet.
#[must_use]
pub fn destination(packet: &[u8]) -> Option<SocketAddr> {
    match packet.first()? >> 4 {
        4 => Ipv4Addr::parse(packet).ok().map(|headers| headers.tuple.ends.destination()),
        6 => Ipv6Addr::parse(packet).ok().map(|headers| headers.tuple.ends.destination()),
        _ => None,
    }
}

/// Reads what follows an IP header: the kind, and the ports or identifier that belong into the
/// tuple.
#[inline(always)]
fn transport<A: Wire>(
    protocol: Protocol,
    bytes: &[u8],
    whole: bool,
) -> Result<(Layer4, u16, u16), Malformed> {
    let cut = if whole { Malformed::TransportLength } else { Malformed::TinyFragment };
    match protocol {
        Protocol::TCP => {
            let header: &[u8; tcp::MIN_HEADER] = bytes.first_chunk().ok_or(cut)?;
            let offset = tcp::header_length(header);
            if offset < tcp::MIN_HEADER || (whole && offset > bytes.len()) {
                return Err(Malformed::TransportLength);
            }
            let (sport, dport) = ports([header[0], header[1], header[2], header[3]]);
            Ok((Layer4::Tcp, sport, dport))
        }
        Protocol::UDP => {
            let header: &[u8; udp::HEADER] = bytes.first_chunk().ok_or(cut)?;
            let length = udp::length(header);
            if length < udp::HEADER || (whole && length > bytes.len()) {
                return Err(Malformed::TransportLength);
            }
            let (sport, dport) = ports([header[0], header[1], header[2], header[3]]);
            Ok((Layer4::Udp, sport, dport))
        }
        Protocol::SCTP => {
            let header: &[u8; sctp::HEADER] = bytes.first_chunk().ok_or(cut)?;
            let (sport, dport) = ports([header[0], header[1], header[2], header[3]]);
            Ok((Layer4::Sctp, sport, dport))
        }
        Protocol::ICMP if A::VERSION == 4 => icmp_message(icmp::kind_v4, bytes, cut),
        Protocol::ICMPV6 if A::VERSION == 6 => icmp_message(icmp::kind_v6, bytes, cut),
        _ => Ok((Layer4::Portless, 0, 0)),
    }
}

fn icmp_message(
    kind: fn(u8) -> icmp::Kind,
    bytes: &[u8],
    cut: Malformed,
) -> Result<(Layer4, u16, u16), Malformed> {
    let header: &[u8; icmp::HEADER] = bytes.first_chunk().ok_or(cut)?;
    let id = u16::from_be_bytes([header[4], header[5]]);
    Ok(match kind(header[0]) {
        icmp::Kind::EchoRequest => (Layer4::EchoRequest, id, 0),
        icmp::Kind::EchoReply => (Layer4::EchoReply, 0, id),
        icmp::Kind::Error => (Layer4::IcmpError, 0, 0),
        icmp::Kind::Other => (Layer4::IcmpOther, 0, 0),
    })
}

/// As [`transport`], for a quote of which only 8 bytes of transport header must be there.
fn quoted_transport<A: Wire>(protocol: Protocol, bytes: &[u8]) -> Option<(Layer4, u16, u16)> {
    let header: &[u8; 8] = bytes.first_chunk()?;
    let (sport, dport) = ports([header[0], header[1], header[2], header[3]]);
    match protocol {
        Protocol::TCP => Some((Layer4::Tcp, sport, dport)),
        Protocol::UDP => Some((Layer4::Udp, sport, dport)),
        Protocol::SCTP => Some((Layer4::Sctp, sport, dport)),
        _ => transport::<A>(protocol, bytes, true).ok(),
    }
}

/// As [`transport`], for a packet without a length, of which a UDP datagram may say none either.
fn uncut_transport<A: Wire>(protocol: Protocol, bytes: &[u8]) -> Option<(Layer4, u16, u16)> {
    match protocol {
        Protocol::UDP => {
            let header: &[u8; udp::HEADER] = bytes.first_chunk()?;
            let (sport, dport) = ports([header[0], header[1], header[2], header[3]]);
            let length = udp::length(header);
            let is_said = (udp::HEADER..=bytes.len()).contains(&length);
            (length == 0 || is_said).then_some((Layer4::Udp, sport, dport))
        }
        Protocol::TCP => transport::<A>(protocol, bytes, true).ok(),
        _ => None,
    }
}

#[inline(always)]
fn ports(bytes: [u8; 4]) -> (u16, u16) {
    (u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]]))
}

/// Neither offset can be too large: extension headers are at most as many times 2,048 bytes long as
/// are followed, and no driver has packets of 4 GiB.
#[inline(always)]
fn headers<A: Wire>(
    (src, dst, protocol): (A, A, Protocol),
    (layer4, sport, dport): (Layer4, u16, u16),
    (l4, end): (usize, usize),
    is_fragment: bool,
) -> Headers<A> {
    let tuple = Tuple { ends: Ends { src, dst, sport, dport }, protocol };
    Headers { tuple, layer4, is_fragment, l4: l4 as u16, end: end as u32 }
}
