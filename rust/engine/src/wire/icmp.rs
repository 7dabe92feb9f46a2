//! ICMP (RFC 792) and ICMPv6 (RFC 4443) messages: which quote a packet, which are echoes.

/// Where the checksum stands in the header.
pub const CHECKSUM: usize = 2;
/// Where an echo's identifier stands.
pub const IDENTIFIER: usize = 4;
/// The header; in an error the quoted packet follows.
pub const HEADER: usize = 8;

/// What a message is, as far as NAT is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Echo request.
    EchoRequest,
    /// Echo reply.
    EchoReply,
    /// An error that quotes the packet it is about.
    Error,
    /// Anything else; never translated.
    Other,
}

/// The kind of an ICMP message by its type.
#[inline]
#[must_use]
pub fn kind_v4(message_type: u8) -> Kind {
    match message_type {
        8 => Kind::EchoRequest,
        0 => Kind::EchoReply,
        3 | 4 | 5 | 11 | 12 => Kind::Error,
        _ => Kind::Other,
    }
}

/// The kind of an ICMPv6 message by its type.
#[inline]
#[must_use]
pub fn kind_v6(message_type: u8) -> Kind {
    match message_type {
        128 => Kind::EchoRequest,
        129 => Kind::EchoReply,
        1..=4 => Kind::Error,
        _ => Kind::Other,
    }
}
