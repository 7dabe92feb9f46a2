//! Queues as Python sees them, and Python's own queues as the loop sees them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kbe_nat_datapath::{self as datapath, Marks, PacketQueue, Rewrite};
use kbe_nat_engine as core;
use kbe_nat_engine::{Meta, Packet, Released};
use kbe_nat_netlink::{Options, QueueError};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::arguments::{self, Place, item_of, items};
use crate::engine::Engine;
use crate::errors;
use crate::values::machines;
use crate::verdict::release;

/// The identifiers of backends, in the bits `mask` of the packet mark. By them a queue tells the
/// kernel where to translate a flow to. Queues may use a map while it is updated.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct BackendIdMap(Arc<datapath::BackendIdMap>);

#[pymethods]
impl BackendIdMap {
    #[new]
    fn new(#[pyo3(from_py_with = arguments::mask)] mask: u32) -> Self {
        Self(Arc::new(datapath::BackendIdMap::new(mask)))
    }

    /// Remove backends (address, port), then enter others, each with its identifier.
    #[allow(clippy::needless_pass_by_value)]
    fn update(
        &self,
        py: Python<'_>,
        added: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = arguments::removed)] removed: Vec<SocketAddr>,
    ) -> PyResult<()> {
        // In one pass: a list of tuples would be tens of megabytes.
        let place = Place::Argument("added", None);
        let added = items(added, place)?
            .enumerate()
            .map(|(index, item)| item_of(&item?, place, index))
            .collect::<PyResult<_>>()?;
        py.detach(|| self.0.update(added, &removed));
        Ok(())
    }

    /// The bits of the mark for the backend to which this packet was translated; None, and counted,
    /// when the backend has no identifier.
    fn mark_of(&self, #[pyo3(from_py_with = arguments::packet)] packet: &[u8]) -> Option<u32> {
        self.0.mark_of(packet)
    }

    /// Packets whose backend had no identifier.
    #[getter]
    fn unknown(&self) -> u64 {
        self.0.unknown()
    }
}

/// A netfilter queue of the kernel; see `kbe_nat.drivers.native.NativeQueue`.
#[pyclass(frozen, subclass, module = "kbe_nat._native")]
pub(crate) struct KernelQueue {
    number: u16,
    queue: Mutex<Option<datapath::KernelQueue>>,
    truncated: Arc<AtomicU64>,
}

#[pymethods]
impl KernelQueue {
    #[new]
    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (
        number, *, marks, backend_ids, max_length, gso, fail_open, socket_buffer, spin
    ))]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::number)] number: u16,
        #[pyo3(from_py_with = arguments::marks)] marks: (u32, u32, u32),
        #[pyo3(from_py_with = arguments::backend_ids)] backend_ids: Option<PyRef<'_, BackendIdMap>>,
        #[pyo3(from_py_with = arguments::max_length)] max_length: u32,
        #[pyo3(from_py_with = arguments::gso)] gso: bool,
        #[pyo3(from_py_with = arguments::fail_open)] fail_open: bool,
        #[pyo3(from_py_with = arguments::socket_buffer)] socket_buffer: i32,
        #[pyo3(from_py_with = arguments::spin)] spin: Duration,
    ) -> PyResult<Self> {
        let (flow, reject, masquerade) = marks;
        let marks = Marks { flow, reject, masquerade };
        let rewrite = backend_ids
            .map_or(Rewrite::Payload, |backend_ids| Rewrite::Mark(backend_ids.0.clone()));
        let options =
            Options { max_length, gso, fail_open, socket_buffer, spin, ..Options::default() };
        let queue = py
            .detach(|| datapath::KernelQueue::bind(number, marks, rewrite, &options))
            .map_err(|error| errors::queue(&error))?;
        let truncated = queue.truncated_packets();
        Ok(Self { number, queue: Mutex::new(Some(queue)), truncated })
    }

    /// Packets of which the kernel handed out only the first 65,531 bytes. With `backend_ids` they
    /// are served like any other. Without it they are dropped, because they could not be given new
    /// bytes.
    #[getter]
    fn truncated(&self) -> u64 {
        self.truncated.load(Ordering::Relaxed)
    }

    /// Unbind the queue; packets in it are dropped. Waits for a running loop.
    fn close(&self, py: Python<'_>) {
        py.detach(|| *self.lock() = None);
    }

    fn __repr__(&self) -> String {
        format!("<NativeQueue {}>", self.number)
    }
}

impl KernelQueue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<datapath::KernelQueue>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The loop that passes every packet of a queue through an engine, and its verdict back.
///
/// `queue` is a `kbe_nat.drivers.queue.PacketQueue`, native or written in Python. Several loops,
/// each with a queue and a thread, may share an engine.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct Loop {
    engine: Py<Engine>,
    queue: Py<PyAny>,
    own: Arc<datapath::Loop>,
}

#[pymethods]
impl Loop {
    #[new]
    fn new(
        #[pyo3(from_py_with = arguments::engine)] engine: Py<Engine>,
        queue: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        for method in ["receive", "set_verdicts"] {
            if !queue.is_instance_of::<KernelQueue>() && !queue.hasattr(method)? {
                return Err(PyTypeError::new_err(format!(
                    "queue has the methods of a PacketQueue, and {} has no {method}",
                    arguments::show(queue)
                )));
            }
        }
        Ok(Self { engine, queue: queue.clone().unbind(), own: Arc::default() })
    }

