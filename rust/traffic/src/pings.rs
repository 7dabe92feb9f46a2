//! Datagrams that are answered, and how long that takes.
//!
//! In a closed loop the next ping goes when the one before is answered or lost. In an open loop
//! each has a moment at which it is due, whatever became of others, and its time counts from there:
//! a stall of the node is seen by every ping that was due meanwhile, not by one alone. The open
//! loop is one thread that sends, waits and reads, so no lock lies between a ping and its answer.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::set_current_timer_slack;
use serde::Serialize;

use crate::error::{TrafficError, at};
use crate::flood::keep_going;
use crate::latencies::{Latencies, Times};
use crate::{sockets, wire};

/// Pings that go out before answers are looked for: a late sender must not stop reading.
const AT_ONCE: u64 = 16;
/// Events that are taken at once.
const EVENTS: usize = 64;

/// How pings are sent.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    /// How many.
    pub count: u64,
    /// How many a second, whatever answers; none: each after the one before.
    pub rate: Option<f64>,
    /// After so long without an answer one is lost.
    pub wait: Duration,
    /// Each has a source port of its own, and begins a flow.
    pub is_fresh: bool,
    /// How old the flow is when the first is sent, with a packet and an answer now and then before;
    /// without a meaning where each ping has a flow of its own.
    pub settle: Duration,
}

/// Pings and their answers.
#[derive(Clone, Debug, Serialize)]
pub struct Pings {
    /// How many were sent.
    pub sent: u64,
    /// And answered in time.
    pub answered: u64,
    /// From the first to the last.
    pub seconds: f64,
    /// Of those that were answered.
    pub latencies: Latencies,
    /// Answers by the server's name.
    pub servers: BTreeMap<String, u64>,
}

struct Tally {
    answered: u64,
    times: Times,
    servers: BTreeMap<String, u64>,
}

impl Tally {
    fn note_answer(&mut self, time: Duration, name: &[u8]) {
        self.answered += 1;
        self.times.record(time);
        *self.servers.entry(wire::text_of(name)).or_default() += 1;
    }
}

/// Sends pings.
///
/// # Errors
/// When a socket cannot be opened.
pub fn ping(to: SocketAddr, asking: &Asking) -> Result<Pings, TrafficError> {
    let mut tally = Tally { answered: 0, times: Times::new(), servers: BTreeMap::new() };
    let started = match asking.rate {
        None => closed_loop(to, asking, &mut tally),
        Some(rate) => open_loop(to, asking, rate, &mut tally),
    }
    .map_err(at("a socket for pings"))?;
    Ok(Pings {
        sent: asking.count,
        answered: tally.answered,
        seconds: started.elapsed().as_secs_f64(),
        latencies: tally.times.summary(),
        servers: tally.servers,
    })
}

/// Returns when the first was sent, as `open_loop` does.
fn closed_loop(to: SocketAddr, asking: &Asking, tally: &mut Tally) -> io::Result<Instant> {
    let open = || -> io::Result<UdpSocket> {
        let socket =
            if asking.is_fresh { sockets::fresh_datagrams_to(to)? } else { settled(to, asking)? };
        socket.set_read_timeout(Some(asking.wait))?;
        Ok(socket)
    };
    let mut socket = open()?;
    let mut content = [0; wire::PING_BYTES];
    let started = Instant::now();
    for sequence in 0..asking.count {
        if asking.is_fresh && sequence > 0 {
            socket = open()?;
        }
        let begun = Instant::now();
        if socket.send(&wire::ping(sequence)).is_err() {
            continue;
        }
        // The answer to a ping that was given up may still come.
        while let Ok(length) = socket.recv(&mut content) {
            let time = begun.elapsed();
            match wire::ping_answer(&content[..length]) {
                Some((number, name)) if number == sequence => {
                    tally.note_answer(time, name);
                    break;
                }
                _ if time > asking.wait => break,
                _ => {}
            }
        }
    }
    Ok(started)
}

/// The socket of all pings.
fn settled(to: SocketAddr, asking: &Asking) -> io::Result<UdpSocket> {
    let socket = sockets::datagrams_to(to)?;
    keep_going(std::slice::from_ref(&socket), asking.settle)?;
    Ok(socket)
}

/// A ping that waits for its answer.
struct Pending {
    due: Instant,
    socket: Option<UdpSocket>,
}

