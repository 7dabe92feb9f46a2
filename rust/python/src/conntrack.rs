//! The kernel's connection tracking: `ConntrackSync` keeps an engine's flows in step with it,
//! `AnswerWatch` measures connect times,
//! `ConntrackEvents` and `conntrack_entries` only read it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kbe_nat_datapath as datapath;
use kbe_nat_engine::tuple::Protocol;
use kbe_nat_netlink::conntrack::{
    Answers, Change, Ends, Entry, Events, Requests, Statistics, Topic, Waker,
};
use pyo3::prelude::*;

use crate::arguments;
use crate::cache_sync::CacheSync;
use crate::convert;
use crate::engine::Engine;
use crate::errors;
use crate::flow::Flow;
use crate::values::{Portable, machines, portable, text};

/// Keeps an engine's flows in step with the kernel's connection tracking, in the network namespace
/// of the thread that makes this object. Flows are identified by their ends, whatever their
/// connmark. They leave `cache` before they end, and what it has carried is counted.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct ConntrackSync {
    engine: Py<Engine>,
    kernel: Mutex<(Events, Requests)>,
    /// For the other threads: the one that runs holds `kernel`.
    questions: Mutex<Requests>,
    sync: datapath::ConntrackSync,
}

#[pymethods]
impl ConntrackSync {
    #[new]
    #[pyo3(signature = (engine, cache = None, *, socket_buffer))]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::engine)] engine: Py<Engine>,
        #[pyo3(from_py_with = arguments::cache)] cache: Option<Py<CacheSync>>,
        #[pyo3(from_py_with = arguments::socket_buffer)] socket_buffer: i32,
    ) -> PyResult<Self> {
        let cache = cache.map(|cache| cache.get().shared());
        py.detach(|| {
            let (events, waker) = Events::open(socket_buffer, &[Topic::New, Topic::Ended])?;
            Ok(Self {
                engine,
                kernel: Mutex::new((events, Requests::open()?)),
                questions: Mutex::new(Requests::open()?),
                sync: datapath::ConntrackSync::new(waker, cache),
            })
        })
        .map_err(|error: io::Error| errors::conntrack(&error))
    }

    /// Run until `stop` is called. Raises `ConntrackError`.
    fn run(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine.get().shared();
        py.detach(|| {
            let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
            let (events, requests) = &mut *kernel;
            self.sync.run(engine, events, requests)
        })
        .map_err(|error| errors::conntrack(&error))
    }

    /// Flows that the kernel could not enter, above all for want of a port to masquerade with, and
    /// packets that its connection tracking has dropped, since the network namespace was made.
    /// Raises `ConntrackError`.
    fn statistics(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        let Statistics { insert_failed, dropped } =
            py.detach(|| self.ask().statistics()).map_err(|error| errors::conntrack(&error))?;
        Ok((insert_failed, dropped))
    }

    /// The kernel's entry of each of these flows; None where it has none, or one that leads to
    /// another backend. With `ended` they are over: then it is the entry that a flow had, if
    /// `watch_flows` was on. Cost: a question to the kernel for each, some microseconds. Raises
    /// `ConntrackError`.
    #[pyo3(signature = (flows, *, ended = false))]
    #[allow(clippy::needless_pass_by_value)]
    fn entries(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::flows)] flows: Vec<PyRef<'_, Flow>>,
        #[pyo3(from_py_with = arguments::ended)] ended: bool,
    ) -> PyResult<Vec<Option<ConntrackEntry>>> {
        let wanted: Vec<_> = flows.iter().map(|flow| conntrack_key(flow)).collect();
        py.detach(|| {
            let mut requests = self.ask();
            let find = |(protocol, original, backend)| {
                let entry = self.sync.entry(&mut requests, protocol, original, ended)?;
                Ok(entry.filter(|entry| entry.reply.src == backend).map(ConntrackEntry))
            };
            wanted.into_iter().map(find).collect::<io::Result<_>>()
        })
        .map_err(|error| errors::conntrack(&error))
    }

    /// From now on tell the engine of changes of states as they happen, up to 5,000 events a
    /// second, and keep the kernel's entries of flows that end, for `entries`; or do so no more.
    fn watch_flows(&self, #[pyo3(from_py_with = arguments::watched)] watched: bool) {
        self.sync.watch_flows(watched);
    }

    /// End `run` soon.
    fn stop(&self) {
        self.sync.stop();
    }

    /// Compare all flows now, and return whether that was done within `timeout` seconds.
    fn resync_within(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::timeout)] timeout: Duration,
    ) -> PyResult<bool> {
        Ok(py.detach(|| self.sync.resync_within(timeout)))
    }

    /// Compare all flows soon, and end those that do not go where their frontends lead.
    fn resync(&self) {
        self.sync.request();
    }

    /// Compare the flows to these frontends soon: protocol, address and port of each. Cost: for a
    /// few frontends of a protocol a pass of the kernel over its flows for each; for many one pass,
    /// in which the kernel shows all flows of the protocol.
    #[allow(clippy::needless_pass_by_value)]
    fn resync_frontends(
        &self,
        #[pyo3(from_py_with = arguments::frontends)] frontends: Vec<(Protocol, IpAddr, u16)>,
    ) {
        let parsed = frontends
            .into_iter()
            .map(|(protocol, address, port)| (protocol, SocketAddr::new(address, port)));
        self.sync.request_frontends(parsed);
    }

    /// Flows that began or ended so far, those of other programs included.
    #[getter]
    fn changes(&self) -> u64 {
        self.sync.changes()
    }

    /// How often the kernel dropped events because we were too slow; a full resync followed, one
    /// for several where there were many.
    #[getter]
    fn overruns(&self) -> u64 {
        self.sync.overruns()
    }

    /// Full resyncs so far.
    #[getter]
    fn resyncs(&self) -> u64 {
        self.sync.resyncs()
    }

    /// Losses of events whose resync had to wait, because losses were too many.
    #[getter]
    fn delayed_resyncs(&self) -> u64 {
        self.sync.delayed_resyncs()
    }

    /// Flows that were ended in the kernel because they did not go where their frontends led, or
    /// because an operator asked for it.
    #[getter]
    fn ended(&self) -> u64 {
        self.sync.ended_flows()
    }

    /// Flows that other programs have deleted from the kernel's table while both ends were talking.
    #[getter]
    fn forgotten(&self) -> u64 {
        self.sync.forgotten()
    }

    /// How often it went round: more often from one moment to the next, unless it hangs.
    #[getter]
    fn turns(&self) -> u64 {
        self.sync.turns()
    }
}

