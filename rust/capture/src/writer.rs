//! What became of the frames, as a capture of the format that they came in.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use kbe_nat_engine::refusal::{Answer, refusal};
use kbe_nat_engine::{Action, Verdict};
use pcap_file::PcapError;
use pcap_file::pcap::{PcapWriter, RawPcapPacket};
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::simple_packet::SimplePacketBlock;
use pcap_file::pcapng::{Block, PcapNgWriter};

use crate::CaptureError;
use crate::reader::{Batch, Frame, Reader, Stamp, Start};

/// Frames that wait for a held one in front of them, at most.
const MAX_WAITING: usize = 4096;

/// Writes frames in the order in which they were read: those behind a held fragment wait until it is decided.
pub struct Writer {
    sink: Sink,
    answer: Answer,
    waiting: VecDeque<Slot>,
    /// Held frames that no other waits for any more, by their ticket.
    late: HashMap<u32, Entry>,
}

enum Sink {
    Pcap(PcapWriter<BufWriter<File>>),
    PcapNg(PcapNgWriter<BufWriter<File>>),
}

enum Slot {
    Ready(Entry),
    Held(u32, Entry),
    Block(Block<'static>),
}

/// A frame that is to be written.
struct Entry {
    frame: Frame,
    bytes: Vec<u8>,
}

impl Writer {
    /// Create the file, for what comes from `reader`; refused packets are answered with `answer`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path, reader: &Reader, answer: Answer) -> Result<Self, CaptureError> {
        let file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let sink = match reader.start() {
            Start::Pcap(header) => Sink::Pcap(PcapWriter::with_header(file, header).map_err(written)?),
            Start::PcapNg(section) => {
                Sink::PcapNg(PcapNgWriter::with_section_header(file, section).map_err(written)?)
            }
        };
        Ok(Self { sink, answer, waiting: VecDeque::new(), late: HashMap::new() })
    }

    /// Write the frames of a batch: `packets` are its packets as the engine left them, with one verdict for each frame.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(
        &mut self,
        batch: &Batch,
        packets: &[u8],
        verdicts: impl IntoIterator<Item = Verdict>,
    ) -> Result<(), CaptureError> {
        let mut blocks = batch.blocks.iter().peekable();
        let (mut header, mut start) = (0, 0);
        for (number, (frame, verdict)) in batch.frames.iter().zip(verdicts).enumerate() {
            while let Some((_, block)) = blocks.next_if(|(before, _)| *before <= number) {
                self.push(Slot::Block(block.clone()))?;
            }
            let link = &batch.headers[header..header + frame.header];
            let end = batch.offsets[number + 1] as usize;
            let packet = &packets[start..end];
            (header, start) = (header + frame.header, end);
            let sent = || Entry {
                frame: frame.clone(),
                bytes: [link, &packet[..frame.captured.min(packet.len())]].concat(),
            };
            match verdict.action {
                Action::Accept => self.push(Slot::Ready(sent()))?,
                Action::Translate => self.push(Slot::Ready(changed(sent())))?,
                Action::Hold => self.push(Slot::Held(verdict.ticket, sent()))?,
                Action::Reject => {
                    if let Some(answer) = refusal(packet, self.answer) {
                        let bytes = [frame.link.answer(link), answer].concat();
                        let original = bytes.len() as u32;
                        let frame = Frame { original, ..frame.clone() };
                        self.push(Slot::Ready(changed(Entry { frame, bytes })))?;
                    }
                }
                Action::Drop => {}
            }
        }
        for (_, block) in blocks {
            self.push(Slot::Block(block.clone()))?;
        }
        Ok(())
    }

    /// A held frame is decided: its packet goes on as `packet`, or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn release(&mut self, ticket: u32, packet: Option<&[u8]>) -> Result<(), CaptureError> {
        let decided = |mut entry: Entry| {
            let packet = packet?;
            let header = entry.frame.header;
            entry.bytes.truncate(header);
            entry.bytes.extend_from_slice(&packet[..entry.frame.captured.min(packet.len())]);
            Some(changed(entry))
        };
        if let Some(entry) = self.late.remove(&ticket) {
            return decided(entry).map_or(Ok(()), |entry| self.sink.frame(entry));
        }
        let place = self.waiting.iter().position(|slot| matches!(slot, Slot::Held(own, _) if *own == ticket));
        if let Some(place) = place
            && let Some(Slot::Held(_, entry)) = self.waiting.remove(place)
            && let Some(entry) = decided(entry)
        {
            self.waiting.insert(place, Slot::Ready(entry));
        }
        self.drain()
    }

    /// Write what waits for fragments that were never decided, but not those, and end the file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn close(mut self) -> Result<(), CaptureError> {
        for slot in self.waiting {
            self.sink.slot(slot)?;
        }
        let mut file = match self.sink {
            Sink::Pcap(writer) => writer.into_writer(),
            Sink::PcapNg(writer) => writer.into_inner(),
        };
        Ok(file.flush()?)
    }

    fn push(&mut self, slot: Slot) -> Result<(), CaptureError> {
        if self.waiting.is_empty() && !matches!(slot, Slot::Held(..)) {
            return self.sink.slot(slot);
        }
        self.waiting.push_back(slot);
        if self.waiting.len() > MAX_WAITING
            && let Some(Slot::Held(ticket, entry)) = self.waiting.pop_front()
        {
            self.late.insert(ticket, entry);
            self.drain()?;
        }
        Ok(())
    }

    /// Write what no held frame stands in front of.
    fn drain(&mut self) -> Result<(), CaptureError> {
        while let Some(slot) = self.waiting.pop_front() {
            if matches!(slot, Slot::Held(..)) {
                self.waiting.push_front(slot);
                break;
            }
            self.sink.slot(slot)?;
        }
        Ok(())
    }
}

