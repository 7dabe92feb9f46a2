//! Connections that end by RST, which conntrack may not tell from those that live.
//!
//! Theory of operation. Conntrack takes a RST for right if it continues at what the other end has
//! acknowledged last. Of a flow that the cache carries it has missed that: it keeps the connection
//! established, and gives it the timeout of one that is over, in case the RST was forged. A live
//! end answers a forged one (RFC 5961, section 3.2), and then the timeout is as before.
//!
//! So the programs tell of each RST of a flow that they know. After [`PATIENCE`] a connection which
//! still has that timeout has heard nothing since, and conntrack is told that it is over; until
//! then the programs drop a SYN with its ends. One that lives is proposed again.
//!
//! They also tell of each volume that they have carried past conntrack: it must not measure a RST
//! by sequence numbers of two GiB ago, which count as later ones then.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_flowcache::{FlowCache, Notice, Topic};
use kbe_nat_netlink::conntrack::{Ends, Requests, TCP_ESTABLISHED, close_timeout};

use super::words::{passage_of, tuple};
use crate::cached_flows::{CachedFlows, FlowKey, Passage};
use crate::locking::lock;

/// Connections of which a RST was seen.
#[derive(Debug, Default)]
pub(super) struct Resets {
    /// With the time at which to look at each, in order.
    waiting: VecDeque<(Instant, FlowKey)>,
    /// The same.
    keys: HashSet<FlowKey>,
}

/// What a turn has led to.
pub(super) struct Followed {
    /// To be taken out of the cache.
    pub(super) over: Vec<[Passage; 2]>,
    /// Some of what was told may be missing.
    pub(super) may_lack: bool,
    /// There are more resets to look at now: a pod that dies resets all its connections at once.
    pub(super) has_more: bool,
}

impl Resets {
    /// Acts on what the programs have told, and on resets of a while ago.
    pub(super) fn follow(
        &mut self,
        cache: &FlowCache,
        records: &Mutex<CachedFlows>,
        requests: &mut Requests,
    ) -> io::Result<Followed> {
        let (notices, may_lack) = cache.take_notices()?;
        let now = Instant::now();
        let about = |topic| {
            let records = lock(records);
            let of_topic = notices.iter().filter(|notice: &&Notice| notice.topic == topic);
            of_topic.filter_map(|notice| records.flow_of(&passage_of(notice))).collect::<Vec<_>>()
        };
        let volumes: Vec<_> = about(Topic::Volume).iter().map(|key| key.original).collect();
        requests.forget_acknowledged(&volumes)?;
        about(Topic::Reset).into_iter().for_each(|key| self.add(key, now));
        let due = self.take_due(now);
        let over = judge(records, requests, &due, now)?;
        let has_more = self.waiting.front().is_some_and(|(when, _)| *when <= now);
        Ok(Followed { over, may_lack, has_more })
    }

    /// Takes note of a RST.
    fn add(&mut self, key: FlowKey, now: Instant) {
        if self.keys.insert(key) {
            self.waiting.push_back((now + PATIENCE, key));
        }
    }

    /// Those whose time has come, [`BATCH`] at most.
    fn take_due(&mut self, now: Instant) -> Vec<FlowKey> {
        let is_due = |(when, _): &&(Instant, FlowKey)| *when <= now;
        let count = self.waiting.iter().take(BATCH).take_while(is_due).count();
        let due: Vec<_> = self.waiting.drain(..count).map(|(_, key)| key).collect();
        due.iter().for_each(|key| {
            self.keys.remove(key);
        });
        due
    }
}

/// Those of these connections that the cache carries still, by their original ends. Conntrack may
/// take a reset one for established, since it has missed packets; the cache knows better.
pub(super) fn open_ones(cache: &FlowCache, connections: &[[Ends; 2]]) -> io::Result<Vec<Ends>> {
    let mut open = Vec::new();
    for connection in connections {
        if is_open(cache, *connection)? {
            open.push(connection[0]);
        }
    }
    Ok(open)
}

/// Whether the cache has entries for both directions, which no packet has ended.
fn is_open(cache: &FlowCache, connection: [Ends; 2]) -> io::Result<bool> {
    for ends in connection {
        let entry = cache.find(&tuple(Protocol::TCP.0, ends))?;
        if entry.is_none_or(|entry| entry.is_ended) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Tells conntrack which of these connections are over, and returns these.
fn judge(
    records: &Mutex<CachedFlows>,
    requests: &mut Requests,
    flows: &[FlowKey],
    now: Instant,
) -> io::Result<Vec<[Passage; 2]>> {
    if flows.is_empty() {
        return Ok(Vec::new());
    }
    let over = close_timeout();
    let (mut closed, mut alive) = (Vec::new(), Vec::new());
    for &key in flows {
        let Some(entry) = requests.get(key.protocol, key.original)? else { continue };
        if entry.state != Some(TCP_ESTABLISHED) {
            continue;
        }
        // Whatever else has come since has given it another timeout.
        let quiet = over.saturating_sub(entry.timeout.unwrap_or(u32::MAX));
        if entry.timeout.is_some_and(|timeout| timeout <= over) && quiet <= ROUNDED {
            closed.push(key);
        } else {
            alive.push(key);
        }
    }
    requests.close(&closed.iter().map(|key| key.original).collect::<Vec<_>>())?;
    let mut records = lock(records);
    let passages: Vec<_> = closed.iter().filter_map(|key| records.finish(key)).collect();
    alive.into_iter().for_each(|key| records.propose_again(key, now));
    Ok(passages)
}

/// Longer than a live end takes to answer a RST that was forged, and short enough that the second
/// SYN of a client, a second after the first one, begins a new connection.
const PATIENCE: Duration = Duration::from_millis(300);
/// Seconds that conntrack's timeout may have run down since a RST: some of a second, rounded, and
/// what this thread may have been late.
const ROUNDED: u32 = 2;
/// Connections that are judged in a turn.
const BATCH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_resets_at_once_are_taken_turn_by_turn_and_each_once() {
        let (mut resets, start) = (Resets::default(), Instant::now());
        let key = |port| {
            let end = |port| (std::net::Ipv4Addr::LOCALHOST, port).into();
            FlowKey { protocol: Protocol::TCP.0, original: Ends { src: end(port), dst: end(80) } }
        };
        for port in (1..=150).chain(1..=150) {
            resets.add(key(port), start);
        }
        assert_eq!(resets.take_due(start), []);
        let due = start + PATIENCE;
        let turns: Vec<_> = (0..4).map(|_| resets.take_due(due).len()).collect();
        assert_eq!(turns, [64, 64, 22, 0]);
        resets.add(key(1), due);
        assert_eq!(resets.take_due(due + PATIENCE), [key(1)], "it may be reset again");
    }
}
