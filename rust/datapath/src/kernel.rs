//! The driver of a queue of the kernel: what a verdict of the engine means for netfilter.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kbe_nat_engine::{Action, ChecksumState, Meta, Packet, Released, Verdict};
use kbe_nat_netlink::{Judgement, Options, Queue, QueueError, Verdict as Sent, monotonic};

use crate::{Numbers, PacketQueue};

/// Bits of the packet mark that our rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    /// The packet was translated; its flow's replies are ours too.
    pub flow: u32,
    /// To be refused.
    pub refused: u32,
    /// To get an address of the node as its source.
    pub masquerade: u32,
}

/// How a translated packet goes back.
#[derive(Clone, Debug)]
pub enum Rewrite {
    /// With its new bytes: every packet comes here.
    Payload,
    /// With a mark that says which backend the kernel is to translate its flow to.
    Mark(Arc<Numbers>),
}

/// A queue of the kernel.
#[derive(Debug)]
pub struct KernelQueue {
    queue: Queue,
    marks: Marks,
    rewrite: Rewrite,
    /// Packets that may wait, where the kernel serves what we do not take: then it does so until a loop begins, and once it ends.
    relieved: Option<u32>,
    /// Numbers of fragments that wait, by ticket.
    held: HashMap<u32, u32>,
    truncated: u64,
}

impl KernelQueue {
    /// Binds queue `number` of this thread's network namespace.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn bind(number: u16, marks: Marks, rewrite: Rewrite, options: &Options) -> Result<Self, QueueError> {
        let is_relieved = options.fail_open && matches!(rewrite, Rewrite::Mark(_));
        let relieved = is_relieved.then_some(options.max_length);
        let max_length = if is_relieved { 0 } else { options.max_length };
        let queue = Queue::bind(number, &Options { max_length, ..options.clone() })?;
        Ok(Self { queue, marks, rewrite, relieved, held: HashMap::new(), truncated: 0 })
    }

    /// Packets of which the kernel handed out only the beginning. They are malformed to the engine, so they were dropped.
    #[must_use]
    pub fn truncated(&self) -> u64 {
        self.truncated
    }
}

impl PacketQueue for KernelQueue {
    type Error = QueueError;

    fn receive(&mut self) -> Result<Option<u64>, QueueError> {
        self.queue.receive(PATIENCE)?;
        Ok(Some(monotonic()))
    }

    fn begin(&mut self) -> Result<(), QueueError> {
        self.relieved.map_or(Ok(()), |max_length| self.queue.limit(max_length))
    }

    fn turn_away(&mut self) -> Result<bool, QueueError> {
        self.relieved.map_or(Ok(()), |_| self.queue.limit(0))?;
        Ok(self.relieved.is_some())
    }

    fn packets(&mut self) -> Vec<Packet<'_>> {
        let truncated = &mut self.truncated;
        self.queue
            .packets()
            .map(|(message, bytes)| {
                *truncated += u64::from(message.whole_length.is_some());
                let checksum = if message.is_checksum_missing {
                    ChecksumState::Incomplete
                } else {
                    ChecksumState::Complete
                };
                Packet { bytes, meta: Meta { interface: message.in_device, checksum, is_captured: false } }
            })
            .collect()
    }

    fn holds(&self, ticket: u32) -> bool {
        self.held.contains_key(&ticket)
    }

    fn judge(&mut self, verdicts: &[Verdict], released: Vec<Released>) -> Result<(), QueueError> {
        let (marks, rewrite, held) = (self.marks, &self.rewrite, &mut self.held);
        for (verdict, (message, _)) in verdicts.iter().zip(self.queue.packets()) {
            if verdict.action == Action::Hold {
                held.insert(verdict.ticket, message.id);
            }
        }
        let late: Vec<Sent<'_>> = released
            .iter()
            .filter_map(|own| {
                // The kernel masquerades by flow: fragments that follow need no mark but ours.
                held.remove(&own.ticket).map(|id| sent(&own.verdict, marks, rewrite, id, 0, &own.packet))
            })
            .collect();
        self.queue.judge(
            |position, message, payload| {
                let verdict = verdicts.get(position).filter(|verdict| verdict.action != Action::Hold)?;
                Some(sent(verdict, marks, rewrite, message.id, message.mark, payload))
            },
            &late,
        )
    }
}

/// A verdict as the kernel understands it.
fn sent<'a>(
    verdict: &Verdict,
    marks: Marks,
    rewrite: &Rewrite,
    id: u32,
    mark: u32,
    payload: &'a [u8],
) -> Sent<'a> {
    let accepted = Sent { id, judgement: Judgement::Accept, mark: None, payload: None };
    match (verdict.action, rewrite) {
        (Action::Accept, Rewrite::Payload) => accepted,
        // Decided, and to nobody: the kernel is not to choose by itself.
        (Action::Accept, Rewrite::Mark(numbers)) => {
            Sent { mark: Some(numbers.cleared(mark) | marks.flow), ..accepted }
        }
        (Action::Translate, Rewrite::Payload) => Sent {
            mark: Some(mark | marks.flow | masquerade(verdict, marks)),
            payload: Some(payload),
            ..accepted
        },
        (Action::Translate, Rewrite::Mark(numbers)) => match numbers.mark_of(payload) {
            Some(number) => {
                let mark = numbers.cleared(mark) | number | marks.flow | masquerade(verdict, marks);
                Sent { mark: Some(mark), ..accepted }
            }
            // Undecided: the standby serves it, and the engine hears by whom.
            None => Sent { mark: Some(numbers.cleared(mark) & !(marks.flow | marks.refused)), ..accepted },
        },
        (Action::Reject, _) => Sent { mark: Some(mark | marks.refused), ..accepted },
        (Action::Drop | Action::Hold, _) => Sent { judgement: Judgement::Drop, ..accepted },
    }
}

fn masquerade(verdict: &Verdict, marks: Marks) -> u32 {
    if verdict.flags & Verdict::MASQUERADE == 0 { 0 } else { marks.masquerade }
}

/// How long a wait for packets lasts, at most: so long a loop takes to notice that it is to stop.
const PATIENCE: Duration = Duration::from_millis(100);