impl ConntrackSync {
    fn ask(&self) -> MutexGuard<'_, Requests> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Protocol, original ends and backend, by which the kernel's entry of a flow is known.
fn conntrack_key(Flow(flow): &Flow) -> (Protocol, Ends, SocketAddr) {
    (flow.protocol, Ends { src: flow.source, dst: flow.destination }, flow.reply_source)
}

/// Tells an engine when the kernel has seen the SYN-ACKs of connections that the engine has decided
/// about, in the network namespace of the thread that makes this object. It listens until the
/// kernel has made 5,000 events within a second, whoever's flows they are about: those of 800
/// connections. At most `socket_buffer` bytes of events wait; more are lost. Raises
/// `ConntrackError`.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct AnswerWatch {
    engine: Py<Engine>,
    answers: Mutex<Answers>,
    watch: datapath::AnswerWatch,
}

#[pymethods]
impl AnswerWatch {
    #[new]
    #[pyo3(signature = (engine, *, socket_buffer))]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::engine)] engine: Py<Engine>,
        #[pyo3(from_py_with = arguments::socket_buffer)] socket_buffer: i32,
    ) -> PyResult<Self> {
        let (answers, waker) = py
            .detach(|| Answers::open(socket_buffer))
            .map_err(|error| errors::conntrack(&error))?;
        let watch = datapath::AnswerWatch::new(waker);
        Ok(Self { engine, answers: Mutex::new(answers), watch })
    }

    /// Run until `stop` is called. Raises `ConntrackError`.
    fn run(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine.get().shared();
        py.detach(|| {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            self.watch.run(engine, &mut answers)
        })
        .map_err(|error| errors::conntrack(&error))
    }

    /// End `run` soon.
    fn stop(&self) {
        self.watch.stop();
    }

    /// How often it went round: more often from one moment to the next, unless it hangs.
    #[getter]
    fn turns(&self) -> u64 {
        self.watch.turns()
    }

    /// Events that the kernel has made so far, about, also of other programs' flows.
    #[getter]
    fn updates(&self) -> u64 {
        self.watch.updates()
    }

    /// Seconds of which a part was not listened to.
    #[getter]
    fn pauses(&self) -> u64 {
        self.watch.pauses()
    }
}

