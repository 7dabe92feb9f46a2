//! `Decision`: the flight recorder's memory as Python objects.

use std::net::SocketAddr;

use kbe_nat_engine::decisions::Decision as CoreDecision;
use pyo3::prelude::*;

use crate::arguments;
use crate::convert::end;

/// A decision about the first packet of a flow, as it was when it was made.
#[pyclass(frozen, module = "kbe_nat")]
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
