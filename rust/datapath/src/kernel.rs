//! The driver of a queue of the kernel, which gives a verdict of the engine its meaning for
//! netfilter.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kbe_nat_engine::tuple::Protocol;
use kbe_nat_engine::{Action, ChecksumState, Meta, Packet, Released, Verdict};
use kbe_nat_netlink::{Message, NfVerdict, Options, Queue, QueueError, VerdictMessage, monotonic};

use crate::{BackendIdMap, PacketQueue};

/// Bits of the packet mark that our rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    /// The packet was translated; its flow's replies are ours too.
    pub flow: u32,
    /// To be refused.
    pub reject: u32,
    /// To get an address of the node as its source.
    pub masquerade: u32,
}

/// How a translated packet goes back.
#[derive(Clone, Debug)]
pub enum Rewrite {
    /// With its new bytes: every packet comes here.
    Payload,
    /// With a mark that says which backend the kernel is to translate its flow to.
    Mark(Arc<BackendIdMap>),
}

/// A queue of the kernel.
#[derive(Debug)]
pub struct KernelQueue {
    queue: Queue,
    marks: Marks,
    rewrite: Rewrite,
    /// The queue's length while a loop runs, where the kernel serves packets that find the queue
    /// full. Ahead of the loop and behind it the length is 0, so the kernel serves all of them.
    fail_open_length: Option<u32>,
    /// Packet numbers of the fragments that wait, by ticket.
    held: HashMap<u32, u32>,
    truncated: Arc<AtomicU64>,
}

impl KernelQueue {
    /// Binds queue `number` of this thread's network namespace.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn bind(
        number: u16,
        marks: Marks,
        rewrite: Rewrite,
        options: &Options,
    ) -> Result<Self, QueueError> {
        let fails_open = options.fail_open && matches!(rewrite, Rewrite::Mark(_));
        let fail_open_length = fails_open.then_some(options.max_length);
        // A queue of length 0 is full, so the kernel serves packets until the loop runs.
        let max_length = if fails_open { 0 } else { options.max_length };
        let queue = Queue::bind(number, &Options { max_length, ..options.clone() })?;
        Ok(Self {
            queue,
            marks,
            rewrite,
            fail_open_length,
            held: HashMap::new(),
            truncated: Arc::default(),
        })
    }

    /// Counts packets of which the kernel handed out only the beginning: a netlink attribute has
    /// 65,531 bytes at most. They cannot be given new bytes, so they are dropped, unless a mark is
    /// enough.
    #[must_use]
    pub fn truncated_packets(&self) -> Arc<AtomicU64> {
        self.truncated.clone()
    }
}

impl PacketQueue for KernelQueue {
    type Error = QueueError;

    fn receive(&mut self) -> Result<Option<u64>, QueueError> {
        self.queue.receive(PATIENCE)?;
        Ok(Some(monotonic()))
    }

    fn start(&mut self) -> Result<(), QueueError> {
        self.fail_open_length.map_or(Ok(()), |max_length| self.queue.limit(max_length))
    }

    fn bypass(&mut self) -> Result<bool, QueueError> {
        self.fail_open_length.map_or(Ok(()), |_| self.queue.limit(0))?;
        Ok(self.fail_open_length.is_some())
    }

    fn packets(&mut self) -> Vec<Packet<'_>> {
        let (truncated, rewrite) = (&self.truncated, &self.rewrite);
        self.queue
            .packets()
            .filter_map(|(message, bytes)| {
                if message.whole_length.is_some() {
                    truncated.fetch_add(1, Ordering::Relaxed);
                    if is_lost(message, rewrite) {
                        return None;
                    }
                    // Headers that name the whole length would make the cut packet look damaged.
                    shorten(bytes);
                }
                let checksum = if message.is_checksum_missing {
                    ChecksumState::Incomplete
                } else {
                    ChecksumState::Complete
                };
                let meta = Meta { interface: message.in_device, checksum, is_captured: false };
                Some(Packet { bytes, meta })
            })
            .collect()
    }

    fn holds(&self, ticket: u32) -> bool {
        self.held.contains_key(&ticket)
    }

    fn set_verdicts(
        &mut self,
        verdicts: &[Verdict],
        released: Vec<Released>,
    ) -> Result<(), QueueError> {
        let (marks, rewrite, held) = (self.marks, &self.rewrite, &mut self.held);
        // The engine has not seen lost packets, so verdicts pair with the others.
        let packets = self.queue.packets().filter(|(message, _)| !is_lost(message, rewrite));
        for (verdict, (message, _)) in verdicts.iter().zip(packets) {
            if verdict.action == Action::Hold {
                held.insert(verdict.ticket, message.id);
            }
        }
        let late: Vec<VerdictMessage<'_>> = released
            .iter()
            .filter_map(|released| {
                // The kernel masquerades by flow: fragments that follow need no mark but ours.
                held.remove(&released.ticket).map(|id| {
                    verdict_message(&released.verdict, marks, rewrite, id, 0, &released.packet)
                })
            })
            .collect();
        let mut verdicts = verdicts.iter();
        self.queue.set_verdicts(
            |message, payload| {
                if is_lost(message, rewrite) {
                    return Some(VerdictMessage {
                        id: message.id,
                        verdict: NfVerdict::Drop,
                        mark: None,
                        payload: None,
                    });
                }
                // A held fragment stays in the kernel: its number is named when it is released.
                let verdict = verdicts.next().filter(|verdict| verdict.action != Action::Hold)?;
                Some(verdict_message(verdict, marks, rewrite, message.id, message.mark, payload))
            },
            &late,
        )
    }
}

