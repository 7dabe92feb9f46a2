//! A list, item by item.

use prost::Message;

use crate::document::{Document, refuse, write};
use crate::error::{DecodingError, Fault, Refusal};
use crate::messages::{ListMetadata, TypeName};
use crate::wire::Fields;

/// A list, and an iterator over its items. It takes the memory of the answer and of one item.
#[derive(Debug)]
pub struct List {
    /// Group and version of the items.
    pub version: String,
    /// The kind of the items.
    pub kind: String,
    /// The version of the state.
    pub resource_version: String,
    /// The token of the next page; empty where this is the last one.
    pub continue_token: String,
    /// Items after this page, where the server says it.
    pub remaining: Option<i64>,
    items: Fields,
}

impl List {
    /// The list of an answer. Its frame is read to the end, so that a part of a list is never taken
    /// for the whole: cost linear in the items, not in their bytes.
    ///
    /// # Errors
    /// When the answer is no list, or a malformed one.
    pub fn new(document: Document) -> Result<Self, DecodingError> {
        let Some(kind) = document.kind.strip_suffix("List") else {
            return Err(DecodingError(format!("a {:?} in place of a list", document.kind)));
        };
        let mut metadata = ListMetadata::default();
        for field in Fields::new(document.content.clone()) {
            match field? {
                (METADATA, Some(bytes)) => {
                    metadata.merge(bytes).map_err(|error| Fault::from(error).within("metadata"))?;
                }
                (METADATA | ITEMS, None) => {
                    return Err(DecodingError("a number in place of a message".to_owned()));
                }
                _ => (),
            }
        }
        Ok(Self {
            kind: kind.to_owned(),
            version: document.version,
            resource_version: metadata.resource_version,
            continue_token: metadata.r#continue,
            remaining: metadata.remaining_item_count,
            items: Fields::new(document.content),
        })
    }
}

impl Iterator for List {
    /// The JSON of an item, without kind and version, as the server leaves them out in lists.
    type Item = Result<Vec<u8>, Box<Refusal>>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.items.by_ref().find_map(|field| match field {
            Ok((ITEMS, item)) => item,
            _ => None,
        })?;
        let name = TypeName { version: &self.version, kind: &self.kind };
        let mut text = Vec::with_capacity(item.len() / 2);
        Some(match write(&name, None, &item, &mut text) {
            Ok(()) => Ok(text),
            Err(fault) => Err(refuse(&self.kind, &item, fault)),
        })
    }
}

const METADATA: usize = 1;
const ITEMS: usize = 2;
