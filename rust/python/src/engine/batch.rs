//! Packets from Python: one writable buffer with offsets, or a writable buffer for each.

use std::sync::{Mutex, PoisonError};

use kbe_nat_engine as core;
use kbe_nat_engine::{Meta, Packet};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arguments::{Place, items};
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
    let buffer = writable(packets, PACKETS)?;
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
    if PyBuffer::<u8>::get(packets).is_ok() {
        return Err(argument("packets is one buffer: give offsets, or a sequence of buffers"));
    }
    let buffers = items(packets, PACKETS)?
        .enumerate()
        .map(|(index, packet)| writable(&packet?, Place::Item(&PACKETS, index)))
        .collect::<PyResult<Vec<_>>>()?;
    let mut bytes = Vec::new();
    let mut ends = vec![0];
    for buffer in &buffers {
        bytes.extend_from_slice(&buffer.to_vec(py)?);
        ends.push(bytes.len() as u64);
    }
    let records = py.detach(|| process_bytes(engine, now, &mut bytes, &ends, meta))?;
    for (buffer, range) in buffers.iter().zip(ends.windows(2)) {
        buffer.copy_from_slice(py, &bytes[range[0] as usize..range[1] as usize])?;
    }
    Ok(PyBytes::new(py, &records))
}

/// A packet's buffer, in which it is rewritten.
fn writable(packet: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<PyBuffer<u8>> {
    let buffer = PyBuffer::<u8>::get(packet).ok().filter(|buffer| !buffer.readonly());
    buffer.ok_or_else(|| place.no_type(packet, WRITABLE))
}

const PACKETS: Place<'_> = Place::Argument("packets", None);
const WRITABLE: &str = "a writable buffer, such as bytearray(packet), for it is rewritten in place";

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
    core::Engine::process_batch(&mut engine, now, &mut packets, &mut verdicts);
    let records: Vec<[u8; 8]> = verdicts.into_iter().map(core::Verdict::record).collect();
    Ok(records.into_flattened())
}
