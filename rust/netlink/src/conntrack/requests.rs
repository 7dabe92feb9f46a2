//! Requests about the kernel's flows: to dump them, to end one, to read its counters.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::changes::{CLOSED, Changes, LIBERAL, NONE, finish, put_change};
use super::entry::{Ends, Entry, put_tuple, put_tuple_as};
use super::uapi::{
    CTA_FILTER, CTA_FILTER_ORIG_FLAGS, CTA_ID, CTA_MARK, CTA_NAT_DST, CTA_NAT_PROTO, CTA_NAT_SRC,
    CTA_NAT_V4_MINIP, CTA_NAT_V6_MINIP, CTA_PROTOINFO, CTA_PROTOINFO_STATE, CTA_PROTOINFO_TCP,
    CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, CTA_PROTOINFO_TCP_FLAGS_REPLY, CTA_PROTONAT_PORT_MAX,
    CTA_PROTONAT_PORT_MIN, CTA_STATS_DROP, CTA_STATS_INSERT_FAILED, CTA_STATUS, CTA_TIMEOUT,
    CTA_TUPLE_REPLY, FILTER_DST_PORT, FILTER_IP_DST, FILTER_PROTO_NUM, IPCTNL_MSG_CT_DELETE,
    IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_GET_STATS_CPU, IPCTNL_MSG_CT_NEW, IPS_ASSURED, IPS_CONFIRMED,
    IPS_SEEN_REPLY, NEW_FLOW, NLM_F_DUMP_INTR, SUBSYSTEM, TCP_FLAG_ACKNOWLEDGED,
    TCP_FLAG_BE_LIBERAL, TCP_FLAG_DATA_UNACKNOWLEDGED,
};
use crate::attribute::{
    ERROR, FLAG_ACK, FLAG_DUMP, HEADER, Head, close, find, flags, number, open, put, put_nest,
    sequence,
};
use crate::exchange::Exchange;
use crate::family::Family;

/// Flows of one family and protocol, all or those that began with a packet to one destination.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Selection {
    /// Of which protocol.
    pub protocol: u8,
    /// Of which family.
    pub family: Family,
    /// To whom.
    pub destination: Option<SocketAddr>,
}

impl Selection {
    /// Whether this flow is meant.
    #[must_use]
    pub fn has(&self, entry: &Entry) -> bool {
        let to = entry.original.dst;
        entry.protocol == self.protocol
            && Family::of(&to) == self.family
            && self.destination.is_none_or(|destination| destination == to)
    }
}

/// Counters of a network namespace's connection tracking, since the namespace was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Flows that could not be entered because another one has the same ends: above all, no port
    /// was left to masquerade with. Their packets were dropped.
    pub insert_failed: u64,
    /// Packets that were dropped because the table was full, or a flow could not be made.
    pub dropped: u64,
}

/// Asks about flows, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Requests(Exchange);

