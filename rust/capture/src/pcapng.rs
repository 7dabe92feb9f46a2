//! pcapng files (draft-ietf-opsawg-pcapng): sections of blocks. Each block is read whole, and of
//! its content only what is needed to find packets, their link type and their time.

use crate::error::{Item, Wrong};
use crate::link::Link;
use crate::record::{Block, Kind, Read, Record, SectionStart, TimedRecord, options};
use crate::source::{Order, Source};
use crate::{MAX_FRAME, MAX_RECORD};

/// The section that is read, as far as its blocks describe it.
pub(crate) struct Section {
    order: Order,
    interfaces: Vec<Interface>,
    /// Blocks of the file, this one included.
    pub(crate) blocks: u64,
    /// Bytes of the section behind its header.
    pub(crate) length: u64,
}

/// An interface as far as its packets need it.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link: Result<Link, u32>,
    /// At most so many bytes of a frame are kept.
    limit: u32,
    /// `if_tsresol` and `if_tsoffset`.
    resolution: u8,
    offset: i64,
}

impl Section {
    pub(crate) fn new() -> Self {
        Self { order: Order::Little, interfaces: Vec::new(), blocks: 0, length: 0 }
    }

    /// The next block, of which `bytes` are read already; `None` at the end. `time` is that of the
    /// last packet: simple packets have none of their own.
    pub(crate) fn next(
        &mut self,
        source: &mut Source,
        mut bytes: Vec<u8>,
        time: u64,
    ) -> Result<Option<Read>, Wrong> {
        let ahead = bytes.len();
        if source.append(&mut bytes, START - ahead)? + ahead == 0 {
            return Ok(None);
        }
        self.blocks += 1;
        if bytes.len() < START {
            return Ok(Some(Read::Cut(Item::Block)));
        }
        let start = self.start(&bytes)?;
        let length = self.order.u32(&bytes, 4) as usize;
        if length < START || !length.is_multiple_of(4) {
            return Err(Wrong::block(format!("a block cannot have {length} bytes")));
        }
        if length > MAX_RECORD {
            return Err(Wrong::block(format!("{length} bytes are more than a block can have")));
        }
        if source.append(&mut bytes, length - START)? < length - START {
            let is_packet = matches!(self.order.u32(&bytes, 0), ENHANCED | OBSOLETE | SIMPLE);
            return Ok(Some(Read::Cut(if is_packet { Item::Packet } else { Item::Block })));
        }
        if self.order.u32(&bytes, length - 4) as usize != length {
            return Err(Wrong::block("its two lengths differ".to_owned()));
        }
        match start {
            Some(_) => self.length = 0,
            None => self.length += length as u64,
        }
        self.read(bytes, start, time).map(Some)
    }

    /// Looks whether a block begins a section.
    fn start(&mut self, bytes: &[u8]) -> Result<Option<SectionStart>, Wrong> {
        if bytes[..4] != SECTION_HEADER {
            return Ok(None);
        }
        self.order = [Order::Little, Order::Big]
            .into_iter()
            .find(|order| order.u32(bytes, 8) == BYTE_ORDER)
            .ok_or_else(|| Wrong::block("a section header without its byte order".to_owned()))?;
        self.interfaces.clear();
        Ok(Some(SectionStart { order: self.order, former: self.length }))
    }

    fn read(
        &mut self,
        bytes: Vec<u8>,
        start: Option<SectionStart>,
        time: u64,
    ) -> Result<Read, Wrong> {
        let order = self.order;
        if start.is_some() {
            if bytes.len() < 28 {
                return Err(Wrong::block("a section header that is too short".to_owned()));
            }
            let (major, minor) = (order.u16(&bytes, 12), order.u16(&bytes, 14));
            if major != 1 {
                return Err(Wrong::block(format!(
                    "a section of pcapng {major}.{minor} is not read"
                )));
            }
            return Ok(Read::Block(Block { bytes, section: start }));
        }
        match order.u32(&bytes, 0) {
            INTERFACE => {
                let interface = Interface::read(order, &bytes)?;
                self.interfaces.push(interface);
                Ok(Read::Block(Block { bytes, section: None }))
            }
            ENHANCED => {
                let interface = order.u32(&bytes, 8);
                self.enhanced_packet(bytes, interface).map(Read::Frame)
            }
            OBSOLETE => {
                let interface = u32::from(order.u16(&bytes, 8));
                self.enhanced_packet(bytes, interface).map(Read::Frame)
            }
            SIMPLE => self.simple_packet(bytes, time).map(Read::Frame),
            _ => Ok(Read::Block(Block { bytes, section: None })),
        }
    }