/// A flow that the kernel tracks, in its default zone. Ends are addresses and ports; ports are 0
/// where the protocol has none.
#[pyclass(frozen, eq, module = "kbe_nat._native")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ConntrackEntry(Entry);

#[pymethods]
impl ConntrackEntry {
    /// Its name, or its number where it has no name here.
    #[getter]
    fn protocol(&self) -> String {
        Protocol(self.0.protocol).to_string()
    }

    /// The client.
    #[getter]
    fn source(&self) -> (String, u16) {
        convert::end(&self.0.original.src)
    }

    /// Where the client sends to.
    #[getter]
    fn destination(&self) -> (String, u16) {
        convert::end(&self.0.original.dst)
    }

    /// The server.
    #[getter]
    fn reply_source(&self) -> (String, u16) {
        convert::end(&self.0.reply.src)
    }

    /// As whom the server sees the client.
    #[getter]
    fn reply_destination(&self) -> (String, u16) {
        convert::end(&self.0.reply.dst)
    }

    /// Whether an answer was seen.
    #[getter]
    fn replied(&self) -> bool {
        self.0.is_replied
    }

    /// Whether both sides have confirmed it.
    #[getter]
    fn assured(&self) -> bool {
        self.0.is_assured
    }

    /// The name of a TCP or SCTP state, else None.
    #[getter]
    fn state(&self) -> Option<&'static str> {
        datapath::kernel_flow(&self.0).state_name()
    }

    /// The kernel's own number of it; None where it tells none.
    #[getter]
    fn id(&self) -> Option<u32> {
        self.0.id
    }

    /// The connmark; None for a kernel without connmarks.
    #[getter]
    fn mark(&self) -> Option<u32> {
        self.0.mark
    }

    /// References that the kernel has to it; None in an event.
    #[getter]
    fn uses(&self) -> Option<u32> {
        self.0.uses
    }

    /// Seconds until it ends if no packet comes; None for one that has ended.
    #[getter]
    fn timeout(&self) -> Option<u32> {
        self.0.timeout
    }

    fn __repr__(&self) -> String {
        let (protocol, Entry { original, reply, .. }) = (self.protocol(), &self.0);
        let (source, destination) = (original.src, original.dst);
        format!("<ConntrackEntry {protocol} {source} -> {destination} on {}>", reply.src)
    }
}

portable!(ConntrackEntry);

impl Portable for ConntrackEntry {
    /// Identifier, mark and uses; protocol, flags, state and timeout; ends; counters;
    /// beginning.
    #[allow(clippy::type_complexity)]
    type State = (
        [Option<u32>; 3],
        (u8, [bool; 3], Option<u8>, Option<u32>),
        [String; 4],
        Option<[(u64, u64); 2]>,
        Option<u64>,
    );

