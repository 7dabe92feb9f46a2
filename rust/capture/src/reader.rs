//! A capture file as batches of frames.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pcap_file::PcapError;
use pcap_file::pcap::{PcapHeader, PcapReader};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::SectionHeaderBlock;
use pcap_file::pcapng::{Block, PcapNgReader};

use crate::CaptureError;
use crate::link::Link;

/// Frames longer than this are a sign of damage (`MAXIMUM_SNAPLEN` of libpcap).
const MAX_FRAME: usize = 262_144;

/// Frames that were read together, and the IP packets in them.
#[derive(Debug, Default)]
pub struct Batch {
    /// The IP packets, back to back. One that the capture cut short is filled up with zeros, so that it can be translated.
    pub packets: Vec<u8>,
    /// Where each frame's packet starts in `packets`, and where the last ends. A frame without an IP packet has an empty one.
    pub offsets: Vec<u64>,
    pub(crate) frames: Vec<Frame>,
    /// Headers of frames with an IP packet, and whole frames without one.
    pub(crate) headers: Vec<u8>,
    /// Blocks of a pcapng file that are no packets, each with the number of frames in front of it.
    pub(crate) blocks: Vec<(usize, Block<'static>)>,
}

impl Batch {
    /// When each frame was captured, in nanoseconds since 1970.
    pub fn times(&self) -> impl Iterator<Item = u64> {
        self.frames.iter().map(|frame| frame.time)
    }

    /// Number of frames.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is no frame in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Cost: one copy of the frame.
    fn push(&mut self, link: Link, original: u32, time: u64, stamp: Stamp, bytes: &[u8]) {
        let header = link.header(bytes).unwrap_or(bytes.len());
        self.headers.extend_from_slice(&bytes[..header]);
        let packet = &bytes[header..];
        self.packets.extend_from_slice(packet);
        if original as usize > bytes.len() {
            let missing = total_length(packet).saturating_sub(packet.len());
            self.packets.resize(self.packets.len() + missing, 0);
        }
        self.offsets.push(self.packets.len() as u64);
        self.frames.push(Frame { time, stamp, original, link, header, captured: packet.len() });
    }
}

/// What a frame is apart from its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) time: u64,
    pub(crate) stamp: Stamp,
    /// Its length before the capture cut it.
    pub(crate) original: u32,
    pub(crate) link: Link,
    /// Length of what stands in front of the IP packet.
    pub(crate) header: usize,
    /// Length of the IP packet as it was captured, with any trailer.
    pub(crate) captured: usize,
}

/// A time as the file says it, with what else it says of a packet.
#[derive(Clone, Debug)]
pub(crate) enum Stamp {
    Pcap { seconds: u32, fraction: u32 },
    Enhanced { interface: u32, units: Duration, options: Vec<EnhancedPacketOption<'static>> },
    Simple,
}

/// Reads a pcap or pcapng file.
pub struct Reader {
    source: Source,
    read: Arc<AtomicU64>,
    /// Packets that were read.
    packets: u64,
    /// A frame that was read, but belongs to the next batch.
    ahead: Option<Ahead>,
    /// Time of the last frame; simple packets have none of their own.
    time: u64,
}

struct Ahead {
    link: Link,
    original: u32,
    stamp: Stamp,
    time: u64,
    bytes: Vec<u8>,
}

enum Source {
    Pcap(Box<PcapReader<Counted>>, Link),
    PcapNg(Box<PcapNgReader<Counted>>),
}

/// How the file that is written begins.
pub(crate) enum Start {
    Pcap(PcapHeader),
    PcapNg(SectionHeaderBlock<'static>),
}

impl Reader {
    /// Open a file.
    ///
    /// # Errors
    /// When it cannot be read, is no capture, or is one of a link type that is not understood.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let mut magic = [0; 4];
        let mut file = File::open(path)?;
        let length = read_up_to(&mut file, &mut magic)?;
        let read = Arc::new(AtomicU64::new(0));
        let counted = Counted { magic, ahead: length, file, read: Arc::clone(&read) };
        let broken = |error| match CaptureError::at(1, error) {
            CaptureError::Damaged { .. } => CaptureError::Format,
            error => error,
        };
        let source = match u32::from_be_bytes(magic) {
            0x0a0d_0d0a => Source::PcapNg(Box::new(PcapNgReader::new(counted).map_err(broken)?)),
            0xa1b2_c3d4 | 0xa1b2_3c4d | 0xd4c3_b2a1 | 0x4d3c_b2a1 => {
                let reader = PcapReader::new(counted).map_err(broken)?;
                let link = link_of(u32::from(reader.header().datalink))?;
                Source::Pcap(Box::new(reader), link)
            }
            _ => return Err(CaptureError::Format),
        };
        Ok(Self { source, read, packets: 0, ahead: None, time: 0 })
    }

