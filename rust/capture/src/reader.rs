//! A capture file as batches of frames.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use kbe_nat_engine::wire::ipv6::jumbo_length;

use crate::error::{Item, Place, Wrong};
use crate::link::Link;
use crate::pcap::Format;
use crate::pcapng::{SECTION_HEADER, Section};
use crate::record::{Block, Read, Record, TimedRecord};
use crate::source::Source;
use crate::{CaptureError, MAX_BATCH, MAX_SEGMENT};

/// Frames that were read together, and the IP packets in them.
#[derive(Debug, Default)]
pub struct Batch {
    /// The IP packets, back to back. One that the capture cut short is filled up with zeros, so
    /// that it can be translated.
    pub packets: Vec<u8>,
    /// Where each frame's packet starts in `packets`, and where the last ends. A frame without an
    /// IP packet has an empty one.
    pub offsets: Vec<u64>,
    pub(crate) frames: Vec<Frame>,
    /// Blocks of a pcapng file that are no packets, each with the number of frames in front of it.
    pub(crate) blocks: Vec<(usize, Block)>,
    /// Bytes of the pcapng section in which the batch ends, up to there.
    pub(crate) section: u64,
    /// Bytes of the file that are held.
    held: usize,
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
    fn push(&mut self, found: TimedRecord) {
        let TimedRecord { link, time, record } = found;
        let link = link.ok();
        let bytes = record.frame();
        let header = link.and_then(|link| link.header(bytes)).unwrap_or(bytes.len());
        let packet = &bytes[header..];
        self.packets.extend_from_slice(packet);
        let original = record.original() as usize;
        if original > bytes.len() {
            let missing = total_length(packet, original - header).saturating_sub(packet.len());
            self.packets.resize(self.packets.len() + missing, 0);
        }
        self.held += record.bytes.len() + self.packets.len()
            - self.offsets.last().map_or(0, |&end| end as usize);
        self.offsets.push(self.packets.len() as u64);
        let captured = packet.len();
        self.frames.push(Frame { time, link, header, captured, record });
    }
}

/// A frame, as its record and its link type describe it.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    time: u64,
    /// `None`: its link type is not read, and it holds no packet.
    pub(crate) link: Option<Link>,
    /// Bytes in front of the IP packet: all of them, where there is no packet.
    pub(crate) header: usize,
    /// Length of the IP packet as it was captured, with any trailer.
    pub(crate) captured: usize,
    pub(crate) record: Record,
}

/// Reads a pcap or pcapng file.
pub struct Reader {
    source: Source,
    layout: Layout,
    /// The bytes that tell the format: the header of a pcap file, or the start of the first block.
    head: Vec<u8>,
    /// Packets that were read.
    packets: u64,
    unread: BTreeMap<u32, u64>,
    cut: Option<Place>,
    /// A frame that was read, but belongs to the next batch.
    ahead: Option<TimedRecord>,
    /// Time of the last frame; simple packets have none of their own.
    time: u64,
}

enum Layout {
    Pcap(Format),
    PcapNg(Section),
}

