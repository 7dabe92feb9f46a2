//! `RawQueue`: a queue of the kernel packet by packet, for programs that decide in Python.

use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kbe_nat_netlink::{Details, Message, NfVerdict, Options, Queue, VerdictMessage};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::arguments::{self, Octets};
use crate::errors;
use crate::values::{Portable, machines, portable};

/// A packet that waits in a queue of the kernel for its verdict.
#[pyclass(frozen, eq, get_all, module = "kbe_nat._native")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct QueuedPacket {
    /// The number by which `RawQueue.set_verdict` names it.
    id: u32,
    /// Its `EtherType`.
    protocol: u16,
    /// The hook of netfilter, from 0, PREROUTING, to 4, POSTROUTING.
    hook: u8,
    /// The packet mark.
    mark: u32,
    /// Index of the device it came in by; 0 without one.
    in_device: u32,
    /// Index of the device it is to leave by; 0 without one.
    out_device: u32,
    /// Indexes of the bridge's ports that it came in by and is to leave by; 0 without one.
    bridge_ports: (u32, u32),
    /// The sender's link-layer address.
    hardware_address: Option<Vec<u8>>,
    /// When it was received, in microseconds since 1970; None for one that was not.
    time: Option<u64>,
    /// Its bytes from the IP header on, as many as the queue hands out.
    payload: Vec<u8>,
    /// Its length, however many bytes are handed out.
    length: u32,
    /// Whether the transport checksum is yet to be computed.
    is_checksum_missing: bool,
}

impl QueuedPacket {
    fn new(message: &Message, bytes: &[u8]) -> Self {
        let details = Details::parse(bytes).unwrap_or_default();
        let payload = bytes.get(message.payload.clone()).unwrap_or_default().to_vec();
        Self {
            id: message.id,
            protocol: details.protocol,
            hook: details.hook,
            mark: message.mark,
            in_device: message.in_device,
            out_device: details.out_device,
            bridge_ports: details.bridge_ports,
            hardware_address: details.hardware_address,
            time: details.time,
            length: message.whole_length.unwrap_or(payload.len() as u32),
            payload,
            is_checksum_missing: message.is_checksum_missing,
        }
    }
}

#[pymethods]
impl QueuedPacket {
    fn __repr__(&self) -> String {
        let Self { id, hook, mark, length, .. } = self;
        format!("<QueuedPacket {id}: {length} bytes, hook {hook}, mark {mark:#x}>")
    }
}

portable!(QueuedPacket);

impl Portable for QueuedPacket {
    /// Numbers; bridge's ports; sender, time, bytes; whether the checksum is missing.
    #[allow(clippy::type_complexity)]
    type State = (
        (u32, u16, u8, u32, u32, u32, u32),
        (u32, u32),
        (Option<Vec<u8>>, Option<u64>, Vec<u8>),
        bool,
    );

    fn state(&self) -> Self::State {
        let Self { id, protocol, hook, mark, in_device, out_device, length, .. } = *self;
        (
            (id, protocol, hook, mark, in_device, out_device, length),
            self.bridge_ports,
            (self.hardware_address.clone(), self.time, self.payload.clone()),
            self.is_checksum_missing,
        )
    }

    fn restore((numbers, bridge_ports, content, is_checksum_missing): Self::State) -> Option<Self> {
        let (id, protocol, hook, mark, in_device, out_device, length) = numbers;
        let (hardware_address, time, payload) = content;
        Some(Self {
            id,
            protocol,
            hook,
            mark,
            in_device,
            out_device,
            bridge_ports,
            hardware_address,
            time,
            payload,
            length,
            is_checksum_missing,
        })
    }
}

machines! { RawQueue: "it has a queue of the kernel" }

/// A queue of the kernel in the network namespace of the thread that makes this object, packet by
/// packet; see `kbe_nat.compat.netfilterqueue`. A `Loop` serves packets ten times as fast.
///
/// The kernel keeps at most `max_length` packets, and hands out at most `copy_range` bytes of each.
/// With `gso` super-packets of up to 64 kB come whole, and their checksums are yet to be computed.
/// Raises `QueueError` without CAP_NET_ADMIN, and when another process has the queue.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct RawQueue(Mutex<Option<Queue>>);

#[pymethods]
impl RawQueue {
    #[new]
    #[pyo3(signature = (number, *, max_length, copy_range, gso, socket_buffer))]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::number)] number: u16,
        #[pyo3(from_py_with = arguments::max_length)] max_length: u32,
        #[pyo3(from_py_with = arguments::copy_range)] copy_range: u32,
        #[pyo3(from_py_with = arguments::gso)] gso: bool,
        #[pyo3(from_py_with = arguments::socket_buffer)] socket_buffer: i32,
    ) -> PyResult<Self> {
        let options = Options {
            max_length,
            gso,
            copy_range,
            socket_buffer,
            spin: Duration::ZERO,
            ..Options::default()
        };
        let queue = py.detach(|| Queue::bind(number, &options));
        Ok(Self(Mutex::new(Some(queue.map_err(|error| errors::queue(&error))?))))
    }

    /// The packets that wait, 64 at most. Waits for the first one, at most `timeout` seconds; there
    /// may be none then. Raises `QueueError`.
    fn receive(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::timeout)] timeout: Duration,
    ) -> PyResult<Vec<QueuedPacket>> {
        self.with(py, |queue| {
            queue.receive(timeout)?;
            Ok(queue.messages().map(|(message, bytes)| QueuedPacket::new(message, bytes)).collect())
        })
    }

    /// Decide about a packet: "accept", "drop" or "repeat", with another mark, and with other bytes
    /// in the place of all of its own. Raises `QueueError`, `ArgumentError` for another verdict.
    #[pyo3(signature = (id, verdict, *, mark = None, payload = None))]
    fn set_verdict(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::id)] id: u32,
        #[pyo3(from_py_with = arguments::verdict)] verdict: NfVerdict,
        #[pyo3(from_py_with = arguments::mark)] mark: Option<u32>,
        #[pyo3(from_py_with = arguments::payload)] payload: Option<Octets>,
    ) -> PyResult<()> {
        let payload = payload.as_ref().map(|Octets(bytes)| bytes.as_slice());
        self.with(py, |queue| {
            let message = VerdictMessage { id, verdict, mark, payload };
            queue.set_verdicts(|_, _| None, &[message])
        })
    }

    /// The descriptor of its socket, which is readable while packets wait.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.with(py, |queue| Ok(queue.descriptor().as_raw_fd()))
    }

    /// Unbind the queue; packets in it are dropped.
    fn close(&self, py: Python<'_>) {
        py.detach(|| *self.lock() = None);
    }
}

impl RawQueue {
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        ask: impl FnOnce(&mut Queue) -> Result<T, kbe_nat_netlink::QueueError> + Send,
    ) -> PyResult<T> {
        let answer = py.detach(|| self.lock().as_mut().map(ask));
        answer
            .ok_or_else(|| PyRuntimeError::new_err("the queue is closed"))?
            .map_err(|error| errors::queue(&error))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
