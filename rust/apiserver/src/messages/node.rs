//! A Node.

use bytes::Bytes;
use prost::Message;

use super::metadata::Metadata;
use super::object::ObjectMessage;
use crate::error::Fault;
use crate::json::{Object, Value, Written};

/// A Node.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "2")]
    spec: Option<Spec>,
    #[prost(message, optional, tag = "3")]
    status: Option<Status>,
}

impl ObjectMessage for Node {
    fn write_fields<'a>(&self, object: Object<'a>) -> Written<'a> {
        object
            .message("metadata", self.metadata.as_ref())?
            .message("spec", self.spec.as_ref())?
            .message("status", self.status.as_ref())
    }
}

#[derive(Clone, PartialEq, Message)]
struct Spec {
    #[prost(bytes = "bytes", tag = "1")]
    pod_cidr: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    taints: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pod_cidrs: Vec<Bytes>,
}

impl Value for Spec {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text)
            .filled("podCIDR", &self.pod_cidr)?
            .filled("podCIDRs", &self.pod_cidrs)?
            .each::<Taint>("taints", &self.taints)?
            .end()
    }
}

#[derive(Clone, PartialEq, Message)]
struct Taint {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

impl Value for Taint {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text).field("key", &self.key)?.end()
    }
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(bytes = "bytes", repeated, tag = "5")]
    addresses: Vec<Bytes>,
}

impl Value for Status {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text).each::<Address>("addresses", &self.addresses)?.end()
    }
}

#[derive(Clone, PartialEq, Message)]
struct Address {
    #[prost(bytes = "bytes", tag = "1")]
    r#type: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    address: Bytes,
}

impl Value for Address {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text).field("type", &self.r#type)?.field("address", &self.address)?.end()
    }
}
