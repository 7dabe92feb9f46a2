//! The server's port for datagrams.

use std::net::UdpSocket;
use std::sync::atomic::Ordering;

use rustix::net::{RecvFlags, recvfrom};

use crate::shared::Shared;
use crate::wire::{self, Name};

/// Longer than any datagram of a flood.
const LARGEST: usize = 1 << 16;

/// Counts datagrams and answers pings until the server stops.
pub(crate) fn serve(socket: &UdpSocket, name: &Name, shared: &Shared) {
    let mut content = vec![0; LARGEST];
    while shared.is_running() {
        match recvfrom(socket, &mut content[..], RecvFlags::DONTWAIT) {
            Ok((length, _, peer)) => {
                shared.datagrams.fetch_add(1, Ordering::Relaxed);
                let content = &mut content[..length];
                if let (true, Some(peer)) = (wire::answer_ping(content, name), peer) {
                    let flags = rustix::net::SendFlags::empty();
                    if rustix::net::sendto(socket, content, flags, &peer).is_ok() {
                        shared.answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            Err(rustix::io::Errno::AGAIN) => shared.wait_for(socket),
            // An ICMP error about an earlier answer.
            Err(_) => {}
        }
    }
}
