//! A ServiceCIDR.

use bytes::Bytes;
use prost::Message;

use super::metadata::Metadata;
use super::object::ObjectMessage;
use crate::error::Fault;
use crate::json::{Object, Value, Written};

/// A ServiceCIDR.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ServiceCidr {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "2")]
    spec: Option<Spec>,
}

impl ObjectMessage for ServiceCidr {
    fn write_fields<'a>(&self, object: Object<'a>) -> Written<'a> {
        object.message("metadata", self.metadata.as_ref())?.message("spec", self.spec.as_ref())
    }
}

#[derive(Clone, PartialEq, Message)]
struct Spec {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    cidrs: Vec<Bytes>,
}

impl Value for Spec {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text).filled("cidrs", &self.cidrs)?.end()
    }
}
