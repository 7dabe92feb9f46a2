//! What can be wrong with a capture file.

use pcap_file::PcapError;

/// Why a capture cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The operating system refuses.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The file is of another kind.
    #[error("neither a pcap nor a pcapng file")]
    Format,
    /// Its frames are of a kind that is not understood.
    #[error("link type {0} is not supported: Ethernet, raw IP, NULL, LOOP and Linux cooked are")]
    LinkType(u32),
    /// The file is damaged.
    #[error("packet {packet}: {reason}")]
    Damaged {
        /// Number of the packet in which the damage shows, from 1.
        packet: u64,
        /// What is wrong.
        reason: String,
    },
}

impl CaptureError {
    /// An error of the parser at the packet with this number.
    pub(crate) fn at(packet: u64, error: PcapError) -> Self {
        let reason = match error {
            PcapError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                "the file ends within it".to_owned()
            }
            PcapError::IoError(error) => return Self::Io(error),
            error => error.to_string(),
        };
        Self::Damaged { packet, reason }
    }
}
