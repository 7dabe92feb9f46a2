//! A packet as drivers hand it in, and the verdict on bytes that are none.

use crate::rewrite::ChecksumState;
use crate::verdict::{Action, Cause, Verdict};
use crate::wire::{Headers, Malformed, Wire};

/// The facts that a driver has about a packet beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    /// Index of the device it came in by; 0 when the node itself made it.
    pub interface: u32,
    /// Whether its transport checksum is there.
    pub checksum: ChecksumState,
    /// Whether it was read from a capture, where a length field of 0 stands for the length of the
    /// bytes ([`Wire::parse_captured`]), and no byte for a frame without an IP packet. On a wire
    /// both are malformed.
    pub is_captured: bool,
}

impl Meta {
    /// Reads the headers of a packet that came in with this.
    #[inline(always)]
    pub(crate) fn parse<A: Wire>(self, packet: &[u8]) -> Result<Headers<A>, Malformed> {
        match A::parse(packet) {
            Err(why) if self.is_captured => A::parse_captured(packet).ok_or(why),
            parsed => parsed,
        }
    }
}

/// A packet to be processed: its bytes, rewritten in place, and what the driver knows of it.
#[derive(Debug)]
pub struct Packet<'a> {
    /// From the first byte of the IP header.
    pub bytes: &'a mut [u8],
    /// Beside the bytes.
    pub meta: Meta,
}

/// The verdict on bytes that are no packet.
#[cold]
pub(crate) fn malformed(why: Malformed) -> Verdict {
    Verdict::drop(match why {
        Malformed::SourceRoute => Cause::SourceRoute,
        Malformed::TinyFragment => Cause::FragmentTiny,
        _ => Cause::Malformed,
    })
}

/// The verdict on bytes that begin with the version of no IP. In captures empty ones stand for a
/// frame without an IP packet, such as ARP: no Service matches it.
#[cold]
pub(crate) fn versionless(packet: &[u8], meta: Meta) -> Verdict {
    if packet.is_empty() && meta.is_captured {
        Verdict::new(Action::Pass, Cause::NotOurs)
    } else {
        malformed(Malformed::Version)
    }
}

/// The version of an IP packet; 0 for no byte at all.
#[inline(always)]
pub(crate) fn version(packet: &[u8]) -> u8 {
    packet.first().map_or(0, |byte| byte >> 4)
}
