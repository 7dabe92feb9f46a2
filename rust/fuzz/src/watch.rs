//! An engine under watch: every packet goes through it with what must hold for any packet checked,
//! and through a second engine in batches, which must come to the same.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use kbe_nat_engine::checkpoint::CheckpointError;
use kbe_nat_engine::reject::{RejectWith, reject};
use kbe_nat_engine::view::{Filter, Flow};
use kbe_nat_engine::wire::{Headers, Layer4, Wire};
use kbe_nat_engine::{Action, Cause, ChecksumState, Engine, Explanation, Meta, Packet, Verdict};

use crate::cluster::{self, MAX_AFFINITIES, MAX_FLOWS, MAX_FRAGMENTS};
use crate::packets::{Sums, sums};

/// Both engines, and what is known of them from outside.
#[derive(Debug)]
pub struct Watch {
    /// Gets packets one at a time, each explained first.
    pub single: Engine,
    batched: Engine,
    /// Nanoseconds of the clock that both are told.
    pub now: u64,
    pending: Vec<(Vec<u8>, Meta)>,
    expected: Vec<(Vec<u8>, Verdict)>,
    held: HashMap<u32, Vec<u8>>,
}

impl Watch {
    /// Two engines, set up by `choices` as in [`cluster::engine`].
    #[must_use]
    pub fn new(choices: u8) -> Self {
        Self {
            single: cluster::engine(choices),
            batched: cluster::engine(choices),
            now: 0,
            pending: Vec::new(),
            expected: Vec::new(),
            held: HashMap::new(),
        }
    }

    /// Lets time pass.
    pub fn wait(&mut self, nanoseconds: u64) {
        self.flush();
        self.now = self.now.saturating_add(nanoseconds);
    }

    /// Puts another table in force. The first engine gets it whole, the second one changes its own.
    ///
    /// # Panics
    /// When the changes are refused.
    pub fn replace(&mut self, table: usize) {
        self.flush();
        let table = cluster::table(table);
        let services: Vec<_> = table.services().cloned().collect();
        let former = self.batched.services().clone();
        let changed = former.with_services(&services, Some(table.node().clone()));
        self.batched.replace_services(changed.expect("the table is valid").into());
        self.single.replace_services(table);
    }

    /// Ends what is over.
    ///
    /// # Panics
    /// When both engines do not end as many flows.
    pub fn expire(&mut self, budget: usize) {
        self.flush();
        let before = self.single.occupancy().flows;
        let ended = self.single.expire(self.now, budget);
        assert_eq!(self.batched.expire(self.now, budget), ended);
        assert_eq!(self.single.occupancy().flows + ended, before, "ended flows are gone");
        self.check_releases();
    }

    /// Enters a checkpoint into both engines, and returns what the first one says.
    ///
    /// # Errors
    /// As [`Engine::restore`].
    ///
    /// # Panics
    /// When both do not say the same.
    pub fn restore(
        &mut self,
        now: u64,
        checkpoint: &[u8],
        away: u64,
    ) -> Result<usize, CheckpointError> {
        self.flush();
        let restored = self.single.restore(now, checkpoint, away);
        assert_eq!(self.batched.restore(now, checkpoint, away), restored);
        self.now = self.now.max(now);
        restored
    }

    /// Sends a packet through, and returns its verdict and what became of its bytes.
    ///
    /// # Panics
    /// When the engine breaks a promise.
    pub fn process(&mut self, packet: &[u8], meta: Meta) -> (Verdict, Vec<u8>) {
        let explanation = self.single.explain(self.now, packet, meta);
        let explained = explanation.verdict;
        let flows = self.single.occupancy().flows;
        let mut bytes = packet.to_vec();
        let verdict = self.single.process(self.now, &mut Packet { bytes: &mut bytes, meta });
        if verdict.action == Action::Translate {
            check_translation(packet, &bytes, meta);
        } else {
            assert_eq!(bytes, packet, "{verdict:?} leaves the packet as it was");
        }
        // Whether the rest of a datagram is still remembered is only found out by asking for room.
        if !is_about_room(verdict.cause) && !is_fragment(packet) {
            assert_eq!(explained, verdict, "explain and process say the same");
            if verdict.flags & Verdict::NEW != 0 {
                check_opening(&explanation, packet, &bytes, meta);
            }
        }
        if verdict.flags & Verdict::NEW != 0 {
            assert_eq!(verdict.action, Action::Translate, "{verdict:?}");
        } else {
            assert!(self.single.occupancy().flows <= flows, "{verdict:?} opened a flow");
        }
        if verdict.action == Action::Hold {
            let former = self.held.insert(verdict.ticket, packet.to_vec());
            assert_eq!(former, None, "ticket {} is given twice", verdict.ticket);
        }
        self.check_releases();
        self.check_room();
        for answer in [RejectWith::PortUnreachable, RejectWith::TcpReset] {
            check_reject(packet, answer);
        }
        self.pending.push((packet.to_vec(), meta));
        self.expected.push((bytes.clone(), verdict));
        (verdict, bytes)
    }

