//! The UDP header (RFC 768).

/// Where the checksum stands in the header.
pub const CHECKSUM: usize = 6;
/// The header.
pub const HEADER: usize = 8;

/// The length field: header and payload.
#[inline]
#[must_use]
pub fn length(header: &[u8; HEADER]) -> usize {
    usize::from(u16::from_be_bytes([header[4], header[5]]))
}