    /// Run until the queue ends or `stop` is called. A batch that was received gets its verdicts
    /// first.
    ///
    /// A defect of the engine costs the packets of one batch, not the loop: its tables are
    /// consistent between packets. Raises `QueueError`, or what a queue written in Python raises.
    fn run(&self, py: Python<'_>) -> PyResult<()> {
        let (engine, own) = (self.engine.get(), &self.own);
        if let Ok(queue) = self.queue.bind(py).cast::<KernelQueue>() {
            let queue = queue.get();
            return py
                .detach(|| match queue.lock().as_mut() {
                    Some(queue) => own.run(engine.shared(), queue).map_err(Some),
                    None => Err(None),
                })
                .map_err(|error: Option<QueueError>| match error {
                    Some(error) => errors::queue(&error),
                    None => PyRuntimeError::new_err("the queue is closed"),
                });
        }
        let mut queue = PythonQueue::new(self.queue.clone_ref(py));
        py.detach(|| own.run(engine.shared(), &mut queue))
    }

    /// End `run` soon, within 0.1 s for a native queue. It cannot be started again.
    fn stop(&self) {
        self.own.stop();
    }

    /// Packets so far.
    #[getter]
    fn packets(&self) -> u64 {
        self.own.packets()
    }

    /// Batches with packets so far.
    #[getter]
    fn batches(&self) -> u64 {
        self.own.batches()
    }

    /// The same by their sizes: a count for each of `BATCH_SIZES`, those of the smaller sizes left
    /// out, and one for larger batches.
    #[getter]
    fn batch_sizes(&self) -> Vec<u64> {
        self.own.batch_sizes().into()
    }

    /// How often it went round: more often from one moment to the next, unless it hangs.
    #[getter]
    fn turns(&self) -> u64 {
        self.own.turns()
    }

    /// Batches that were dropped because the engine failed on them: a defect that should be
    /// reported.
    #[getter]
    fn panics(&self) -> u64 {
        self.own.panics()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let queue = self.queue.bind(py).repr()?;
        Ok(format!("<Loop of {queue}: {} packets>", self.packets()))
    }
}

/// A queue that is written in Python. Packets are copied out of its batch and back, so nobody can
/// change bytes under the engine.
struct PythonQueue {
    queue: Py<PyAny>,
    batch: Option<Py<PyAny>>,
    bytes: Vec<u8>,
    ends: Vec<u64>,
    meta: Meta,
}

impl PythonQueue {
    fn new(queue: Py<PyAny>) -> Self {
        Self { queue, batch: None, bytes: Vec::new(), ends: Vec::new(), meta: Meta::default() }
    }

    fn take(&mut self, batch: &Bound<'_, PyAny>) -> PyResult<u64> {
        let py = batch.py();
        self.bytes = PyBuffer::<u8>::get(&batch.getattr("packets")?)?.to_vec(py)?;
        self.ends = PyBuffer::<u64>::get(&batch.getattr("offsets")?)?.to_vec(py)?;
        self.meta = Meta {
            interface: batch.getattr("interface")?.extract()?,
            is_captured: batch.getattr("is_captured")?.extract()?,
            ..Meta::default()
        };
        let is_sound = self.ends.is_sorted()
            && self.ends.last().is_some_and(|&end| end <= self.bytes.len() as u64);
        if !is_sound {
            return Err(errors::argument("a batch's offsets do not fit its packets"));
        }
        batch.getattr("now")?.extract()
    }
}

impl PacketQueue for PythonQueue {
    type Error = PyErr;

    fn receive(&mut self) -> PyResult<Option<u64>> {
        Python::attach(|py| {
            let batch = self.queue.bind(py).call_method0("receive")?;
            if batch.is_none() {
                return Ok(None);
            }
            let now = self.take(&batch)?;
            self.batch = Some(batch.unbind());
            Ok(Some(now))
        })
    }

    fn packets(&mut self) -> Vec<Packet<'_>> {
        let mut packets = Vec::with_capacity(self.ends.len());
        let first = self.ends.first().copied().unwrap_or(0) as usize;
        let mut rest = self.bytes.get_mut(first..).unwrap_or_default();
        for ends in self.ends.windows(2) {
            let (bytes, behind) = rest.split_at_mut((ends[1] - ends[0]) as usize);
            packets.push(Packet { bytes, meta: self.meta });
            rest = behind;
        }
        packets
    }

    fn holds(&self, _: u32) -> bool {
        true
    }

    fn set_verdicts(
        &mut self,
        verdicts: &[core::Verdict],
        released: Vec<Released>,
    ) -> PyResult<()> {
        Python::attach(|py| {
            let Some(batch) = self.batch.take() else { return Ok(()) };
            PyBuffer::<u8>::get(batch.bind(py).getattr("packets")?.as_any())?
                .copy_from_slice(py, &self.bytes)?;
            let records: Vec<u8> = verdicts.iter().flat_map(|verdict| verdict.record()).collect();
            let released = PyList::new(py, released.into_iter().map(release))?;
            self.queue
                .bind(py)
                .call_method1("set_verdicts", (batch, PyBytes::new(py, &records), released))?;
            Ok(())
        })
    }
}

machines! {
    BackendIdMap: "queues share it",
    KernelQueue: "it has a queue of the kernel",
    Loop: "make another one with its engine",
}
