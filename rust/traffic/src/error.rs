//! How traffic fails.

use std::io;

/// Traffic that could not be made, or is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// A system call failed that must not.
    #[error("{step}: {source}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A stream ended before all of it was received.
    #[error("the stream was cut off: {received} of {sent} bytes were received")]
    CutOff {
        /// Bytes sent.
        sent: u64,
        /// Bytes that the receiver has counted.
        received: u64,
    },
}

/// An [`TrafficError::Io`] at this step.
pub(crate) fn at(step: &'static str) -> impl Fn(io::Error) -> TrafficError {
    move |source| TrafficError::Io { step, source }
}
