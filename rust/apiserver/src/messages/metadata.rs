//! `metadata` of objects and of lists.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::time::Time;
use crate::error::Fault;
use crate::json::{Object, Value};

/// `metadata` of an object.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Metadata {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    namespace: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    resource_version: Bytes,
    #[prost(message, optional, tag = "8")]
    creation_timestamp: Option<Time>,
    #[prost(message, optional, tag = "9")]
    deletion_timestamp: Option<Time>,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    annotations: BTreeMap<String, String>,
}

impl Value for Metadata {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        // A time that was never set is an empty message.
        let created = self.creation_timestamp.as_ref().filter(|time| time.is_set());
        Object::new(text)
            .filled("name", &self.name)?
            .filled("namespace", &self.namespace)?
            .filled("resourceVersion", &self.resource_version)?
            .optional("creationTimestamp", created)?
            .optional("deletionTimestamp", self.deletion_timestamp.as_ref())?
            .filled("labels", &self.labels)?
            .filled("annotations", &self.annotations)?
            .end()
    }
}

/// `metadata` of a list.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ListMetadata {
    #[prost(string, tag = "2")]
    pub(crate) resource_version: String,
    #[prost(string, tag = "3")]
    pub(crate) r#continue: String,
    #[prost(int64, optional, tag = "4")]
    pub(crate) remaining_item_count: Option<i64>,
}

impl Value for ListMetadata {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text)
            .filled("resourceVersion", &self.resource_version)?
            .filled("continue", &self.r#continue)?
            .optional("remainingItemCount", self.remaining_item_count.as_ref())?
            .end()
    }
}
