//! Verdicts as netlink messages, many to one system call. A payload is sent from where it stands.

use std::io::IoSlice;
use std::ops::Range;

use crate::attribute::{Head, close, open, put, put_header};

/// Netfilter's verdict on a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NfVerdict {
    /// The packet is gone.
    Drop,
    /// The packet goes on behind this hook's chain.
    Accept,
    /// The packet goes through this hook once more.
    Repeat,
}

impl NfVerdict {
    fn code(self) -> u32 {
        match self {
            Self::Drop => libc::NF_DROP as u32,
            Self::Accept => libc::NF_ACCEPT as u32,
            Self::Repeat => libc::NF_REPEAT as u32,
        }
    }
}

/// The verdict on one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerdictMessage<'a> {
    /// The packet's number.
    pub id: u32,
    /// The packet's fate.
    pub verdict: NfVerdict,
    /// Its new mark.
    pub mark: Option<u32>,
    /// Its new bytes, which replace the whole packet.
    pub payload: Option<&'a [u8]>,
}

/// Verdicts that wait to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outbox<'a> {
    /// All messages without their payloads.
    headers: Vec<u8>,
    /// In the order of sending: pieces of `headers`, and payloads.
    parts: Vec<Part<'a>>,
    size: usize,
}

#[derive(Debug)]
enum Part<'a> {
    Headers(Range<usize>),
    Payload(&'a [u8]),
}

impl<'a> Outbox<'a> {
    /// Adds a verdict of queue number `queue`.
    pub(crate) fn push(&mut self, queue: u16, message: &VerdictMessage<'a>) {
        let head = Head { subsystem: SUBSYSTEM, kind: VERDICT, resource: queue, ..Head::default() };
        let start = open(&mut self.headers, head);
        let mut header = [0; 8];
        header[..4].copy_from_slice(&message.verdict.code().to_be_bytes());
        header[4..].copy_from_slice(&message.id.to_be_bytes());
        put(&mut self.headers, NFQA_VERDICT_HDR, &header);
        if let Some(mark) = message.mark {
            put(&mut self.headers, NFQA_MARK, &mark.to_be_bytes());
        }
        if let Some(payload) = message.payload.filter(|payload| payload.len() <= COPIED) {
            // Cheaper than a piece of its own.
            put(&mut self.headers, NFQA_PAYLOAD, payload);
            close(&mut self.headers, start, 0);
            self.add(start);
        } else if let Some(payload) = message.payload {
            let padding = put_header(&mut self.headers, NFQA_PAYLOAD, payload.len());
            close(&mut self.headers, start, payload.len());
            self.add(start);
            self.parts.push(Part::Payload(payload));
            // The padding stands between this message and the next.
            let start = self.headers.len();
            self.headers.resize(start + padding, 0);
            self.add(start);
            self.size += payload.len();
        } else {
            close(&mut self.headers, start, 0);
            self.add(start);
        }
    }

    /// Everything behind `start` is sent next, in one piece with what stands right before it.
    fn add(&mut self, start: usize) {
        let end = self.headers.len();
        self.size += end - start;
        match self.parts.last_mut() {
            Some(Part::Headers(range)) if range.end == start => range.end = end,
            _ => self.parts.push(Part::Headers(start..end)),
        }
    }

    /// Bytes that wait.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Pieces that wait.
    pub(crate) fn pieces(&self) -> usize {
        self.parts.len()
    }

    /// The bytes in pieces.
    pub(crate) fn slices(&self) -> Vec<IoSlice<'_>> {
        let parts = self.parts.iter();
        parts
            .map(|part| match part {
                Part::Headers(range) => IoSlice::new(&self.headers[range.clone()]),
                Part::Payload(payload) => IoSlice::new(payload),
            })
            .collect()
    }

    pub(crate) fn clear(&mut self) {
        self.headers.clear();
        self.parts.clear();
        self.size = 0;
    }
}

/// Payloads up to this many bytes are copied behind their headers.
/// Netfilter's queues (`linux/netfilter/nfnetlink_queue.h`).
pub(crate) const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_QUEUE as u16;
const COPIED: usize = 1024;
const VERDICT: u8 = libc::NFQNL_MSG_VERDICT as u8;
const NFQA_VERDICT_HDR: u16 = libc::NFQA_VERDICT_HDR as u16;
const NFQA_MARK: u16 = libc::NFQA_MARK as u16;
const NFQA_PAYLOAD: u16 = libc::NFQA_PAYLOAD as u16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::{HEADER, attributes};

    #[test]
    fn verdicts_stand_one_behind_the_other() {
        let mut outbox = Outbox::default();
        let verdict =
            VerdictMessage { id: 1, verdict: NfVerdict::Accept, mark: None, payload: None };
        outbox.push(9, &verdict);
        let long = vec![7; COPIED + 1];
        outbox.push(
            9,
            &VerdictMessage { id: 2, mark: Some(0x1000), payload: Some(b"12345"), ..verdict },
        );
        outbox.push(9, &VerdictMessage { id: 4, payload: Some(&long), ..verdict });
        outbox.push(9, &VerdictMessage { id: 3, verdict: NfVerdict::Drop, ..verdict });
        let sent: Vec<u8> = outbox.slices().iter().flat_map(|slice| slice.to_vec()).collect();
        assert_eq!((sent.len(), outbox.pieces()), (outbox.size(), 3));
        let mut rest = &sent[..];
        let mut messages: Vec<Vec<(u16, Vec<u8>)>> = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            assert_eq!(&rest[18..20], &[0, 9]);
            messages.push(
                attributes(&rest[HEADER..length])
                    .map(|(kind, value)| (kind, value.to_vec()))
                    .collect(),
            );
            rest = &rest[length.next_multiple_of(4)..];
        }
        let expected: [Vec<(u16, Vec<u8>)>; 4] = [
            vec![(NFQA_VERDICT_HDR, vec![0, 0, 0, 1, 0, 0, 0, 1])],
            vec![
                (NFQA_VERDICT_HDR, vec![0, 0, 0, 1, 0, 0, 0, 2]),
                (NFQA_MARK, vec![0, 0, 0x10, 0]),
                (NFQA_PAYLOAD, b"12345".to_vec()),
            ],
            vec![(NFQA_VERDICT_HDR, vec![0, 0, 0, 1, 0, 0, 0, 4]), (NFQA_PAYLOAD, long.clone())],
            vec![(NFQA_VERDICT_HDR, vec![0, 0, 0, 0, 0, 0, 0, 3])],
        ];
        assert_eq!(messages, expected);
        outbox.clear();
        assert_eq!((outbox.size(), outbox.pieces()), (0, 0));
    }
}
