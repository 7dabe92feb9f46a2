//! The SCTP common header and the type of the first chunk (RFC 9260, 3).

/// Where the CRC32c stands in the header.
pub const CHECKSUM: usize = 8;
/// The common header.
pub const HEADER: usize = 12;

/// The chunk types that open, confirm and end an association.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chunk {
    /// INIT
    Init,
    /// INIT ACK
    InitAck,
    /// ABORT
    Abort,
    /// SHUTDOWN
    Shutdown,
    /// SHUTDOWN ACK
    ShutdownAck,
    /// COOKIE ECHO
    CookieEcho,
    /// COOKIE ACK
    CookieAck,
    /// SHUTDOWN COMPLETE
    ShutdownComplete,
    /// Any other, or none.
    Other,
}

/// The first chunk's type; an association is opened and closed by packets that begin with that
/// chunk.
#[must_use]
pub fn first_chunk(packet: &[u8]) -> Chunk {
    match packet.get(HEADER) {
        Some(1) => Chunk::Init,
        Some(2) => Chunk::InitAck,
        Some(6) => Chunk::Abort,
        Some(7) => Chunk::Shutdown,
        Some(8) => Chunk::ShutdownAck,
        Some(10) => Chunk::CookieEcho,
        Some(11) => Chunk::CookieAck,
        Some(14) => Chunk::ShutdownComplete,
        _ => Chunk::Other,
    }
}
