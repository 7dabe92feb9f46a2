//! The path of one packet: fragments, ICMP errors, packets of known flows, first packets.
//!
//! A packet of a known flow costs a look-up and a rewrite in place; there is no decision on that
//! path.

mod fast_path;
mod first_packet;
mod fragments;
mod related;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::affinity::Affinity;
use crate::clock::{Clock, Tick};
use crate::config::{Config, InvalidTcp};
use crate::conntrack::ports::{Leases, Remote};
use crate::conntrack::state::{State, stream_age};
use crate::conntrack::tcp::Progress;
use crate::conntrack::{FlowId, FlowTable, Hot, STALE};
use crate::counters::Counters;
use crate::events::{EventKind, Events};
use crate::fragment::{Fragments, Released};
use crate::hash::HashKey;
use crate::ledger::{Ledger, Standing};
use crate::rewrite::{self, ChecksumState};
use crate::rng::Rng;
use crate::service::ServiceTable;
use crate::tuple::{Direction, Ends, Protocol};
use crate::verdict::{Action, Cause, Verdict};
use crate::wire::tcp::{Flags, Segment};
use crate::wire::{Headers, Layer4, Malformed, Wire, sctp};

pub(crate) use fast_path::Candidate;
pub(crate) use first_packet::{Binding, query, to_backend};
pub(crate) use related::Related;

/// What the driver knows of a packet beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    /// Index of the device it came in by; 0 when the node itself made it.
    pub interface: u32,
    /// Whether its transport checksum is there.
    pub checksum: ChecksumState,
    /// Whether it was read from a capture, where a length field of 0 stands for the length of the
    /// bytes: see [`Wire::parse_captured`]. On a wire such a packet is malformed.
    pub is_captured: bool,
}

impl Meta {
    /// Reads the headers of a packet that came in with this.
    #[inline(always)]
    pub(crate) fn parse<A: Wire>(self, packet: &[u8]) -> Result<Headers<A>, Malformed> {
        match A::parse(packet) {
            Err(why) if self.is_captured => A::parse_captured(packet).ok_or(why),
            parsed => parsed,
        }
    }
}

/// A packet to be processed: its bytes, rewritten in place, and what the driver knows of it.
#[derive(Debug)]
pub struct Packet<'a> {
    /// From the first byte of the IP header.
    pub bytes: &'a mut [u8],
    /// Beside the bytes.
    pub meta: Meta,
}

/// Flows and fragments of one family.
#[derive(Debug)]
pub(crate) struct FamilyState<A> {
    pub(crate) flows: FlowTable<A>,
    pub(crate) fragments: Fragments<A>,
    pub(crate) events: Events<A>,
    /// Flows by source address; kept only under a limit per source.
    pub(crate) sources: HashMap<A, u32, HashKey>,
}

impl<A: Wire> FamilyState<A> {
    pub(crate) fn new(config: &Config, key: HashKey) -> Self {
        Self {
            flows: FlowTable::new(config.max_flows, key),
            fragments: Fragments::new(config.max_fragments, key),
            events: Events::default(),
            sources: HashMap::with_hasher(key),
        }
    }
}

/// All that both families share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) table: Arc<ServiceTable>,
    /// Counts the tables; never [`STALE`].
    pub(crate) generation: u32,
    pub(crate) ledger: Ledger,
    pub(crate) affinity: Affinity,
    pub(crate) leases: Leases,
    pub(crate) rng: Rng,
    pub(crate) counters: Counters,
    pub(crate) released: Vec<Released>,
    /// Offloaded flows that were ended here: protocol, client and frontend.
    pub(crate) orphans: Vec<(Protocol, SocketAddr, SocketAddr)>,
}

/// The verdict on bytes that are no packet.
#[cold]
pub(crate) fn malformed(why: Malformed) -> Verdict {
    Verdict::drop(match why {
        Malformed::SourceRoute => Cause::SourceRoute,
        Malformed::TinyFragment => Cause::FragmentTiny,
        _ => Cause::Malformed,
    })
}

