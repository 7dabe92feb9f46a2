//! The file that is written.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;

use crate::CaptureError;
use crate::record::{Block, Record, SectionStart};

/// A capture file that grows, and the length of its pcapng section, which stands at the section's
/// head.
pub(crate) struct Sink {
    file: BufWriter<File>,
    /// Whether what was written can be changed: a pipe cannot, and standard output may be appended
    /// to.
    can_seek: bool,
    written: u64,
    section: Option<OpenSection>,
}

/// A section that is written, and whose header says a length.
struct OpenSection {
    start: SectionStart,
    /// Where the length stands.
    place: u64,
    /// Where the section's blocks begin.
    body: u64,
}

impl Sink {
    /// Begins the file with this name, or standard output, with `header`.
    pub(crate) fn create(path: Option<&Path>, header: &[u8]) -> Result<Self, CaptureError> {
        let (file, can_seek) = match path {
            Some(path) => {
                let file = File::create(path)?;
                let is_file = file.metadata()?.is_file();
                (file, is_file)
            }
            None => (File::from(std::io::stdout().as_fd().try_clone_to_owned()?), false),
        };
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(header)?;
        Ok(Self { file, can_seek, written: header.len() as u64, section: None })
    }

    pub(crate) fn record(&mut self, record: &Record) -> Result<(), CaptureError> {
        self.bytes(&record.bytes)
    }

    pub(crate) fn block(&mut self, block: &Block) -> Result<(), CaptureError> {
        let Some(start) = block.section else { return self.bytes(&block.bytes) };
        self.end_section(start.former)?;
        let field = SectionStart::LENGTH..SectionStart::LENGTH + 8;
        let is_said = start.order.i64(&block.bytes, field.start) != SectionStart::UNSAID;
        if is_said && !self.can_seek {
            // Whether it will be right is not known yet.
            let mut bytes = block.bytes.clone();
            bytes[field].copy_from_slice(&start.order.long_bytes(SectionStart::UNSAID));
            return self.bytes(&bytes);
        }
        let place = self.written + field.start as u64;
        self.bytes(&block.bytes)?;
        self.section = is_said.then_some(OpenSection { start, place, body: self.written });
        Ok(())
    }

    /// Ends the file, whose last section was `read` bytes long.
    pub(crate) fn close(mut self, read: u64) -> Result<(), CaptureError> {
        self.end_section(read)?;
        Ok(self.file.flush()?)
    }

    /// Corrects the length of the section that is open, if it is another than the one that was
    /// read.
    fn end_section(&mut self, read: u64) -> Result<(), CaptureError> {
        let Some(section) = self.section.take() else { return Ok(()) };
        let length = self.written - section.body;
        if length != read {
            self.file.seek(SeekFrom::Start(section.place))?;
            self.file.write_all(&section.start.order.long_bytes(length as i64))?;
            self.file.seek(SeekFrom::Start(self.written))?;
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), CaptureError> {
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}