    /// Bytes of the file that were read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(crate) fn start(&self) -> Start {
        match &self.source {
            Source::Pcap(reader, _) => Start::Pcap(reader.header()),
            Source::PcapNg(reader) => Start::PcapNg(reader.section().clone()),
        }
    }

    /// The next frames: at most `max_packets`, captured at most `max_span` nanoseconds after the first. `None` at the end; what is
    /// read is held in memory once.
    ///
    /// # Errors
    /// [`CaptureError::Damaged`] with the number of the packet.
    pub fn read_batch(&mut self, max_packets: usize, max_span: u64) -> Result<Option<Batch>, CaptureError> {
        let mut batch = Batch { offsets: vec![0], ..Batch::default() };
        let mut start = None;
        if let Some(first) = self.ahead.take() {
            start = Some(first.time);
            batch.push(first.link, first.original, first.time, first.stamp, &first.bytes);
        }
        while batch.len() < max_packets {
            let read = match &mut self.source {
                Source::Pcap(reader, link) => pcap_frame(reader, *link),
                Source::PcapNg(reader) => pcapng_frame(reader, self.time),
            };
            let found = match read {
                None => break,
                Some(Err(error)) => return Err(error.at(self.packets + 1)),
                Some(Ok(Found::Block(block))) => {
                    batch.blocks.push((batch.len(), block));
                    continue;
                }
                Some(Ok(Found::Frame(frame))) => frame,
            };
            self.packets += 1;
            if found.bytes.len() > MAX_FRAME {
                let reason = format!("{} bytes are more than a frame can have", found.bytes.len());
                return Err(CaptureError::Damaged { packet: self.packets, reason });
            }
            self.time = found.time;
            let start = *start.get_or_insert(found.time);
            if found.time.saturating_sub(start) > max_span {
                self.ahead = Some(found);
                break;
            }
            batch.push(found.link, found.original, found.time, found.stamp, &found.bytes);
        }
        Ok((!batch.is_empty() || !batch.blocks.is_empty()).then_some(batch))
    }
}

