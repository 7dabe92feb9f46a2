//! Books of a cell: outcomes of connections and balance, by Service of the scenario.
//!
//! Every connection that a client begins is booked once as offered, and once as served, refused or
//! lost. Memory grows with backends, and with clients where there is affinity, never with time.
//!
//! Load is booked in connection-seconds, the integral of the connections alive. Samples at the ends
//! of seconds would meet clients of a closed loop that go in step always at the same point of their
//! connections. The integral over a period is the load at its end times its length, less the moment
//! of each change: a connection that came late was not there before, one that ended was. Moments
//! are integers, so that the order of changes does not matter.

use std::collections::HashMap;

use crate::balance::Ledger;
use crate::rows::{BackendRow, SecondRow, ServiceRow};
use crate::services::{BackendState, Service, Services};
use crate::traffic::SECOND;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Served,
    Refused,
    Lost,
}

/// The books of one Service of the scenario.
#[derive(Debug)]
struct Group {
    connections: Ledger,
    bytes: Ledger,
    load: Ledger,
    offered: u64,
    served: u64,
    refused: u64,
    lost: u64,
    moved: u64,
    affinity_breaks: u64,
    affinity_breaks_minimum: u64,
    /// Since the last second ended: admitted, bytes, refused, lost.
    second: (u64, f64, u64, u64),
    /// Connection-seconds since the last second ended, of backends that left too.
    second_load: f64,
}

/// All books.
#[derive(Debug)]
pub(crate) struct Measures {
    groups: Vec<Group>,
    /// Connections alive by backend.
    pub(crate) loads: Vec<u32>,
    /// By backend, for each change of its load since `booked_until`: the time since then, in
    /// nanoseconds, times the change.
    moments: Vec<i64>,
    /// Loads are booked until this time, in nanoseconds.
    booked_until: u64,
    /// When the last second ended.
    second_start: u64,
    /// Which backend a client of a Service had, and until when it is owed the same.
    affinities: HashMap<(u32, u32), (u32, u64)>,
}

impl Measures {
    pub(crate) fn new(services: &Services) -> Self {
        let group = |&(first, count): &(u32, u32)| {
            let backends = services.services[first as usize].backends.len() * count as usize;
            Group {
                connections: Ledger::new(backends),
                bytes: Ledger::new(backends),
                load: Ledger::new(backends),
                offered: 0,
                served: 0,
                refused: 0,
                lost: 0,
                moved: 0,
                affinity_breaks: 0,
                affinity_breaks_minimum: 0,
                second: (0, 0.0, 0, 0),
                second_load: 0.0,
            }
        };
        let mut measures = Self {
            groups: services.groups.iter().map(group).collect(),
            loads: vec![0; services.owners.len()],
            moments: vec![0; services.owners.len()],
            booked_until: 0,
            second_start: 0,
            affinities: HashMap::new(),
        };
        for service in &services.services {
            for place in 0..service.backends.len() {
                measures.note_share(service, place);
            }
        }
        measures
    }

    /// A backend was listed, left, or has another weight. Loads must be booked until now.
    pub(crate) fn note_share(&mut self, service: &Service, place: usize) {
        let group = &mut self.groups[service.group as usize];
        let (weight, capacity) = shares(&service.backends[place]);
        let index = service.offset + place;
        group.connections.set_share(index, weight);
        group.bytes.set_share(index, weight);
        group.load.set_share(index, capacity);
    }

    pub(crate) fn offer(&mut self, service: &Service) {
        self.groups[service.group as usize].offered += 1;
    }

    /// A connection was admitted to a backend, at `at` nanoseconds.
    pub(crate) fn admit(&mut self, service: &Service, backend: u32, at: u64) {
        let group = &mut self.groups[service.group as usize];
        group.connections.book(index(service, backend), 1.0);
        group.second.0 += 1;
        self.load(backend, at);
    }

    fn load(&mut self, backend: u32, at: u64) {
        self.loads[backend as usize] += 1;
        self.moments[backend as usize] += at as i64 - self.booked_until as i64;
    }

    fn unload(&mut self, backend: u32, at: u64) {
        self.loads[backend as usize] -= 1;
        self.moments[backend as usize] -= at as i64 - self.booked_until as i64;
    }

    /// A backend answered with so many bytes.
    pub(crate) fn answer(&mut self, service: &Service, backend: u32, bytes: f64) {
        let group = &mut self.groups[service.group as usize];
        group.bytes.book(index(service, backend), bytes);
        group.second.1 += bytes;
    }

    /// A packet of a connection alive came to another backend. A connection that survives this is
    /// the new backend's load from now on.
    pub(crate) fn note_move(&mut self, service: &Service, from: u32, to: Option<u32>, at: u64) {
        self.groups[service.group as usize].moved += 1;
        if let Some(to) = to {
            self.unload(from, at);
            self.load(to, at);
        }
    }

