//! `Verdict` and `reject`.

use std::borrow::Cow;

use kbe_nat_engine as core;
use pyo3::prelude::*;

use crate::convert;

#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct Verdict {
    verdict: core::Verdict,
    packet: Option<Vec<u8>>,
}

impl Verdict {
    pub(crate) fn new(verdict: core::Verdict, packet: Vec<u8>) -> Self {
        let is_sent = matches!(verdict.action, core::Action::Accept | core::Action::Translate);
        Self { verdict, packet: is_sent.then_some(packet) }
    }

    fn has(&self, flag: u8) -> bool {
        self.verdict.flags & flag != 0
    }
}

#[pymethods]
impl Verdict {
    #[getter]
    fn action(&self) -> &'static str {
        self.verdict.action.name()
    }

    #[getter]
    fn cause(&self) -> &'static str {
        self.verdict.cause.name()
    }

    #[getter]
    fn packet(&self) -> Option<Cow<'_, [u8]>> {
        self.packet.as_deref().map(Cow::Borrowed)
    }

    #[getter]
    fn masquerade(&self) -> bool {
        self.has(core::Verdict::MASQUERADE)
    }

    #[getter]
    fn direction(&self) -> Option<&'static str> {
        match (self.has(core::Verdict::FLOW), self.has(core::Verdict::REPLY)) {
            (true, true) => Some("reply"),
            (true, false) => Some("original"),
            (false, _) => None,
        }
    }

    #[getter]
    fn is_new(&self) -> bool {
        self.has(core::Verdict::NEW)
    }

    #[getter]
    fn ticket(&self) -> Option<u32> {
        (self.verdict.action == core::Action::Hold).then_some(self.verdict.ticket)
    }

    fn __repr__(&self) -> String {
        format!("<Verdict {}: {}>", self.action(), self.cause())
    }
}

#[pyfunction]
#[pyo3(signature = (packet, answer = "icmp"))]
pub(crate) fn reject<'py>(
    packet: &Bound<'py, PyAny>,
    answer: &str,
) -> PyResult<Option<Cow<'py, [u8]>>> {
    let answer = convert::answer(answer)?;
    let packet = convert::bytes(packet)?;
    Ok(core::reject::reject(&packet, answer).map(Cow::Owned))
}

/// A held fragment that is decided: ticket, action, and the packet if it is sent on.
pub(crate) fn release(released: core::Released) -> (u32, &'static str, Option<Vec<u8>>) {
    let core::Released { ticket, verdict, packet } = released;
    let is_sent = matches!(verdict.action, core::Action::Accept | core::Action::Translate);
    (ticket, verdict.action.name(), is_sent.then_some(packet))
}
