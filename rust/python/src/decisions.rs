//! `Decision`: the flight recorder's memory as Python objects.

use std::net::SocketAddr;

use kbe_nat_engine::Action;
use kbe_nat_engine::decisions::{Decision as CoreDecision, DecisionFilter};
use pyo3::prelude::*;

use crate::convert::{self, end};
use crate::errors::argument;

#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct Decision(pub(crate) CoreDecision);

#[pymethods]
impl Decision {
    #[getter]
    fn sequence(&self) -> u64 {
        self.0.sequence
    }

    #[getter]
    fn time(&self) -> u64 {
        self.0.time
    }

    #[getter]
    fn protocol(&self) -> String {
        self.0.protocol.to_string()
    }

    #[getter]
    fn client(&self) -> (String, u16) {
        end(&self.0.client)
    }

    #[getter]
    fn frontend(&self) -> (String, u16) {
        end(&self.0.frontend)
    }

    #[getter]
    fn service(&self) -> Option<&str> {
        self.0.service.as_deref()
    }

    #[getter]
    fn backend(&self) -> Option<(String, u16)> {
        self.0.backend.as_ref().map(end)
    }

    #[getter]
    fn action(&self) -> &'static str {
        self.0.action.name()
    }

    #[getter]
    fn cause(&self) -> &'static str {
        self.0.cause.name()
    }

    #[getter]
    fn choice(&self) -> Option<&'static str> {
        self.0.choice
    }

    #[getter]
    fn generation(&self) -> u32 {
        self.0.generation
    }

    #[getter]
    fn endpoint_count(&self) -> Option<usize> {
        self.0.endpoints.as_ref().map(|list| list.len())
    }

    #[pyo3(signature = (limit = None))]
    fn endpoints(&self, limit: Option<usize>) -> Vec<String> {
        let list = self.0.endpoints.as_deref().unwrap_or_default();
        list.iter().take(limit.unwrap_or(usize::MAX)).map(SocketAddr::to_string).collect()
    }

    fn __repr__(&self) -> String {
        let CoreDecision { sequence, protocol, client, frontend, action, cause, .. } = &self.0;
        let (action, cause) = (action.name(), cause.name());
        format!("<Decision {sequence} {protocol} {client} -> {frontend}: {action}, {cause}>")
    }
}

/// Which decisions are wanted.
pub(crate) fn filter(
    service: Option<String>,
    client: Option<&str>,
    verdict: Option<&str>,
    since: Option<u64>,
    after: u64,
) -> PyResult<DecisionFilter> {
    let client = client.map(convert::address).transpose()?;
    let action = verdict.map(action).transpose()?;
    Ok(DecisionFilter { service, client, action, since, after })
}

/// An action that a decision may have.
fn action(name: &str) -> PyResult<Action> {
    [Action::Translate, Action::Drop, Action::Reject]
        .into_iter()
        .find(|action| action.name() == name)
        .ok_or_else(|| {
            argument(format!("verdict is \"translate\", \"drop\" or \"reject\", not {name:?}"))
        })
}
