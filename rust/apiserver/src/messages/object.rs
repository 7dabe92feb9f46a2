//! The parts that all objects have in common.

use bytes::Bytes;
use prost::Message;

use crate::error::Fault;
use crate::json::{Object, Value, Written};

/// Writes an object whose bytes are given, after its kind and version where they are said.
pub(super) type Write = fn(Bytes, Option<&TypeName<'_>>, &mut Vec<u8>) -> Result<(), Fault>;

/// Version and kind.
pub(crate) struct TypeName<'a> {
    pub(crate) version: &'a str,
    pub(crate) kind: &'a str,
}

/// A message that is an object; its fields come after kind and version.
pub(super) trait ObjectMessage: Message + Default {
    fn write_fields<'a>(&self, object: Object<'a>) -> Written<'a>;
}

pub(super) fn write<M: ObjectMessage>(
    bytes: Bytes,
    name: Option<&TypeName<'_>>,
    text: &mut Vec<u8>,
) -> Result<(), Fault> {
    let message = M::decode(bytes)?;
    let mut object = Object::new(text);
    if let Some(name) = name {
        object = object.field("kind", name.kind)?.field("apiVersion", name.version)?;
    }
    message.write_fields(object)?.end()
}

/// A message of one text: a zone, a node, a taint.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Named {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
}

impl Value for Named {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text).field("name", &self.name)?.end()
    }
}
