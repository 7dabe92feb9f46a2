//! A flow as the kernel's connection tracking has it, and what its states mean.

use std::net::{Ipv4Addr, SocketAddr};

use crate::conntrack::state::State;
use crate::tuple::Protocol;
use crate::wire::Wire;

/// A flow as the kernel has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelFlow {
    /// Its protocol.
    pub protocol: Protocol,
    /// Client and frontend.
    pub original: (SocketAddr, SocketAddr),
    /// Backend, and where it answers to.
    pub reply: (SocketAddr, SocketAddr),
    /// An answer was seen.
    pub is_replied: bool,
    /// Both sides have confirmed it.
    pub is_assured: bool,
    /// TCP's or SCTP's state, in the kernel's numbers (`nf_conntrack_tcp.h`,
    /// `nf_conntrack_sctp.h`).
    pub state: Option<u8>,
    /// Seconds until the kernel ends it without further packets.
    pub timeout: Option<u32>,
    /// Packets and bytes by direction, where the kernel counts them.
    pub counters: Option<[(u64, u64); 2]>,
    /// Nanoseconds since it began, where the kernel remembers that.
    pub age: Option<u64>,
}

impl KernelFlow {
    /// The name of its state as nf_conntrack shows it; `None` where its protocol has none, or the
    /// kernel has not told it.
    #[must_use]
    pub fn state_name(&self) -> Option<&'static str> {
        self.state?;
        state::<Ipv4Addr>(self).name()
    }
}

/// Whether a connection has only been asked for.
pub(super) fn is_half_open(flow: &KernelFlow) -> bool {
    match flow.protocol {
        Protocol::TCP => {
            flow.state.is_some_and(|state| matches!(state, TCP_SYN_SENT | TCP_SYN_SENT2))
        }
        Protocol::SCTP => !flow.is_replied,
        _ => false,
    }
}

/// Whether a flow has ended before its time, while both ends were talking. The kernel says how much
/// time was left (Linux 5.8).
pub(super) fn was_taken_out(flow: &KernelFlow) -> bool {
    let is_talking = match flow.protocol {
        Protocol::TCP => flow.state == Some(TCP_ESTABLISHED),
        Protocol::SCTP => flow.state == Some(SCTP_ESTABLISHED),
        _ => flow.is_replied,
    };
    is_talking && flow.timeout.is_some_and(|seconds| seconds > 0)
}

pub(super) fn state<A: Wire>(flow: &KernelFlow) -> State {
    const TCP: [State; 9] = [
        State::TcpSynSent,
        State::TcpSynRecv,
        State::TcpEstablished,
        State::TcpFinWait,
        State::TcpCloseWait,
        State::TcpLastAck,
        State::TcpTimeWait,
        State::TcpClose,
        State::TcpSynSent2,
    ];
    const SCTP: [State; 7] = [
        State::SctpClosed,
        State::SctpCookieWait,
        State::SctpCookieEchoed,
        State::SctpEstablished,
        State::SctpShutdownSent,
        State::SctpShutdownRecd,
        State::SctpShutdownAckSent,
    ];
    // Both count from 1.
    let number = usize::from(flow.state.unwrap_or(1)).saturating_sub(1);
    match flow.protocol {
        // A TCP state beyond the list counts as closed.
        Protocol::TCP => TCP.get(number).copied().unwrap_or(State::TcpClose),
        Protocol::SCTP => SCTP.get(number).copied().unwrap_or(State::SctpCookieWait),
        Protocol::UDP if flow.is_assured => State::UdpStream,
        Protocol::UDP => State::Udp,
        Protocol::ICMP | Protocol::ICMPV6 if A::VERSION == 4 => State::Icmp,
        Protocol::ICMP | Protocol::ICMPV6 => State::Icmpv6,
        _ => State::Generic,
    }
}

const TCP_SYN_SENT: u8 = 1;
const TCP_ESTABLISHED: u8 = 3;
const TCP_SYN_SENT2: u8 = 9;
const SCTP_ESTABLISHED: u8 = 4;
