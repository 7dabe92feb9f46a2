//! Decisions of the past in words: what the flight recorder remembers of first packets, with the
//! names and endpoints of that time. Copies; nothing in here is on a packet's path.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::Engine;
use crate::cidr::Cidr;
use crate::recorder::{Entry, Form, endpoints};
use crate::tuple::Protocol;
use crate::verdict::{Action, Cause, Outcome};

/// A decision about the first packet of a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Counts the decisions since the start, from 1.
    pub sequence: u64,
    /// When it was made, in nanoseconds of the caller's clock; up to 70 ms early.
    pub time: u64,
    /// Protocol.
    pub protocol: Protocol,
    /// Client.
    pub client: SocketAddr,
    /// Frontend, as the client addressed it.
    pub frontend: SocketAddr,
    /// Name of the service port; `None` where no one has the frontend.
    pub service: Option<String>,
    /// Backend, if it was served.
    pub backend: Option<SocketAddr>,
    /// What was done with the packet.
    pub action: Action,
    /// Why.
    pub cause: Cause,
    /// How the backend was chosen: a strategy's name, `affinity`, or `consistent` for a connection
    /// that was met in its middle, if its strategy is not consistent itself. `None` where it was
    /// not served.
    pub choice: Option<&'static str>,
    /// How many tables the engine had got.
    pub generation: u32,
    /// The endpoints of the service port that got flows then. `None` if none has the frontend, or
    /// if the list is remembered no more.
    pub endpoints: Option<Arc<[SocketAddr]>>,
}

/// Which decisions are wanted; `None` is all.
#[derive(Clone, Debug, Default)]
pub struct DecisionFilter {
    /// By the service port with this name, or by any port of the Service with this name.
    pub service: Option<String>,
    /// About a client address of this range.
    pub client: Option<Cidr>,
    /// With this action.
    pub action: Option<Action>,
    /// Made at this moment or later, in nanoseconds of the caller's clock, give or take 70 ms.
    pub since: Option<u64>,
    /// Behind the decision with this sequence number.
    pub after: u64,
}

impl DecisionFilter {
    fn names(&self, service: Option<&str>) -> bool {
        self.service.as_deref().is_none_or(|wanted| {
            let rest = service.and_then(|name| name.strip_prefix(wanted));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        })
    }
}

/// Decisions that are listed page by page, the newest first; the engine may decide more, and forget
/// some, between two pages.
#[derive(Clone, Debug)]
pub struct Recall {
    filter: DecisionFilter,
    /// The decisions before this one are still to be looked at.
    end: u64,
}

/// Lists of endpoints that are in force, by the service port's number: each is made once in a page.
type Lists = HashMap<u32, Arc<[SocketAddr]>>;

impl Engine {
    /// A list of the decisions that are remembered and match, for [`Engine::next_decisions`].
    #[must_use]
    pub fn recall(&self, filter: DecisionFilter) -> Recall {
        Recall { filter, end: self.shared.ledger.recorder.next() }
    }

    /// The next decisions of a list, perhaps none; `None` at its end. Cost: looks at `budget`
    /// entries at most, and lists the endpoints of the service ports that match.
    pub fn next_decisions(&self, recall: &mut Recall, budget: usize) -> Option<Vec<Decision>> {
        let recorder = &self.shared.ledger.recorder;
        let start = recorder.oldest().max(recall.filter.after);
        if recall.end <= start {
            return None;
        }
        let page = start.max(recall.end.saturating_sub(budget.max(1) as u64))..recall.end;
        recall.end = page.start;
        let (mut decisions, mut lists) = (Vec::new(), Lists::new());
        for sequence in page.rev() {
            let Some(entry) = recorder.entry(sequence) else { break };
            let time = self.shared.clock.beginning(entry.tick());
            // Time never runs back, so all the rest is older.
            if recall.filter.since.is_some_and(|since| time.saturating_add(TICK) <= since) {
                recall.end = 0;
                break;
            }
            decisions.extend(self.decision((sequence, time), entry, &recall.filter, &mut lists));
        }
        Some(decisions)
    }

    /// A decision in words, if it matches.
    fn decision(
        &self,
        (sequence, time): (u64, u64),
        entry: Entry,
        filter: &DecisionFilter,
        lists: &mut Lists,
    ) -> Option<Decision> {
        let (ledger, client, outcome) = (&self.shared.ledger, entry.client(), entry.outcome());
        let is_wanted = filter.client.is_none_or(|wanted| wanted.contains(client.ip()))
            && filter.action.is_none_or(|wanted| wanted == outcome.action());
        if !is_wanted {
            return None;
        }
        let number = entry.service();
        let form = number.and_then(|number| ledger.recorder.form(sequence, number));
        let record = number.filter(|_| form.is_none()).and_then(|number| ledger.service(number));
        let name = form.map(|form| &*form.name).or(record.map(|record| record.service.name()));
        if !filter.names(name) {
            return None;
        }
        let strategy =
            form.map(|form| form.strategy).or(record.map(|record| record.service.spec().strategy));
        let listed = number.zip(record).map(|(number, record)| {
            lists.entry(number).or_insert_with(|| endpoints(&record.service)).clone()
        });
        Some(Decision {
            sequence: sequence + 1,
            time,
            protocol: entry.protocol(),
            client,
            frontend: entry.frontend(),
            service: name.map(str::to_owned),
            backend: entry.backend(),
            action: outcome.action(),
            cause: entry.cause(),
            choice: match outcome {
                Outcome::Strategy => strategy.map(|strategy| strategy.name()),
                Outcome::Affinity => Some("affinity"),
                Outcome::Consistent => Some("consistent"),
                Outcome::Drop | Outcome::Reject => None,
            },
            generation: ledger.recorder.generation(sequence),
            endpoints: form.map_or(listed, Form::endpoints),
        })
    }
}

/// Nanoseconds in which decisions get the same time.
const TICK: u64 = 1 << 26;
