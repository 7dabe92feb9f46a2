//! `Verdict` and `reject`.

use std::borrow::Cow;

use kbe_nat_engine as core;
use kbe_nat_engine::reject::RejectWith;
use pyo3::prelude::*;

use crate::arguments::{self, Octets};
use crate::values::{Portable, portable};

/// What is to be done with one packet.
///
/// `action` is one of ACTIONS: "pass" (untouched), "translate" (`packet` holds the new bytes),
/// "drop", "reject" (answer with `reject(packet)`), "hold" (a fragment that waits for the first
/// one; see `Engine.released`).
#[pyclass(frozen, eq, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Verdict {
    verdict: core::Verdict,
    packet: Option<Vec<u8>>,
}

impl Verdict {
    pub(crate) fn new(verdict: core::Verdict, packet: Vec<u8>) -> Self {
        let is_sent = matches!(verdict.action, core::Action::Pass | core::Action::Translate);
        Self { verdict, packet: is_sent.then_some(packet) }
    }

    fn has(&self, flag: u8) -> bool {
        self.verdict.flags & flag != 0
    }
}

#[pymethods]
impl Verdict {
    /// "pass", "translate", "drop", "reject" or "hold".
    #[getter]
    fn action(&self) -> &'static str {
        self.verdict.action.name()
    }

    /// Why, in a word, such as "new", "established" or "no-endpoints".
    #[getter]
    fn cause(&self) -> &'static str {
        self.verdict.cause.name()
    }

    /// The bytes to send on; None where the packet is not sent.
    #[getter]
    fn packet(&self) -> Option<Cow<'_, [u8]>> {
        self.packet.as_deref().map(Cow::Borrowed)
    }

    /// Whether the node still has to masquerade the source when it sends the packet on, as
    /// kube-proxy's MASQUERADE does.
    #[getter]
    fn masquerade(&self) -> bool {
        self.has(core::Verdict::MASQUERADE)
    }

    /// "original" (towards the backend), "reply", or None where no flow is concerned.
    #[getter]
    fn direction(&self) -> Option<&'static str> {
        match (self.has(core::Verdict::FLOW), self.has(core::Verdict::REPLY)) {
            (true, true) => Some("reply"),
            (true, false) => Some("original"),
            (false, _) => None,
        }
    }

    /// This packet opened its flow.
    #[getter]
    fn is_new(&self) -> bool {
        self.has(core::Verdict::NEW)
    }

    /// Number under which `Engine.released` will return a held fragment.
    #[getter]
    fn ticket(&self) -> Option<u32> {
        (self.verdict.action == core::Action::Hold).then_some(self.verdict.ticket)
    }

    fn __repr__(&self) -> String {
        let mut text = format!("<Verdict {}: {}", self.action(), self.cause());
        text.extend(self.direction().map(|direction| format!(", {direction}")));
        for (is_so, word) in [(self.is_new(), "new flow"), (self.masquerade(), "masquerade")] {
            text.extend(is_so.then(|| format!(", {word}")));
        }
        text.extend(self.ticket().map(|ticket| format!(", ticket {ticket}")));
        text + ">"
    }
}

portable!(Verdict);

impl Portable for Verdict {
    /// The record as a number, and the packet.
    type State = (u64, Option<Vec<u8>>);

    fn state(&self) -> Self::State {
        (u64::from_le_bytes(self.verdict.record()), self.packet.clone())
    }

    fn restore((record, packet): Self::State) -> Option<Self> {
        let verdict = core::Verdict::from_record(record.to_le_bytes())?;
        Some(Self { verdict, packet })
    }
}

/// The packet that rejects `packet`: an ICMP port unreachable (RFC 792, RFC 4443), or with
/// `answer="tcp-reset"` a RST for TCP (RFC 9293, 3.10.7).
///
/// None where none may be sent: to an ICMP error, a RST, a later fragment, or a group (RFC 1122,
/// 3.2.2).
#[pyfunction]
#[pyo3(
    signature = (packet, answer = RejectWith::PortUnreachable),
    text_signature = "(packet, answer='icmp')"
)]
pub(crate) fn reject(
    #[pyo3(from_py_with = arguments::packet)] packet: Octets,
    #[pyo3(from_py_with = arguments::answer)] answer: RejectWith,
) -> Option<Cow<'static, [u8]>> {
    let Octets(packet) = packet;
    core::reject::reject(&packet, answer).map(Cow::Owned)
}

/// A held fragment that is decided: ticket, action, and the packet if it is sent on.
pub(crate) fn release(released: core::Released) -> (u32, &'static str, Option<Vec<u8>>) {
    let core::Released { ticket, verdict, packet } = released;
    let is_sent = matches!(verdict.action, core::Action::Pass | core::Action::Translate);
    (ticket, verdict.action.name(), is_sent.then_some(packet))
}
