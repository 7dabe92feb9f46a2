//! The server's port for requests: connections of any number in one thread, by epoll.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::shared::Shared;
use crate::wire::{self, Name, REQUEST_BYTES};

/// Events that are taken at once.
const EVENTS: usize = 256;

struct Connection {
    stream: TcpStream,
    request: [u8; REQUEST_BYTES],
    length: usize,
}

/// Answers requests on all connections until the server stops.
pub(crate) fn serve(
    listeners: &[TcpListener],
    name: &Name,
    shared: &Shared,
) -> std::io::Result<()> {
    let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    watch(&events, &shared.stop)?;
    for listener in listeners {
        watch(&events, listener)?;
    }
    let mut connections: HashMap<u64, Connection> = HashMap::new();
    let mut ready = Vec::with_capacity(EVENTS);
    while shared.is_running() {
        ready.clear();
        match epoll::wait(&events, spare_capacity(&mut ready), None) {
            Err(rustix::io::Errno::INTR) => continue,
            outcome => outcome?,
        };
        for event in &ready {
            let place = event.data.u64();
            if let Some(listener) = listeners.iter().find(|listener| number(*listener) == place) {
                accept(listener, &events, &mut connections, shared)?;
            } else if let Some(connection) = connections.get_mut(&place)
                && !connection.advance(name)
            {
                // Closing the descriptor takes it out of the epoll set.
                connections.remove(&place);
            }
        }
        shared.open.store(connections.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn accept(
    listener: &TcpListener,
    events: &OwnedFd,
    connections: &mut HashMap<u64, Connection>,
    shared: &Shared,
) -> std::io::Result<()> {
    // Until there is none, or no descriptor: then the rest waits in the backlog.
    while let Ok((stream, _)) = listener.accept() {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        watch(events, &stream)?;
        let connection = Connection { length: 0, request: [0; REQUEST_BYTES], stream };
        connections.insert(number(&connection.stream), connection);
    }
    Ok(())
}

impl Connection {
    /// Reads what there is, and answers whole requests. False when it is over.
    fn advance(&mut self, name: &Name) -> bool {
        loop {
            match self.stream.read(&mut self.request[self.length..]) {
                Ok(0) => return false,
                Ok(length) => self.length += length,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
            if self.length == REQUEST_BYTES {
                self.length = 0;
                // An answer fits into any socket's buffer: clients send a request at a time.
                let is_sent = self.stream.write_all(&wire::answer(&self.request, name)).is_ok();
                if !is_sent || wire::is_last(&self.request) {
                    return false;
                }
            }
        }
    }
}

fn number(descriptor: &impl AsRawFd) -> u64 {
    u64::from(descriptor.as_raw_fd().unsigned_abs())
}

fn watch<T: AsRawFd + std::os::fd::AsFd>(events: &OwnedFd, descriptor: &T) -> std::io::Result<()> {
    let data = EventData::new_u64(number(descriptor));
    Ok(epoll::add(events, descriptor, data, EventFlags::IN)?)
}
