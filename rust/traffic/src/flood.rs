//! Datagrams in bursts over established flows, which servers count.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use serde::Serialize;

use crate::clock::cpu_ns;
use crate::error::{TrafficError, at};
use crate::{sockets, wire};

/// Datagrams in one system call.
const BATCH: usize = 64;
/// How long flows may take to be established, all together.
const ESTABLISHING: Duration = Duration::from_secs(1);
/// Between two packets of a flow that settles.
const SETTLING: Duration = Duration::from_millis(100);

/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Datagrams altogether.
    pub packets: u64,
    /// Datagrams a second; none: as fast as the sender can.
    pub rate: Option<f64>,
    /// Datagrams without a pause between them.
    pub burst: u64,
    /// Bytes of UDP payload.
    pub payload: usize,
}

/// Datagrams that were sent.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Flood {
    /// By the kernel's word.
    pub sent: u64,
    /// Which it refused.
    pub refused: u64,
    /// From the first to the last.
    pub seconds: f64,
    /// CPU time of the sending thread for each, in ns.
    pub cpu_ns: f64,
}

/// Flows that datagrams are sent over, a batch over each in turn.
#[derive(Debug)]
pub struct Flows(Vec<UdpSocket>);

impl Flows {
    /// At least one. The first packet of each is answered, since what that one costs is measured
    /// elsewhere, and so is one now and then until they are as old as `settle`: some ways carry a
    /// flow otherwise from then on. Where nothing answers, they are sent over all the same.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn open(to: SocketAddr, count: usize, settle: Duration) -> Result<Self, TrafficError> {
        let flows: Vec<_> = (0..count.max(1))
            .map(|_| sockets::datagrams_to(to))
            .collect::<Result<_, _>>()
            .map_err(at("a socket for a flow"))?;
        exchange(&flows).map_err(at("a time limit"))?;
        keep_going(&flows, settle).map_err(at("a time limit"))?;
        Ok(Self(flows))
    }

    /// Sends datagrams. A burst that is due while the one before is not yet sent goes out at once,
    /// so the mean rate is kept where the sender can.
    #[must_use]
    pub fn flood(&self, load: &Load) -> Flood {
        let payload = vec![0; load.payload];
        let parts = [IoSlice::new(&payload)];
        let mut controls: Vec<_> = (0..BATCH).map(|_| SendAncillaryBuffer::default()).collect();
        let mut batch: Vec<_> =
            controls.iter_mut().map(|control| MMsgHdr::new(&parts, control)).collect();
        let mut order = self.0.iter().cycle();
        let (mut sent, mut refused, mut cpu) = (0, 0, 0);
        let started = Instant::now();
        while sent + refused < load.packets {
            if let Some(rate) = load.rate {
                sleep_until(started + Duration::from_secs_f64((sent + refused) as f64 / rate));
            }
            let mut rest = load.burst.min(load.packets - sent - refused);
            let before = cpu_ns();
            while rest > 0 {
                let size = rest.min(BATCH as u64) as usize;
                let Some(flow) = order.next() else { break };
                match sendmmsg(flow, &mut batch[..size], SendFlags::empty()) {
                    // The kernel stops at the first datagram that it refuses; the next call says
                    // why.
                    Ok(count) => (sent, rest) = (sent + count as u64, rest - count as u64),
                    Err(Errno::INTR) => {}
                    Err(_) => (refused, rest) = (refused + 1, rest - 1),
                }
            }
            cpu += cpu_ns() - before;
        }
        Flood {
            sent,
            refused,
            seconds: started.elapsed().as_secs_f64(),
            cpu_ns: cpu as f64 / (sent + refused).max(1) as f64,
        }
    }
}

/// Sends a packet over each flow now and then, and hears its answer, for so long.
pub(crate) fn keep_going(flows: &[UdpSocket], span: Duration) -> io::Result<()> {
    let end = Instant::now() + span;
    while Instant::now() < end {
        std::thread::sleep(SETTLING.min(end.saturating_duration_since(Instant::now())));
        exchange(flows)?;
    }
    Ok(())
}

/// A packet and its answer on each flow, or no answer.
fn exchange(flows: &[UdpSocket]) -> io::Result<()> {
    for flow in flows {
        // A refusal shows itself later.
        let _ = flow.send(&wire::ping(u64::MAX));
    }
    let deadline = Instant::now() + ESTABLISHING;
    for flow in flows {
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            break;
        }
        flow.set_read_timeout(Some(rest))?;
        let _ = flow.recv(&mut [0; wire::PING_BYTES]);
    }
    Ok(())
}

fn sleep_until(due: Instant) {
    let rest = due.saturating_duration_since(Instant::now());
    if !rest.is_zero() {
        std::thread::sleep(rest);
    }
}
