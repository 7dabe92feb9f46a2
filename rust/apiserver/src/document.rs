//! The envelope of every answer, and an object or a Status in it.

use bytes::Bytes;
use prost::Message;

use crate::MAX_OBJECT;
use crate::error::{DecodingError, Fault, Refusal};
use crate::messages::{self, TypeName};
use crate::wire;

/// An answer: an object, a list, or a Status.
#[derive(Debug)]
pub struct Document {
    /// Group and version, such as "v1".
    pub version: String,
    /// The kind, such as "Service" or "ServiceList".
    pub kind: String,
    pub(crate) content: Bytes,
}

impl Document {
    /// Opens the envelope. Cost: none of the content.
    ///
    /// # Errors
    /// When the bytes are no answer in protobuf, or the content has another encoding.
    pub fn parse(answer: Bytes) -> Result<Self, DecodingError> {
        let mut envelope = answer;
        if !envelope.starts_with(MAGIC) {
            return Err(DecodingError("it does not begin as objects in protobuf do".to_owned()));
        }
        let envelope = Envelope::decode(envelope.split_off(MAGIC.len())).map_err(Fault::from)?;
        for encoding in [&envelope.content_encoding, &envelope.content_type] {
            if !encoding.is_empty() && encoding != MEDIA_TYPE {
                return Err(DecodingError(format!("its content is of type {encoding:?}")));
            }
        }
        let (Some(name), Some(content)) = (envelope.type_meta, envelope.raw) else {
            return Err(DecodingError("its envelope is empty".to_owned()));
        };
        Ok(Self { version: name.api_version, kind: name.kind, content })
    }

    /// The JSON of the object.
    ///
    /// # Errors
    /// When the object is malformed, or of a kind that is not read.
    pub fn json(&self) -> Result<Vec<u8>, Box<Refusal>> {
        let name = TypeName { version: &self.version, kind: &self.kind };
        let mut text = Vec::with_capacity(self.content.len());
        match write(&name, Some(&name), &self.content, &mut text) {
            Ok(()) => Ok(text),
            Err(fault) => Err(refuse(&self.kind, &self.content, fault)),
        }
    }
}

/// Appends the JSON of an object; `said` is what it says of its kind.
pub(crate) fn write(
    name: &TypeName<'_>,
    said: Option<&TypeName<'_>>,
    content: &Bytes,
    text: &mut Vec<u8>,
) -> Result<(), Fault> {
    if content.len() > MAX_OBJECT {
        return Err(Fault::new(format!("{} bytes, of {MAX_OBJECT} at most", content.len())));
    }
    let Some(write) = messages::writer(name) else {
        return Err(Fault::new(format!("objects of {:?} are not read", name.version)));
    };
    write(content.clone(), said, text)
}

/// The refusal of an object, named by as much of its metadata as can be read.
pub(crate) fn refuse(kind: &str, content: &Bytes, fault: Fault) -> Box<Refusal> {
    let metadata = wire::delimited(content.clone(), METADATA).unwrap_or_default();
    Box::new(Refusal {
        kind: kind.to_owned(),
        namespace: wire::text(metadata.clone(), NAMESPACE),
        name: wire::text(metadata.clone(), NAME),
        resource_version: wire::text(metadata, RESOURCE_VERSION),
        path: fault.path,
        reason: fault.reason,
    })
}

/// `runtime.Unknown` of Go.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    raw: Option<Bytes>,
    #[prost(string, tag = "3")]
    content_encoding: String,
    #[prost(string, tag = "4")]
    content_type: String,
}

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

const MAGIC: &[u8] = b"k8s\0";
const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Fields of every object and of its metadata.
const METADATA: usize = 1;
const NAME: usize = 1;
const NAMESPACE: usize = 3;
const RESOURCE_VERSION: usize = 6;