    fn interface(&self, number: u32) -> Result<Interface, Wrong> {
        let missing =
            || Wrong::packet("it names an interface that the file does not describe".to_owned());
        self.interfaces.get(number as usize).copied().ok_or_else(missing)
    }

    fn enhanced_packet(&self, bytes: Vec<u8>, interface: u32) -> Result<TimedRecord, Wrong> {
        if bytes.len() < 32 {
            return Err(Wrong::packet("its block is too short for a packet".to_owned()));
        }
        let interface = self.interface(interface)?;
        let stamp =
            u64::from(self.order.u32(&bytes, 12)) << 32 | u64::from(self.order.u32(&bytes, 16));
        let length = self.order.u32(&bytes, 20) as usize;
        let time = interface.nanoseconds(stamp);
        self.packet(bytes, 28, length, (interface, time), Kind::Enhanced)
    }

    fn simple_packet(&self, bytes: Vec<u8>, time: u64) -> Result<TimedRecord, Wrong> {
        if bytes.len() < 16 {
            return Err(Wrong::packet("its block is too short for a packet".to_owned()));
        }
        let interface = self.interface(0)?;
        // The rest of the block is padding.
        let original = self.order.u32(&bytes, 8);
        let length = (original.min(interface.limit) as usize).min(bytes.len() - 16);
        self.packet(bytes, 12, length, (interface, time), Kind::Simple { limit: interface.limit })
    }

    fn packet(
        &self,
        bytes: Vec<u8>,
        start: usize,
        length: usize,
        (interface, time): (Interface, u64),
        kind: Kind,
    ) -> Result<TimedRecord, Wrong> {
        if interface.link.is_ok() && length > MAX_FRAME {
            return Err(Wrong::packet(format!("{length} bytes are more than a frame can have")));
        }
        if length > bytes.len() - 4 - start {
            return Err(Wrong::packet(format!("{length} bytes are more than its block has")));
        }
        let record = Record { bytes, frame: start..start + length, kind, order: self.order };
        Ok(TimedRecord { link: interface.link, time, record })
    }
}

impl Interface {
    fn read(order: Order, bytes: &[u8]) -> Result<Self, Wrong> {
        if bytes.len() < 20 {
            return Err(Wrong::block("an interface description that is too short".to_owned()));
        }
        let number = u32::from(order.u16(bytes, 8));
        let limit = match order.u32(bytes, 12) {
            0 => u32::MAX,
            limit => limit,
        };
        let mut interface =
            Self { link: Link::of(number).ok_or(number), limit, resolution: 6, offset: 0 };
        for option in options(order, &bytes[16..bytes.len() - 4]) {
            match (option.code, option.value) {
                (TSRESOL, [resolution]) => interface.resolution = *resolution,
                (TSOFFSET, value) if value.len() == 8 => interface.offset = order.i64(value, 0),
                _ => {}
            }
        }
        Ok(interface)
    }

    /// A time stamp of this interface in nanoseconds since 1970, cut to the nearest time that
    /// nanoseconds can say.
    fn nanoseconds(self, stamp: u64) -> u64 {
        let exponent = u32::from(self.resolution & 0x7f);
        let per_second = if self.resolution & 0x80 == 0 {
            10u128.checked_pow(exponent)
        } else {
            1u128.checked_shl(exponent)
        };
        let since_offset =
            per_second.map_or(0, |per_second| u128::from(stamp) * 1_000_000_000 / per_second);
        // At most 2^64 * 10^9 < 2^94.
        let time = since_offset as i128 + i128::from(self.offset) * 1_000_000_000;
        u64::try_from(time.max(0)).unwrap_or(u64::MAX)
    }
}

/// Type and length, and behind the content the length again; a section's byte order in between.
const START: usize = 12;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// The same in either byte order.
pub(crate) const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const INTERFACE: u32 = 1;
const OBSOLETE: u32 = 2;
const SIMPLE: u32 = 3;
const ENHANCED: u32 = 6;
const TSRESOL: u16 = 9;
const TSOFFSET: u16 = 14;
