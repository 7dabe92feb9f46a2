//! The records of a capture file. A record keeps its bytes, so one that is not changed is written
//! as it was read.

use std::ops::Range;

use crate::error::Item;
use crate::link::Link;
use crate::source::Order;

/// One step of reading.
pub(crate) enum Read {
    Frame(TimedRecord),
    Block(Block),
    /// The file ends within this.
    Cut(Item),
}

/// A frame as it is read.
pub(crate) struct TimedRecord {
    /// Its link type, or the number of one that is not read.
    pub(crate) link: Result<Link, u32>,
    pub(crate) time: u64,
    pub(crate) record: Record,
}

/// A block that holds no packet.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) bytes: Vec<u8>,
    /// The section that a section header begins.
    pub(crate) section: Option<SectionStart>,
}

/// How a section begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SectionStart {
    pub(crate) order: Order,
    /// Bytes of the section before, as they were read.
    pub(crate) former: u64,
}

impl SectionStart {
    /// Where the section's length stands in its header.
    pub(crate) const LENGTH: usize = 16;
    /// A length that the header does not say.
    pub(crate) const UNSAID: i64 = -1;
}

/// A frame with all that the file says of it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The whole record: header, frame, and in pcapng padding, options and length.
    pub(crate) bytes: Vec<u8>,
    /// Where the frame lies in `bytes`.
    pub(crate) frame: Range<usize>,
    pub(crate) kind: Kind,
    pub(crate) order: Order,
}

/// How a record is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Pcap,
    /// An Enhanced Packet Block, or the Packet Block that came before it: both have the frame's two
    /// lengths at the same place.
    Enhanced,
    /// A Simple Packet Block of an interface that keeps at most so many bytes of a frame.
    Simple {
        limit: u32,
    },
}

impl Record {
    pub(crate) fn frame(&self) -> &[u8] {
        &self.bytes[self.frame.clone()]
    }

    /// Length of the frame before the capture cut it.
    pub(crate) fn original(&self) -> u32 {
        self.order.u32(&self.bytes, self.original_place())
    }

    fn original_place(&self) -> usize {
        match self.kind {
            Kind::Pcap => 12,
            Kind::Enhanced => 24,
            Kind::Simple { .. } => 8,
        }
    }

    /// The frame is another one of the same length. A hash of the frame is no longer its own, and
    /// goes.
    pub(crate) fn change(&mut self, frame: &[u8]) {
        self.bytes[self.frame.clone()].copy_from_slice(frame);
        if self.kind == Kind::Enhanced && self.has_hash() {
            let original = self.original();
            let frame = self.frame().to_vec();
            self.rebuild(&frame, original);
        }
    }

    /// The frame is another one, which was not cut.
    pub(crate) fn replace(&mut self, frame: &[u8]) {
        self.rebuild(frame, frame.len() as u32);
    }

    fn rebuild(&mut self, frame: &[u8], original: u32) {
        let options = self.options();
        let place = self.original_place();
        let mut bytes = self.bytes[..self.frame.start].to_vec();
        bytes[place..place + 4].copy_from_slice(&self.order.bytes(original));
        let length = match self.kind {
            Kind::Simple { limit } => frame.len().min(limit as usize),
            Kind::Pcap | Kind::Enhanced => {
                bytes[place - 4..place].copy_from_slice(&self.order.bytes(frame.len() as u32));
                frame.len()
            }
        };
        bytes.extend_from_slice(&frame[..length]);
        self.frame.end = bytes.len();
        if self.kind != Kind::Pcap {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend_from_slice(&options);
            let length = self.order.bytes(bytes.len() as u32 + 4);
            bytes[4..8].copy_from_slice(&length);
            bytes.extend_from_slice(&length);
        }
        self.bytes = bytes;
    }

    fn has_hash(&self) -> bool {
        options(self.order, self.option_bytes()).any(|option| option.code == HASH)
    }

    fn option_bytes(&self) -> &[u8] {
        let start = self.frame.end.next_multiple_of(4);
        let end = self.bytes.len().saturating_sub(4);
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// The options of a block without hashes, byte for byte.
    fn options(&self) -> Vec<u8> {
        if self.kind != Kind::Enhanced {
            return Vec::new();
        }
        let bytes = self.option_bytes();
        let mut options = Vec::with_capacity(bytes.len());
        let mut read = 0;
        for option in self::options(self.order, bytes) {
            if option.code != HASH {
                options.extend_from_slice(&bytes[option.whole.clone()]);
            }
            read = option.whole.end;
        }
        options.extend_from_slice(&bytes[read..]);
        options
    }
}

/// One option of a pcapng block.
pub(crate) struct BlockOption<'a> {
    pub(crate) code: u16,
    pub(crate) value: &'a [u8],
    /// Where it lies among the options, with its padding.
    whole: Range<usize>,
}

/// The options in `bytes`, up to their end or the first one that runs over the end.
pub(crate) fn options(order: Order, bytes: &[u8]) -> impl Iterator<Item = BlockOption<'_>> {
    let mut place = 0;
    std::iter::from_fn(move || {
        let header = bytes.get(place..place + 4)?;
        let code = order.u16(header, 0);
        let length = usize::from(order.u16(header, 2));
        let value = bytes.get(place + 4..place + 4 + length)?;
        if code == END {
            return None;
        }
        let start = place;
        place = (place + 4 + length.next_multiple_of(4)).min(bytes.len());
        Some(BlockOption { code, value, whole: start..place })
    })
}

const END: u16 = 0;
/// `epb_hash` and `pack_hash`.
const HASH: u16 = 3;
