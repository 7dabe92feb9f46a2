//! The frames of a watch, and the event in each.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;

use crate::document::Document;
use crate::error::{DecodingError, Fault, Refusal};

/// Splits the bytes of a watch into frames. Memory: at most an unfinished frame and what `feed` is
/// given.
#[derive(Debug)]
pub struct Frames {
    limit: usize,
    pending: BytesMut,
    /// Where frames begin is unknown after an error, so there are no more.
    broken: Option<DecodingError>,
}

/// An event of a watch.
#[derive(Debug)]
pub struct Event {
    /// ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.
    pub change: String,
    /// The JSON of the object: of a Status for an ERROR.
    pub object: Result<Vec<u8>, Box<Refusal>>,
}

impl Frames {
    /// A stream that is at its begin. A frame has at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, pending: BytesMut::new(), broken: None }
    }

    /// Bytes of the unfinished frame. A stream that ends with any was cut off.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The frames that these bytes complete.
    ///
    /// # Errors
    /// When a frame is too long, then and ever after.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Bytes>, DecodingError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.pending.extend_from_slice(bytes);
        let mut frames = Vec::new();
        loop {
            match self.take() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return Ok(frames),
                Err(error) => {
                    self.pending = BytesMut::new();
                    self.broken = Some(error.clone());
                    return Err(error);
                }
            }
        }
    }

    fn take(&mut self) -> Result<Option<Bytes>, DecodingError> {
        let Some((head, rest)) = self.pending.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*head) as usize;
        if length > self.limit {
            let limit = self.limit;
            return Err(DecodingError(format!("a frame of {length} bytes, of {limit} at most")));
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.pending.advance(PREFIX);
        Ok(Some(self.pending.split_to(length).freeze()))
    }
}

impl Event {
    /// The event in a frame.
    ///
    /// # Errors
    /// When it is none. An object that cannot be read is no error of its event.
    pub fn parse(frame: Bytes) -> Result<Self, DecodingError> {
        let event = WatchEvent::decode(frame).map_err(Fault::from)?;
        if event.r#type.is_empty() {
            return Err(DecodingError("an event without a type".to_owned()));
        }
        let document = Document::parse(event.object.unwrap_or_default().raw)?;
        Ok(Self { change: event.r#type, object: document.json() })
    }
}

#[derive(Clone, PartialEq, Message)]
struct WatchEvent {
    #[prost(string, tag = "1")]
    r#type: String,
    #[prost(message, optional, tag = "2")]
    object: Option<RawExtension>,
}

#[derive(Clone, PartialEq, Message)]
struct RawExtension {
    #[prost(bytes = "bytes", tag = "1")]
    raw: Bytes,
}

/// Bytes of a frame's length before the frame.
const PREFIX: usize = 4;