impl Reader {
    /// Open a file.
    ///
    /// # Errors
    /// When it cannot be read, or is no capture of a version that is read.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Self::new(Box::new(File::open(path)?))
    }

    /// Read what a file holds from elsewhere.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn new(file: Box<dyn std::io::Read + Send>) -> Result<Self, CaptureError> {
        let mut source = Source::new(file);
        let mut head = Vec::new();
        source.append(&mut head, 4)?;
        let layout = if head == SECTION_HEADER {
            Layout::PcapNg(Section::new())
        } else {
            match Format::read(&mut source, &mut head)? {
                Some(format) => Layout::Pcap(format),
                None => return Err(CaptureError::Format(seems(&head))),
            }
        };
        let unread = BTreeMap::new();
        Ok(Self { source, layout, head, packets: 0, unread, cut: None, ahead: None, time: 0 })
    }

    /// Bytes of the file that were read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.source.position()
    }

    /// Frames so far that stay as they are because their link type is not read, by its number.
    #[must_use]
    pub fn unread(&self) -> &BTreeMap<u32, u64> {
        &self.unread
    }

    /// Where the file ends, if that is within a packet or block: its beginning.
    #[must_use]
    pub fn cut(&self) -> Option<Place> {
        self.cut
    }

    /// The header of a pcap file; empty for pcapng, whose blocks are all read.
    pub(crate) fn header(&self) -> &[u8] {
        match self.layout {
            Layout::Pcap(_) => &self.head,
            Layout::PcapNg(_) => &[],
        }
    }

    /// The next frames: at most `max_packets`, captured at most `max_span` nanoseconds after the
    /// first. `None` at the end. A batch is held in memory once. A file that was cut off ends with
    /// its last whole frame: see [`Reader::cut`].
    ///
    /// # Errors
    /// [`CaptureError::Damaged`] with the place of the damage.
    pub fn read_batch(
        &mut self,
        max_packets: usize,
        max_span: u64,
    ) -> Result<Option<Batch>, CaptureError> {
        let mut batch = Batch { offsets: vec![0], ..Batch::default() };
        let mut start = None;
        if let Some(first) = self.ahead.take() {
            start = Some(first.time);
            batch.push(first);
        }
        while batch.len() < max_packets && batch.held < MAX_BATCH {
            let frame = match self.next()? {
                None | Some(Read::Cut(_)) => break,
                Some(Read::Block(block)) => {
                    batch.held += block.bytes.len();
                    batch.blocks.push((batch.len(), block));
                    continue;
                }
                Some(Read::Frame(frame)) => frame,
            };
            let start = *start.get_or_insert(frame.time);
            if frame.time.saturating_sub(start) > max_span {
                self.ahead = Some(frame);
                break;
            }
            batch.push(frame);
        }
        if let Layout::PcapNg(section) = &self.layout {
            let ahead = self.ahead.as_ref().map_or(0, |ahead| ahead.record.bytes.len() as u64);
            batch.section = section.length - ahead;
        }
        Ok((!batch.is_empty() || !batch.blocks.is_empty()).then_some(batch))
    }

    fn next(&mut self) -> Result<Option<Read>, CaptureError> {
        if self.cut.is_some() {
            return Ok(None);
        }
        let (read, blocks, start) = match &mut self.layout {
            Layout::Pcap(format) => {
                let start = self.source.position();
                (format.next(&mut self.source), 0, start)
            }
            Layout::PcapNg(section) => {
                let head = std::mem::take(&mut self.head);
                let start = self.source.position() - head.len() as u64;
                (section.next(&mut self.source, head, self.time), section.blocks, start)
            }
        };
        let packet = self.packets + 1;
        let place = |what| {
            let number = if what == Item::Packet { packet } else { blocks };
            Place { what, number, offset: start }
        };
        match read {
            Ok(None) => Ok(None),
            Ok(Some(Read::Block(block))) => Ok(Some(Read::Block(block))),
            Ok(Some(Read::Cut(what))) => {
                self.cut = Some(place(what));
                Ok(None)
            }
            Ok(Some(Read::Frame(found))) => {
                self.packets = packet;
                self.time = found.time;
                if let Err(number) = found.link {
                    *self.unread.entry(number).or_default() += 1;
                }
                Ok(Some(Read::Frame(found)))
            }
            Err(Wrong::Io(error)) => Err(CaptureError::Io(error)),
            Err(Wrong::Record(what, reason)) => {
                Err(CaptureError::Damaged { place: place(what), reason })
            }
        }
    }
}

/// Length that an IP packet of a frame that was cut had; `whole` is what the frame had behind its
/// link header. 0 when there is no header.
fn total_length(packet: &[u8], whole: usize) -> usize {
    let number = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    // A host whose device cuts segments may leave their length out.
    let uncut = if whole <= MAX_SEGMENT { whole } else { 0 };
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => match number(2) {
            0 => uncut,
            length => length,
        },
        Some(6) if packet.len() >= 40 => match (number(4), jumbo_length(packet[6], packet)) {
            (0, None) => uncut,
            (0, Some(length)) if length as usize <= uncut.saturating_sub(40) => {
                40 + length as usize
            }
            (length, _) => 40 + length,
        },
        _ => 0,
    }
}

/// Formats for which a file is no capture, by how they begin.
fn seems(head: &[u8]) -> &'static str {
    match head {
        [0x1f, 0x8b, ..] => ": it is compressed by gzip, unpack it first",
        [0x28, 0xb5, 0x2f, 0xfd] => ": it is compressed by zstd, unpack it first",
        [0xfd, b'7', b'z', b'X'] => ": it is compressed by xz, unpack it first",
        [b'B', b'Z', b'h', _] => ": it is compressed by bzip2, unpack it first",
        [0x04, 0x22, 0x4d, 0x18] => ": it is compressed by lz4, unpack it first",
        [b'P', b'K', 3, 4] => ": it is a zip archive, unpack it first",
        b"snoo" => ": it is a snoop file; `editcap -F pcapng` converts it",
        b"GMBU" | b"RTSS" => {
            ": it is of Microsoft's Network Monitor; `editcap -F pcapng` converts it"
        }
        [0xa1, 0xb2, 0x34, 0xcd]
        | [0xcd, 0x34, 0xb2, 0xa1]
        | [0xa1, 0x2b, 0x3c, 0x4d]
        | [0x4d, 0x3c, 0x2b, 0xa1]
        | [0x1c, 0, 1, 0xab | 0xac]
        | [0xab | 0xac, 1, 0, 0x1c] => ": it is a variant of pcap; `editcap -F pcapng` converts it",
        _ => "",
    }
}
