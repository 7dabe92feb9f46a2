//! How sockets are opened: with wide buffers, and with time limits that the kernel keeps.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Bytes of socket buffers, beyond net.core's limits where privileges allow.
const BUFFER: usize = 8 << 20;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// Source ports that are given to new flows in turn, so that the kernel does not know them yet.
const PORTS: std::ops::Range<u16> = 10_000..65_000;

static NEXT_PORT: AtomicU16 = AtomicU16::new(PORTS.start);

fn open(family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    // Without CAP_NET_ADMIN the system's limits are wide enough for small runs.
    let _ = sockopt::set_socket_send_buffer_size_force(&socket, BUFFER);
    if kind == SocketType::DGRAM {
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER);
    }
    Ok(socket)
}

fn family_of(address: &SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// A socket at this port of all addresses of a family, listening if it is a stream's.
pub(crate) fn serving(kind: SocketType, is_ipv6: bool, port: u16) -> io::Result<OwnedFd> {
    let address: IpAddr =
        if is_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let address = SocketAddr::new(address, port);
    let socket = open(family_of(&address), kind)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if is_ipv6 {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    if kind == SocketType::STREAM {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// A socket for datagrams to one address.
pub(crate) fn datagrams_to(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open(family_of(&to), SocketType::DGRAM)?;
    connect(&socket, &to)?;
    Ok(socket.into())
}

/// The same from a source port that no socket of this process has had for long.
pub(crate) fn fresh_datagrams_to(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = open(family_of(&to), SocketType::DGRAM)?;
    for _ in PORTS {
        match bind(&socket, &SocketAddr::new(any, next_port())) {
            Err(Errno::ADDRINUSE) => {}
            outcome => {
                outcome?;
                connect(&socket, &to)?;
                return Ok(socket.into());
            }
        }
    }
    Err(Errno::ADDRINUSE.into())
}

fn next_port() -> u16 {
    let next = |port: u16| Some(if port + 1 < PORTS.end { port + 1 } else { PORTS.start });
    NEXT_PORT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(PORTS.start)
}

/// A socket for a connection to this address, not yet connected, whose calls fail after `wait`.
pub(crate) fn stream_for(to: &SocketAddr, wait: Duration) -> io::Result<TcpStream> {
    let socket = open(family_of(to), SocketType::STREAM)?;
    for limit in [Timeout::Send, Timeout::Recv] {
        sockopt::set_socket_timeout(&socket, limit, Some(wait))?;
    }
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket.into())
}

/// Connects a socket of [`stream_for`].
pub(crate) fn open_stream(stream: &TcpStream, to: &SocketAddr) -> io::Result<()> {
    Ok(connect(stream, to)?)
}

/// A socket that is closed without TIME_WAIT, which would use up source ports: the other end has
/// closed before.
pub(crate) fn forget(stream: &TcpStream) {
    // Nothing is left to be said: a failure costs a source port for a minute.
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

/// Lets this process have as many descriptors as it may.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // A refusal shows itself at the descriptor that is missing.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
