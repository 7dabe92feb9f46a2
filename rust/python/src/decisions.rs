//! `Decision`: the flight recorder's memory as Python objects.

use std::net::SocketAddr;

use kbe_nat_engine::decisions::Decision as CoreDecision;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Action, Cause};
use pyo3::prelude::*;

use crate::arguments;
use crate::convert::end;
use crate::values::{Portable, constant, portable, text};

/// A decision about the first packet of a flow, as it was when it was made.
#[pyclass(frozen, eq, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Decision(pub(crate) CoreDecision);

#[pymethods]
impl Decision {
    /// Counts the decisions of an engine, from 1.
    #[getter]
    fn sequence(&self) -> u64 {
        self.0.sequence
    }

    /// In nanoseconds of the caller's clock, up to 70 ms early.
    #[getter]
    fn time(&self) -> u64 {
        self.0.time
    }

    /// "tcp", "udp" or "sctp".
    #[getter]
    fn protocol(&self) -> String {
        self.0.protocol.to_string()
    }

    /// Address and port that the packet came from.
    #[getter]
    fn client(&self) -> (String, u16) {
        end(&self.0.client)
    }

    /// Address and port that it was sent to.
    #[getter]
    fn frontend(&self) -> (String, u16) {
        end(&self.0.frontend)
    }

    /// Name of the service port; None where no one has the frontend.
    #[getter]
    fn service(&self) -> Option<&str> {
        self.0.service.as_deref()
    }

    /// None when it was not served.
    #[getter]
    fn backend(&self) -> Option<(String, u16)> {
        self.0.backend.as_ref().map(end)
    }

    /// "translate", "drop" or "reject".
    #[getter]
    fn action(&self) -> &'static str {
        self.0.action.name()
    }

    /// Why, in a word, as of a `Verdict`.
    #[getter]
    fn cause(&self) -> &'static str {
        self.0.cause.name()
    }

    /// How the backend was chosen: a strategy, "affinity", or "consistent" in mid-stream.
    #[getter]
    fn choice(&self) -> Option<&'static str> {
        self.0.choice
    }

    /// How many times services had been replaced or updated.
    #[getter]
    fn generation(&self) -> u32 {
        self.0.generation
    }

    /// How many endpoints of the service port got flows; None when that is remembered no more.
    #[getter]
    fn endpoint_count(&self) -> Option<usize> {
        self.0.endpoints.as_ref().map(|list| list.len())
    }

    /// The first of them, in the order of addresses.
    #[pyo3(signature = (limit = None))]
    fn endpoints(
        &self,
        #[pyo3(from_py_with = arguments::limit)] limit: Option<usize>,
    ) -> Vec<String> {
        let list = self.0.endpoints.as_deref().unwrap_or_default();
        list.iter().take(limit.unwrap_or(usize::MAX)).map(SocketAddr::to_string).collect()
    }

    fn __repr__(&self) -> String {
        let CoreDecision { sequence, protocol, client, frontend, action, cause, .. } = &self.0;
        let (action, cause) = (action.name(), cause.name());
        format!("<Decision {sequence} {protocol} {client} -> {frontend}: {action}, {cause}>")
    }
}

portable!(Decision);

impl Portable for Decision {
    /// Sequence, time, protocol and generation; client and frontend; service port, backend and
    /// choice; action and cause by their places; endpoints.
    #[allow(clippy::type_complexity)]
    type State = (
        (u64, u64, u8, u32),
        (String, String),
        [Option<String>; 3],
        (usize, usize),
        Option<Vec<String>>,
    );

    fn state(&self) -> Self::State {
        let decision = &self.0;
        let backend = decision.backend.as_ref().map(text);
        (
            (decision.sequence, decision.time, decision.protocol.0, decision.generation),
            (text(&decision.client), text(&decision.frontend)),
            [decision.service.clone(), backend, decision.choice.map(str::to_owned)],
            (decision.action as usize, decision.cause as usize),
            decision.endpoints.as_ref().map(|list| list.iter().map(text).collect()),
        )
    }

    fn restore((head, ends, names, verdict, endpoints): Self::State) -> Option<Self> {
        let (sequence, time, protocol, generation) = head;
        let [service, backend, choice] = names;
        let parsed = |list: Vec<String>| list.iter().map(|end| end.parse()).collect();
        Some(Self(CoreDecision {
            sequence,
            time,
            protocol: Protocol(protocol),
            client: ends.0.parse().ok()?,
            frontend: ends.1.parse().ok()?,
            service,
            backend: backend.map(|end| end.parse()).transpose().ok()?,
            action: *Action::ALL.get(verdict.0)?,
            cause: *Cause::ALL.get(verdict.1)?,
            choice: choice.as_deref().map(constant),
            generation,
            endpoints: endpoints.map(parsed).transpose().ok()?,
        }))
    }
}
