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
/// Between two bytes of a connection that settles.
const SETTLING: Duration = Duration::from_millis(100);
/// How long a call may hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// Streams that were received whole.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Bulk {
    /// Of all streams.
    pub bytes: u64,
    /// Until the receiver has counted the last, from when the connections had settled.
    pub seconds: f64,
    /// CPU time of the sending threads for each kilobyte (1,000 bytes), in ns.
    pub cpu_ns: f64,
}

/// Sends so many megabytes over each of some connections at once, once these are as old as
/// `settle`, with a byte now and then before: some ways carry a connection otherwise from then on.
///
/// # Errors
/// When one is not opened, or not all of it is received.
pub fn bulk(
    to: SocketAddr,
    megabytes: u64,
    streams: usize,
    settle: Duration,
) -> Result<Bulk, TrafficError> {
    let started = Instant::now() + settle;
    let outcomes: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> =
            (0..streams.max(1)).map(|_| scope.spawn(|| stream(to, megabytes, started))).collect();
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

/// Bytes of one stream that begins at this moment, and the CPU time of its thread in ns.
fn stream(to: SocketAddr, megabytes: u64, start: Instant) -> Result<(u64, u64), TrafficError> {
    let mut stream = sockets::stream_for(&to, PATIENCE).map_err(at("a socket for a stream"))?;
    sockets::open_stream(&stream, &to).map_err(at("a stream"))?;
    let content = vec![0; MEGABYTE];
    let mut sent = 0;
    let mut write = |bytes: &[u8]| {
        stream.write_all(bytes).map_err(|_| TrafficError::CutOff { sent, received: 0 })?;
        sent += bytes.len() as u64;
        Ok(())
    };
    while Instant::now() < start {
        write(&[0])?;
        thread::sleep(SETTLING.min(start.saturating_duration_since(Instant::now())));
    }
    let before = cpu_ns();
    for _ in 0..megabytes {
        write(&content)?;
    }
    stream.shutdown(Shutdown::Write).map_err(|_| TrafficError::CutOff { sent, received: 0 })?;
    let mut total = [0; 8];
    let received = stream.read_exact(&mut total).map_or(0, |()| u64::from_be_bytes(total));
    if received == sent {
        Ok((megabytes * MEGABYTE as u64, cpu_ns() - before))
    } else {
        Err(TrafficError::CutOff { sent, received })
    }
}
