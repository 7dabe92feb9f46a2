//! Connections that stay open, and their closing.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::connections::{Connections, Tally, closed_by_server, exchange};
use crate::error::{TrafficError, at};
use crate::latencies::{Latencies, Times};
use crate::sockets;
use crate::wire::{self, ANSWER_BYTES};

/// Connections whose closing is asked for before the first is waited for.
const WINDOW: usize = 64;

/// Connections that were opened, and are.
#[derive(Clone, Debug, Serialize)]
pub struct Opened {
    /// Validated, and open.
    pub opened: u64,
    /// 1 when the last one failed.
    pub failed: u64,
    /// That it took.
    pub seconds: f64,
    /// Of opening and validating one.
    pub latencies: Latencies,
}

/// Open connections.
#[derive(Debug)]
pub struct Held {
    streams: Vec<TcpStream>,
    opened: Opened,
}

impl Held {
    /// Opens so many, one after the other, until one does not answer within `wait`.
    ///
    /// # Errors
    /// When a socket cannot be opened: the process has no descriptors left.
    pub fn open(to: SocketAddr, count: u64, wait: Duration) -> Result<Self, TrafficError> {
        sockets::raise_descriptor_limit();
        let (mut streams, mut times, mut failed) = (Vec::new(), Times::new(), 0);
        let started = Instant::now();
        for nonce in 0..count {
            let stream = sockets::stream_for(&to, wait).map_err(at("a socket for a connection"))?;
            let begun = Instant::now();
            let outcome =
                sockets::open_stream(&stream, &to).and_then(|()| exchange(&stream, nonce, false));
            if outcome.is_err() {
                failed = 1;
                break;
            }
            times.record(begun.elapsed());
            streams.push(stream);
        }
        let opened = Opened {
            opened: streams.len() as u64,
            failed,
            seconds: started.elapsed().as_secs_f64(),
            latencies: times.summary(),
        };
        Ok(Self { streams, opened })
    }

    /// How opening went.
    #[must_use]
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Lets the server close them all: a window of them at a time. A connection that is not closed
    /// in order counts as failed.
    pub fn close(&mut self) -> Connections {
        let mut tally = Tally::new();
        let started = Instant::now();
        for window in self.streams.chunks(WINDOW) {
            let requests: Vec<_> = window
                .iter()
                .map(|mut stream| {
                    let begun = Instant::now();
                    (begun, stream.write_all(&wire::request(u64::MAX, true)))
                })
                .collect();
            for (stream, (begun, outcome)) in window.iter().zip(requests) {
                match outcome.and_then(|()| answer_and_end(stream)) {
                    Ok(()) => {
                        tally.opened += 1;
                        tally.times.record(begun.elapsed());
                    }
                    Err(_) => tally.failed += 1,
                }
            }
        }
        self.streams.clear();
        tally.result(started.elapsed().as_secs_f64())
    }
}

fn answer_and_end(mut stream: &TcpStream) -> io::Result<()> {
    io::Read::read_exact(&mut stream, &mut [0; ANSWER_BYTES])?;
    closed_by_server(stream)
}
