//! Faults of a capture file, and their places.

/// Why a capture cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The operating system refuses.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The file is of another kind.
    #[error("neither a pcap nor a pcapng file{0}")]
    Format(&'static str),
    /// The file is of a version of its format that is not read.
    #[error("{0}")]
    Version(String),
    /// The file is damaged.
    #[error("{place}: {reason} (byte {})", place.offset)]
    Damaged {
        /// Where the damage shows.
        place: Place,
        /// The fault.
        reason: String,
    },
}

/// Where something is in a capture file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The kind of thing that stands there.
    pub what: Item,
    /// Its number among its like, from 1.
    pub number: u64,
    /// The byte of the file at which it begins, from 0.
    pub offset: u64,
}

/// A part of a capture file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item {
    /// A frame with its time.
    Packet,
    /// A block of a pcapng file; packets are blocks too.
    Block,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.what {
            Item::Packet => "packet",
            Item::Block => "block",
        };
        write!(f, "{what} {}", self.number)
    }
}

/// A fault, before its place is added.
pub(crate) enum Wrong {
    Io(std::io::Error),
    Record(Item, String),
}

impl Wrong {
    pub(crate) fn packet(reason: String) -> Self {
        Self::Record(Item::Packet, reason)
    }

    pub(crate) fn block(reason: String) -> Self {
        Self::Record(Item::Block, reason)
    }
}

impl From<std::io::Error> for Wrong {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}
