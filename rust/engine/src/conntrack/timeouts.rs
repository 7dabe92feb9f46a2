//! How long a flow lives without packets, by its state: nf_conntrack's names and default values.
//!
//! The defaults follow the kernel, not the RFCs: RFC 4787 wants 2 minutes for UDP and RFC 5382 4
//! minutes for TCP in transition, the kernel gives 30 s and 30 to 120 s. An operator who needs the
//! RFC floors sets them.

use super::state::State;
use crate::clock::{Tick, ticks};

/// Which timeout applies; the names are those of `net.netfilter.nf_conntrack_*_timeout*`, without
/// prefix and suffix.
macro_rules! timeouts {
    ($($variant:ident $name:literal $seconds:literal,)*) => {
        /// A kind of timeout.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum Timeout { $($variant,)* }

        impl Timeout {
            /// Name and default seconds of every timeout.
            pub const ALL: &[(Timeout, &'static str, f64)] =
                &[$((Timeout::$variant, $name, $seconds),)*];

            /// All names as a list in words.
            fn names() -> String {
                Self::ALL.iter().map(|(_, name, _)| *name).collect::<Vec<_>>().join(", ")
            }
        }
    };
}

timeouts! {
    TcpSynSent "tcp_syn_sent" 120.0,
    TcpSynRecv "tcp_syn_recv" 60.0,
    TcpEstablished "tcp_established" 432_000.0,
    TcpFinWait "tcp_fin_wait" 120.0,
    TcpCloseWait "tcp_close_wait" 60.0,
    TcpLastAck "tcp_last_ack" 30.0,
    TcpTimeWait "tcp_time_wait" 120.0,
    TcpClose "tcp_close" 10.0,
    TcpSynSent2 "tcp_syn_sent2" 120.0,
    TcpMaxRetrans "tcp_max_retrans" 300.0,
    TcpUnacknowledged "tcp_unacknowledged" 300.0,
    Udp "udp" 30.0,
    UdpStream "udp_stream" 120.0,
    Icmp "icmp" 30.0,
    Icmpv6 "icmpv6" 30.0,
    Generic "generic" 600.0,
    SctpClosed "sctp_closed" 10.0,
    SctpCookieWait "sctp_cookie_wait" 3.0,
    SctpCookieEchoed "sctp_cookie_echoed" 3.0,
    SctpEstablished "sctp_established" 210.0,
    SctpShutdownSent "sctp_shutdown_sent" 3.0,
    SctpShutdownRecd "sctp_shutdown_recd" 3.0,
    SctpShutdownAckSent "sctp_shutdown_ack_sent" 3.0,
}

/// A timeout that cannot be: a fault of the configuration.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum TimeoutError {
    /// No timeout has this name.
    #[error("no timeout is named {0:?}; there are {list}", list = Timeout::names())]
    Unknown(String),
    /// Not a number of seconds between 0 and a year.
    #[error("timeout {0}: {1} is not between 0 and 31,536,000 seconds")]
    Range(String, f64),
}

/// All timeouts, in ticks.
#[derive(Clone, Debug)]
pub struct Timeouts {
    table: [Tick; Timeout::ALL.len()],
    /// The same by state, for packets of known flows.
    by_state: [Tick; State::COUNT],
}

impl Default for Timeouts {
    fn default() -> Self {
        let mut timeouts = Self { table: [0; Timeout::ALL.len()], by_state: [0; State::COUNT] };
        for &(timeout, _, seconds) in Timeout::ALL {
            timeouts.put(timeout, seconds);
        }
        timeouts
    }
}

impl Timeouts {
    /// Sets one by its name, in seconds.
    ///
    /// # Errors
    /// [`TimeoutError`].
    pub fn set(&mut self, name: &str, seconds: f64) -> Result<(), TimeoutError> {
        let entry = Timeout::ALL.iter().find(|(_, label, _)| *label == name);
        let &(timeout, ..) = entry.ok_or_else(|| TimeoutError::Unknown(name.to_owned()))?;
        if !(0.0..=31_536_000.0).contains(&seconds) {
            return Err(TimeoutError::Range(name.to_owned(), seconds));
        }
        self.put(timeout, seconds);
        Ok(())
    }

    fn put(&mut self, timeout: Timeout, seconds: f64) {
        self.table[timeout as usize] = ticks(seconds);
        for (state, kind) in BY_STATE {
            if kind == timeout {
                self.by_state[state as usize] = ticks(seconds);
            }
        }
    }

    #[inline]
    pub(crate) fn get(&self, timeout: Timeout) -> Tick {
        self.table[timeout as usize]
    }

    /// The timeout of a flow in this state.
    #[inline]
    pub(crate) fn of(&self, state: State) -> Tick {
        self.by_state[state as usize]
    }
}

/// Which timeout applies in which state.
const BY_STATE: [(State, Timeout); State::COUNT - 1] = {
    use {State as S, Timeout as T};
    [
        (S::TcpSynSent, T::TcpSynSent),
        (S::TcpSynRecv, T::TcpSynRecv),
        (S::TcpEstablished, T::TcpEstablished),
        (S::TcpFinWait, T::TcpFinWait),
        (S::TcpCloseWait, T::TcpCloseWait),
        (S::TcpLastAck, T::TcpLastAck),
        (S::TcpTimeWait, T::TcpTimeWait),
        (S::TcpClose, T::TcpClose),
        (S::TcpSynSent2, T::TcpSynSent2),
        (S::Udp, T::Udp),
        (S::UdpStream, T::UdpStream),
        (S::Icmp, T::Icmp),
        (S::Icmpv6, T::Icmpv6),
        (S::Generic, T::Generic),
        (S::SctpClosed, T::SctpClosed),
        (S::SctpCookieWait, T::SctpCookieWait),
        (S::SctpCookieEchoed, T::SctpCookieEchoed),
        (S::SctpEstablished, T::SctpEstablished),
        (S::SctpShutdownSent, T::SctpShutdownSent),
        (S::SctpShutdownRecd, T::SctpShutdownRecd),
        (S::SctpShutdownAckSent, T::SctpShutdownAckSent),
    ]
};
