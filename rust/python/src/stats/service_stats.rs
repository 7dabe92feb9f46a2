//! `ServiceStats`, `BackendStats`: counters of service ports, and of each of their backends.

use std::collections::BTreeMap;

use kbe_nat_engine as core;
use kbe_nat_engine::tuple::Family;
use kbe_nat_engine::view::{BackendStats as CoreBackend, ServiceStats as CoreService};
use pyo3::prelude::*;

use super::ConnectTimes;
use crate::values::{Portable, portable, text};

/// Counters of one backend of one service port since the engine started.
#[pyclass(frozen, eq, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BackendStats(CoreBackend);

#[pymethods]
impl BackendStats {
    /// The IP address, as text.
    #[getter]
    fn address(&self) -> String {
        self.0.address.ip().to_string()
    }

    /// The port.
    #[getter]
    fn port(&self) -> u16 {
        self.0.address.port()
    }

    /// Flows alive now, without those that are over.
    #[getter]
    fn active(&self) -> u32 {
        self.0.active
    }

    /// Of these, those that are being closed: as in IPVS, TCP from the first FIN on, and SCTP that
    /// is not established.
    #[getter]
    fn inactive(&self) -> u32 {
        self.0.inactive
    }

    /// Beside these, TCP that is over and only remembered for a while: TIME_WAIT and CLOSE.
    #[getter]
    fn over(&self) -> u32 {
        self.0.over
    }

    /// Flows that it got.
    #[getter]
    fn flows(&self) -> u64 {
        self.0.traffic.flows
    }

    /// Packets towards the backend, and back.
    #[getter]
    fn packets(&self) -> (u64, u64) {
        self.0.traffic.packets.into()
    }

    /// Bytes of the IP packets towards the backend, and back.
    #[getter]
    fn bytes(&self) -> (u64, u64) {
        self.0.traffic.bytes.into()
    }

    /// None if none was measured.
    #[getter]
    fn connects(&self) -> Option<ConnectTimes> {
        self.0.connects.as_deref().copied().map(ConnectTimes)
    }

    /// No longer in the tables; kept while flows still use it.
    #[getter]
    fn is_gone(&self) -> bool {
        self.0.is_gone
    }

    fn __repr__(&self) -> String {
        let CoreBackend { address, active, traffic, .. } = &self.0;
        format!("<BackendStats {address}: {active} active of {} flows>", traffic.flows)
    }
}

/// Counters of one service port in one family, 4 or 6; of backends that are gone too.
#[pyclass(frozen, eq, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ServiceStats(pub(super) CoreService);

#[pymethods]
impl ServiceStats {
    /// The name, as namespace/name or namespace/name:port.
    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    /// The address family, 4 or 6.
    #[getter]
    fn family(&self) -> u8 {
        self.0.family.version()
    }

    /// Flows alive now, without those that are over.
    #[getter]
    fn active(&self) -> u64 {
        self.0.active()
    }

    /// Flows that began.
    #[getter]
    fn flows(&self) -> u64 {
        self.0.traffic.flows
    }

    /// Packets towards the backends, and back.
    #[getter]
    fn packets(&self) -> (u64, u64) {
        self.0.traffic.packets.into()
    }

    /// Bytes of the IP packets towards the backends, and back.
    #[getter]
    fn bytes(&self) -> (u64, u64) {
        self.0.traffic.bytes.into()
    }

    /// Packets that were dropped or rejected at this service port, by cause.
    #[getter]
    fn refused(&self) -> BTreeMap<&'static str, u64> {
        self.0.refused.iter().map(|&(cause, count)| (cause.name(), count)).collect()
    }

    /// Of all its backends; None if none was measured.
    #[getter]
    fn connects(&self) -> Option<ConnectTimes> {
        let connects = self.0.connects;
        (connects.count() > 0).then_some(ConnectTimes(connects))
    }

    /// The counters of each backend, of those that are gone too.
    #[getter]
    fn backends(&self) -> Vec<BackendStats> {
        self.0.backends.iter().cloned().map(BackendStats).collect()
    }

    fn __repr__(&self) -> String {
        let (name, family, active) = (self.name(), self.family(), self.active());
        let (flows, backends) = (self.flows(), self.0.backends.len());
        format!(
            "<ServiceStats {name} (IPv{family}): {active} active of {flows} flows, \
             {backends} backends>"
        )
    }
}

portable!(BackendStats, ServiceStats);

/// Flows, packets and bytes.
type TrafficState = (u64, [u64; 2], [u64; 2]);

fn traffic_state(traffic: &core::Traffic) -> TrafficState {
    (traffic.flows, traffic.packets, traffic.bytes)
}

fn traffic((flows, packets, bytes): TrafficState) -> core::Traffic {
    core::Traffic { flows, packets, bytes }
}

impl Portable for BackendStats {
    /// Address and port; flows that are active, those of them that are closing, and those that are
    /// over; traffic, connect times, whether it is gone.
    type State = (String, [u32; 3], TrafficState, Option<(Vec<u64>, u64)>, bool);

    fn state(&self) -> Self::State {
        let CoreBackend { address, active, inactive, over, traffic, connects, is_gone } = &self.0;
        let connects = connects.as_deref().map(|connects| ConnectTimes(*connects).state());
        (text(address), [*active, *inactive, *over], traffic_state(traffic), connects, *is_gone)
    }

    fn restore((address, flows, counters, connects, is_gone): Self::State) -> Option<Self> {
        let [active, inactive, over] = flows;
        let connects = match connects {
            Some(state) => Some(Box::new(ConnectTimes::restore(state)?.0)),
            None => None,
        };
        let (address, traffic) = (address.parse().ok()?, traffic(counters));
        Some(Self(CoreBackend { address, active, inactive, over, traffic, connects, is_gone }))
    }
}

impl Portable for ServiceStats {
    /// Name and family, traffic, connect times, refusals by the place of their cause, backends.
    #[allow(clippy::type_complexity)]
    type State = (
        (String, u8),
        TrafficState,
        (Vec<u64>, u64),
        Vec<(usize, u64)>,
        Vec<<BackendStats as Portable>::State>,
    );

    fn state(&self) -> Self::State {
        let service = &self.0;
        (
            (service.name.clone(), service.family.version()),
            traffic_state(&service.traffic),
            ConnectTimes(service.connects).state(),
            service.refused.iter().map(|&(cause, count)| (cause as usize, count)).collect(),
            self.backends().iter().map(Portable::state).collect(),
        )
    }

    fn restore(
        ((name, version), counters, connects, refused, backends): Self::State,
    ) -> Option<Self> {
        let family = match version {
            4 => Family::V4,
            6 => Family::V6,
            _ => return None,
        };
        let cause = |(place, count): (usize, u64)| Some((*core::Cause::ALL.get(place)?, count));
        let backend = |state| BackendStats::restore(state).map(|backend| backend.0);
        Some(Self(CoreService {
            name,
            family,
            traffic: traffic(counters),
            connects: ConnectTimes::restore(connects)?.0,
            refused: refused.into_iter().map(cause).collect::<Option<_>>()?,
            backends: backends.into_iter().map(backend).collect::<Option<_>>()?,
        }))
    }
}