    /// Sends what the first engine got through the second one, in one batch.
    fn flush(&mut self) {
        let mut buffers = std::mem::take(&mut self.pending);
        let mut packets: Vec<_> =
            buffers.iter_mut().map(|(bytes, meta)| Packet { bytes, meta: *meta }).collect();
        let mut verdicts = Vec::new();
        self.batched.process_batch(self.now, &mut packets, &mut verdicts);
        let pairs: Vec<_> = buffers.into_iter().map(|(bytes, _)| bytes).zip(verdicts).collect();
        assert_eq!(
            pairs,
            std::mem::take(&mut self.expected),
            "a batch is as one packet after the other"
        );
        self.batched.released(|_| true);
    }

    fn check_releases(&mut self) {
        for released in self.single.released(|_| true) {
            let held = self.held.remove(&released.ticket).expect("what is released was held");
            if released.verdict.action == Action::Translate {
                check_translation(&held, &released.packet, Meta::default());
            } else {
                assert_eq!(
                    held, released.packet,
                    "{:?} leaves the fragment as it was",
                    released.verdict
                );
            }
        }
    }

    fn check_room(&self) {
        let occupancy = self.single.occupancy();
        assert!(occupancy.flows <= 2 * MAX_FLOWS, "{occupancy:?}");
        assert!(occupancy.affinities <= MAX_AFFINITIES, "{occupancy:?}");
        assert!(occupancy.held_fragments <= 2 * MAX_FRAGMENTS, "{occupancy:?}");
        assert_eq!(occupancy.held_fragments, self.held.len(), "what is held is released some time");
        if occupancy.flows > 0 {
            assert!(self.single.next_expiry().is_some());
        }
    }

    /// Checks what must hold in the end: both engines are in the same state, their books agree, and
    /// a checkpoint says it all.
    ///
    /// # Panics
    /// When it does not.
    pub fn finish(mut self) {
        self.flush();
        assert_eq!(self.single.occupancy(), self.batched.occupancy());
        let checkpoint = self.single.checkpoint(self.now);
        assert!(
            checkpoint == self.batched.checkpoint(self.now),
            "both engines are in the same state"
        );
        check_books(&self.single);
        // When all is over nothing is left, and nothing counts as active.
        self.now = self.now.saturating_add(u64::from(u32::MAX) << 26);
        self.expire(usize::MAX);
        assert_eq!(self.single.occupancy().flows, 0);
        assert_eq!(self.held.len(), 0, "{:?}", self.single.occupancy());
        assert!(self.single.service_stats().iter().all(|service| service.active() == 0));
    }
}

/// Whether the flows, the counters of service ports and the occupancy tell the same.
///
/// # Panics
/// When they do not.
pub fn check_books(engine: &Engine) {
    let flows = engine.flows(&Filter::default(), usize::MAX);
    let occupancy = engine.occupancy();
    assert!(
        flows.len() <= occupancy.flows && occupancy.assured <= occupancy.flows,
        "{occupancy:?}"
    );
    let stats = engine.service_stats();
    let backends = || stats.iter().flat_map(|service| &service.backends);
    let counted: u64 = backends().map(|each| u64::from(each.active + each.over)).sum();
    assert_eq!(counted, occupancy.flows as u64);
    for flow in &flows {
        let service = stats
            .iter()
            .find(|service| service.name == flow.service)
            .expect("a known service port");
        assert!(service.traffic.flows > 0);
        assert!(
            service.backends.iter().any(|b| b.address.ip() == flow.reply_source.ip()),
            "{flow:?}"
        );
    }
}

/// The flows of an engine in an order of their own.
#[must_use]
pub fn flows(engine: &Engine) -> Vec<Flow> {
    let mut flows = engine.flows(&Filter::default(), usize::MAX);
    flows.sort_by_key(|flow| (flow.protocol, flow.source, flow.destination, flow.reply_source));
    flows
}

/// Whether a verdict tells of a limit; explanations leave these out, since looking takes no room.
fn is_about_room(cause: Cause) -> bool {
    use Cause::{
        FragmentLimit, FragmentOverlap, FragmentTimeout, HashChain, Malformed, PortsExhausted,
        SourceLimit, TableFull,
    };
    let of_fragments = [FragmentLimit, FragmentOverlap, FragmentTimeout, Malformed];
    let of_flows = [HashChain, PortsExhausted, SourceLimit, TableFull, Cause::FragmentRefused];
    of_fragments.contains(&cause) || of_flows.contains(&cause)
}

fn is_fragment(packet: &[u8]) -> bool {
    Ipv4Addr::fragment(packet).is_some() || Ipv6Addr::fragment(packet).is_some()
}

