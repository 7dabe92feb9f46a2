//! An EndpointSlice.

use bytes::Bytes;
use prost::Message;

use super::metadata::Metadata;
use super::object::{Named, ObjectMessage};
use crate::error::Fault;
use crate::json::{Object, Value, Written};

/// An EndpointSlice.
#[derive(Clone, PartialEq, Message)]
pub(super) struct EndpointSlice {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    endpoints: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    ports: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "4")]
    address_type: Bytes,
}

impl ObjectMessage for EndpointSlice {
    fn write_fields<'a>(&self, object: Object<'a>) -> Written<'a> {
        object
            .message("metadata", self.metadata.as_ref())?
            .field("addressType", &self.address_type)?
            .each::<Endpoint>("endpoints", &self.endpoints)?
            .each::<Port>("ports", &self.ports)
    }
}

#[derive(Clone, PartialEq, Message)]
struct Endpoint {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    addresses: Vec<Bytes>,
    #[prost(message, optional, tag = "2")]
    conditions: Option<Conditions>,
    #[prost(message, optional, tag = "4")]
    target_ref: Option<Reference>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    node_name: Option<Bytes>,
    #[prost(message, optional, tag = "8")]
    hints: Option<Hints>,
}

impl Value for Endpoint {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text)
            .filled("addresses", &self.addresses)?
            .message("conditions", self.conditions.as_ref())?
            .optional("targetRef", self.target_ref.as_ref())?
            .optional("nodeName", self.node_name.as_ref())?
            .optional("hints", self.hints.as_ref())?
            .end()
    }
}

#[derive(Clone, PartialEq, Message)]
struct Conditions {
    #[prost(bool, optional, tag = "1")]
    ready: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    serving: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    terminating: Option<bool>,
}

impl Value for Conditions {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text)
            .optional("ready", self.ready.as_ref())?
            .optional("serving", self.serving.as_ref())?
            .optional("terminating", self.terminating.as_ref())?
            .end()
    }
}

/// `targetRef`, of which kind and name are read.
#[derive(Clone, PartialEq, Message)]
struct Reference {
    #[prost(bytes = "bytes", tag = "1")]
    kind: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    name: Bytes,
}

impl Value for Reference {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text).filled("kind", &self.kind)?.filled("name", &self.name)?.end()
    }
}

#[derive(Clone, PartialEq, Message)]
struct Hints {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    for_zones: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    for_nodes: Vec<Bytes>,
}

impl Value for Hints {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text)
            .each::<Named>("forZones", &self.for_zones)?
            .each::<Named>("forNodes", &self.for_nodes)?
            .end()
    }
}

#[derive(Clone, PartialEq, Message)]
struct Port {
    #[prost(bytes = "bytes", optional, tag = "1")]
    name: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    protocol: Option<Bytes>,
    #[prost(int32, optional, tag = "3")]
    port: Option<i32>,
}

impl Value for Port {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text)
            .optional("name", self.name.as_ref())?
            .optional("protocol", self.protocol.as_ref())?
            .optional("port", self.port.as_ref())?
            .end()
    }
}
