//! The servers of a pod: a thread for each kind of port.

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::net::SocketType;

use crate::error::{TrafficError, at};
use crate::shared::{Counts, Shared};
use crate::{datagrams, exchanges, sockets, streams, wire};

/// Port numbers of a server.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Datagrams: pings are answered, others counted.
    pub udp: u16,
    /// Streams, which are swallowed.
    pub bulk: u16,
    /// Connections that are closed at once.
    pub short: u16,
    /// Connections on which requests are answered.
    pub exchange: u16,
}

/// Servers of both families in the network namespace of the thread that made it, until it is
/// dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts them. `name` is sent with answers, its first [`crate::NAME_BYTES`] bytes.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn start(name: &str, ports: &Ports) -> Result<Self, TrafficError> {
        sockets::raise_descriptor_limit();
        let name = wire::name_of(name);
        let shared = Arc::new(Shared::new().map_err(at("eventfd"))?);
        // Dropping it on an error ends the threads that run already.
        let mut server = Self { shared, threads: Vec::new() };
        let mut exchange_listeners = Vec::new();
        for is_ipv6 in [false, true] {
            let socket = sockets::serving(SocketType::DGRAM, is_ipv6, ports.udp)
                .map_err(at("the port for datagrams"))?;
            let socket = UdpSocket::from(socket);
            server.spawn(move |shared| datagrams::serve(&socket, &name, shared));
            let short = listener(is_ipv6, ports.short)?;
            server.spawn(move |shared| streams::serve_short(&short, shared));
            let bulk = listener(is_ipv6, ports.bulk)?;
            server.spawn(move |shared| streams::serve_bulk(&bulk, shared));
            exchange_listeners.push(listener(is_ipv6, ports.exchange)?);
        }
        server.spawn(move |shared| {
            // Without epoll nothing answers there, which its clients count.
            let _ = exchanges::serve(&exchange_listeners, &name, shared);
        });
        Ok(server)
    }

    /// As they are now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    fn spawn(&mut self, serve: impl FnOnce(&Arc<Shared>) + Send + 'static) {
        let shared = self.shared.clone();
        self.threads.push(std::thread::spawn(move || serve(&shared)));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn listener(is_ipv6: bool, port: u16) -> Result<TcpListener, TrafficError> {
    let open = || {
        let listener = TcpListener::from(sockets::serving(SocketType::STREAM, is_ipv6, port)?);
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map_err(at("a port for connections"))
}
