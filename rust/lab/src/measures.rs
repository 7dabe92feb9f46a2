//! Books of a cell: outcomes of connections and balance, by Service of the scenario.
//!
//! Every connection that a client begins is booked once as offered, and once as served, refused or
//! lost. Memory grows with backends, and with clients where there is affinity, never with time.

use std::collections::HashMap;

use crate::balance::Ledger;
use crate::rows::{BackendRow, SecondRow, ServiceRow};
use crate::services::{BackendState, Service, Services};

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
}

/// All books.
#[derive(Debug)]
pub(crate) struct Measures {
    groups: Vec<Group>,
    /// Connections alive by backend.
    pub(crate) loads: Vec<u32>,
    /// Which backend a client of a Service had, and until when it is owed the same.
    affinities: HashMap<(u32, u32), (u32, u64)>,
    seconds: u64,
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
            }
        };
        let mut measures = Self {
            groups: services.groups.iter().map(group).collect(),
            loads: vec![0; services.owners.len()],
            affinities: HashMap::new(),
            seconds: 0,
        };
        for service in &services.services {
            for place in 0..service.backends.len() {
                measures.note_share(service, place);
            }
        }
        measures
    }

    /// A backend was listed, left, or has another weight.
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

    /// A connection was admitted to a backend.
    pub(crate) fn admit(&mut self, service: &Service, backend: u32) {
        let group = &mut self.groups[service.group as usize];
        group.connections.book(index(service, backend), 1.0);
        group.second.0 += 1;
        self.loads[backend as usize] += 1;
    }

    /// A backend answered with so many bytes.
    pub(crate) fn answer(&mut self, service: &Service, backend: u32, bytes: f64) {
        let group = &mut self.groups[service.group as usize];
        group.bytes.book(index(service, backend), bytes);
        group.second.1 += bytes;
    }

    /// A packet of a connection alive came to another backend. A connection that survives this is
    /// the new backend's load from now on.
    pub(crate) fn note_move(&mut self, service: &Service, from: u32, to: Option<u32>) {
        self.groups[service.group as usize].moved += 1;
        if let Some(to) = to {
            self.loads[from as usize] -= 1;
            self.loads[to as usize] += 1;
        }
    }

    /// A connection ended; `backend` if it was admitted.
    pub(crate) fn end(&mut self, service: &Service, backend: Option<u32>, outcome: Outcome) {
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
            self.loads[backend as usize] -= 1;
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

    /// Ends a second: a row for each Service of the scenario.
    pub(crate) fn end_second(&mut self, services: &Services, time: f64) -> Vec<SecondRow> {
        self.seconds += 1;
        let mut loads = vec![0; self.groups.len()];
        for service in &services.services {
            let group = &mut self.groups[service.group as usize];
            for (place, backend) in service.backends.iter().enumerate() {
                let load = self.loads[service.first as usize + place];
                loads[service.group as usize] += u64::from(load);
                // Connections that linger on a backend that left are nobody's fair share.
                if shares(backend).1 > 0.0 {
                    group.load.book(service.offset + place, f64::from(load));
                }
            }
        }
        let rows = self.groups.iter_mut().zip(loads).zip(0..).map(|((group, load), service)| {
            let (connections, bytes, refused, lost) = std::mem::take(&mut group.second);
            SecondRow {
                time,
                service,
                connections,
                connections_balance: group.connections.end_second(),
                bytes,
                bytes_balance: group.bytes.end_second(),
                load,
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
        let seconds = self.seconds.max(1) as f64;
        let mut backends = Vec::new();
        for (group, service) in self.groups.iter().zip(0..) {
            for backend in 0..group.connections.len() {
                let [connections, bytes, load] =
                    [&group.connections, &group.bytes, &group.load].map(|l| l.account(backend));
                backends.push(BackendRow {
                    service,
                    backend: backend as u32,
                    connections: connections.0,
                    connections_fair: connections.1,
                    bytes: bytes.0,
                    bytes_fair: bytes.1,
                    load: load.0 / seconds,
                    load_fair: load.1 / seconds,
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
