//! The bytes of a capture file, and how many of them were read.

use std::io::{BufReader, Read};

/// A file that is read from its beginning to its end.
pub(crate) struct Source {
    file: BufReader<Box<dyn Read + Send>>,
    position: u64,
}

impl Source {
    pub(crate) fn new(file: Box<dyn Read + Send>) -> Self {
        Self { file: BufReader::with_capacity(1 << 16, file), position: 0 }
    }

    /// Bytes that were read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Appends the next `length` bytes, or fewer where the file ends; how many. Memory is taken for
    /// bytes that are there, not for a length that a damaged file claims.
    pub(crate) fn append(&mut self, bytes: &mut Vec<u8>, length: usize) -> std::io::Result<usize> {
        let read = self.file.by_ref().take(length as u64).read_to_end(bytes)?;
        self.position += read as u64;
        Ok(read)
    }
}

/// The byte order of a file or of one of its sections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    Little,
    Big,
}

impl Order {
    /// The number that begins at `place`; 0 behind the end.
    pub(crate) fn u16(self, bytes: &[u8], place: usize) -> u16 {
        let bytes = field(bytes, place);
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    /// The number that begins at `place`; 0 behind the end.
    pub(crate) fn u32(self, bytes: &[u8], place: usize) -> u32 {
        let bytes = field(bytes, place);
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    /// The number that begins at `place`; 0 behind the end.
    pub(crate) fn i64(self, bytes: &[u8], place: usize) -> i64 {
        let bytes = field(bytes, place);
        match self {
            Self::Little => i64::from_le_bytes(bytes),
            Self::Big => i64::from_be_bytes(bytes),
        }
    }

    pub(crate) fn bytes(self, number: u32) -> [u8; 4] {
        match self {
            Self::Little => number.to_le_bytes(),
            Self::Big => number.to_be_bytes(),
        }
    }

    pub(crate) fn long_bytes(self, number: i64) -> [u8; 8] {
        match self {
            Self::Little => number.to_le_bytes(),
            Self::Big => number.to_be_bytes(),
        }
    }
}

fn field<const N: usize>(bytes: &[u8], place: usize) -> [u8; N] {
    bytes.get(place..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or([0; N])
}
