//! The states of a flow, of all protocols, and how packets of those without windows move between
//! them.

use crate::clock::{Tick, ticks};
use crate::tuple::{Address, Direction};
use crate::wire::Layer4;
use crate::wire::sctp::Chunk;

/// Where a flow stands; names as in nf_conntrack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum State {
    /// The record holds no flow.
    Free,
    TcpSynSent,
    TcpSynRecv,
    TcpEstablished,
    TcpFinWait,
    TcpCloseWait,
    TcpLastAck,
    TcpTimeWait,
    TcpClose,
    TcpSynSent2,
    Udp,
    UdpStream,
    Icmp,
    Icmpv6,
    Generic,
    SctpClosed,
    SctpCookieWait,
    SctpCookieEchoed,
    SctpEstablished,
    SctpShutdownSent,
    SctpShutdownRecd,
    SctpShutdownAckSent,
}

impl State {
    const ALL: [(Self, &'static str); 21] = [
        (Self::TcpSynSent, "SYN_SENT"),
        (Self::TcpSynRecv, "SYN_RECV"),
        (Self::TcpEstablished, "ESTABLISHED"),
        (Self::TcpFinWait, "FIN_WAIT"),
        (Self::TcpCloseWait, "CLOSE_WAIT"),
        (Self::TcpLastAck, "LAST_ACK"),
        (Self::TcpTimeWait, "TIME_WAIT"),
        (Self::TcpClose, "CLOSE"),
        (Self::TcpSynSent2, "SYN_SENT2"),
        (Self::Udp, ""),
        (Self::UdpStream, ""),
        (Self::Icmp, ""),
        (Self::Icmpv6, ""),
        (Self::Generic, ""),
        (Self::SctpClosed, "CLOSED"),
        (Self::SctpCookieWait, "COOKIE_WAIT"),
        (Self::SctpCookieEchoed, "COOKIE_ECHOED"),
        (Self::SctpEstablished, "ESTABLISHED"),
        (Self::SctpShutdownSent, "SHUTDOWN_SENT"),
        (Self::SctpShutdownRecd, "SHUTDOWN_RECD"),
        (Self::SctpShutdownAckSent, "SHUTDOWN_ACK_SENT"),
    ];

    /// The name that nf_conntrack shows; `None` for protocols whose state it does not show.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        let row = (self as usize).checked_sub(1)?;
        Some(Self::ALL[row].1).filter(|name| !name.is_empty())
    }

    /// All names that nf_conntrack shows, each once.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        let mut names: Vec<_> = Self::ALL.iter().filter_map(|(state, _)| state.name()).collect();
        // TCP and SCTP share one.
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(*name));
        names
    }

    /// The state with this number, as a checkpoint stores it; never [`State::Free`].
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Some(Self::ALL.get(usize::from(number).checked_sub(1)?)?.0)
    }

    /// Number of states, [`State::Free`] included.
    pub(crate) const COUNT: usize = Self::ALL.len() + 1;

    /// TCP before the handshake is complete.
    #[must_use]
    pub fn is_half_open(self) -> bool {
        matches!(self, Self::TcpSynSent | Self::TcpSynRecv | Self::TcpSynSent2)
    }

    /// TCP whose SYN nobody has acknowledged: for the client no connection has begun.
    #[must_use]
    pub fn is_unanswered(self) -> bool {
        matches!(self, Self::TcpSynSent | Self::TcpSynSent2)
    }

    /// Whether its backend has no work with a flow in this state: as in IPVS, TCP that is being
    /// closed, and SCTP that is not established.
    #[inline(always)]
    #[must_use]
    pub fn is_inactive(self) -> bool {
        (Self::TcpFinWait as u8..=Self::TcpClose as u8).contains(&(self as u8))
            || self as u8 >= Self::SctpClosed as u8 && self != Self::SctpEstablished
    }

    /// TCP that is over and only remembered for a while: each end has said its last word.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::TcpTimeWait | Self::TcpClose)
    }

    /// Whether this is a state of TCP.
    #[inline]
    #[must_use]
    pub fn is_tcp(self) -> bool {
        (Self::TcpSynSent as u8..=Self::TcpSynSent2 as u8).contains(&(self as u8))
    }

    /// The state of a flow whose first packet is of this kind; TCP has its own
    /// ([`super::tcp`]).
    #[inline(always)]
    pub(crate) fn opening<A: Address>(layer4: Layer4, chunk: Chunk) -> Self {
        match layer4 {
            Layer4::Udp => Self::Udp,
            Layer4::EchoRequest if A::VERSION == 4 => Self::Icmp,
            Layer4::EchoRequest => Self::Icmpv6,
            Layer4::Sctp if chunk == Chunk::Init => Self::SctpCookieWait,
            Layer4::Sctp => Self::SctpEstablished,
            _ => Self::Generic,
        }
    }

    /// Where an SCTP association stands after a packet that begins with `chunk` (RFC 9260, 4).
    pub(crate) fn after_chunk(self, chunk: Chunk, direction: Direction) -> Self {
        match (chunk, direction) {
            (Chunk::Init, Direction::Original) if self == Self::SctpClosed => Self::SctpCookieWait,
            (Chunk::CookieEcho, Direction::Original) if self == Self::SctpCookieWait => {
                Self::SctpCookieEchoed
            }
            (Chunk::CookieAck, Direction::Reply) if self == Self::SctpCookieEchoed => {
                Self::SctpEstablished
            }
            (Chunk::Shutdown, Direction::Original) if self == Self::SctpEstablished => {
                Self::SctpShutdownSent
            }
            (Chunk::Shutdown, Direction::Reply) if self == Self::SctpEstablished => {
                Self::SctpShutdownRecd
            }
            (Chunk::ShutdownAck, _)
                if matches!(self, Self::SctpShutdownSent | Self::SctpShutdownRecd) =>
            {
                Self::SctpShutdownAckSent
            }
            (Chunk::ShutdownComplete | Chunk::Abort, _) => Self::SctpClosed,
            _ => self,
        }
    }
}

/// Traffic both ways for this long makes UDP a stream (the kernel: two seconds).
pub(crate) fn stream_age() -> Tick {
    ticks(2.0)
}