    /// A connection ended at `at` nanoseconds; `backend` if it was admitted.
    pub(crate) fn end(
        &mut self,
        service: &Service,
        backend: Option<u32>,
        outcome: Outcome,
        at: u64,
    ) {
        let group = &mut self.groups[service.group as usize];
        match outcome {
            Outcome::Served => group.served += 1,
            Outcome::Refused => {
                group.refused += 1;
                group.second.2 += 1;
            }
            Outcome::Lost => {
                group.lost += 1;
                group.second.3 += 1;
            }
        }
        if let Some(backend) = backend {
            self.unload(backend, at);
        }
    }

    /// A client got a backend, at `now` nanoseconds. With affinity it is owed that of its last
    /// connection, if that began within the timeout.
    pub(crate) fn note_affinity(
        &mut self,
        number: u32,
        service: &Service,
        client: u32,
        backend: u32,
        now: u64,
    ) {
        let Some(seconds) = service.affinity else { return };
        let until = now + u64::from(seconds) * 1_000_000_000;
        let former = self.affinities.insert((number, client), (backend, until));
        let Some((former, _)) = former.filter(|&(former, until)| former != backend && now < until)
        else {
            return;
        };
        let group = &mut self.groups[service.group as usize];
        group.affinity_breaks += 1;
        let state = &service.backends[(former - service.first) as usize];
        group.affinity_breaks_minimum += u64::from(!(state.is_listed && state.is_alive));
    }

    /// Books the loads until `at` nanoseconds.
    pub(crate) fn book_loads(&mut self, services: &Services, at: u64) {
        let time = at as i64 - self.booked_until as i64;
        self.booked_until = at;
        for service in &services.services {
            let group = &mut self.groups[service.group as usize];
            for place in 0..service.backends.len() {
                let number = service.first as usize + place;
                let moment = std::mem::take(&mut self.moments[number]);
                let amount = (i64::from(self.loads[number]) * time - moment) as f64 / SECOND;
                group.second_load += amount;
                group.load.book(service.offset + place, amount);
            }
        }
    }

    /// Ends a second, or a shorter time at the end of a run, at `at` nanoseconds: a row for each
    /// Service of the scenario.
    pub(crate) fn end_second(&mut self, services: &Services, at: u64) -> Vec<SecondRow> {
        self.book_loads(services, at);
        let length = (at - std::mem::replace(&mut self.second_start, at)) as f64 / SECOND;
        let rows = self.groups.iter_mut().zip(0..).map(|(group, service)| {
            let (connections, bytes, refused, lost) = std::mem::take(&mut group.second);
            SecondRow {
                time: at as f64 / SECOND,
                service,
                connections,
                connections_balance: group.connections.end_second(),
                bytes,
                bytes_balance: group.bytes.end_second(),
                load: std::mem::take(&mut group.second_load) / length,
                load_balance: group.load.end_second(),
                refused,
                lost,
            }
        });
        rows.collect()
    }

    /// The rows of the whole run. Of each Service so many connections are still open, which count
    /// as served.
    pub(crate) fn close(&self, open: &[u64]) -> (Vec<ServiceRow>, Vec<BackendRow>) {
        let seconds = self.booked_until.max(1) as f64 / SECOND;
        let mut backends = Vec::new();
        for (group, service) in self.groups.iter().zip(0..) {
            for backend in 0..group.connections.len() {
                let [connections, bytes, load] =
                    [&group.connections, &group.bytes, &group.load].map(|l| l.amounts(backend));
                backends.push(BackendRow {
                    service,
                    backend: backend as u32,
                    connections: connections.total,
                    connections_lingering: connections.lingering,
                    connections_fair: connections.fair,
                    bytes: bytes.total,
                    bytes_lingering: bytes.lingering,
                    bytes_fair: bytes.fair,
                    load: load.total / seconds,
                    load_lingering: load.lingering / seconds,
                    load_fair: load.fair / seconds,
                });
            }
        }
        let rows = self.groups.iter().zip(open).zip(0..).map(|((group, &open), service)| {
            let indices = |ledger: &Ledger| [ledger.overall(), ledger.by_second()];
            ServiceRow {
                service,
                offered: group.offered,
                served: group.served + open,
                open,
                refused: group.refused,
                lost: group.lost,
                moved: group.moved,
                affinity_breaks: group.affinity_breaks,
                affinity_breaks_minimum: group.affinity_breaks_minimum,
                connections: indices(&group.connections),
                bytes: indices(&group.bytes),
                load: indices(&group.load),
            }
        });
        (rows.collect(), backends)
    }
}

/// Share numbers of a backend by weight and by capacity; 0 when it gets no new connections.
fn shares(backend: &BackendState) -> (f64, f64) {
    if !backend.is_listed || backend.weight == 0 {
        return (0.0, 0.0);
    }
    let weight = f64::from(backend.weight);
    (weight, backend.capacity.unwrap_or(weight))
}

fn index(service: &Service, backend: u32) -> usize {
    service.offset + (backend - service.first) as usize
}
