//! Why a packet gets its verdict: the path of [`crate::pipeline`], walked by looking only.
//!
//! Decisions come from the functions that real packets use, told to a trace and made on copies of
//! the state that they would change.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Engine, EngineAddress};
use crate::backend::Backend;
use crate::conntrack::ports::Claim;
use crate::conntrack::{FlowId, Hot};
use crate::decide::{self, Query, Serving, Silent, Trace, Unserved};
use crate::filtering::{Passage, passage};
use crate::fragment::DatagramId;
use crate::ledger::Standing;
use crate::pipeline::{
    Binding, Ending, FamilyState, Fate, Meta, Related, Review, Shared, Step, flow_flags, malformed,
    opening_verdict, query, to_backend, versionless,
};
use crate::service::{FrontendKind, Scope, ServiceTable};
use crate::tuple::{Address, Direction, WireEnds};
use crate::verdict::{Action, Cause, Verdict};
use crate::wire::{Headers, Layer4, Malformed};

/// An answer to "what happens to this packet, and why?".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The verdict that it would get.
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
    /// The candidates for which the source is masqueraded.
    pub masqueraded: Vec<SocketAddr>,
    /// The checks in order, and the finding of each.
    pub steps: Vec<(&'static str, String)>,
}

/// The checks in order, and the finding of each.
type Steps = Vec<(&'static str, String)>;

impl Explanation {
    fn of(verdict: Verdict, steps: Steps) -> Self {
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

impl Explanation {
    /// Takes the service port's eligible backends into the lists, by what the filter chains would
    /// do with a packet to each.
    fn list_candidates<A: Address>(
        &mut self,
        table: &ServiceTable,
        query: &Query<A>,
        serving: &Serving,
        backends: &[Backend],
    ) {
        for backend in backends.iter().filter(|backend| backend.weight > 0) {
            match passage(table, query, serving, backend, &mut Silent) {
                Passage::Open { masquerade } => {
                    self.candidates.push(backend.address);
                    self.masqueraded.extend(masquerade.then_some(backend.address));
                }
                Passage::Closed(action, cause) => {
                    self.refused.push((backend.address, action, cause));
                }
            }
        }
    }
}

impl Engine {
    /// The verdict that [`Engine::process`] would give `packet` now, and why. Tables, counters and
    /// random sequences stay as they are.
    pub fn explain(&mut self, now: u64, packet: &[u8], meta: Meta) -> Explanation {
        // Looking must not move time either: it is put back.
        let clock = self.shared.clock.clone();
        self.shared.clock.advance(now);
        let mut explanation = match packet.first().map(|byte| byte >> 4) {
            Some(4) => self.explain_family::<Ipv4Addr>(packet, meta),
            Some(6) => self.explain_family::<Ipv6Addr>(packet, meta),
            None if meta.is_captured => Explanation::of(
                versionless(packet, meta),
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

    fn explain_family<A: EngineAddress>(&mut self, packet: &[u8], meta: Meta) -> Explanation {
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
            Layer4::IcmpOther => Explanation::of(Verdict::new(Action::Pass, Cause::NotOurs), steps),
            Layer4::IcmpError => self.explain_error(&headers, packet, steps),
            _ => self.explain_datagram(&headers, packet, meta, steps),
        }
    }

    fn explain_fragment<A: EngineAddress>(
        &mut self,
        headers: &Headers<A>,
        packet: &[u8],
        steps: &mut Steps,
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
            Some(fate) => fate.verdict(),
            None if fragment.offset == 0 => return None,
            None => Verdict::new(Action::Hold, Cause::FragmentHeld),
        };
        Some(Explanation::of(verdict, std::mem::take(steps)))
    }

    fn explain_error<A: EngineAddress>(
        &mut self,
        headers: &Headers<A>,
        packet: &[u8],
        mut steps: Steps,
    ) -> Explanation {
        let (shared, family) = A::split(self);
        let related = shared.relate(family, headers, packet);
        let verdict = related.verdict();
        match related {
            Related::Verdict(_) => {
                steps.step("icmp error", || "it quotes no packet of a known flow".to_owned());
                Explanation::of(verdict, steps)
            }
            Related::To { quote, flow, .. } => {
                let ends = quote.tuple.ends;
                steps.step("icmp error", || {
                    format!("it quotes {} to {}", ends.source(), ends.destination())
                });
                let backend = family.flows.hot(flow).ends(Direction::Reply).source();
                Explanation { backend: Some(backend), ..Explanation::of(verdict, steps) }
            }
        }
    }

    fn explain_datagram<A: EngineAddress>(
        &mut self,
        headers: &Headers<A>,
        packet: &[u8],
        meta: Meta,
        mut steps: Steps,
    ) -> Explanation {
        if let Some(explanation) = self.explain_flow(headers, packet, &mut steps) {
            return explanation;
        }
        if headers.layer4 == Layer4::EchoReply {
            steps.step("icmp", || "an answer for which nobody has asked".to_owned());
            return Explanation::of(Verdict::new(Action::Pass, Cause::NotOurs), steps);
        }
        let query = query(headers, packet, meta);
        let table = self.shared.table.clone();
        match decide::decide(&table, &query, self.shared.config.midstream, &mut steps) {
            Err(Unserved::Pass) => {
                Explanation::of(Verdict::new(Action::Pass, Cause::NotOurs), steps)
            }
            Err(Unserved::Refuse { action, cause, service }) => Explanation {
                frontend: table.find(query.protocol, query.destination()).map(|(_, kind)| kind),
                service: service.map(|service| table.service(service).name().to_owned()),
                ..Explanation::of(Verdict::new(action, cause), steps)
            },
            Ok(serving) => self.explain_service(headers, &query, &serving, steps),
        }
    }

    /// A first packet that a service port serves.
    fn explain_service<A: EngineAddress>(
        &mut self,
        headers: &Headers<A>,
        query: &Query<A>,
        serving: &Serving,
        mut steps: Steps,
    ) -> Explanation {
        let (shared, family) = A::split(self);
        let table = shared.table.clone();
        let port = table.service(serving.service);
        let backends = port.set(serving.scope).backends();
        // A flow that is over leaves its place to this one.
        let leaving = family.flows.find(&headers.tuple).map(|(id, _)| id);
        let (backend, verdict) = look_without(shared, family, leaving, |shared| {
            // The choice moves the balancer's state, so it is made on a copy.
            let number = shared.ledger.number(serving.service);
            let mut state = shared.ledger.service(number)?.states[serving.scope as usize].clone();
            let choice = shared.pick(serving, query, Some(&mut state), &mut steps)?;
            let backend = &backends[choice.index];
            let flow = (headers, query, serving, backend);
            let verdict = explain_opening(shared, family, flow, leaving, &mut steps);
            Some((backend.address, verdict))
        })
        .unzip();
        let verdict = verdict.unwrap_or(Verdict::new(Action::Reject, Cause::NoEndpoints));
        let mut explanation = Explanation {
            service: Some(port.name().to_owned()),
            frontend: table.find(query.protocol, query.destination()).map(|(_, kind)| kind),
            scope: Some(serving.scope),
            backend,
            ..Explanation::of(verdict, steps)
        };
        explanation.list_candidates(&table, query, serving, backends);
        explanation
    }

    /// A packet of a flow that goes on; `None` when there is none, or it would be decided anew.
    fn explain_flow<A: EngineAddress>(
        &mut self,
        headers: &Headers<A>,
        packet: &[u8],
        steps: &mut Steps,
    ) -> Option<Explanation> {
        let (shared, family) = A::split(self);
        let Some(flow @ (id, direction)) = family.flows.find(&headers.tuple) else {
            steps.step("flow", || "none is known".to_owned());
            return None;
        };
        let hot = family.flows.hot(id);
        // The kernel translates the packets of an offloaded flow. Only those that come to the
        // engine all the same are assessed.
        let fate = if hot.has(Hot::<A>::OFFLOADED) && !shared.passes(hot) {
            None
        } else {
            Some(shared.assess(family, headers, flow, packet))
        };
        if matches!(fate, Some(Fate::Over(Ending::Expired))) {
            steps.step("flow", || "one is known, but its time is over".to_owned());
            return None;
        }
        flow_step(hot, direction, steps);
        let home = shared.home(family, id);
        let backend = hot.ends(Direction::Reply).source();
        let flags = flow_flags(hot, direction);
        let verdict = if let Some(fate) = &fate {
            backend_step(fate, shared.standing(family, id, home), backend, steps);
            fate_step(fate, steps);
            fate.verdict(flags, shared.config.invalid)?
        } else {
            steps.step("kernel", || {
                "it carries the flow and translates its packets, which do not come here".to_owned()
            });
            Verdict { flags, ..Verdict::new(Action::Translate, Cause::Established) }
        };
        if verdict.action == Action::Translate {
            let to = hot.translation(direction).ends();
            steps.step("rewrite", || format!("to {} -> {}", to.source(), to.destination()));
        }
        let former = shared.ledger.backend(family.flows.cold(id).backend).service;
        let service = shared.ledger.service(home.unwrap_or(former));
        Some(Explanation {
            service: service.map(|record| record.service.name().to_owned()),
            backend: Some(backend),
            candidates: vec![backend],
            masqueraded: if has_other_source(hot) { vec![backend] } else { Vec::new() },
            ..Explanation::of(verdict, std::mem::take(steps))
        })
    }
}

/// Whether the backend sees another source than the client: one that the sender sets by the mark,
/// or one that the rewrite sets.
fn has_other_source<A: EngineAddress>(hot: &Hot<A>) -> bool {
    hot.has(Hot::<A>::MASQUERADE)
        || hot.ends(Direction::Reply).dst != hot.ends(Direction::Original).src
}

/// Looks at the books as they are when `leaving` has ended, and puts them back: of a packet that
/// opens another flow in its place, [`Engine::process`] ends it first. Cost: if the flow has a
/// lease, a copy of all leases, since one that is given back may end a mapping or a block.
fn look_without<A: EngineAddress, T>(
    shared: &mut Shared,
    family: &FamilyState<A>,
    leaving: Option<FlowId>,
    look: impl FnOnce(&mut Shared) -> T,
) -> T {
    let Some(id) = leaving else { return look(shared) };
    let (backend, hot) = (family.flows.cold(id).backend, family.flows.hot(id));
    shared.ledger.leave_out(backend, hot.state);
    let leases = hot.has(Hot::<A>::LEASED).then(|| shared.leases.clone());
    if leases.is_some() {
        shared.leases.give_back(&Claim::of_flow(hot), hot.ends(Direction::Reply).dport);
    }
    let finding = look(shared);
    if let Some(leases) = leases {
        shared.leases = leases;
    }
    shared.ledger.count_again(backend, hot.state);
    finding
}

/// The verdict on a packet that would open a flow to this backend, in the order of
/// [`crate::pipeline`]: ends, filter chains, room. `leaving` is as [`Shared::admit`] says.
fn explain_opening<A: EngineAddress>(
    shared: &Shared,
    family: &FamilyState<A>,
    (headers, query, serving, backend): (&Headers<A>, &Query<A>, &Serving, &Backend),
    leaving: Option<FlowId>,
    steps: &mut Steps,
) -> Verdict {
    let Some(dst) = A::from_ip(backend.address.ip()) else {
        return Verdict::drop(Cause::NoEndpoints);
    };
    let sent = to_backend(headers, dst, backend.address.port());
    let masquerade = match passage(&shared.table, query, serving, backend, steps) {
        Passage::Open { masquerade } => masquerade,
        Passage::Closed(action, cause) => return Verdict::new(action, cause),
    };
    if masquerade && !serving.masquerade {
        steps.step("hairpin", || {
            "the backend is the client itself, so its source is masqueraded all the same".to_owned()
        });
    }
    if !masquerade && serving.masquerade {
        steps.step("delivery", || {
            "the backend is this node itself, so its source stays: nothing is sent on".to_owned()
        });
    }
    let reply = family.flows.probe(&sent.reply().into(), query.protocol);
    match shared.admit(family, headers, (sent, reply), masquerade, leaving) {
        Ok(binding) => {
            binding_steps(family, headers, &binding, steps);
            opening_verdict(binding.by_mark)
        }
        Err(verdict) => verdict,
    }
}

/// Which flow a packet belongs to.
fn flow_step<A: EngineAddress>(hot: &Hot<A>, direction: Direction, steps: &mut Steps) {
    steps.step("flow", || {
        let relation = if direction == Direction::Reply { "a reply of" } else { "it belongs to" };
        let is_assured = hot.has(Hot::<A>::ASSURED);
        let state = hot.state.name().unwrap_or(if is_assured { "assured" } else { "unconfirmed" });
        let [original, reply] = hot.ends.map(WireEnds::ends);
        let (client, frontend) = (original.source(), original.destination());
        format!("{relation} {client} to {frontend} on {} ({state})", reply.source())
    });
}

/// The flows that the backend may still have, if it gets no new ones.
fn backend_step(fate: &Fate, standing: Standing, backend: SocketAddr, steps: &mut Steps) {
    if standing == Standing::Listed {
        return;
    }
    steps.step("backend", || {
        let then = match (fate, standing) {
            (Fate::Over(Ending::BackendGone | Ending::Cut), _) => "the flow is decided anew",
            (Fate::Step(Some(Review { stays: false, .. }), _), _) => {
                "answers under way pass, and the flow is decided anew"
            }
            (_, Standing::Serving) => "it serves still, and the flow stays",
            _ => "a connection that was answered stays",
        };
        format!("{backend} gets no new flows: {then}")
    });
}

/// The effect of the packet on its flow.
fn fate_step(fate: &Fate, steps: &mut Steps) {
    match fate {
        Fate::Over(Ending::Reopened) => {
            steps.step("tcp", || "a SYN on a connection that is over begins a new one".to_owned())
        }
        Fate::Over(Ending::LeftKernel) => {
            steps.step("kernel", || "it has ended the flow".to_owned());
        }
        Fate::Resume(_) => steps.step("kernel", || {
            "it was made to forget the flow, which goes on where it went".to_owned()
        }),
        Fate::Await(_) => steps.step("kernel", || {
            "it was made to forget the flow, and gets it back with the source that it had"
                .to_owned()
        }),
        Fate::Pass => steps.step("kernel", || {
            "the flow is the kernel's, which translates the packet when it has passed here"
                .to_owned()
        }),
        Fate::Torn(_) => steps.step("sctp", || {
            "a fragment: the checksum lies over the whole packet, which is not here".to_owned()
        }),
        Fate::Step(_, Step { cause: Cause::Established, change, tracking: Some(_) }) => {
            steps.step("tcp", || match change {
                Some(change) => {
                    format!("the connection is then {}", change.state.name().unwrap_or(""))
                }
                None => "a SYN on an open connection: the backend will challenge it".to_owned(),
            });
        }
        Fate::Over(Ending::Expired | Ending::BackendGone | Ending::Cut) | Fate::Step(..) => {}
    }
}

/// The flow that gives way to a new one, and the source that the backend sees.
fn binding_steps<A: EngineAddress>(
    family: &FamilyState<A>,
    headers: &Headers<A>,
    binding: &Binding<A>,
    steps: &mut Steps,
) {
    if let Some(victim) = binding.victim {
        let ends = family.flows.hot(victim).ends(Direction::Original);
        steps.step("room", || {
            format!("the flow from {} to {} gives way", ends.source(), ends.destination())
        });
    }
    let (before, sent) = (headers.tuple.ends, binding.sent);
    if (sent.src, sent.sport) != (before.src, before.sport) {
        steps.step("source", || format!("{} goes on as {}", before.source(), sent.source()));
    }
}

fn unreadable(why: Malformed) -> Explanation {
    Explanation::of(malformed(why), vec![("packet", why.to_string())])
}