/// The verdict on bytes that begin with the version of no IP. Empty ones stand for a frame without
/// an IP packet, such as ARP in a capture: it is nobody's.
#[cold]
pub(crate) fn versionless(packet: &[u8]) -> Verdict {
    if packet.is_empty() {
        Verdict::new(Action::Accept, Cause::NotOurs)
    } else {
        malformed(Malformed::Version)
    }
}

impl Shared {
    /// The verdict of [`versionless`], counted.
    pub(crate) fn versionless(&mut self, packet: &[u8]) -> Verdict {
        let verdict = versionless(packet);
        self.counters.count(verdict);
        verdict
    }

    /// Any packet at all: decides about it, counts it and rewrites it.
    #[inline(never)]
    fn slow_path<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        packet: &mut [u8],
        meta: Meta,
    ) -> Verdict {
        let verdict = match meta.parse::<A>(packet) {
            Ok(headers) if headers.is_fragment => self.fragment(family, &headers, packet, meta),
            Ok(headers) => self.datagram(family, &headers, packet, meta),
            Err(why) => malformed(why),
        };
        self.counters.count(verdict);
        verdict
    }

    fn datagram<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        packet: &mut [u8],
        meta: Meta,
    ) -> Verdict {
        match headers.layer4 {
            Layer4::IcmpOther => return Verdict::new(Action::Accept, Cause::NotOurs),
            Layer4::IcmpError => return self.icmp_error(family, headers, packet),
            _ => {}
        }
        if let Some((id, direction)) = family.flows.find(&headers.tuple)
            && let Some(verdict) = self.known(family, headers, id, direction, packet, meta)
        {
            return verdict;
        }
        self.first_packet(family, headers, packet, meta)
    }

    /// A packet of a flow in the table. `None`: the flow is over, and the packet opens another, or
    /// none.
    fn known<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        id: FlowId,
        direction: Direction,
        packet: &mut [u8],
        meta: Meta,
    ) -> Option<Verdict> {
        let hot = family.flows.hot(id);
        if hot.is_expired(self.clock.tick()) || hot.generation != self.generation {
            match self.revise(family, id, direction) {
                Revision::Keep => {}
                Revision::Anew => return None,
                Revision::Refuse(verdict) => return Some(verdict),
            }
            if family.flows.hot(id).has(Hot::<A>::FORGOTTEN) {
                return self.resume(family, headers, id, direction, packet, meta);
            }
        }
        if is_torn(headers, &family.flows.hot(id).rewritten(direction).ends()) {
            let flags = flow_flags(family.flows.hot(id), direction);
            return Some(Verdict { flags, ..Verdict::drop(Cause::FragmentRefused) });
        }
        let Some(cause) = self.advance(family, headers, id, direction, packet) else {
            self.end_flow(family, id);
            return None;
        };
        let hot = family.flows.hot_mut(id);
        let is_counted = hot.count(direction, headers.end);
        let verdict = if cause == Cause::Invalid && self.config.invalid == InvalidTcp::Drop {
            Verdict { flags: flow_flags(hot, direction), ..Verdict::drop(cause) }
        } else {
            translate(hot, headers, direction, cause, packet, meta)
        };
        if !is_counted {
            family.flows.carry_packets(id, direction);
        }
        Some(verdict)
    }

    /// A packet of a flow that somebody has taken out of the kernel's table: until the kernel
    /// carries it again, nothing is known of its end. `None`: it begins another connection.
    #[cold]
    fn resume<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        id: FlowId,
        direction: Direction,
        packet: &mut [u8],
        meta: Meta,
    ) -> Option<Verdict> {
        if query(headers, packet, meta).flags.is_some_and(Flags::is_opening) {
            self.end_flow(family, id);
            return None;
        }
        let hot = family.flows.hot_mut(id);
        hot.generation = STALE;
        Some(translate(hot, headers, direction, Cause::Established, packet, meta))
    }

    /// A flow whose time is over, or that was not looked at since the tables changed.
    #[cold]
    fn revise<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        id: FlowId,
        direction: Direction,
    ) -> Revision {
        if family.flows.is_forgotten(id, self.clock.tick()) {
            self.end_flow(family, id);
            return Revision::Anew;
        }
        if family.flows.hot(id).is_expired(self.clock.tick()) {
            self.end_flow(family, id);
            self.counters.expired += 1;
            return Revision::Anew;
        }
        self.rehome(family, id);
        let standing = self.ledger.backend(family.flows.cold(id).backend).standing;
        let hot = family.flows.hot_mut(id);
        if stays(hot, standing) {
            hot.generation = self.generation;
            return Revision::Keep;
        }
        match (direction, is_connection(hot)) {
            // Answers that are still under way are translated until the client's next packet.
            (Direction::Reply, false) => return Revision::Keep,
            (Direction::Reply, true) => self.end_flow(family, id),
            (Direction::Original, _) => {
                self.end_flow(family, id);
                return Revision::Anew;
            }
        }
        Revision::Refuse(Verdict::drop(Cause::BackendGone))
    }

    /// The service port that is reached where a flow began, if that is another one than the flow's:
    /// it has got another name, or another one's place.
    pub(crate) fn home<A: Wire>(&self, family: &FamilyState<A>, id: FlowId) -> Option<u32> {
        let hot = family.flows.hot(id);
        let (place, _) =
            self.table.find(hot.protocol, hot.ends(Direction::Original).destination())?;
        let number = self.ledger.number(place);
        (self.ledger.backend(family.flows.cold(id).backend).service != number).then_some(number)
    }

    /// Enters a flow in the books of the service port that is reached where it began.
    pub(crate) fn rehome<A: Wire>(&mut self, family: &mut FamilyState<A>, id: FlowId) {
        if let Some(number) = self.home(family, id) {
            let former = family.flows.cold(id).backend;
            let backend = self.ledger.backend_for(number, self.ledger.backend(former).address);
            self.ledger.open_flow(backend);
            self.ledger.close_flow(former, [0; 2], [0; 2]);
            family.flows.cold_mut(id).backend = backend;
        }
    }

    /// State and deadline after one more packet; `None` when it begins a new connection in the
    /// flow's place.
    fn advance<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        id: FlowId,
        direction: Direction,
        packet: &[u8],
    ) -> Option<Cause> {
        let now = self.clock.tick();
        let hot = family.flows.hot_mut(id);
        if direction == Direction::Reply {
            hot.flags |= Hot::<A>::REPLIED;
        }
        if hot.state.is_tcp() {
            return self.advance_tcp(family, headers, id, direction, packet);
        }
        let (before, is_replied) = (hot.state, hot.has(Hot::<A>::REPLIED));
        let state = match before {
            State::Udp
                if is_replied
                    && now.saturating_sub(family.flows.cold(id).created) >= stream_age() =>
            {
                State::UdpStream
            }
            state if headers.layer4 == Layer4::Sctp => {
                state.after_chunk(sctp::first_chunk(headers.transport(packet)), direction)
            }
            state => state,
        };
        let is_assured = match state {
            State::Udp | State::Icmp | State::Icmpv6 => false,
            State::SctpEstablished | State::Generic => is_replied,
            _ => state == State::UdpStream,
        };
        self.transition(
            family,
            id,
            state,
            now.saturating_add(self.config.timeouts.of(state)),
            is_assured,
        );
        Some(Cause::Established)
    }

    fn advance_tcp<A: Wire>(
        &mut self,
        family: &mut FamilyState<A>,
        headers: &Headers<A>,
        id: FlowId,
        direction: Direction,
        packet: &[u8],
    ) -> Option<Cause> {
        let Some(segment) = Segment::parse(headers.transport(packet)) else {
            return Some(Cause::Invalid);
        };
        let (hot, cold) = family.flows.both_mut(id);
        match cold.tracking.advance(hot.state, direction, &segment) {
            Progress::To(state) => {
                if headers.is_fragment {
                    cold.tracking.ignore_windows();
                }
                let is_replied = hot.has(Hot::<A>::REPLIED);
                let timeout = cold.tracking.timeout(state, is_replied, &self.config.timeouts);
                let deadline = self.clock.tick().saturating_add(timeout);
                let is_assured = state == State::TcpEstablished && is_replied;
                self.transition(family, id, state, deadline, is_assured);
                Some(Cause::Established)
            }
            Progress::Unmoved => Some(Cause::Established),
            Progress::Invalid => Some(Cause::Invalid),
            Progress::Reopened => None,
        }
    }

    #[inline]
    fn transition<A: Wire>(
        &self,
        family: &mut FamilyState<A>,
        id: FlowId,
        state: State,
        deadline: Tick,
        is_assured: bool,
    ) {
        if is_assured {
            family.flows.assure(id);
        }
        let hot = family.flows.hot_mut(id);
        let is_shorter = deadline < hot.deadline;
        let is_changed = hot.state != state;
        hot.state = state;
        hot.deadline = deadline;
        if is_shorter {
            family.flows.shortened(deadline);
        }
        if is_changed {
            family.events.note(EventKind::Update, &family.flows, id);
        }
    }

    /// Takes a flow out of all books.
    pub(crate) fn end_flow<A: Wire>(&mut self, family: &mut FamilyState<A>, id: FlowId) {
        family.events.note(EventKind::Destroy, &family.flows, id);
        let (hot, cold) = (family.flows.hot(id), family.flows.cold(id));
        let client = hot.ends(Direction::Original).src;
        self.ledger.close_flow(cold.backend, family.flows.packets(id), hot.bytes);
        if hot.has(Hot::<A>::LEASED) {
            let reply = hot.ends(Direction::Reply);
            let remote = Remote {
                protocol: hot.protocol,
                source: reply.dst.into(),
                backend: reply.source(),
            };
            self.leases.give_back(&remote, reply.dport);
        }
        if self.config.max_flows_per_source.is_some()
            && let Some(flows) = family.sources.get_mut(&client)
        {
            *flows -= 1;
            if *flows == 0 {
                family.sources.remove(&client);
            }
        }
        family.flows.remove(id);
    }
}