impl Requests {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        Exchange::open(libc::NETLINK_NETFILTER).map(Self)
    }

    /// Shows flows to `each`, some at a time: the flows of a selection, or all. Returns whether the
    /// dump was complete: the kernel may have rebuilt its table meanwhile. Cost: the kernel passes
    /// over all flows in any case, and sends the flows of the selection (before Linux 5.8, all).
    ///
    /// # Errors
    /// The system's.
    pub fn dump(
        &mut self,
        wanted: Option<&Selection>,
        mut each: impl FnMut(&[Entry]),
    ) -> io::Result<bool> {
        let family = wanted.map(|wanted| wanted.family);
        let mut request = Vec::new();
        let head = Head {
            subsystem: SUBSYSTEM,
            kind: IPCTNL_MSG_CT_GET,
            flags: FLAG_DUMP,
            family,
            ..Head::default()
        };
        let start = open(&mut request, head);
        if let Some(wanted) = wanted {
            put_filter(&mut request, wanted);
        }
        close(&mut request, start, 0);
        let (mut is_whole, mut entries) = (true, Vec::new());
        self.0.ask(&request, |kind, message| {
            // The kernel marks the messages that follow a resize of its table; one mark is enough.
            is_whole &= flags(message) & NLM_F_DUMP_INTR == 0;
            if kind == NEW_FLOW {
                // Kernels before 5.8 ignore the filter and show all flows.
                let meant = |entry: &Entry| wanted.is_none_or(|wanted| wanted.has(entry));
                entries.extend(Entry::parse(message).filter(meant));
            }
            if entries.len() >= CHUNK {
                each(&entries);
                entries.clear();
            }
        })?;
        each(&entries);
        Ok(is_whole)
    }

    /// The flow with these original ends, if there is one.
    ///
    /// # Errors
    /// The system's.
    pub fn get(&mut self, protocol: u8, original: Ends) -> io::Result<Option<Entry>> {
        let mut request = Vec::new();
        let head = Head {
            subsystem: SUBSYSTEM,
            kind: IPCTNL_MSG_CT_GET,
            // The kernel marks its one message as a part of several: the acknowledgement ends them.
            flags: FLAG_ACK,
            family: Some(Family::of(&original.src)),
            ..Head::default()
        };
        let start = open(&mut request, head);
        put_tuple(&mut request, protocol, Some(original.src), Some(original.dst));
        close(&mut request, start, 0);
        let mut entry = None;
        let answer = self.0.ask(&request, |kind, message| {
            entry = Some(message).filter(|_| kind == NEW_FLOW).and_then(Entry::parse);
            if let Some(Entry { uses: Some(uses), .. }) = &mut entry {
                // One is the kernel's own while it answers us.
                *uses = uses.saturating_sub(1);
            }
        });
        match answer {
            // ENOENT: it has ended by itself.
            Err(gone) if gone.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            // The kernel also finds the flow by its reply.
            other => other.map(|()| entry.filter(|entry| entry.original == original)),
        }
    }

    /// Ends the flow with these original ends, if it is still the one with this number; whether
    /// there was one.
    ///
    /// # Errors
    /// The system's.
    pub fn end(&mut self, protocol: u8, original: Ends, id: Option<u32>) -> io::Result<bool> {
        let family = Some(Family::of(&original.src));
        let mut request = Vec::new();
        let head = Head {
            subsystem: SUBSYSTEM,
            kind: IPCTNL_MSG_CT_DELETE,
            flags: FLAG_ACK,
            family,
            ..Head::default()
        };
        let start = open(&mut request, head);
        put_tuple(&mut request, protocol, Some(original.src), Some(original.dst));
        // With a number the kernel leaves a later flow with the same ends alone.
        if let Some(id) = id {
            put(&mut request, CTA_ID, &id.to_be_bytes());
        }
        close(&mut request, start, 0);
        match self.0.ask(&request, |_, _| {}) {
            // ENOENT: it has ended by itself, or a later flow has its ends.
            Err(gone) if gone.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Has the kernel take packets of these flows whose sequence numbers are outside of the windows
    /// that it has seen (TCP's `BE_LIBERAL`, both ways); flows of other protocols stay as they are.
    /// Returns the flows as they are then, in order; `None` for those that are no more. Each is a
    /// protocol and the original ends. Cost: about two microseconds each, a system call for
    /// [`MANY`].
    ///
    /// # Errors
    /// The system's.
    pub fn make_liberal(&mut self, flows: &[(u8, Ends)]) -> io::Result<Vec<Option<Entry>>> {
        let mut entries = vec![None; flows.len()];
        for (chunk, found) in flows.chunks(MANY).zip(entries.chunks_mut(MANY)) {
            let mut datagram = Vec::new();
            for (sequence, &(protocol, ends)) in (0..).zip(chunk) {
                if protocol == TCP {
                    put_change(&mut datagram, sequence, ends, &LIBERAL);
                }
                put_question(&mut datagram, sequence, protocol, ends);
            }
            let mut is_refused = [false; MANY];
            self.0.ask_each(&datagram, |kind, message| {
                let number = sequence(message) as usize;
                match (kind, found.get_mut(number), is_refused.get_mut(number)) {
                    (NEW_FLOW, Some(entry), _) => *entry = Entry::parse(message),
                    (ERROR, _, Some(is_refused)) => *is_refused = true,
                    _ => {}
                }
            })?;
            for ((entry, &(_, original)), is_refused) in found.iter_mut().zip(chunk).zip(is_refused)
            {
                // The kernel also finds a flow by its reply.
                entry.take_if(|entry| is_refused || entry.original != original);
            }
        }
        Ok(entries)
    }

    /// Has the kernel keep these connections of TCP, by their original ends, for so many seconds
    /// without further packets, and take their data for acknowledged. Those that are no more are
    /// passed over. Cost: a microsecond each, a system call for [`MANY`].
    ///
    /// # Errors
    /// The system's.
    pub fn renew(&mut self, connections: &[Ends], seconds: u32) -> io::Result<()> {
        let mask = TCP_FLAG_DATA_UNACKNOWLEDGED;
        self.change(connections, &Changes { timeout: Some(seconds), mask, ..NONE })
    }

    /// Has the kernel measure RSTs of these connections of TCP, by their original ends, by no
    /// acknowledgement that it has seen so far. Those that are no more are passed over. Cost: as
    /// [`Requests::renew`].
    ///
    /// # Errors
    /// The system's.
    pub fn forget_acknowledged(&mut self, connections: &[Ends]) -> io::Result<()> {
        self.change(connections, &Changes { mask: TCP_FLAG_ACKNOWLEDGED, ..NONE })
    }

    /// Has the kernel take these connections of TCP, by their original ends, for ended by a RST:
    /// they keep their timeout, and a SYN begins another one. Those that are no more are passed
    /// over. Cost: as [`Requests::renew`].
    ///
    /// # Errors
    /// The system's.
    pub fn close(&mut self, connections: &[Ends]) -> io::Result<()> {
        self.change(connections, &CLOSED)
    }

    fn change(&mut self, connections: &[Ends], changes: &Changes) -> io::Result<()> {
        for chunk in connections.chunks(MANY) {
            let mut datagram = Vec::new();
            chunk.iter().for_each(|&ends| put_change(&mut datagram, 0, ends, changes));
            self.0.ask_each(&datagram, |_, _| {})?;
        }
        Ok(())
    }

    /// Has the kernel track flows again that others have deleted, with the translation, the state
    /// and the timeout of these entries. A flow whose ends another one has by now stays away, but
    /// datagrams that went on untranslated make room. Cost: some microseconds each, a system call
    /// for [`MANY`].
    ///
    /// # Errors
    /// The system's.
    pub fn restore(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut refused = self.create(entries)?;
        // The next datagram may be quicker, and others may be deleting still.
        for _ in 0..TRIES {
            refused.retain(|entry| entry.protocol == UDP);
            for entry in &refused {
                if let Some(stranger) = self.get(UDP, entry.reply)? {
                    self.end(UDP, entry.reply, stranger.id)?;
                }
            }
            refused = self.create(&refused)?;
        }
        Ok(())
    }

    /// Creates entries, and returns those that the kernel has refused.
    fn create(&mut self, entries: &[Entry]) -> io::Result<Vec<Entry>> {
        let mut refused = Vec::new();
        for chunk in entries.chunks(MANY) {
            let mut datagram = Vec::new();
            for (sequence, entry) in (0..).zip(chunk) {
                put_creation(&mut datagram, sequence, entry);
            }
            self.0.ask_each(&datagram, |kind, message| {
                if kind == ERROR {
                    refused.extend(chunk.get(sequence(message) as usize).cloned());
                }
            })?;
        }
        Ok(refused)
    }

    /// The counters, summed over all processors.
    ///
    /// # Errors
    /// The system's: this kernel does not show its flows, or not to us.
    pub fn statistics(&mut self) -> io::Result<Statistics> {
        let mut request = Vec::new();
        let head = Head {
            subsystem: SUBSYSTEM,
            kind: IPCTNL_MSG_CT_GET_STATS_CPU,
            flags: FLAG_DUMP,
            ..Head::default()
        };
        let start = open(&mut request, head);
        close(&mut request, start, 0);
        let mut sum = Statistics::default();
        self.0.ask(&request, |_, message| {
            let attributes = message.get(HEADER..).unwrap_or_default();
            let count = |kind| find(attributes, kind).and_then(number).map_or(0, u64::from);
            sum.insert_failed += count(CTA_STATS_INSERT_FAILED);
            sum.dropped += count(CTA_STATS_DROP);
        })?;
        Ok(sum)
    }
}

/// Appends a request to create a flow. Only an error is answered.
fn put_creation(bytes: &mut Vec<u8>, sequence: u32, entry: &Entry) {
    let (original, reply) = (entry.original, entry.reply);
    let head = Head {
        subsystem: SUBSYSTEM,
        kind: IPCTNL_MSG_CT_NEW as u8,
        flags: (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16,
        sequence,
        family: Some(Family::of(&original.src)),
        ..Head::default()
    };
    let start = open(bytes, head);
    put_tuple(bytes, entry.protocol, Some(original.src), Some(original.dst));
    // As if nothing were translated: the kernel sets up its NAT from the difference.
    let (src, dst) = (Some(original.dst), Some(original.src));
    put_tuple_as(bytes, CTA_TUPLE_REPLY, entry.protocol, src, dst);
    let flags = [(entry.is_replied, IPS_SEEN_REPLY), (entry.is_assured, IPS_ASSURED)];
    let flags = flags.into_iter().filter(|(is_set, _)| *is_set);
    let status = flags.fold(IPS_CONFIRMED, |status, (_, flag)| status | flag);
    put(bytes, CTA_STATUS, &status.to_be_bytes());
    put(bytes, CTA_TIMEOUT, &entry.timeout.unwrap_or(0).to_be_bytes());
    if let Some(mark) = entry.mark {
        put(bytes, CTA_MARK, &mark.to_be_bytes());
    }
    put_translation(bytes, CTA_NAT_DST, reply.src);
    // Also where it stays: else the kernel takes another port if some flow has this one.
    put_translation(bytes, CTA_NAT_SRC, reply.dst);
    if let (TCP, Some(state)) = (entry.protocol, entry.state) {
        // Nobody knows the windows of a connection in the middle.
        let flags = [TCP_FLAG_BE_LIBERAL; 2];
        put_nest(bytes, CTA_PROTOINFO, |bytes| {
            put_nest(bytes, CTA_PROTOINFO_TCP, |bytes| {
                put(bytes, CTA_PROTOINFO_STATE, &[state]);
                put(bytes, CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, &flags);
                put(bytes, CTA_PROTOINFO_TCP_FLAGS_REPLY, &flags);
            });
        });
    }
    finish(bytes, start);
}

/// Appends what one end of a flow is translated to.
fn put_translation(bytes: &mut Vec<u8>, kind: u16, end: SocketAddr) {
    put_nest(bytes, kind, |bytes| {
        match end.ip() {
            IpAddr::V4(address) => put(bytes, CTA_NAT_V4_MINIP, &address.octets()),
            IpAddr::V6(address) => put(bytes, CTA_NAT_V6_MINIP, &address.octets()),
        }
        put_nest(bytes, CTA_NAT_PROTO, |bytes| {
            for bound in [CTA_PROTONAT_PORT_MIN, CTA_PROTONAT_PORT_MAX] {
                put(bytes, bound, &end.port().to_be_bytes());
            }
        });
    });
}

/// Appends a request to show a flow.
fn put_question(bytes: &mut Vec<u8>, sequence: u32, protocol: u8, original: Ends) {
    let head = Head {
        subsystem: SUBSYSTEM,
        kind: IPCTNL_MSG_CT_GET,
        sequence,
        family: Some(Family::of(&original.src)),
        ..Head::default()
    };
    let start = open(bytes, head);
    put_tuple(bytes, protocol, Some(original.src), Some(original.dst));
    finish(bytes, start);
}

/// Has the kernel show these flows only.
fn put_filter(bytes: &mut Vec<u8>, wanted: &Selection) {
    put_tuple(bytes, wanted.protocol, None, wanted.destination);
    let to = match wanted.destination {
        Some(SocketAddr::V4(_)) => FILTER_IP_DST | FILTER_DST_PORT,
        // From Linux 5.8, where the filter came, to 6.18 at least, the kernel leaves out the flows
        // of the IPv6 address that is asked for. The port alone is right with that fault and
        // without it.
        Some(SocketAddr::V6(_)) => FILTER_DST_PORT,
        None => 0,
    };
    put_nest(bytes, CTA_FILTER, |bytes| {
        put(bytes, CTA_FILTER_ORIG_FLAGS, &(FILTER_PROTO_NUM | to).to_ne_bytes());
    });
}

/// Flows that are shown at a time, about.
const CHUNK: usize = 256;
/// Flows that are changed by one system call. Their answers fit into a socket's buffer.
const MANY: usize = 64;
/// Further attempts to create entries.
const TRIES: usize = 3;
const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_has_what_it_names() {
        let end = |text: &str| text.parse().expect("an address");
        let entry = Entry {
            id: None,
            mark: None,
            uses: None,
            protocol: 17,
            original: Ends { src: end("10.0.0.1:1"), dst: end("10.0.0.2:2") },
            reply: Ends { src: end("10.0.0.3:3"), dst: end("10.0.0.1:1") },
            is_replied: false,
            is_assured: false,
            needs_conntrack: false,
            state: None,
            timeout: None,
            counters: None,
            started: None,
        };
        let to = |text: &str| Some(text.parse().expect("an address"));
        let every = Selection { protocol: 17, family: Family::V4, destination: None };
        assert!(every.has(&entry));
        assert!(Selection { destination: to("10.0.0.2:2"), ..every }.has(&entry));
        for other in [
            Selection { protocol: 6, ..every },
            Selection { family: Family::V6, ..every },
            Selection { destination: to("10.0.0.2:3"), ..every },
            Selection { destination: to("10.0.0.3:2"), ..every },
            Selection { destination: to("10.0.0.1:1"), ..every },
        ] {
            assert!(!other.has(&entry), "{other:?}");
        }
    }
}
