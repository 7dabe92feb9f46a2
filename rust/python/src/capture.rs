//! `CaptureReader`, `CaptureBatch`, `CaptureWriter`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use kbe_nat_capture::{Batch, CaptureError, Reader, Writer};
use kbe_nat_engine::reject::RejectWith;
use kbe_nat_engine::{Action, Verdict};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use crate::arguments::{self, Octets};
use crate::errors::{self, argument};
use crate::values::machines;

/// Reads a pcap or pcapng file in batches; memory does not grow with the file.
///
/// Ethernet (with VLAN tags), raw IP, NULL, LOOP and Linux "cooked" frames are understood; others
/// hold no packet. Raises OSError and `CaptureError`.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct CaptureReader {
    path: PathBuf,
    reader: Mutex<Reader>,
}

#[pymethods]
impl CaptureReader {
    #[new]
    fn new(#[pyo3(from_py_with = arguments::path)] path: PathBuf) -> PyResult<Self> {
        match Reader::open(&path) {
            Ok(reader) => Ok(Self { path, reader: Mutex::new(reader) }),
            Err(error) => Err(errors::capture(&path, error)),
        }
    }

    /// Bytes of the file that were read so far.
    #[getter]
    fn position(&self) -> u64 {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).position()
    }

    /// Frames so far whose link type is not read, by its number: they have no packet.
    #[getter]
    fn unread(&self) -> BTreeMap<u32, u64> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).unread().clone()
    }

    /// The packet or block within which the file ends, once met; None for a whole file.
    #[getter]
    fn cut(&self) -> Option<String> {
        let place = self.reader.lock().unwrap_or_else(PoisonError::into_inner).cut()?;
        Some(format!("{place} (byte {})", place.offset))
    }

    /// The next frames, at most `max_packets` of them and all within `max_span` nanoseconds of the
    /// first; None at the end, and where the file ends within a packet (`cut`). Raises
    /// `CaptureError` with the number and place of the packet or block that is damaged.
    fn read_batch(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::max_packets)] max_packets: usize,
        #[pyo3(from_py_with = arguments::max_span)] max_span: u64,
    ) -> PyResult<Option<CaptureBatch>> {
        let read = || {
            self.reader
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .read_batch(max_packets, max_span)
        };
        match py.detach(read) {
            Ok(batch) => Ok(batch.map(CaptureBatch)),
            Err(error) => Err(errors::capture(&self.path, error)),
        }
    }
}

/// Frames that were read together.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct CaptureBatch(Batch);

#[pymethods]
impl CaptureBatch {
    /// The IP packets of the frames, back to back. A frame that is no IP packet has none: zero
    /// bytes.
    fn take<'py>(&self, py: Python<'py>) -> Bound<'py, PyByteArray> {
        PyByteArray::new(py, &self.0.packets)
    }

    /// Where each packet starts in `take()`, and where the last ends: 64-bit numbers.
    fn offsets<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        numbers(py, self.0.offsets.iter().copied())
    }

    /// When each frame was captured, in nanoseconds since 1970: 64-bit numbers.
    fn times<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        numbers(py, self.0.times())
    }
}

fn numbers(py: Python<'_>, numbers: impl Iterator<Item = u64>) -> Bound<'_, PyBytes> {
    PyBytes::new(py, &numbers.flat_map(u64::to_ne_bytes).collect::<Vec<_>>())
}

/// Writes a capture of the same format and link type as the one that `reader` reads, to the file
/// with this name, or to standard output.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct CaptureWriter {
    path: PathBuf,
    /// `None` once it is closed.
    writer: Mutex<Option<Writer>>,
}

impl CaptureWriter {
    fn with(&self, write: impl FnOnce(&mut Writer) -> Result<(), CaptureError>) -> PyResult<()> {
        match &mut *self.writer.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(writer) => write(writer).map_err(|error| errors::capture(&self.path, error)),
            None => Err(argument("the capture is closed")),
        }
    }
}

/// Tickets, actions and packets of fragments.
type Released = Vec<(u32, String, Option<Octets>)>;

#[pymethods]
impl CaptureWriter {
    #[new]
    #[pyo3(
        signature = (path, reader, answer = RejectWith::PortUnreachable),
        text_signature = "(path, reader, answer='icmp')"
    )]
    fn new(
        #[pyo3(from_py_with = arguments::path)] path: Option<PathBuf>,
        #[pyo3(from_py_with = arguments::reader)] reader: PyRef<'_, CaptureReader>,
        #[pyo3(from_py_with = arguments::answer)] answer: RejectWith,
    ) -> PyResult<Self> {
        let reader = reader.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = Writer::create(path.as_deref(), &reader, answer);
        let path = path.unwrap_or_else(|| PathBuf::from("standard output"));
        match writer {
            Ok(writer) => Ok(Self { path, writer: Mutex::new(Some(writer)) }),
            Err(error) => Err(errors::capture(&path, error)),
        }
    }

    /// Write what is sent on: frames with the `packets` that `process_batch` left, refusals
    /// (`answer` as of `reject`) in place of refused ones, and frames without an IP packet as they
    /// are. Held fragments keep their place until they are released, at most 4096 frames.
    fn write(
        &self,
        #[pyo3(from_py_with = arguments::frames)] frames: PyRef<'_, CaptureBatch>,
        #[pyo3(from_py_with = arguments::packets)] packets: Octets,
        #[pyo3(from_py_with = arguments::verdicts)] verdicts: &[u8],
    ) -> PyResult<()> {
        let Octets(packets) = packets;
        let (records, rest) = verdicts.as_chunks::<8>();
        let verdicts: Option<Vec<Verdict>> =
            records.iter().map(|record| Verdict::from_record(*record)).collect();
        let frames = &frames.0;
        match verdicts {
            Some(verdicts)
                if rest.is_empty()
                    && verdicts.len() == frames.len()
                    && packets.len() == frames.packets.len() =>
            {
                self.with(|writer| writer.write(frames, &packets, verdicts))
            }
            _ => Err(argument("packets and verdicts are not those of the frames")),
        }
    }

    /// What became of held fragments, as `Engine.released` returns it.
    #[allow(clippy::needless_pass_by_value)]
    fn write_released(
        &self,
        #[pyo3(from_py_with = arguments::released)] released: Released,
    ) -> PyResult<()> {
        self.with(|writer| {
            released.iter().try_for_each(|(ticket, action, packet)| {
                let is_sent =
                    [Action::Pass, Action::Translate].iter().any(|sent| sent.name() == action);
                let packet = packet.as_ref().filter(|_| is_sent);
                writer.release(*ticket, packet.map(|Octets(bytes)| bytes.as_slice()))
            })
        })
    }

    /// Write what still waits and flush. Raises OSError.
    fn close(&self) -> PyResult<()> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        writer.map_or(Ok(()), Writer::close).map_err(|error| errors::capture(&self.path, error))
    }
}

machines! {
    CaptureBatch: "take its packets, offsets and times",
    CaptureReader: "open the file again",
    CaptureWriter: "it has an open file",
}
