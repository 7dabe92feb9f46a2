//! Sources of connections: when they begin, from which client, how long and how large they are.

use crate::random::{Purpose, Stream, Zipf};
use crate::spec::{Arrivals, TrafficSpec};

/// Seconds that a client of a closed loop thinks at least: one that is refused at once would else
/// try again at the same moment, for ever.
const LEAST_PAUSE: f64 = 0.001;
/// Nanoseconds in a second.
pub(crate) const SECOND: f64 = 1e9;

/// A connection before it has a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft {
    pub(crate) client: u32,
    /// Which of the Services alike.
    pub(crate) replica: u32,
    /// Bytes.
    pub(crate) size: f64,
    /// Seconds.
    pub(crate) lifetime: f64,
}

/// A stream of connections. Its draws depend on the cell's seed alone, so that all strategies meet
/// the same open-loop traffic.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) spec: TrafficSpec,
    replicas: u32,
    zipf: Option<Zipf>,
    arrivals: Stream,
    clients: Stream,
    services: Stream,
    sizes: Stream,
    lifetimes: Stream,
    thinking: Stream,
    /// Seconds: the last arrival, and until when a bursty source is on.
    last: f64,
    on_until: f64,
    /// Arrivals so far.
    count: u64,
}

impl Source {
    pub(crate) fn new(spec: &TrafficSpec, part: u64, seed: u64, replicas: u32) -> Self {
        let stream = |purpose| Stream::new(seed, part, purpose);
        let clients = spec.clients;
        let mut source = Self {
            replicas,
            zipf: (clients.zipf > 0.0).then(|| Zipf::new(clients.count, clients.zipf)),
            arrivals: stream(Purpose::Arrivals),
            clients: stream(Purpose::Clients),
            services: stream(Purpose::Services),
            sizes: stream(Purpose::Sizes),
            lifetimes: stream(Purpose::Lifetimes),
            thinking: stream(Purpose::Thinking),
            last: spec.start,
            on_until: spec.start,
            count: 0,
            spec: spec.clone(),
        };
        if let Arrivals::Bursty(_, on, _) = source.spec.arrivals {
            source.on_until += source.arrivals.exponential(on);
        }
        source
    }

    /// When the next connection of an open loop begins, in nanoseconds; `None` after the last.
    pub(crate) fn next_arrival(&mut self) -> Option<u64> {
        let at = match &self.spec.arrivals {
            Arrivals::Poisson(rate) => self.last + self.arrivals.exponential(1.0 / rate),
            // By its number: sums of distances would drift.
            Arrivals::Paced(rate) => self.spec.start + self.count as f64 / rate,
            &Arrivals::Bursty(rate, on, off) => {
                let mut at = self.last + self.arrivals.exponential(1.0 / rate);
                // Arrivals are without memory, so the rest of a distance goes on after the pause.
                while at > self.on_until {
                    let pause = self.arrivals.exponential(off);
                    at += pause;
                    self.on_until += pause + self.arrivals.exponential(on);
                }
                at
            }
            Arrivals::Closed(_) => return None,
            Arrivals::Trace(rows) => self.spec.start + rows.get(self.count as usize)?.0,
        };
        (self.count, self.last) = (self.count + 1, at);
        (at < self.spec.stop).then_some((at * SECOND) as u64)
    }

    /// The connection that begins now. `client` is that of a closed loop.
    pub(crate) fn draft(&mut self, client: Option<u32>) -> Draft {
        let replica = self.replica();
        if let Arrivals::Trace(rows) = &self.spec.arrivals
            && let Some(&(_, client, size, lifetime)) = rows.get(self.count as usize - 1)
        {
            return Draft { client, replica, size, lifetime };
        }
        let client = client.unwrap_or_else(|| match &self.zipf {
            Some(zipf) => zipf.draw(&mut self.clients),
            None => self.clients.below(self.spec.clients.count.into()) as u32,
        });
        let size = self.sizes.draw(&self.spec.size);
        Draft { client, replica, size, lifetime: self.lifetimes.draw(&self.spec.lifetime) }
    }

    /// Which of the Services alike the next connection is for.
    pub(crate) fn replica(&mut self) -> u32 {
        self.services.below(self.replicas.into()) as u32
    }

    /// Even bits, for the source of a packet of a flood.
    pub(crate) fn bits(&mut self) -> u64 {
        self.clients.bits()
    }

    /// When a client of a closed loop opens its next connection, in nanoseconds; `None` when that
    /// is after the last, or the loop is open.
    pub(crate) fn next_of_client(&mut self, now: u64) -> Option<u64> {
        let Arrivals::Closed(thinking) = &self.spec.arrivals else { return None };
        let now = (now as f64 / SECOND).max(self.spec.start);
        let at = now + self.thinking.draw(thinking).max(LEAST_PAUSE);
        (at < self.spec.stop).then_some((at * SECOND) as u64)
    }
}
