//! `Flow`: a connection as the engine sees it at one moment.

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::view::Flow as CoreFlow;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::convert;
use crate::values::{Portable, constant, portable, text};

/// A connection as the engine sees it at one moment. Ages and timeouts in seconds.
#[pyclass(frozen, eq, module = "kbe_nat")]
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Flow(pub(crate) CoreFlow);

#[pymethods]
impl Flow {
    /// "tcp", "udp" or "sctp".
    #[getter]
    fn protocol(&self) -> String {
        self.0.protocol.to_string()
    }

    /// nf_conntrack's name of a TCP or SCTP state, else None.
    #[getter]
    fn state(&self) -> Option<&'static str> {
        self.0.state
    }

    /// Whether both ends have talked, so that the flow makes no room for new ones.
    #[getter]
    fn assured(&self) -> bool {
        self.0.assured
    }

    /// Whether the backend has answered.
    #[getter]
    fn replied(&self) -> bool {
        self.0.replied
    }

    /// The client.
    #[getter]
    fn source(&self) -> (String, u16) {
        convert::end(&self.0.source)
    }

    /// The frontend, as the client addressed it.
    #[getter]
    fn destination(&self) -> (String, u16) {
        convert::end(&self.0.destination)
    }

    /// The backend.
    #[getter]
    fn reply_source(&self) -> (String, u16) {
        convert::end(&self.0.reply_source)
    }

    /// Where the backend answers to: the client, or the leased address and port of a masqueraded
    /// flow.
    #[getter]
    fn reply_destination(&self) -> (String, u16) {
        convert::end(&self.0.reply_destination)
    }

    /// The name of the service port.
    #[getter]
    fn service(&self) -> &str {
        &self.0.service
    }

    /// Whether the client's address is replaced by the node's.
    #[getter]
    fn masquerade(&self) -> bool {
        self.0.masquerade
    }

    /// Packets towards the backend, and back.
    #[getter]
    fn packets(&self) -> (u64, u64) {
        self.0.packets.into()
    }

    /// Bytes of the IP packets towards the backend, and back.
    #[getter]
    fn bytes(&self) -> (u64, u64) {
        self.0.bytes.into()
    }

    /// Seconds since its first packet.
    #[getter]
    fn age(&self) -> f64 {
        self.0.age
    }

    /// Seconds until it ends if no packet comes.
    #[getter]
    fn timeout(&self) -> f64 {
        self.0.timeout
    }

    /// All of these by their names.
    fn _asdict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let fields = PyDict::new(py);
        fields.set_item("protocol", self.protocol())?;
        fields.set_item("state", self.state())?;
        fields.set_item("assured", self.assured())?;
        fields.set_item("replied", self.replied())?;
        fields.set_item("source", self.source())?;
        fields.set_item("destination", self.destination())?;
        fields.set_item("reply_source", self.reply_source())?;
        fields.set_item("reply_destination", self.reply_destination())?;
        fields.set_item("service", self.service())?;
        fields.set_item("masquerade", self.masquerade())?;
        fields.set_item("packets", self.packets())?;
        fields.set_item("bytes", self.bytes())?;
        fields.set_item("age", self.age())?;
        fields.set_item("timeout", self.timeout())?;
        Ok(fields)
    }

    fn __repr__(&self) -> String {
        let flow = &self.0;
        let state = flow.state.unwrap_or("-");
        format!(
            "<Flow {} {} -> {} on {} {state}>",
            flow.protocol, flow.source, flow.destination, flow.reply_source
        )
    }
}

portable!(Flow);

impl Portable for Flow {
    /// Protocol, state, flags; ends; service port; packets and bytes; age and timeout.
    #[allow(clippy::type_complexity)]
    type State = (
        (u8, Option<String>, bool, bool, bool),
        [String; 4],
        String,
        ([u64; 2], [u64; 2]),
        (f64, f64),
    );

    fn state(&self) -> Self::State {
        let flow = &self.0;
        let state = flow.state.map(str::to_owned);
        (
            (flow.protocol.0, state, flow.assured, flow.replied, flow.masquerade),
            [&flow.source, &flow.destination, &flow.reply_source, &flow.reply_destination]
                .map(text),
            flow.service.clone(),
            (flow.packets, flow.bytes),
            (flow.age, flow.timeout),
        )
    }

    fn restore((head, ends, service, counters, times): Self::State) -> Option<Self> {
        let (protocol, state, assured, replied, masquerade) = head;
        let [source, destination, reply_source, reply_destination] = ends;
        Some(Self(CoreFlow {
            protocol: Protocol(protocol),
            state: state.as_deref().map(constant),
            assured,
            replied,
            source: source.parse().ok()?,
            destination: destination.parse().ok()?,
            reply_source: reply_source.parse().ok()?,
            reply_destination: reply_destination.parse().ok()?,
            service,
            masquerade,
            packets: counters.0,
            bytes: counters.1,
            age: times.0,
            timeout: times.1,
        }))
    }
}
