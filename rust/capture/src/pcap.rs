//! pcap files (draft-ietf-opsawg-pcap): a header, and records of a header and a frame each.

use crate::error::{Item, Wrong};
use crate::link::Link;
use crate::record::{Kind, Read, Record, TimedRecord};
use crate::source::{Order, Source};
use crate::{CaptureError, MAX_FRAME, MAX_RECORD};

/// The layout of the records, as the file's header gives it.
pub(crate) struct Format {
    order: Order,
    /// Length of the unit of fractions of a second, in nanoseconds.
    unit: u64,
    /// Length of a record's header.
    header: usize,
    link: Result<Link, u32>,
}

impl Format {
    /// Reads the rest of a file's header, of which the first four bytes are in `head`. `None`: the
    /// magic number is not pcap's.
    pub(crate) fn read(
        source: &mut Source,
        head: &mut Vec<u8>,
    ) -> Result<Option<Self>, CaptureError> {
        let Some((order, unit, header)) = shape(head) else { return Ok(None) };
        source.append(head, HEADER - head.len())?;
        if head.len() < HEADER {
            return Err(CaptureError::Format(": the file ends within its header"));
        }
        let (major, minor) = (order.u16(head, 4), order.u16(head, 6));
        if (major, minor) != (2, 4) {
            let reason = format!("pcap of version {major}.{minor} is not read, only 2.4 is");
            return Err(CaptureError::Version(reason));
        }
        // The upper half says how long a frame check sequence is.
        let number = order.u32(head, 20) & 0xffff;
        Ok(Some(Self { order, unit, header, link: Link::of(number).ok_or(number) }))
    }

    /// The next record; `None` at the end.
    pub(crate) fn next(&self, source: &mut Source) -> Result<Option<Read>, Wrong> {
        let mut bytes = Vec::new();
        match source.append(&mut bytes, self.header)? {
            0 => return Ok(None),
            read if read < self.header => return Ok(Some(Read::Cut(Item::Packet))),
            _ => {}
        }
        let length = self.order.u32(&bytes, 8) as usize;
        let limit = if self.link.is_ok() { MAX_FRAME } else { MAX_RECORD };
        if length > limit {
            return Err(Wrong::packet(format!("{length} bytes are more than a frame can have")));
        }
        if source.append(&mut bytes, length)? < length {
            return Ok(Some(Read::Cut(Item::Packet)));
        }
        let (seconds, fraction) = (self.order.u32(&bytes, 0), self.order.u32(&bytes, 4));
        Ok(Some(Read::Frame(TimedRecord {
            link: self.link,
            time: u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.unit,
            record: Record {
                frame: self.header..bytes.len(),
                bytes,
                kind: Kind::Pcap,
                order: self.order,
            },
        })))
    }
}

/// Byte order, unit of time and length of a record's header, by the magic number.
fn shape(magic: &[u8]) -> Option<(Order, u64, usize)> {
    [Order::Little, Order::Big].into_iter().find_map(|order| match order.u32(magic, 0) {
        0xa1b2_c3d4 => Some((order, 1000, 16)),
        0xa1b2_3c4d => Some((order, 1, 16)),
        // A. Kuznetsov's, of old Linux distributions: each record also has its device, protocol and
        // kind.
        0xa1b2_cd34 => Some((order, 1000, 24)),
        _ => None,
    })
}

const HEADER: usize = 24;
