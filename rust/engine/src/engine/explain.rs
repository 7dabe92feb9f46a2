//! Why a packet gets its verdict: the path of [`crate::pipeline`], walked by looking only.
//!
//! Decisions come from the functions that real packets use, told to a trace and made on copies of
//! what they would change.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Engine, Family};
use crate::config::InvalidTcp;
use crate::conntrack::Hot;
use crate::conntrack::tcp::Progress;
use crate::decide::{self, Decision, Silent, Trace};
use crate::filtering::{Passage, passage};
use crate::fragment::{DatagramId, Fate};
use crate::ledger::Standing;
use crate::pipeline::{
    Binding, FamilyState, Meta, Related, is_connection, malformed, query, stays, to_backend,
    versionless,
};
use crate::service::{FrontendKind, Scope};
use crate::tuple::{Direction, WireEnds};
use crate::verdict::{Action, Cause, Verdict};
use crate::wire::tcp::Segment;
use crate::wire::{Headers, Layer4, Malformed};

/// An answer to "what happens to this packet, and why?".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// What would be done with it.
    pub verdict: Verdict,
    /// The service port that it is for.
    pub service: Option<String>,
    /// How the address that it goes to is meant, when it opens a flow or is refused there.
    pub frontend: Option<FrontendKind>,
    /// Which of the service port's two lists serves it, when it opens a flow.
    pub scope: Option<Scope>,
    /// The backend that it would get.
    pub backend: Option<SocketAddr>,
    /// Every backend that it may be sent to.
    pub candidates: Vec<SocketAddr>,
    /// Backends that may be chosen, but at whose address it is refused; with action and cause.
    pub refused: Vec<(SocketAddr, Action, Cause)>,
    /// Those of them for which the source is masqueraded.
    pub masqueraded: Vec<SocketAddr>,
    /// What was checked, in order, and what was found.
    pub steps: Vec<(&'static str, String)>,
}

impl Explanation {
    fn of(verdict: Verdict, steps: Vec<(&'static str, String)>) -> Self {
        Self {
            verdict,
            service: None,
            frontend: None,
            scope: None,
            backend: None,
            candidates: Vec::new(),
            refused: Vec::new(),
            masqueraded: Vec::new(),
            steps,
        }
    }
}

impl Engine {
    /// What [`Engine::process`] would do with `packet` now, and why. Tables, counters and random
    /// sequences stay as they are.
    pub fn explain(&mut self, now: u64, packet: &[u8], meta: Meta) -> Explanation {
        // Looking must not move time either: it is put back.
        let clock = self.shared.clock.clone();
        self.shared.clock.advance(now);
        let mut explanation = match packet.first().map(|byte| byte >> 4) {
            Some(4) => self.explain_family::<Ipv4Addr>(packet, meta),
            Some(6) => self.explain_family::<Ipv6Addr>(packet, meta),
            _ if packet.is_empty() => Explanation::of(
                versionless(packet),
                vec![("packet", "a frame that holds no IP packet".to_owned())],
            ),
            _ => unreadable(Malformed::Version),
        };
        self.shared.clock = clock;
        let verdict = explanation.verdict;
        let why = format!(
            "{} ({}: {})",
            verdict.action.name(),
            verdict.cause.name(),
            verdict.cause.meaning()
        );
        explanation.steps.push(("verdict", why));
        explanation
    }

    fn explain_family<A: Family>(&mut self, packet: &[u8], meta: Meta) -> Explanation {
        let headers = match meta.parse::<A>(packet) {
            Ok(headers) => headers,
            Err(why) => return unreadable(why),
        };
        let ends = headers.tuple.ends;
        let mut steps = Vec::new();
        let (from, to, protocol) = (ends.source(), ends.destination(), headers.tuple.protocol);
        steps.step("packet", || format!("{protocol} {from} to {to}, {} bytes", headers.end));
        if let Some(explanation) = self.explain_fragment(&headers, packet, &mut steps) {
            return explanation;
        }
        match headers.layer4 {
            Layer4::IcmpOther => {
                Explanation::of(Verdict::new(Action::Accept, Cause::NotOurs), steps)
            }
            Layer4::IcmpError => self.explain_error(&headers, packet, steps),
            _ => self.explain_datagram(&headers, packet, meta, steps),
        }
    }

