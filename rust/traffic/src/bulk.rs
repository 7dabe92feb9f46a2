//! Streams, counted by their receiver.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::clock::cpu_ns;
use crate::error::{TrafficError, at};
use crate::sockets;

/// Bytes that are written at once, and the unit of a stream's length.
const MEGABYTE: usize = 1 << 20;
/// How long a call may hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// Streams that were received whole.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Bulk {
    /// Of all streams.
    pub bytes: u64,
    /// Until the receiver has counted the last.
    pub seconds: f64,
    /// CPU time of the sending threads for each kilobyte (1,000 bytes), in ns.
    pub cpu_ns: f64,
}

/// Sends so many megabytes over each of some connections at once.
///
/// # Errors
/// When one is not opened, or not all of it is received.
pub fn bulk(to: SocketAddr, megabytes: u64, streams: usize) -> Result<Bulk, TrafficError> {
    let started = Instant::now();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> =
            (0..streams.max(1)).map(|_| scope.spawn(|| stream(to, megabytes))).collect();
        let broken = || at("a thread")(std::io::ErrorKind::Other.into());
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(broken()))).collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    let (mut bytes, mut cpu) = (0, 0);
    for outcome in outcomes {
        let (sent, spent) = outcome?;
        (bytes, cpu) = (bytes + sent, cpu + spent);
    }
    Ok(Bulk { bytes, seconds, cpu_ns: cpu as f64 / (bytes as f64 / 1e3).max(1.0) })
}

/// Bytes of one stream, and the CPU time of its thread in ns.
fn stream(to: SocketAddr, megabytes: u64) -> Result<(u64, u64), TrafficError> {
    let mut stream = sockets::stream_for(&to, PATIENCE).map_err(at("a socket for a stream"))?;
    sockets::open_stream(&stream, &to).map_err(at("a stream"))?;
    let content = vec![0; MEGABYTE];
    let mut sent = 0;
    for _ in 0..megabytes {
        stream.write_all(&content).map_err(|_| TrafficError::CutOff { sent, received: 0 })?;
        sent += MEGABYTE as u64;
    }
    stream.shutdown(Shutdown::Write).map_err(|_| TrafficError::CutOff { sent, received: 0 })?;
    let mut total = [0; 8];
    let received = stream.read_exact(&mut total).map_or(0, |()| u64::from_be_bytes(total));
    if received == sent {
        Ok((sent, cpu_ns()))
    } else {
        Err(TrafficError::CutOff { sent, received })
    }
}
