//! Capture files as a driver of the engine: pcap and pcapng in, batches of IP packets; verdicts in,
//! a capture of the same format out.
//!
//! | module | what it holds |
//! |---|---|
//! | [`link`] | link types: where in a frame the IP packet begins |
//! | [`reader`] | a file as [`Batch`]es of frames; memory does not grow with the file |
//! | [`writer`] | what became of the frames, in order and with their times |
//! | `pcap`, `pcapng` | the two formats: as much of them as must be understood |
//! | `record` | a frame with all that the file says of it, as the file's own bytes |
//! | `checksum` | transport checksums that the capturing host had left to its device |
//!
//! Records and blocks are read as whole pieces and written as they were read. Only the bytes that a
//! translation changes are changed, so all that is not ours passes byte for byte: frames without a
//! verdict, comments in whatever encoding, options and blocks of any kind, padding.

mod checksum;
pub mod error;
pub mod link;
mod pcap;
mod pcapng;
pub mod reader;
mod record;
mod sink;
mod source;
pub mod writer;

pub use error::CaptureError;
pub use reader::{Batch, Reader};
pub use writer::Writer;

/// Frames of link types that are read and longer than this are a sign of damage (`MAXIMUM_SNAPLEN`
/// of libpcap).
const MAX_FRAME: usize = 262_144;

/// No host makes longer segments (`GSO_MAX_SIZE` of Linux, with headers).
const MAX_SEGMENT: usize = 8 * 65_536;

/// Longer records and blocks are a sign of damage, as Wireshark has it.
const MAX_RECORD: usize = 16 << 20;

/// Bytes after which a batch is full.
const MAX_BATCH: usize = 8 << 20;