struct OpenLoop<'a> {
    to: SocketAddr,
    asking: &'a Asking,
    events: OwnedFd,
    /// The socket of all pings, unless each has its own.
    shared: Option<UdpSocket>,
    pending: HashMap<u64, Pending>,
    /// Pings by their moments, answered ones among them.
    order: VecDeque<(u64, Instant)>,
}

fn open_loop(to: SocketAddr, asking: &Asking, rate: f64, tally: &mut Tally) -> io::Result<Instant> {
    sockets::raise_descriptor_limit();
    // Sleeps end when they should, not some 50 µs later.
    set_current_timer_slack(NonZeroU64::new(1))?;
    let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let shared = if asking.is_fresh { None } else { Some(settled(to, asking)?) };
    if let Some(socket) = &shared {
        watch(&events, socket, 0)?;
    }
    let mut state =
        OpenLoop { to, asking, events, shared, pending: HashMap::new(), order: VecDeque::new() };
    let started = Instant::now();
    let due = |sequence: u64| started + Duration::from_secs_f64(sequence as f64 / rate);
    let mut sequence = 0;
    while sequence < asking.count || !state.pending.is_empty() {
        let now = Instant::now();
        for _ in 0..AT_ONCE {
            if sequence == asking.count || due(sequence) > now {
                break;
            }
            state.send(sequence, due(sequence))?;
            sequence += 1;
        }
        state.give_up(now);
        let next = if sequence < asking.count { Some(due(sequence)) } else { None };
        state.wait_until(next)?;
        state.read(tally)?;
    }
    Ok(started)
}

impl OpenLoop<'_> {
    fn send(&mut self, sequence: u64, due: Instant) -> io::Result<()> {
        let socket = if self.shared.is_none() {
            let socket = sockets::fresh_datagrams_to(self.to)?;
            watch(&self.events, &socket, sequence)?;
            Some(socket)
        } else {
            None
        };
        if let Some(socket) = socket.as_ref().or(self.shared.as_ref()) {
            // A datagram that is refused here is lost.
            let _ = socket.send(&wire::ping(sequence));
        }
        self.pending.insert(sequence, Pending { due, socket });
        self.order.push_back((sequence, due));
        Ok(())
    }

    /// Those that have waited long enough are lost.
    fn give_up(&mut self, now: Instant) {
        while let Some(&(sequence, due)) = self.order.front()
            && (now > due + self.asking.wait || !self.pending.contains_key(&sequence))
        {
            self.pending.remove(&sequence);
            self.order.pop_front();
        }
    }

    /// Until an answer comes, the next ping is due, or the oldest is lost.
    fn wait_until(&self, next: Option<Instant>) -> io::Result<()> {
        let oldest = self.order.front().map(|&(_, due)| due + self.asking.wait);
        let Some(end) = next.into_iter().chain(oldest).min() else { return Ok(()) };
        let rest = end.saturating_duration_since(Instant::now());
        // epoll_wait counts in milliseconds; poll of the epoll descriptor in nanoseconds.
        let limit = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: rest.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.events, PollFlags::IN)], Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn read(&mut self, tally: &mut Tally) -> io::Result<()> {
        let mut ready = Vec::with_capacity(EVENTS);
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(&self.events, spare_capacity(&mut ready), Some(&none))?;
        for event in &ready {
            let key = event.data.u64();
            let mut content = [0; wire::PING_BYTES];
            loop {
                let socket = match &self.shared {
                    Some(socket) => socket,
                    None => match self.pending.get(&key).and_then(|it| it.socket.as_ref()) {
                        Some(socket) => socket,
                        None => break,
                    },
                };
                let flags = rustix::net::RecvFlags::DONTWAIT;
                let Ok((length, _)) = rustix::net::recv(socket, &mut content[..], flags) else {
                    break;
                };
                if let Some((sequence, name)) = wire::ping_answer(&content[..length])
                    && let Some(pending) = self.pending.remove(&sequence)
                {
                    tally.note_answer(pending.due.elapsed(), name);
                }
            }
        }
        Ok(())
    }
}

fn watch(events: &OwnedFd, socket: &UdpSocket, key: u64) -> io::Result<()> {
    Ok(epoll::add(events, socket, EventData::new_u64(key), EventFlags::IN)?)
}
