//! The server's ports for short connections and for streams.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::shared::Shared;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;
/// How soon a stream that is silent hears of the server's end.
const PATIENCE: Duration = Duration::from_millis(200);

/// Accepts connections until the server stops, and hands each on.
fn accept(listener: &TcpListener, shared: &Shared, mut take: impl FnMut(TcpStream)) {
    while shared.is_running() {
        match listener.accept() {
            Ok((stream, _)) => {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                take(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => shared.wait_for(listener),
            // The client was gone before.
            Err(_) => {}
        }
    }
}

/// Closes each connection at once.
pub(crate) fn serve_short(listener: &TcpListener, shared: &Shared) {
    accept(listener, shared, drop);
}

/// Swallows each stream in a thread of its own, and says at its end how long it was.
pub(crate) fn serve_bulk(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    accept(listener, shared, |stream| {
        let shared = shared.clone();
        threads.retain(|thread| !thread.is_finished());
        threads.push(std::thread::spawn(move || swallow(stream, &shared)));
    });
    for thread in threads {
        let _ = thread.join();
    }
}

fn swallow(mut stream: TcpStream, shared: &Shared) {
    let mut content = vec![0; CHUNK];
    let mut total: u64 = 0;
    if stream.set_read_timeout(Some(PATIENCE)).is_err() {
        return;
    }
    while shared.is_running() {
        match stream.read(&mut content) {
            Ok(0) => {
                // A client that does not hear it takes the stream for cut off.
                let _ = stream.write_all(&total.to_be_bytes());
                return;
            }
            Ok(length) => {
                total += length as u64;
                shared.bytes.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
