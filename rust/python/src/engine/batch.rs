//! Packets from Python: one writable buffer with offsets, or a writable buffer for each.

use std::sync::{Mutex, PoisonError};

use kbe_nat_engine as core;
use kbe_nat_engine::{Meta, Packet};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::argument;

/// Packets back to back in one writable buffer. It is copied out and back, so nobody can change
/// bytes under the engine.
pub(super) fn process_buffer<'py>(
    engine: &Mutex<core::Engine>,
    packets: &Bound<'py, PyAny>,
    now: u64,
    ends: &[u64],
    meta: Meta,
) -> PyResult<Bound<'py, PyBytes>> {
    let py = packets.py();
    let buffer = PyBuffer::<u8>::get(packets)?;
    if buffer.readonly() {
        return Err(PyTypeError::new_err(
            "packets are rewritten in place: a writable buffer is needed, such as bytearray",
        ));
    }
    let mut bytes = buffer.to_vec(py)?;
    let records = py.detach(|| process_bytes(engine, now, &mut bytes, ends, meta))?;
    buffer.copy_from_slice(py, &bytes)?;
    Ok(PyBytes::new(py, &records))
}

pub(super) fn process_list<'py>(
    engine: &Mutex<core::Engine>,
    packets: &Bound<'py, PyAny>,
    now: u64,
    meta: Meta,
) -> PyResult<Bound<'py, PyBytes>> {
    let py = packets.py();
    let buffers = packets
        .try_iter()?
        .map(|packet| PyBuffer::<u8>::get(&packet?))
        .collect::<PyResult<Vec<_>>>()?;
    let mut bytes = Vec::new();
    let mut ends = vec![0];
    for buffer in &buffers {
        if buffer.readonly() {
            return Err(PyTypeError::new_err(
                "packets are rewritten in place: writable buffers are needed, \
                 such as bytearray",
            ));
        }
        bytes.extend_from_slice(&buffer.to_vec(py)?);
        ends.push(bytes.len() as u64);
    }
    let records = py.detach(|| process_bytes(engine, now, &mut bytes, &ends, meta))?;
    for (buffer, range) in buffers.iter().zip(ends.windows(2)) {
        buffer.copy_from_slice(py, &bytes[range[0] as usize..range[1] as usize])?;
    }
    Ok(PyBytes::new(py, &records))
}

fn process_bytes(
    engine: &Mutex<core::Engine>,
    now: u64,
    mut bytes: &mut [u8],
    ends: &[u64],
    meta: Meta,
) -> PyResult<Vec<u8>> {
    let mut packets = Vec::with_capacity(ends.len());
    let mut start = match ends.first() {
        Some(&first) => first,
        None => {
            return Err(argument("offsets are one more than packets: [0, end of the first, ...]"));
        }
    };
    bytes = bytes
        .get_mut(start as usize..)
        .ok_or_else(|| argument("an offset lies behind the buffer"))?;
    for &end in &ends[1..] {
        let length = end.checked_sub(start).ok_or_else(|| argument("offsets must not decrease"))?;
        let (packet, rest) = bytes
            .split_at_mut_checked(length as usize)
            .ok_or_else(|| argument("an offset lies behind the buffer"))?;
        packets.push(Packet { bytes: packet, meta });
        (bytes, start) = (rest, end);
    }
    let mut verdicts = Vec::with_capacity(packets.len());
    let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
    engine.process_batch(now, &mut packets, &mut verdicts);
    Ok(verdicts.into_iter().flat_map(core::Verdict::record).collect())
}

/// Offsets as a buffer of 64-bit numbers (`array("Q")`), as bytes that hold such, or as any
/// sequence of numbers.
pub(super) fn ends(offsets: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
    if let Ok(buffer) = PyBuffer::<u64>::get(offsets) {
        return buffer.to_vec(offsets.py());
    }
    if let Ok(bytes) = offsets.cast::<PyBytes>() {
        let (numbers, rest) = bytes.as_bytes().as_chunks::<8>();
        return if rest.is_empty() {
            Ok(numbers.iter().map(|number| u64::from_ne_bytes(*number)).collect())
        } else {
            Err(argument("offsets as bytes hold 64-bit numbers"))
        };
    }
    offsets.extract()
}