/// Whether a flow goes on with a backend of this standing. A connection that was answered does in
/// any case; deleting it would break graceful termination.
pub(crate) fn stays<A: Wire>(hot: &Hot<A>, standing: Standing) -> bool {
    let is_answered =
        if hot.state.is_tcp() { !hot.state.is_unanswered() } else { hot.has(Hot::<A>::REPLIED) };
    match standing {
        Standing::Listed => true,
        Standing::Serving => !is_connection(hot) || is_answered,
        Standing::Gone => is_connection(hot) && is_answered,
    }
}

/// Whether the ends have agreed on a connection, which no other backend could go on with.
pub(crate) fn is_connection<A: Wire>(hot: &Hot<A>) -> bool {
    matches!(hot.protocol, Protocol::TCP | Protocol::SCTP)
}

/// What becomes of a flow that is looked at again.
enum Revision {
    /// It goes on.
    Keep,
    /// It is over, and the packet opens another, or none.
    Anew,
    /// It is over, and so is the packet.
    Refuse(Verdict),
}

/// The flags of a verdict on a packet of a flow.
#[inline(always)]
fn flow_flags<A: Wire>(hot: &Hot<A>, direction: Direction) -> u8 {
    match direction {
        Direction::Original if hot.has(Hot::<A>::MASQUERADE) => Verdict::FLOW | Verdict::MASQUERADE,
        Direction::Original => Verdict::FLOW,
        Direction::Reply => Verdict::FLOW | Verdict::REPLY,
    }
}

/// Gives a packet of a flow its new ends.
#[inline(always)]
fn translate<A: Wire>(
    hot: &Hot<A>,
    headers: &Headers<A>,
    direction: Direction,
    cause: Cause,
    packet: &mut [u8],
    meta: Meta,
) -> Verdict {
    let to = hot.rewritten(direction).ends();
    rewrite::apply(packet, headers, &to, hot.deltas(direction), meta.checksum);
    Verdict { flags: flow_flags(hot, direction), ..Verdict::new(Action::Translate, cause) }
}

/// Whether this is a part of an SCTP packet that cannot be rewritten to `to`: the CRC lies over the
/// whole packet, which is not here.
fn is_torn<A: Wire>(headers: &Headers<A>, to: &Ends<A>) -> bool {
    let ends = headers.tuple.ends;
    headers.is_fragment
        && headers.layer4 == Layer4::Sctp
        && (to.sport, to.dport) != (ends.sport, ends.dport)
}
