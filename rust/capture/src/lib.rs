//! Capture files as a driver of the engine: pcap and pcapng in, batches of IP packets; verdicts in, a capture of the same format out.
//!
//! | module | what it holds |
//! |---|---|
//! | [`link`] | link types: where in a frame the IP packet begins |
//! | [`reader`] | a file as [`Batch`]es of frames; memory does not grow with the file |
//! | [`writer`] | what became of the frames, in order and with their times |
//!
//! The formats themselves are `pcap-file`'s. What is kept byte for byte: frames that nobody translates, pcapng blocks that hold no
//! packets, time stamps in the units they came in.

mod error;
pub mod link;
pub mod reader;
pub mod writer;

pub use error::CaptureError;
pub use reader::{Batch, Reader};
pub use writer::Writer;
