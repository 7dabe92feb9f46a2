//! Answers of an API server in protobuf, as the JSON that it would have written. Without sockets:
//! bytes in, texts out.
//!
//! | module | what it holds |
//! |---|---|
//! | [`document`] | the envelope of every answer, and an object or a Status in it |
//! | [`list`] | a list, item by item |
//! | [`watch`] | the frames of a watch, and the event in each |
//! | [`error`] | an answer that cannot be read, and an object that is refused |
//! | `messages` | the fields of objects that are read, with their numbers |
//! | `json` | writing of JSON by the rules of Go's `encoding/json` |
//! | `wire` | fields of a message one by one |
//!
//! # Theory of operation
//!
//! Objects have one parser and one strictness, whatever their encoding: Python decodes JSON into
//! its types, and says what is wrong. So this crate does not judge. It reads the fields that Python
//! reads, and writes them as the server writes JSON: a field is left out where Go leaves it out.
//! All other fields are skipped unread, `managedFields` among them, which are a third of the bytes.
//!
//! A field without a pointer in Go is always on the wire, empty or not, and JSON leaves it out when
//! it is empty ([`json::Object::filled`]). A pointer is on the wire where it is set, and then in
//! JSON, empty or not ([`json::Object::optional`]).
//!
//! Memory is bounded by the bytes. Lists are walked, not collected. Messages that an object repeats
//! stay slices of its bytes until each is written, so that two bytes on the wire
//! cannot become a hundred in memory; that is also how an error gets their index. A frame of a
//! watch has a limit. No message contains itself, so bytes cannot nest deeper than the types do.
//!
//! Field numbers are facts of the API; nothing of its schemas is copied.

pub mod document;
pub mod error;
mod json;
pub mod list;
mod messages;
pub mod watch;
mod wire;

pub use document::Document;
pub use error::{DecodingError, Refusal};
pub use list::List;
pub use watch::{Event, Frames};

/// Bytes of an object at most: an API server takes requests of 3 MiB, and etcd values of 1.5 MiB.
pub const MAX_OBJECT: usize = 4 << 20;