/// A hash of the frame is no longer its own.
fn changed(mut entry: Entry) -> Entry {
    if let Stamp::Enhanced { options, .. } = &mut entry.frame.stamp {
        options.retain(|option| !matches!(option, EnhancedPacketOption::Hash(_)));
    }
    entry
}

impl Sink {
    fn slot(&mut self, slot: Slot) -> Result<(), CaptureError> {
        match (slot, self) {
            (Slot::Ready(entry), sink) => sink.frame(entry),
            (Slot::Block(block), Sink::PcapNg(writer)) => {
                writer.write_block(&block).map(drop).map_err(written)
            }
            // Nobody waits for a held frame any more, or a pcap file has no such block.
            (Slot::Held(..) | Slot::Block(_), _) => Ok(()),
        }
    }

    fn frame(&mut self, entry: Entry) -> Result<(), CaptureError> {
        let Entry { frame, bytes } = entry;
        match (self, frame.stamp) {
            (Self::Pcap(writer), Stamp::Pcap { seconds, fraction }) => {
                writer.write_raw_packet(&RawPcapPacket {
                    ts_sec: seconds,
                    ts_frac: fraction,
                    incl_len: bytes.len() as u32,
                    orig_len: frame.original,
                    data: bytes.into(),
                })
            }
            (Self::PcapNg(writer), Stamp::Enhanced { interface, units, options }) => writer
                .write_pcapng_block(EnhancedPacketBlock {
                    interface_id: interface,
                    timestamp: units,
                    original_len: frame.original,
                    data: bytes.into(),
                    options,
                }),
            (Self::PcapNg(writer), Stamp::Simple) => writer
                .write_pcapng_block(SimplePacketBlock { original_len: frame.original, data: bytes.into() }),
            // A writer has the format of its reader.
            _ => Ok(0),
        }
        .map(drop)
        .map_err(written)
    }
}

fn written(error: PcapError) -> CaptureError {
    match error {
        PcapError::IoError(error) => CaptureError::Io(error),
        error => CaptureError::Io(std::io::Error::other(error.to_string())),
    }
}
