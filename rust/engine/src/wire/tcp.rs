//! The TCP header (RFC 9293, 3.1).

/// Where the checksum stands in the header.
pub const CHECKSUM: usize = 16;
/// Offset of the flags.
pub const FLAGS: usize = 13;
/// The smallest header.
pub const MIN_HEADER: usize = 20;

/// Control bits of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flags(pub u8);

impl Flags {
    /// No more from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;

    /// Whether all of `bits` are set.
    #[inline]
    #[must_use]
    pub fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }

    /// Whether a sane sender could have sent this: something is said, and SYN stands alone or with
    /// ACK.
    #[inline]
    #[must_use]
    pub fn is_possible(self) -> bool {
        let said = self.0 & (Self::FIN | Self::SYN | Self::RST | Self::ACK);
        said != 0 && (said & Self::SYN == 0 || said & (Self::FIN | Self::RST) == 0)
    }

    /// Whether this may belong to a connection whose beginning nobody has seen: a plain
    /// acknowledgement. The kernel calls FIN, RST and SYN-ACK of an unknown connection INVALID.
    #[inline]
    #[must_use]
    pub fn is_midstream(self) -> bool {
        self.0 & (Self::FIN | Self::SYN | Self::RST | Self::ACK) == Self::ACK
    }

    /// Whether this opens a connection.
    #[inline]
    #[must_use]
    pub fn is_opening(self) -> bool {
        self.0 & (Self::FIN | Self::SYN | Self::RST | Self::ACK) == Self::SYN
    }
}

/// What connection tracking needs of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Control bits.
    pub flags: Flags,
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Acknowledgement number; counts only with ACK.
    pub ack: u32,
    /// Window as it stands in the header, unscaled.
    pub window: u16,
    /// Sequence space that the segment takes: payload, and one each for SYN and FIN.
    pub length: u32,
    /// Bytes of payload.
    pub payload: u32,
    /// Window scale option (RFC 7323), only looked for in a SYN.
    pub scale: Option<u8>,
}

impl Segment {
    /// Reads the segment `bytes` (header and payload); `None` when the header is cut or contradicts
    /// itself.
    #[inline]
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; MIN_HEADER] = bytes.first_chunk()?;
        let offset = header_length(header);
        let payload = bytes.len().checked_sub(offset)? as u32;
        let flags = Flags(header[FLAGS]);
        let syn = u32::from(flags.has(Flags::SYN));
        let fin = u32::from(flags.has(Flags::FIN));
        Some(Self {
            flags,
            seq: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            ack: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
            window: u16::from_be_bytes([header[14], header[15]]),
            length: payload + syn + fin,
            payload,
            scale: if syn == 1 { window_scale(bytes.get(MIN_HEADER..offset)?) } else { None },
        })
    }

    /// Reads a segment that is nothing but an acknowledgement, with payload or without
    /// ([`Flags::is_midstream`]), as [`Segment::parse`] does but without the flags that connection
    /// tracking does not look at. `length` is that of header and payload. `None`: it is another
    /// one, or the header contradicts the length.
    #[inline(always)]
    #[must_use]
    pub fn plain_ack(header: &[u8; MIN_HEADER], length: u32) -> Option<Self> {
        let offset = header_length(header) as u32;
        if !Flags(header[FLAGS]).is_midstream() || offset < MIN_HEADER as u32 {
            return None;
        }
        let payload = length.checked_sub(offset)?;
        Some(Self {
            flags: Flags(Flags::ACK),
            seq: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            ack: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
            window: u16::from_be_bytes([header[14], header[15]]),
            length: payload,
            payload,
            scale: None,
        })
    }
}

/// The header's own length in bytes.
#[inline]
#[must_use]
pub fn header_length(header: &[u8; MIN_HEADER]) -> usize {
    usize::from(header[12] >> 4) * 4
}

/// The window scale among `options`, at most 14 (RFC 7323, 2.3).
fn window_scale(mut options: &[u8]) -> Option<u8> {
    loop {
        match options {
            [1, rest @ ..] => options = rest,
            [3, 3, scale, ..] => return Some((*scale).min(14)),
            [0, ..] => return None,
            [_, length, ..] => options = options.get(usize::from(*length).max(2)..)?,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_scale_is_found_behind_other_options() {
        for (options, scale) in [
            (&[2, 4, 5, 0xb4, 1, 3, 3, 7][..], Some(7)),
            (&[3, 3, 15], Some(14)),
            (&[0, 3, 3, 7], None),
            (&[2, 0, 3, 3, 2], Some(2)),
            (&[8, 200], None),
            (&[3], None),
            (&[], None),
        ] {
            assert_eq!(window_scale(options), scale, "{options:?}");
        }
    }

    #[test]
    fn impossible_flags() {
        for (bits, possible) in [
            (0, false),
            (0x02, true),
            (0x12, true),
            (0x03, false),
            (0x06, false),
            (0x04, true),
            (0x08, false),
            (0x11, true),
        ] {
            assert_eq!(Flags(bits).is_possible(), possible, "{bits:#x}");
        }
    }
}
