//! Fields of a message one by one, without a type for the message.

use bytes::{Buf, Bytes};

use crate::error::Fault;

/// The fields of a message in their order. After a fault there are no more.
#[derive(Debug)]
pub(crate) struct Fields(Bytes);

impl Fields {
    pub(crate) fn new(message: Bytes) -> Self {
        Self(message)
    }

    fn read(&mut self) -> Result<(usize, Option<Bytes>), Fault> {
        let key = self.varint()?;
        let length = match key & 7 {
            0 => {
                self.varint()?;
                return Ok((key >> 3, None));
            }
            1 => 8,
            2 => self.varint()?,
            5 => 4,
            // Groups, which Kubernetes has nowhere.
            other => return Err(Fault::new(format!("wire type {other}"))),
        };
        if length > self.0.len() {
            return Err(Fault::new(format!(
                "{length} bytes are announced where {} are left",
                self.0.len()
            )));
        }
        Ok((key >> 3, Some(self.0.split_to(length))))
    }

    fn varint(&mut self) -> Result<usize, Fault> {
        if !self.0.has_remaining() {
            return Err(Fault::new("the message ends within a field"));
        }
        Ok(prost::decode_length_delimiter(&mut self.0)?)
    }
}

impl Iterator for Fields {
    /// Number of the field, and its bytes where it is delimited by a length.
    type Item = Result<(usize, Option<Bytes>), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.0.clear();
        }
        Some(field)
    }
}

/// The text of the last field of this number; empty where there is none that can be read.
pub(crate) fn text(message: Bytes, number: usize) -> String {
    let bytes = delimited(message, number).unwrap_or_default();
    std::str::from_utf8(&bytes).unwrap_or_default().to_owned()
}

/// The bytes of the last field of this number that can be read.
pub(crate) fn delimited(message: Bytes, number: usize) -> Option<Bytes> {
    Fields::new(message)
        .map_while(Result::ok)
        .filter_map(|(field, bytes)| bytes.filter(|_| field == number))
        .last()
}
