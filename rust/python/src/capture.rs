//! `CaptureReader`, `CaptureBatch`, `CaptureWriter`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use kbe_nat_capture::{Batch, CaptureError, Reader, Writer};
use kbe_nat_engine::{Action, Verdict};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use crate::convert;
use crate::errors::{self, argument};

/// Reads a pcap or pcapng file in batches; memory does not grow with the file.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct CaptureReader {
    path: PathBuf,
    reader: Mutex<Reader>,
}

#[pymethods]
impl CaptureReader {
    #[new]
    fn new(path: PathBuf) -> PyResult<Self> {
        match Reader::open(&path) {
            Ok(reader) => Ok(Self { path, reader: Mutex::new(reader) }),
            Err(error) => Err(errors::capture(&path, error)),
        }
    }

    #[getter]
    fn position(&self) -> u64 {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).position()
    }

    #[getter]
    fn unread(&self) -> BTreeMap<u32, u64> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).unread().clone()
    }

    #[getter]
    fn cut(&self) -> Option<String> {
        let place = self.reader.lock().unwrap_or_else(PoisonError::into_inner).cut()?;
        Some(format!("{place} (byte {})", place.offset))
    }

    fn read_batch(
        &self,
        py: Python<'_>,
        max_packets: usize,
        max_span: u64,
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
    fn take<'py>(&self, py: Python<'py>) -> Bound<'py, PyByteArray> {
        PyByteArray::new(py, &self.0.packets)
    }

    fn offsets<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        numbers(py, self.0.offsets.iter().copied())
    }

    fn times<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        numbers(py, self.0.times())
    }
}

fn numbers(py: Python<'_>, numbers: impl Iterator<Item = u64>) -> Bound<'_, PyBytes> {
    PyBytes::new(py, &numbers.flat_map(u64::to_ne_bytes).collect::<Vec<_>>())
}

/// Writes a capture of the same format and link type as the one that a reader reads.
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

#[pymethods]
impl CaptureWriter {
    #[new]
    #[pyo3(signature = (path, reader, answer = "icmp"))]
    fn new(
        path: Option<PathBuf>,
        reader: PyRef<'_, CaptureReader>,
        answer: &str,
    ) -> PyResult<Self> {
        let answer = convert::answer(answer)?;
        let reader = reader.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = Writer::create(path.as_deref(), &reader, answer);
        let path = path.unwrap_or_else(|| PathBuf::from("standard output"));
        match writer {
            Ok(writer) => Ok(Self { path, writer: Mutex::new(Some(writer)) }),
            Err(error) => Err(errors::capture(&path, error)),
        }
    }

    fn write(
        &self,
        frames: PyRef<'_, CaptureBatch>,
        packets: &Bound<'_, PyAny>,
        verdicts: &[u8],
    ) -> PyResult<()> {
        let packets = convert::bytes(packets)?;
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

    #[allow(clippy::needless_pass_by_value)]
    fn write_released(&self, released: Vec<(u32, String, Option<Vec<u8>>)>) -> PyResult<()> {
        self.with(|writer| {
            released.iter().try_for_each(|(ticket, action, packet)| {
                let is_sent =
                    [Action::Accept, Action::Translate].iter().any(|sent| sent.name() == action);
                writer.release(*ticket, packet.as_deref().filter(|_| is_sent))
            })
        })
    }

    fn close(&self) -> PyResult<()> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        writer.map_or(Ok(()), Writer::close).map_err(|error| errors::capture(&self.path, error))
    }
}