/// Whether nothing can be done with a packet: it is to be given new bytes, and not all of it is
/// here.
fn is_lost(message: &Message, rewrite: &Rewrite) -> bool {
    message.whole_length.is_some() && matches!(rewrite, Rewrite::Payload)
}

/// Makes the headers of a packet of which only the beginning is here say so: our copy is read like
/// any other, and never goes back.
fn shorten(bytes: &mut [u8]) {
    let length = bytes.len();
    let (field, whole, l4, is_udp) = match *bytes {
        [first, _, _, _, _, _, _, _, _, protocol, ..] if first >> 4 == 4 => {
            (2, length, usize::from(first & 0x0f) * 4, protocol == Protocol::UDP.0)
        }
        [first, _, _, _, _, _, next, ..] if first >> 4 == 6 => {
            (4, length.saturating_sub(IPV6_HEADER), IPV6_HEADER, next == Protocol::UDP.0)
        }
        _ => return,
    };
    let mut write = |at: usize, value: usize| {
        if let (Some(place), Ok(value)) = (bytes.get_mut(at..at + 2), u16::try_from(value)) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    };
    write(field, whole);
    if is_udp {
        write(l4 + UDP_LENGTH, length.saturating_sub(l4));
    }
}

/// A verdict as the kernel understands it.
fn verdict_message<'a>(
    verdict: &Verdict,
    marks: Marks,
    rewrite: &Rewrite,
    id: u32,
    mark: u32,
    payload: &'a [u8],
) -> VerdictMessage<'a> {
    let accepted = VerdictMessage { id, verdict: NfVerdict::Accept, mark: None, payload: None };
    match (verdict.action, rewrite) {
        (Action::Pass, Rewrite::Payload) => accepted,
        // Decided, and to nobody: the kernel is not to choose by itself.
        (Action::Pass, Rewrite::Mark(backend_ids)) => {
            VerdictMessage { mark: Some(backend_ids.clear(mark) | marks.flow), ..accepted }
        }
        (Action::Translate, Rewrite::Payload) => VerdictMessage {
            mark: Some(mark | marks.flow | masquerade(verdict, marks)),
            payload: Some(payload),
            ..accepted
        },
        // An answer of a connection that the kernel was made to forget. Only the client's next
        // packet can tell the kernel how to translate it; as it is, the client would reset it.
        (Action::Translate, Rewrite::Mark(_)) if verdict.flags & Verdict::REPLY != 0 => {
            VerdictMessage { verdict: NfVerdict::Drop, ..accepted }
        }
        (Action::Translate, Rewrite::Mark(backend_ids)) => match backend_ids.mark_of(payload) {
            Some(id) => {
                let mark = backend_ids.clear(mark) | id | marks.flow | masquerade(verdict, marks);
                VerdictMessage { mark: Some(mark), ..accepted }
            }
            // Undecided: the standby serves it, and the engine hears by whom.
            None => VerdictMessage {
                mark: Some(backend_ids.clear(mark) & !(marks.flow | marks.reject)),
                ..accepted
            },
        },
        (Action::Reject, _) => VerdictMessage { mark: Some(mark | marks.reject), ..accepted },
        (Action::Drop | Action::Hold, _) => VerdictMessage { verdict: NfVerdict::Drop, ..accepted },
    }
}

fn masquerade(verdict: &Verdict, marks: Marks) -> u32 {
    if verdict.flags & Verdict::MASQUERADE == 0 { 0 } else { marks.masquerade }
}

/// How long a wait for packets lasts, at most: so long a loop takes to notice that it is to stop.
const PATIENCE: Duration = Duration::from_millis(100);
const IPV6_HEADER: usize = 40;
/// Where the length stands in the UDP header.
const UDP_LENGTH: usize = 4;
