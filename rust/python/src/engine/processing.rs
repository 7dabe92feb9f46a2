//! Packets through an engine, and time.

use kbe_nat_engine::Packet;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::{Engine, batch};
use crate::arguments::{self, Numbers, Octets};
use crate::convert;
use crate::explanation::Explanation;
use crate::verdict::{Verdict, release};

#[pymethods]
impl Engine {
    /// What is to be done with one packet, at `now` nanoseconds of a monotonic clock. A packet
    /// begins with its IP header: an Ethernet frame is `malformed`.
    ///
    /// `interface` is the index of the device it came in by, 0 for the node's own. With
    /// `incomplete_checksum` the transport checksum is computed in full (a packet from a local
    /// sender, CHECKSUM_PARTIAL). With `captured`, for packets of captures, an IP length of 0
    /// stands for the length of the bytes (the sending host had not yet cut this segment), and no
    /// byte for a frame without an IP packet. Without it both are malformed. Cost: one lookup; for
    /// the first packet of a flow also the decision.
    #[pyo3(signature = (
        packet, now, *, interface = 0, incomplete_checksum = false, captured = false
    ))]
    fn process(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::packet)] packet: Octets,
        #[pyo3(from_py_with = arguments::now)] now: u64,
        #[pyo3(from_py_with = arguments::interface)] interface: u32,
        #[pyo3(from_py_with = arguments::incomplete_checksum)] incomplete_checksum: bool,
        #[pyo3(from_py_with = arguments::captured)] captured: bool,
    ) -> Verdict {
        let Octets(mut bytes) = packet;
        let meta = convert::meta(interface, incomplete_checksum, captured);
        let verdict =
            py.detach(|| self.lock().process(now, &mut Packet { bytes: &mut bytes, meta }));
        Verdict::new(verdict, bytes)
    }

    /// `process` for many packets, rewritten in place; the GIL is released, no object is made per
    /// packet.
    ///
    /// `packets` is one writable buffer whose packet i lies at `offsets[i]:offsets[i + 1]` (n + 1
    /// numbers of 64 bits, such as `array("Q")`), or without `offsets` a sequence of writable
    /// buffers. Returns one record of 8 bytes per packet, `kbe_nat.drivers.queue.VERDICT`. Raises
    /// `ArgumentError` for bad offsets, TypeError for a buffer that is read-only.
    #[pyo3(signature = (
        packets, now, *, offsets = None, interface = 0, incomplete_checksum = false,
        captured = false
    ))]
    fn process_batch<'py>(
        &self,
        packets: &Bound<'py, PyAny>,
        #[pyo3(from_py_with = arguments::now)] now: u64,
        #[pyo3(from_py_with = arguments::offsets)] offsets: Option<Numbers>,
        #[pyo3(from_py_with = arguments::interface)] interface: u32,
        #[pyo3(from_py_with = arguments::incomplete_checksum)] incomplete_checksum: bool,
        #[pyo3(from_py_with = arguments::captured)] captured: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let meta = convert::meta(interface, incomplete_checksum, captured);
        match offsets {
            Some(Numbers(ends)) => batch::process_buffer(&self.engine, packets, now, &ends, meta),
            None => batch::process_list(&self.engine, packets, now, meta),
        }
    }

    /// Held fragments whose datagram is decided meanwhile: ticket, action and, where it is sent,
    /// packet.
    fn released(&self, py: Python<'_>) -> Vec<(u32, &'static str, Option<Vec<u8>>)> {
        let released = py.detach(|| self.lock().released(|_| true));
        released.into_iter().map(release).collect()
    }

    /// Forget what timed out, looking at no more than `budget` entries; returns how many flows
    /// ended.
    #[pyo3(signature = (now, budget = 4096))]
    fn expire(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::now)] now: u64,
        #[pyo3(from_py_with = arguments::budget)] budget: usize,
    ) -> usize {
        py.detach(|| self.lock().expire(now, budget))
    }

    /// When `expire` will next find something, in nanoseconds; None when there is nothing to wait
    /// for.
    fn next_expiry(&self, py: Python<'_>) -> Option<u64> {
        py.detach(|| self.lock().next_expiry())
    }

    /// What `process` would do with the packet and why, from the same code, changing nothing.
    #[pyo3(signature = (
        packet, now, *, interface = 0, incomplete_checksum = false, captured = false
    ))]
    fn explain(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::packet)] packet: Octets,
        #[pyo3(from_py_with = arguments::now)] now: u64,
        #[pyo3(from_py_with = arguments::interface)] interface: u32,
        #[pyo3(from_py_with = arguments::incomplete_checksum)] incomplete_checksum: bool,
        #[pyo3(from_py_with = arguments::captured)] captured: bool,
    ) -> Explanation {
        let Octets(bytes) = packet;
        let meta = convert::meta(interface, incomplete_checksum, captured);
        Explanation(py.detach(|| self.lock().explain(now, &bytes, meta)))
    }
}