/// Checks that the first packet of a flow went to the backend that was told, from the source that
/// was told.
fn check_opening(explanation: &Explanation, before: &[u8], after: &[u8], meta: Meta) {
    let ends = |packet: &[u8]| match packet.first().map(|byte| byte >> 4) {
        Some(4) => ends::<Ipv4Addr>(packet, meta),
        _ => ends::<Ipv6Addr>(packet, meta),
    };
    let (sender, _) = ends(before).expect("what is translated is a packet");
    let (source, destination) = ends(after).expect("it still is one afterwards");
    assert_eq!(explanation.backend.map(|backend| backend.ip()), Some(destination.ip()));
    let goes_on = format!("{sender} goes on as ");
    let foretold = explanation.steps.iter().find_map(|(_, finding)| finding.strip_prefix(&goes_on));
    assert_eq!(foretold.unwrap_or(&sender.to_string()), source.to_string());
}

fn ends<A: Wire>(packet: &[u8], meta: Meta) -> Option<(SocketAddr, SocketAddr)> {
    let ends = parse::<A>(packet, meta)?.tuple.ends;
    Some((ends.source(), ends.destination()))
}

/// Checks that a translation does to bytes only what it may: new addresses and ports, and checksums
/// that are right where they were and wrong where they were not (F74). Everything else stays (F88,
/// F89).
fn check_translation(before: &[u8], after: &[u8], meta: Meta) {
    match before.first().map(|byte| byte >> 4) {
        Some(4) => check_family::<Ipv4Addr>(before, after, meta),
        Some(6) => check_family::<Ipv6Addr>(before, after, meta),
        version => unreachable!("{version:?} was translated"),
    }
}

fn check_family<A: Wire>(before: &[u8], after: &[u8], meta: Meta) {
    let old = parse::<A>(before, meta).expect("what is translated is a packet");
    let new = parse::<A>(after, meta).expect("it still is one afterwards");
    assert_eq!(
        (old.layer4, old.l4, old.end, old.tuple.protocol),
        (new.layer4, new.l4, new.end, new.tuple.protocol)
    );
    let changed = (0..before.len()).filter(|&place| before[place] != after[place]);
    for place in changed {
        assert!(may_change(&old, place), "byte {place} of {old:?} changed");
    }
    let (old_sums, new_sums) = (sums(before), sums(after));
    let Sums { ip, transport } = new_sums;
    assert_eq!(ip, old_sums.ip, "the header checksum");
    if meta.checksum == ChecksumState::Incomplete
        && matches!(old.layer4, Layer4::Tcp | Layer4::Udp | Layer4::Sctp)
    {
        assert_eq!(
            transport,
            (!old.is_fragment).then_some(true),
            "the transport checksum was to be completed: {old:?}"
        );
    } else if old.layer4 != Layer4::EchoReply
        || (transport.is_some() && old_sums.transport.is_some())
    {
        // An echo reply may become one of zeros alone, or stop being one; see `packets::sums`.
        assert_eq!(transport, old_sums.transport, "the transport checksum of {old:?}");
    }
}

fn parse<A: Wire>(packet: &[u8], meta: Meta) -> Option<Headers<A>> {
    let captured = || A::parse_captured(packet).filter(|_| meta.is_captured);
    A::parse(packet).ok().or_else(captured)
}

/// Whether a translation may change the byte at `place`.
fn may_change<A: Wire>(headers: &Headers<A>, place: usize) -> bool {
    let addresses = if A::VERSION == 4 { 10..20 } else { 8..40 };
    let Some(offset) =
        place.checked_sub(usize::from(headers.l4)).filter(|_| place < headers.end as usize)
    else {
        return addresses.contains(&place);
    };
    match headers.layer4 {
        Layer4::Tcp => offset < 4 || (16..18).contains(&offset),
        Layer4::Udp => offset < 4 || (6..8).contains(&offset),
        Layer4::Sctp => offset < 4 || (8..12).contains(&offset),
        Layer4::EchoRequest | Layer4::EchoReply => (2..6).contains(&offset),
        // Changes in a quote are the business of the target icmp_error.
        Layer4::IcmpError => (2..4).contains(&offset) || (8..8 + 256).contains(&offset),
        Layer4::IcmpOther | Layer4::Portless | Layer4::LaterFragment => false,
    }
}

/// A rejection, if there is one, is a packet with right checksums that goes to where the rejected
/// one came from.
fn check_reject(packet: &[u8], answer: RejectWith) {
    fn ends<A: Wire>(packet: &[u8]) -> Option<(A, A)> {
        let captured = Meta { is_captured: true, ..Meta::default() };
        parse(packet, captured)
            .map(|headers: Headers<A>| (headers.tuple.ends.src, headers.tuple.ends.dst))
    }
    let Some(rejection) = reject(packet, answer) else { return };
    let Sums { ip, transport } = sums(&rejection);
    assert!(ip != Some(false) && transport == Some(true), "{rejection:02x?}");
    assert_eq!(ends::<Ipv4Addr>(&rejection), ends::<Ipv4Addr>(packet).map(|(src, dst)| (dst, src)));
    assert_eq!(ends::<Ipv6Addr>(&rejection), ends::<Ipv6Addr>(packet).map(|(src, dst)| (dst, src)));
}