    fn state(&self) -> Self::State {
        let entry = &self.0;
        let flags = [entry.is_replied, entry.is_assured, entry.needs_conntrack];
        (
            [entry.id, entry.mark, entry.uses],
            (entry.protocol, flags, entry.state, entry.timeout),
            [&entry.original.src, &entry.original.dst, &entry.reply.src, &entry.reply.dst]
                .map(text),
            entry.counters,
            entry.started,
        )
    }

    fn restore((numbers, head, ends, counters, started): Self::State) -> Option<Self> {
        let [id, mark, uses] = numbers;
        let (protocol, [is_replied, is_assured, needs_conntrack], state, timeout) = head;
        let [source, destination, reply_source, reply_destination] = ends;
        let original = Ends { src: source.parse().ok()?, dst: destination.parse().ok()? };
        let reply = Ends { src: reply_source.parse().ok()?, dst: reply_destination.parse().ok()? };
        Some(Self(Entry {
            id,
            mark,
            uses,
            protocol,
            original,
            reply,
            is_replied,
            is_assured,
            needs_conntrack,
            state,
            timeout,
            counters,
            started,
        }))
    }
}

machines! {
    AnswerWatch: "it has a socket of the kernel",
    ConntrackEvents: "it has a socket of the kernel",
    ConntrackSync: "it has a socket of the kernel",
}

/// Hears of flows that begin, in the network namespace of the thread that makes this object. At
/// most `socket_buffer` bytes of events wait in the kernel. Raises `ConntrackError`.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct ConntrackEvents {
    events: Mutex<Events>,
    /// Without it every wait would end at once.
    _waker: Waker,
}

#[pymethods]
impl ConntrackEvents {
    #[new]
    #[pyo3(signature = (*, socket_buffer))]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::socket_buffer)] socket_buffer: i32,
    ) -> PyResult<Self> {
        let (events, waker) = py
            .detach(|| Events::open(socket_buffer, &[Topic::New]))
            .map_err(|error| errors::conntrack(&error))?;
        Ok(Self { events: Mutex::new(events), _waker: waker })
    }

    /// Wait for flows that begin, at most `timeout` seconds. Also returns whether the kernel
    /// dropped events because too many waited. Raises `ConntrackError`.
    fn receive(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::timeout)] timeout: Duration,
    ) -> PyResult<(Vec<ConntrackEntry>, bool)> {
        let mut changes = Vec::new();
        let is_complete = py
            .detach(|| {
                let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
                events.receive(timeout, &mut changes)
            })
            .map_err(|error| errors::conntrack(&error))?;
        let entries = changes.into_iter().filter_map(|change| match change {
            Change::New(entry) => Some(ConntrackEntry(entry)),
            Change::Updated(_) | Change::Ended(_) => None,
        });
        Ok((entries.collect(), !is_complete))
    }
}

/// The flows that the kernel tracks, in the network namespace of this thread. Flows that begin or
/// end meanwhile may be missing. Cost: a million flows take some seconds, and 300 MB. Raises
/// `ConntrackError`.
#[pyfunction]
pub(crate) fn conntrack_entries(py: Python<'_>) -> PyResult<Vec<ConntrackEntry>> {
    let mut entries = Vec::new();
    py.detach(|| {
        Requests::open()?
            .dump(None, |chunk| entries.extend(chunk.iter().cloned().map(ConntrackEntry)))
    })
    .map_err(|error| errors::conntrack(&error))?;
    Ok(entries)
}

/// Ask whether the kernel shows the flows that it tracks, in the network namespace of this thread;
/// none of them is looked at. Raises `ConntrackError`.
#[pyfunction]
pub(crate) fn probe_flows(py: Python<'_>) -> PyResult<()> {
    py.detach(|| Requests::open()?.statistics())
        .map(|_| ())
        .map_err(|error| errors::conntrack(&error))
}
