//! `peak-ewma`: the cheaper of two by decaying peak latency and load (Finagle's Peak EWMA).
//!
//! A latency above the average replaces it at once; lower ones pull it down slowly. The cost of a
//! backend is its average times its load and one. The averages lie outside of the balancer, since
//! they change with every answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use kbe_nat_engine::Backend;
use kbe_nat_engine::balance::{Balancer, Request, State};

/// Averages by backend, with the time at which they are read.
#[derive(Debug, Default)]
pub struct Latencies(Mutex<Averages>);

#[derive(Debug)]
struct Averages {
    /// Seconds, and when it was observed.
    averages: HashMap<SocketAddr, (f64, f64)>,
    now: f64,
    decay: f64,
}

impl Default for Averages {
    fn default() -> Self {
        Self { averages: HashMap::new(), now: 0.0, decay: DECAY }
    }
}

impl Averages {
    /// The rest of the average by now. A backend without any costs nothing: it is tried.
    fn cost(&self, address: SocketAddr) -> f64 {
        self.averages
            .get(&address)
            .map_or(0.0, |&(average, at)| average * libm::exp((at - self.now) / self.decay))
    }
}

impl Latencies {
    fn with<T>(&self, action: impl FnOnce(&mut Averages) -> T) -> T {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_decay(&self, seconds: f64) {
        self.with(|averages| averages.decay = seconds);
    }

    /// It is `now` seconds.
    pub fn advance(&self, now: f64) {
        self.with(|averages| averages.now = now);
    }

    /// A backend took `latency` seconds to answer, at `now` seconds.
    pub fn observe(&self, backend: SocketAddr, latency: f64, now: f64) {
        self.with(|averages| {
            averages.now = now;
            let share = averages
                .averages
                .get(&backend)
                .map_or(0.0, |&(_, at)| libm::exp((at - now) / averages.decay));
            let former = averages.averages.get(&backend).map_or(0.0, |&(average, _)| average);
            // A peak counts in full.
            let average =
                if latency > former { latency } else { former * share + latency * (1.0 - share) };
            averages.averages.insert(backend, (average, now));
        });
    }
}

/// Two even draws; the cheaper one wins. O(1) to pick.
#[derive(Debug)]
pub struct PeakEwma {
    backends: Vec<(usize, SocketAddr, u32)>,
    latencies: Arc<Latencies>,
}

impl PeakEwma {
    /// By these averages.
    #[must_use]
    pub fn new(backends: &[Backend], latencies: Arc<Latencies>) -> Self {
        let backends = backends
            .iter()
            .enumerate()
            .filter(|(_, backend)| backend.weight > 0)
            .map(|(index, backend)| (index, backend.address, backend.weight))
            .collect();
        Self { backends, latencies }
    }
}

impl Balancer for PeakEwma {
    fn pick(&self, request: &Request<'_>, state: &mut State) -> Option<usize> {
        let count = u32::try_from(self.backends.len()).ok().filter(|&count| count > 0)?;
        let pair = [state.rng.below(count), state.rng.below(count)];
        let pair = pair.map(|place| self.backends[place as usize]);
        let costs = self.latencies.with(|averages| {
            pair.map(|(index, address, weight)| {
                let load = f64::from(request.loads.active(index)) + 1.0;
                // Without any latency the loads alone decide.
                averages.cost(address).max(SMALLEST) * load / f64::from(weight)
            })
        });
        Some(pair[usize::from(costs[1] < costs[0])].0)
    }
}

pub(super) const DECAY: f64 = 10.0;
const SMALLEST: f64 = 1e-9;
