//! `ProtobufDocument`, `ProtobufList`, `ProtobufFrames`, `protobuf_event`, `ProtobufRefusal`.
//!
//! An event takes some microseconds. The GIL is not released for them: to get it back from a busy
//! thread takes a thousand times as long.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use kbe_nat_apiserver::{Document, Event, Frames, List, MAX_OBJECT, Refusal};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use crate::arguments;
use crate::errors;
use crate::values::{Portable, machines, portable};

/// An answer of an API server in protobuf with one object in it, a Status among others. Raises
/// `EncodingError` when the bytes are no such answer.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct ProtobufDocument(Document);

#[pymethods]
impl ProtobufDocument {
    #[new]
    fn new(#[pyo3(from_py_with = arguments::answer)] answer: PyBackedBytes) -> PyResult<Self> {
        document(answer).map(Self)
    }

    /// Group and version, such as "v1".
    #[getter]
    fn version(&self) -> &str {
        &self.0.version
    }

    /// The kind of the object, such as "Service".
    #[getter]
    fn kind(&self) -> &str {
        &self.0.kind
    }

    /// The fields that kbe-nat reads, as the JSON that the server would have written. Cost: linear
    /// in the answer.
    fn json<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json_or_refusal(py, self.0.json())
    }
}

/// An answer of an API server in protobuf with a list in it: an iterator over the items.
///
/// An item is the JSON that the server would have written, without kind and version, of the fields
/// that kbe-nat reads. Cost: linear in the answer; in memory the answer and one item.
///
/// Raises `EncodingError` when the bytes are no list in protobuf, or not the whole of it.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct ProtobufList(Mutex<List>);

impl ProtobufList {
    fn with<R>(&self, read: impl FnOnce(&mut List) -> R) -> R {
        read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl ProtobufList {
    #[new]
    fn new(#[pyo3(from_py_with = arguments::answer)] answer: PyBackedBytes) -> PyResult<Self> {
        let list = List::new(document(answer)?).map_err(|error| errors::encoding(&error))?;
        Ok(Self(Mutex::new(list)))
    }

    /// Group and version of the items, such as "v1".
    #[getter]
    fn version(&self) -> String {
        self.with(|list| list.version.clone())
    }

    /// The kind of the items, such as "Service".
    #[getter]
    fn kind(&self) -> String {
        self.with(|list| list.kind.clone())
    }

    /// The version of the state; empty where the server says none.
    #[getter]
    fn resource_version(&self) -> String {
        self.with(|list| list.resource_version.clone())
    }

    /// The token of the next page; empty where this is the last one.
    #[getter]
    fn continue_token(&self) -> String {
        self.with(|list| list.continue_token.clone())
    }

    /// Items after this page, where the server says it.
    #[getter]
    fn remaining(&self) -> Option<i64> {
        self.with(|list| list.remaining)
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.with(List::next).map(|item| json_or_refusal(py, item)).transpose()
    }
}

/// Splits the bytes of a watch in protobuf into frames.
///
/// Memory: an unfinished frame of at most `limit` bytes, 4 MiB unless said, and what `feed` is
/// called with.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct ProtobufFrames(Mutex<Frames>);

#[pymethods]
impl ProtobufFrames {
    #[new]
    #[pyo3(signature = (limit = None))]
    fn new(#[pyo3(from_py_with = arguments::limit)] limit: Option<usize>) -> Self {
        Self(Mutex::new(Frames::new(limit.unwrap_or(MAX_OBJECT))))
    }

    /// Bytes of the unfinished frame. A stream that ends with any was cut off.
    #[getter]
    fn pending(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pending()
    }

    /// The frames that these bytes complete, for `protobuf_event`. Cost: linear in the bytes.
    ///
    /// Raises `EncodingError` when a frame is longer than the limit, then and ever after: where the
    /// next one begins is unknown.
    fn feed<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = arguments::bytes)] bytes: &[u8],
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let frames = self.0.lock().unwrap_or_else(PoisonError::into_inner).feed(bytes);
        let frames = frames.map_err(|error| errors::encoding(&error))?;
        Ok(frames.iter().map(|frame| PyBytes::new(py, frame)).collect())
    }
}

/// The event in a frame of a watch: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR, and the object as
/// `ProtobufDocument.json` gives it, a Status for an ERROR. Cost: linear in the frame.
///
/// Raises `EncodingError` when it is no event.
#[pyfunction]
pub(crate) fn protobuf_event(
    py: Python<'_>,
    #[pyo3(from_py_with = arguments::frame)] frame: PyBackedBytes,
) -> PyResult<(String, Bound<'_, PyAny>)> {
    let event = Event::parse(Bytes::from_owner(frame)).map_err(|error| errors::encoding(&error))?;
    Ok((event.change, json_or_refusal(py, event.object)?))
}

/// An object that cannot be read; others of its answer can.
#[pyclass(frozen, eq, get_all, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ProtobufRefusal {
    /// The kind of the object, such as "Service".
    kind: String,
    /// Empty where the kind has none, or where it cannot be read.
    namespace: String,
    /// Empty where it cannot be read.
    name: String,
    /// The version of the object; empty where it cannot be read.
    resource_version: String,
    /// The field, such as "spec.ports[0].port"; empty when the object as a whole is meant.
    path: String,
    /// Why the object cannot be read.
    reason: String,
}

#[pymethods]
impl ProtobufRefusal {
    fn __repr__(&self) -> String {
        let Self { kind, namespace, name, path, reason, .. } = self;
        format!("ProtobufRefusal({kind:?}, {namespace:?}, {name:?}, {path:?}, {reason:?})")
    }
}

portable!(ProtobufRefusal);

impl Portable for ProtobufRefusal {
    type State = [String; 6];

    fn state(&self) -> Self::State {
        let Self { kind, namespace, name, resource_version, path, reason } = self.clone();
        [kind, namespace, name, resource_version, path, reason]
    }

    fn restore(
        [kind, namespace, name, resource_version, path, reason]: Self::State,
    ) -> Option<Self> {
        Some(Self { kind, namespace, name, resource_version, path, reason })
    }
}

machines! {
    ProtobufDocument: "keep the bytes of the answer",
    ProtobufFrames: "it reads a stream",
    ProtobufList: "keep the bytes of the answer",
}

fn document(answer: PyBackedBytes) -> PyResult<Document> {
    Document::parse(Bytes::from_owner(answer)).map_err(|error| errors::encoding(&error))
}

fn json_or_refusal(
    py: Python<'_>,
    object: Result<Vec<u8>, Box<Refusal>>,
) -> PyResult<Bound<'_, PyAny>> {
    match object {
        Ok(text) => Ok(PyBytes::new(py, &text).into_any()),
        Err(refusal) => {
            let Refusal { kind, namespace, name, resource_version, path, reason } = *refusal;
            let refusal = ProtobufRefusal { kind, namespace, name, resource_version, path, reason };
            Ok(Bound::new(py, refusal)?.into_any())
        }
    }
}
