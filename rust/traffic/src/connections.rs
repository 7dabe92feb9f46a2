//! Short connections, one after the other in each thread.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{TrafficError, at};
use crate::latencies::{Latencies, Times};
use crate::sockets;
use crate::wire::{self, ANSWER_BYTES};

/// Connections that were opened.
#[derive(Clone, Debug, Serialize)]
pub struct Connections {
    /// Opened, answered where that is asked for, and closed by the server.
    pub opened: u64,
    /// Refused, cut off, late, or answered wrongly.
    pub failed: u64,
    /// From the first to the last.
    pub seconds: f64,
    /// Of opening one.
    pub latencies: Latencies,
    /// Validated answers by the server's name.
    pub servers: BTreeMap<String, u64>,
}

/// What a thread has counted.
pub(crate) struct Tally {
    pub(crate) opened: u64,
    pub(crate) failed: u64,
    pub(crate) times: Times,
    pub(crate) servers: BTreeMap<String, u64>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self { opened: 0, failed: 0, times: Times::new(), servers: BTreeMap::new() }
    }

    fn merge(&mut self, other: Self) {
        self.opened += other.opened;
        self.failed += other.failed;
        self.times.merge(&other.times);
        for (name, count) in other.servers {
            *self.servers.entry(name).or_default() += count;
        }
    }

    pub(crate) fn result(self, seconds: f64) -> Connections {
        Connections {
            opened: self.opened,
            failed: self.failed,
            seconds,
            latencies: self.times.summary(),
            servers: self.servers,
        }
    }
}

/// Opens connections for this `span` in each of some threads; a call that takes longer than `wait`
/// fails. With `validate` each sends a request before the server closes it.
///
/// # Errors
/// When a socket cannot be opened, or no thread.
pub fn connect(
    to: SocketAddr,
    span: Duration,
    threads: usize,
    wait: Duration,
    validate: bool,
) -> Result<Connections, TrafficError> {
    let started = Instant::now();
    let work = || -> io::Result<Tally> {
        let mut tally = Tally::new();
        let mut nonce = 0;
        // At least one, however short the span.
        loop {
            nonce += 1;
            let stream = sockets::stream_for(&to, wait)?;
            let begun = Instant::now();
            let outcome = sockets::open_stream(&stream, &to).and_then(|()| {
                let opening = begun.elapsed();
                let server = if validate { Some(exchange(&stream, nonce, true)?) } else { None };
                closed_by_server(&stream)?;
                Ok((opening, server))
            });
            match outcome {
                Ok((opening, server)) => {
                    tally.opened += 1;
                    tally.times.record(opening);
                    if let Some(server) = server {
                        *tally.servers.entry(server).or_default() += 1;
                    }
                }
                Err(_) => tally.failed += 1,
            }
            sockets::forget(&stream);
            if started.elapsed() >= span {
                return Ok(tally);
            }
        }
    };
    let mut total = Tally::new();
    // All have ended before an error is told.
    let tallies: Vec<io::Result<Tally>> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(ErrorKind::Other.into())))
            .collect()
    });
    for tally in tallies {
        total.merge(tally.map_err(at("a socket for a connection"))?);
    }
    Ok(total.result(started.elapsed().as_secs_f64()))
}

/// Sends a request; the name of the server that answers it rightly.
pub(crate) fn exchange(mut stream: &TcpStream, nonce: u64, last: bool) -> io::Result<String> {
    let request = wire::request(nonce, last);
    stream.write_all(&request)?;
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer)?;
    match answer.strip_prefix(&request) {
        Some(name) => Ok(wire::text_of(name)),
        None => Err(ErrorKind::InvalidData.into()),
    }
}

/// Waits until the server closes.
pub(crate) fn closed_by_server(mut stream: &TcpStream) -> io::Result<()> {
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}