    fn explain_fragment<A: Family>(
        &mut self,
        headers: &Headers<A>,
        packet: &[u8],
        steps: &mut Vec<(&'static str, String)>,
    ) -> Option<Explanation> {
        let fragment = A::fragment(packet)?;
        let (_, family) = A::split(self);
        let fate = family.fragments.look(&DatagramId::new(headers, &fragment));
        steps.step("fragment", || match fate {
            Some(_) => format!("of datagram {}, which is decided", fragment.id),
            None if fragment.offset == 0 => format!("the first of datagram {}", fragment.id),
            None => format!("of datagram {}, whose first fragment has not come", fragment.id),
        });
        let verdict = match fate {
            Some(Fate::Pass) => Verdict::new(Action::Accept, Cause::NotOurs),
            Some(Fate::Refused(cause)) => Verdict::drop(cause),
            Some(Fate::Translate { .. }) => Verdict::new(Action::Translate, Cause::Fragment),
            None if fragment.offset == 0 => return None,
            None => Verdict::new(Action::Hold, Cause::FragmentHeld),
        };
        Some(Explanation::of(verdict, std::mem::take(steps)))
    }

    fn explain_error<A: Family>(
        &mut self,
        headers: &Headers<A>,
        packet: &[u8],
        mut steps: Vec<(&'static str, String)>,
    ) -> Explanation {
        let (shared, family) = A::split(self);
        match shared.related(family, headers, packet) {
            Related::Verdict(verdict) => {
                steps.step("icmp error", || "it quotes no packet of a known flow".to_owned());
                Explanation::of(verdict, steps)
            }
            Related::To { quote, flow, .. } => {
                let ends = quote.tuple.ends;
                steps.step("icmp error", || {
                    format!("it quotes {} to {}", ends.source(), ends.destination())
                });
                let backend = family.flows.hot(flow).ends(Direction::Reply).source();
                let mut explanation =
                    Explanation::of(Verdict::new(Action::Translate, Cause::Related), steps);
                explanation.backend = Some(backend);
                explanation
            }
        }
    }

    fn explain_datagram<A: Family>(
        &mut self,
        headers: &Headers<A>,
        packet: &[u8],
        meta: Meta,
        mut steps: Vec<(&'static str, String)>,
    ) -> Explanation {
        if let Some(explanation) = self.explain_known(headers, packet, &mut steps) {
            return explanation;
        }
        let (shared, family) = A::split(self);
        let query = query(headers, packet, meta);
        let table = shared.table.clone();
        let serving = match decide::decide(&table, &query, shared.config.midstream, &mut steps) {
            Decision::Pass => {
                return Explanation::of(Verdict::new(Action::Accept, Cause::NotOurs), steps);
            }
            Decision::Refuse { action, cause, service } => {
                let mut explanation = Explanation::of(Verdict::new(action, cause), steps);
                explanation.frontend = table.find(query.protocol, query.dst).map(|(_, kind)| kind);
                explanation.service =
                    service.map(|service| table.service(service).name().to_owned());
                return explanation;
            }
            Decision::Serve(serving) => serving,
        };
        let number = shared.ledger.number(serving.service);
        let state = shared
            .ledger
            .service(number)
            .map(|record| record.states[serving.scope as usize].clone());
        let chosen = state.and_then(|mut state| {
            shared.pick(number, &serving, &query, Some(&mut state), &mut steps)
        });
        let port = table.service(serving.service);
        let eligible =
            port.set(serving.scope).backends().iter().filter(|backend| backend.weight > 0);
        let (mut candidates, mut masqueraded, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for backend in eligible {
            match passage(&table, &query, &serving, backend, &mut Silent) {
                Passage::Open { masquerade } => {
                    candidates.push(backend.address);
                    masqueraded.extend(masquerade.then_some(backend.address));
                }
                Passage::Closed(action, cause) => refused.push((backend.address, action, cause)),
            }
        }
        let mut explanation = Explanation {
            service: Some(port.name().to_owned()),
            frontend: table.find(query.protocol, query.dst).map(|(_, kind)| kind),
            scope: Some(serving.scope),
            backend: chosen.map(|index| port.set(serving.scope).backends()[index].address),
            candidates,
            masqueraded,
            refused,
            ..Explanation::of(Verdict::new(Action::Reject, Cause::NoEndpoints), steps)
        };
        if let Some(backend) = chosen.map(|index| port.set(serving.scope).backends()[index]) {
            let masquerade =
                match passage(&table, &query, &serving, &backend, &mut explanation.steps) {
                    Passage::Open { masquerade } => masquerade,
                    Passage::Closed(action, cause) => {
                        explanation.verdict = Verdict::new(action, cause);
                        return explanation;
                    }
                };
            let flags =
                Verdict::NEW | Verdict::FLOW | if masquerade { Verdict::MASQUERADE } else { 0 };
            explanation.verdict = Verdict { flags, ..Verdict::new(Action::Translate, Cause::New) };
            if masquerade && !serving.masquerade {
                explanation.steps.step("hairpin", || {
                    "the backend is the client itself, so its source is masqueraded".to_owned()
                });
            }
            if !masquerade && serving.masquerade {
                explanation.steps.step("delivery", || {
                    "the backend is this node itself, so its source stays: nothing is sent on"
                        .to_owned()
                });
            }
            let sent = to_backend(headers, &backend);
            let mut rng = shared.rng.clone();
            // A flow that is over leaves its place to this one.
            if family.flows.find(&headers.tuple).is_some() {
                return explanation;
            }
            match sent.map(|sent| shared.admit(family, headers, sent, masquerade, &mut rng)) {
                Some(Ok(binding)) => {
                    binding_steps(family, headers, &binding, &mut explanation.steps)
                }
                Some(Err(verdict)) => explanation.verdict = verdict,
                None => explanation.verdict = Verdict::drop(Cause::NoEndpoints),
            }
        }
        explanation
    }

    /// A packet of a flow that goes on; `None` when there is none, or it would be decided anew.
    fn explain_known<A: Family>(
        &mut self,
        headers: &Headers<A>,
        packet: &[u8],
        steps: &mut Vec<(&'static str, String)>,
    ) -> Option<Explanation> {
        let (shared, family) = A::split(self);
        let Some((id, direction)) = family.flows.find(&headers.tuple) else {
            steps.step("flow", || "none is known".to_owned());
            return None;
        };
        let (hot, cold) = (family.flows.hot(id), family.flows.cold(id));
        let [original, reply] = hot.ends.map(WireEnds::ends);
        if !hot.is_alive(shared.clock.tick()) {
            steps.step("flow", || "one is known, but its time is over".to_owned());
            return None;
        }
        steps.step("flow", || {
            let way = if direction == Direction::Reply { "a reply of" } else { "it belongs to" };
            let state = hot.state.name().unwrap_or(if hot.has(Hot::<A>::ASSURED) {
                "assured"
            } else {
                "unconfirmed"
            });
            format!(
                "{way} {} to {} on {} ({state})",
                original.source(),
                original.destination(),
                reply.source()
            )
        });
        let backend = shared.ledger.backend(cold.backend);
        let number = shared.home(family, id).unwrap_or(backend.service);
        let standing = shared.ledger.standing(number, backend.address);
        let mut cause = Cause::Established;
        let is_offloaded = hot.has(Hot::<A>::OFFLOADED);
        if is_offloaded {
            steps.step("kernel", || {
                "it carries the flow and translates its packets, which do not come here".to_owned()
            });
        } else if standing != Standing::Listed {
            // A flow that was kept under these tables is not asked again, also if its connection
            // has begun anew since.
            let is_kept = hot.generation == shared.generation || stays(hot, standing);
            steps.step("backend", || {
                let then = match (is_kept, standing) {
                    (false, _) => "the flow is decided anew",
                    (true, Standing::Serving) => "it serves still, and the flow stays",
                    (true, _) => "a connection that was answered stays",
                };
                format!("{} gets no new flows: {then}", reply.source())
            });
            match (is_kept, direction) {
                (true, _) => {}
                (false, Direction::Original) => return None,
                (false, Direction::Reply) if is_connection(hot) => cause = Cause::BackendGone,
                (false, Direction::Reply) => {}
            }
        }
        // What is dropped with its backend is not looked at any further.
        if cause != Cause::BackendGone
            && !is_offloaded
            && hot.state.is_tcp()
            && let Some(segment) = Segment::parse(headers.transport(packet))
        {
            match cold.tracking.clone().advance(hot.state, direction, &segment) {
                Progress::Invalid => cause = Cause::Invalid,
                Progress::Reopened => {
                    steps.step("tcp", || {
                        "a SYN on a connection that is over begins a new one".to_owned()
                    });
                    return None;
                }
                Progress::To(state) => steps.step("tcp", || {
                    format!("the connection is then {}", state.name().unwrap_or(""))
                }),
                Progress::Unmoved => steps.step("tcp", || {
                    "a SYN on an open connection: the backend will challenge it".to_owned()
                }),
            }
        }
        let is_dropped = cause == Cause::BackendGone
            || (cause == Cause::Invalid && shared.config.invalid == InvalidTcp::Drop);
        let to = hot.rewritten(direction).ends();
        if !is_dropped {
            steps.step("rewrite", || format!("to {} -> {}", to.source(), to.destination()));
        }
        let masquerade = hot.has(Hot::<A>::MASQUERADE) || reply.dst != original.src;
        let reply_flag = if direction == Direction::Reply { Verdict::REPLY } else { 0 };
        let action = if is_dropped { Action::Drop } else { Action::Translate };
        let flags = Verdict::FLOW | reply_flag | if masquerade { Verdict::MASQUERADE } else { 0 };
        let service = shared.ledger.service(number);
        Some(Explanation {
            service: service.map(|record| record.service.name().to_owned()),
            backend: Some(reply.source()),
            candidates: vec![reply.source()],
            masqueraded: if masquerade { vec![reply.source()] } else { Vec::new() },
            ..Explanation::of(
                Verdict { flags, ..Verdict::new(action, cause) },
                std::mem::take(steps),
            )
        })
    }
}

/// What a new flow costs others, and under which source the backend sees it.
fn binding_steps<A: Family>(
    family: &FamilyState<A>,
    headers: &Headers<A>,
    binding: &Binding<A>,
    steps: &mut Vec<(&'static str, String)>,
) {
    if let Some(victim) = binding.victim {
        let ends = family.flows.hot(victim).ends(Direction::Original);
        steps.step("room", || {
            format!("the flow from {} to {} gives way", ends.source(), ends.destination())
        });
    }
    let before = headers.tuple.ends;
    if (binding.sent.src, binding.sent.sport) != (before.src, before.sport) {
        steps
            .step("source", || format!("{} goes on as {}", before.source(), binding.sent.source()));
    }
}

fn unreadable(why: Malformed) -> Explanation {
    Explanation::of(malformed(why), vec![("packet", why.to_string())])
}
