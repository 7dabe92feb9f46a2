//! Writes frames with their new packets, as a capture of the format that they came in.

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use kbe_nat_engine::reject::{RejectWith, reject};
use kbe_nat_engine::{Action, Verdict};

use crate::CaptureError;
use crate::checksum::settle;
use crate::reader::{Batch, Frame, Reader};
use crate::record::{Block, Record};
use crate::sink::Sink;

/// Frames that wait for a held one in front of them, at most.
const MAX_WAITING: usize = 4096;

/// Writes frames in the order in which they were read. Frames behind a held fragment wait until the
/// fragment is decided.
pub struct Writer {
    sink: Sink,
    answer: RejectWith,
    waiting: VecDeque<Slot>,
    /// Held frames that no other waits for any more, by their ticket.
    late: HashMap<u32, Frame>,
    /// Bytes of the pcapng section that was read last.
    section: u64,
}

enum Slot {
    Ready(Record),
    Held(u32, Frame),
    Block(Block),
}

impl Writer {
    /// Create the file with this name, or take standard output, for what comes from `reader`;
    /// refused packets are answered with `answer`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(
        path: Option<&Path>,
        reader: &Reader,
        answer: RejectWith,
    ) -> Result<Self, CaptureError> {
        let sink = Sink::create(path, reader.header())?;
        Ok(Self { sink, answer, waiting: VecDeque::new(), late: HashMap::new(), section: 0 })
    }

    /// Write the frames of a batch: `packets` are its packets as the engine left them, with one
    /// verdict for each frame.
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
        for (number, (frame, verdict)) in batch.frames.iter().zip(verdicts).enumerate() {
            while let Some((_, block)) = blocks.next_if(|(before, _)| *before <= number) {
                self.push(Slot::Block(block.clone()))?;
            }
            let (start, end) = (batch.offsets[number] as usize, batch.offsets[number + 1] as usize);
            let packet = &packets[start..end];
            match verdict.action {
                Action::Pass => self.push(Slot::Ready(frame.record.clone()))?,
                Action::Translate => {
                    let mut packet = packet.to_vec();
                    let is_whole = frame.captured >= packet.len();
                    settle(&batch.packets[start..end], &mut packet, is_whole);
                    self.push(Slot::Ready(with_packet(frame, &packet)))?;
                }
                Action::Hold => self.push(Slot::Held(verdict.ticket, frame.clone()))?,
                Action::Reject => {
                    if let (Some(link), Some(answer)) = (frame.link, reject(packet, self.answer)) {
                        let header = link.answer(&frame.record.frame()[..frame.header]);
                        let mut record = frame.record.clone();
                        record.replace(&[header, answer].concat());
                        self.push(Slot::Ready(record))?;
                    }
                }
                Action::Drop => {}
            }
        }
        for (_, block) in blocks {
            self.push(Slot::Block(block.clone()))?;
        }
        self.section = batch.section;
        Ok(())
    }

    /// A held frame is decided: its packet goes on as `packet`, or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn release(&mut self, ticket: u32, packet: Option<&[u8]>) -> Result<(), CaptureError> {
        let decided = |frame: &Frame| packet.map(|packet| with_packet(frame, packet));
        if let Some(frame) = self.late.remove(&ticket) {
            return decided(&frame).map_or(Ok(()), |record| self.sink.record(&record));
        }
        let place = self
            .waiting
            .iter()
            .position(|slot| matches!(slot, Slot::Held(own, _) if *own == ticket));
        if let Some(place) = place
            && let Some(Slot::Held(_, frame)) = self.waiting.remove(place)
            && let Some(record) = decided(&frame)
        {
            self.waiting.insert(place, Slot::Ready(record));
        }
        self.drain()
    }

    /// Write what waits for fragments that were never decided, but not those, and end the file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn close(mut self) -> Result<(), CaptureError> {
        for slot in std::mem::take(&mut self.waiting) {
            self.put(slot)?;
        }
        self.sink.close(self.section)
    }

    fn push(&mut self, slot: Slot) -> Result<(), CaptureError> {
        if self.waiting.is_empty() && !matches!(slot, Slot::Held(..)) {
            return self.put(slot);
        }
        self.waiting.push_back(slot);
        if self.waiting.len() > MAX_WAITING
            && let Some(Slot::Held(ticket, frame)) = self.waiting.pop_front()
        {
            self.late.insert(ticket, frame);
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
            self.put(slot)?;
        }
        Ok(())
    }

    fn put(&mut self, slot: Slot) -> Result<(), CaptureError> {
        match slot {
            Slot::Ready(record) => self.sink.record(&record),
            Slot::Block(block) => {
                if block.section.is_some() {
                    // Behind it the numbers of interfaces mean others.
                    self.late.clear();
                }
                self.sink.block(&block)
            }
            // Its datagram was never decided, and no frame waits for it any more.
            Slot::Held(..) => Ok(()),
        }
    }
}

/// The record of a frame whose packet is now `packet`, of which only as much as was captured
/// counts.
fn with_packet(frame: &Frame, packet: &[u8]) -> Record {
    let mut record = frame.record.clone();
    let mut bytes = record.frame().to_vec();
    let length = frame.captured.min(packet.len());
    bytes[frame.header..frame.header + length].copy_from_slice(&packet[..length]);
    record.change(&bytes);
    record
}
