//! A Status, an answer in place of objects.

use bytes::Bytes;
use prost::Message;

use super::metadata::ListMetadata;
use super::object::ObjectMessage;
use crate::error::Fault;
use crate::json::{Object, Value, Written};

/// A Status.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ListMetadata>,
    #[prost(bytes = "bytes", tag = "2")]
    status: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    message: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    reason: Bytes,
    #[prost(message, optional, tag = "5")]
    details: Option<Details>,
    #[prost(int32, tag = "6")]
    code: i32,
}

impl ObjectMessage for Status {
    fn write_fields<'a>(&self, object: Object<'a>) -> Written<'a> {
        object
            .message("metadata", self.metadata.as_ref())?
            .filled("status", &self.status)?
            .filled("message", &self.message)?
            .filled("reason", &self.reason)?
            .optional("details", self.details.as_ref())?
            .filled("code", &self.code)
    }
}

#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(bytes = "bytes", repeated, tag = "4")]
    causes: Vec<Bytes>,
    #[prost(int32, tag = "5")]
    retry_after_seconds: i32,
}

impl Value for Details {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text)
            .each::<Cause>("causes", &self.causes)?
            .filled("retryAfterSeconds", &self.retry_after_seconds)?
            .end()
    }
}

#[derive(Clone, PartialEq, Message)]
struct Cause {
    #[prost(bytes = "bytes", tag = "1")]
    reason: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    message: Bytes,
}

impl Value for Cause {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text).filled("reason", &self.reason)?.filled("message", &self.message)?.end()
    }
}