enum Found {
    Frame(Ahead),
    Block(Block<'static>),
}

/// What is wrong, before it is known where.
enum Wrong {
    Parser(PcapError),
    Capture(CaptureError),
    Field(&'static str),
}

impl Wrong {
    fn at(self, packet: u64) -> CaptureError {
        match self {
            Self::Parser(error) => CaptureError::at(packet, error),
            Self::Capture(error) => error,
            Self::Field(reason) => CaptureError::Damaged { packet, reason: reason.to_owned() },
        }
    }
}

fn link_of(number: u32) -> Result<Link, CaptureError> {
    // The upper half says how long a frame check sequence is.
    let number = number & 0xffff;
    Link::of(number).ok_or(CaptureError::LinkType(number))
}

fn pcap_frame(reader: &mut PcapReader<Counted>, link: Link) -> Option<Result<Found, Wrong>> {
    let nanoseconds = match reader.header().ts_resolution {
        pcap_file::TsResolution::MicroSecond => 1000,
        pcap_file::TsResolution::NanoSecond => 1,
    };
    let packet = match reader.next_raw_packet()? {
        Ok(packet) => packet,
        Err(error) => return Some(Err(Wrong::Parser(error))),
    };
    Some(Ok(Found::Frame(Ahead {
        link,
        original: packet.orig_len,
        stamp: Stamp::Pcap { seconds: packet.ts_sec, fraction: packet.ts_frac },
        time: u64::from(packet.ts_sec) * 1_000_000_000 + u64::from(packet.ts_frac) * nanoseconds,
        bytes: packet.data.into_owned(),
    })))
}

fn pcapng_frame(reader: &mut PcapNgReader<Counted>, time: u64) -> Option<Result<Found, Wrong>> {
    // Blocks borrow the reader, and so do its interfaces.
    let block = match reader.next_block()? {
        Ok(block) => block.into_owned(),
        Err(error) => return Some(Err(Wrong::Parser(error))),
    };
    Some(frame_of(reader.interfaces(), block, time))
}

fn frame_of(
    interfaces: &[InterfaceDescriptionBlock<'static>],
    block: Block<'static>,
    time: u64,
) -> Result<Found, Wrong> {
    let interface = |number: u32| {
        let missing = Wrong::Field("it names an interface that the file does not describe");
        let interface = interfaces.get(number as usize).ok_or(missing)?;
        Ok((interface, link_of(u32::from(interface.linktype)).map_err(Wrong::Capture)?))
    };
    let found = match block {
        Block::EnhancedPacket(packet) => {
            let (described, link) = interface(packet.interface_id)?;
            Ahead {
                link,
                original: packet.original_len,
                time: nanoseconds(described, packet.timestamp.as_nanos()),
                stamp: Stamp::Enhanced {
                    interface: packet.interface_id,
                    units: packet.timestamp,
                    options: packet.options,
                },
                bytes: packet.data.into_owned(),
            }
        }
        Block::Packet(packet) => {
            let number = u32::from(packet.interface_id);
            let (described, link) = interface(number)?;
            Ahead {
                link,
                original: packet.original_len,
                time: nanoseconds(described, u128::from(packet.timestamp)),
                stamp: Stamp::Enhanced {
                    interface: number,
                    units: Duration::from_nanos(packet.timestamp),
                    options: Vec::new(),
                },
                bytes: packet.data.into_owned(),
            }
        }
        Block::SimplePacket(packet) => {
            let (described, link) = interface(0)?;
            let mut bytes = packet.data.into_owned();
            let limit = if described.snaplen == 0 { u32::MAX } else { described.snaplen };
            // The rest of the block is padding.
            bytes.truncate(packet.original_len.min(limit) as usize);
            Ahead { link, original: packet.original_len, time, stamp: Stamp::Simple, bytes }
        }
        block => return Ok(Found::Block(block)),
    };
    Ok(Found::Frame(found))
}

/// A time in the units of an interface (`if_tsresol`, `if_tsoffset`) in nanoseconds.
fn nanoseconds(interface: &InterfaceDescriptionBlock<'_>, units: u128) -> u64 {
    let (mut resolution, mut offset) = (6, 0);
    for option in &interface.options {
        match option {
            InterfaceDescriptionOption::IfTsResol(own) => resolution = *own,
            InterfaceDescriptionOption::IfTsOffset(own) => offset = *own,
            _ => {}
        }
    }
    let exponent = u32::from(resolution & 0x7f);
    let per_second =
        if resolution & 0x80 == 0 { 10u128.checked_pow(exponent) } else { 1u128.checked_shl(exponent) };
    let own = per_second.map_or(0, |per_second| units * 1_000_000_000 / per_second);
    let offset = u128::from(offset).saturating_mul(1_000_000_000);
    u64::try_from(own.saturating_add(offset)).unwrap_or(u64::MAX)
}

/// Length that an IP packet says it has; 0 when it has no header.
fn total_length(packet: &[u8]) -> usize {
    let number = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => number(2),
        Some(6) if packet.len() >= 40 => 40 + number(4),
        _ => 0,
    }
}

/// A file of which the first bytes were read already, and which counts what is taken from it.
struct Counted {
    magic: [u8; 4],
    /// How many of `magic` were not handed out yet.
    ahead: usize,
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = if self.ahead > 0 {
            let taken = self.ahead.min(buffer.len());
            // `ahead` is less than four only for a file of less than four bytes, which is no capture.
            buffer[..taken].copy_from_slice(&self.magic[4 - self.ahead..][..taken]);
            self.ahead -= taken;
            taken
        } else {
            self.file.read(buffer)?
        };
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}
