//! Verdicts: the action for a packet, and its cause.

/// The driver's action for a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Action {
    /// Send it on as it is.
    Pass,
    /// Send it on: it was rewritten in place.
    Translate,
    /// Drop it silently.
    Drop,
    /// Reject it: see [`crate::reject`].
    Reject,
    /// Keep its place: a fragment that waits for the first one of its datagram.
    Hold,
}

impl Action {
    /// All actions in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Pass, Self::Translate, Self::Drop, Self::Reject, Self::Hold];

    /// The action's name in text and in Python.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["pass", "translate", "drop", "reject", "hold"][self as usize]
    }
}

macro_rules! causes {
    ($($variant:ident $name:literal $doc:literal,)*) => {
        /// Why a packet got its verdict; each is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Cause { $(#[doc = $doc] $variant,)* }

        impl Cause {
            /// All causes in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
            const NAMES: &[&str] = &[$($name),*];
            const MEANINGS: &[&str] = &[$($doc),*];
        }
    };
}

causes! {
    Established "established" "it belongs to a known flow",
    New "new" "it opened a flow",
    Related "related" "an ICMP error about a packet of a known flow",
    Fragment "fragment" "a later fragment follows its datagram's decision",
    NotOurs "not-ours" "no flow and no frontend matches",
    Invalid "invalid" "its flags, sequence numbers or state do not fit the connection",
    NoEndpoints "no-endpoints" "the service port has no endpoint that may take it",
    NoLocalEndpoints "no-local-endpoints"
        "the traffic policy is Local and this node has no endpoint",
    SourceRange "source-range" "the source is outside loadBalancerSourceRanges",
    UnknownPort "unknown-port" "the address is a cluster IP, but nothing is served on this port",
    Unallocated "unallocated" "the address is of the Services' range, but no Service has it",
    Midstream "midstream" "a TCP packet in mid-stream of a connection that is not known",
    Martian "martian" "its source or destination address cannot be",
    TableFull "table-full" "the flow table is full of assured flows",
    SourceLimit "source-limit" "its source has as many flows as one source may have",
    HashChain "hash-chain" "too many flows fall into one place of the table",
    PortsExhausted "ports-exhausted" "no source port is free for this backend",
    BackendGone "backend-gone" "its backend left before the connection was established",
    Forgotten "forgotten"
        "conntrack was made to forget its flow, and gets it back with the source that it had",
    Malformed "malformed" "the packet's headers contradict themselves or its length",
    SourceRoute "source-route" "a type 0 routing header",
    BadIcmp "bad-icmp"
        "an ICMP error with a wrong checksum, or that cannot be about what it quotes",
    IcmpUnmatched "icmp-unmatched" "an ICMP error to a cluster IP about no known flow",
    FragmentHeld "fragment-held" "a later fragment waits for the first",
    FragmentTiny "fragment-tiny" "the first fragment does not hold the transport header",
    FragmentOverlap "fragment-overlap" "fragments of one datagram overlap",
    FragmentLimit "fragment-limit" "too many fragments wait",
    FragmentTimeout "fragment-timeout" "the first fragment did not come in time",
    FragmentRefused "fragment-refused" "the datagram's first fragment was not sent on",
}

impl Cause {
    /// Number of causes.
    pub const COUNT: usize = Self::ALL.len();

    /// The cause's name in text and in Python.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The cause in words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        Self::MEANINGS[self as usize]
    }
}

/// How a first packet was decided, in the upper three bits of a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Outcome {
    /// Served by a backend of the service port's strategy.
    Strategy = 0,
    /// Served by the backend that the client had before.
    Affinity = 1 << 5,
    /// Served, in mid-stream, by a choice that all nodes agree on.
    Consistent = 2 << 5,
    /// Dropped.
    Drop = 3 << 5,
    /// Rejected.
    Reject = 4 << 5,
}

impl Outcome {
    /// All outcomes in the order of their numbers.
    pub(crate) const ALL: [Self; 5] =
        [Self::Strategy, Self::Affinity, Self::Consistent, Self::Drop, Self::Reject];

    /// The outcome for a packet that is not served.
    pub(crate) fn refusal(verdict: Verdict) -> Self {
        if verdict.action == Action::Reject { Self::Reject } else { Self::Drop }
    }

    /// The action that it was.
    pub(crate) fn action(self) -> Action {
        match self {
            Self::Strategy | Self::Affinity | Self::Consistent => Action::Translate,
            Self::Drop => Action::Drop,
            Self::Reject => Action::Reject,
        }
    }
}

/// The engine's answer for one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Verdict {
    /// The action to take.
    pub action: Action,
    /// Why.
    pub cause: Cause,
    /// The bits of [`Verdict::MASQUERADE`] and the others.
    pub flags: u8,
    /// For [`Action::Hold`]: the number under which the fragment is released.
    pub ticket: u32,
}

impl Verdict {
    /// Flag: the sender of the packet masquerades its source.
    pub const MASQUERADE: u8 = 1;
    /// Flag: it travels from the backend to the client.
    pub const REPLY: u8 = 2;
    /// Flag: it opened its flow.
    pub const NEW: u8 = 4;
    /// Flag: it belongs to a flow.
    pub const FLOW: u8 = 8;

    /// A verdict without flags.
    #[inline]
    pub fn new(action: Action, cause: Cause) -> Self {
        Self { action, cause, flags: 0, ticket: 0 }
    }

    /// Drop, for this cause.
    #[inline]
    pub fn drop(cause: Cause) -> Self {
        Self::new(Action::Drop, cause)
    }

    /// The record of eight bytes that a batch returns: action, cause, flags, 0, ticket (little
    /// endian).
    #[must_use]
    pub fn record(self) -> [u8; 8] {
        let ticket = self.ticket.to_le_bytes();
        [
            self.action as u8,
            self.cause as u8,
            self.flags,
            0,
            ticket[0],
            ticket[1],
            ticket[2],
            ticket[3],
        ]
    }
    /// The verdict that a record holds; `None` for one that [`Verdict::record`] did not make.
    #[must_use]
    pub fn from_record(record: [u8; 8]) -> Option<Self> {
        let [action, cause, flags, _, ticket @ ..] = record;
        Some(Self {
            action: *Action::ALL.get(usize::from(action))?,
            cause: *Cause::ALL.get(usize::from(cause))?,
            flags,
            ticket: u32::from_le_bytes(ticket),
        })
    }
}
