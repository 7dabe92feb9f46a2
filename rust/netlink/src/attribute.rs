//! Netlink messages and attributes (`linux/netlink.h`, `linux/netfilter/nfnetlink.h`): type,
//! length, bytes, padding to four.

use std::io;
use std::time::Duration;

use crate::family::Family;

/// Netlink header and netfilter's own behind it.
pub(crate) const HEADER: usize = 20;

/// Netlink's header alone.
pub(crate) const NETLINK_HEADER: usize = 16;
const ALIGN: usize = 4;
pub(crate) const ATTRIBUTE_HEADER: usize = 4;
/// Without the flags for nesting and byte order.
const TYPE_MASK: u16 = libc::NLA_TYPE_MASK as u16;
const NESTED: u16 = libc::NLA_F_NESTED as u16;
const FLAG_REQUEST: u16 = libc::NLM_F_REQUEST as u16;
/// Everything there is.
pub(crate) const FLAG_DUMP: u16 = libc::NLM_F_DUMP as u16;
/// The kernel is to answer with an error code, 0 if there is none.
pub(crate) const FLAG_ACK: u16 = libc::NLM_F_ACK as u16;
/// More messages of the same answer follow.
pub(crate) const FLAG_MULTI: u16 = libc::NLM_F_MULTI as u16;
/// Kind of an answer that is an error code.
pub(crate) const ERROR: u16 = libc::NLMSG_ERROR as u16;
/// Kind of the last message of several.
pub(crate) const DONE: u16 = libc::NLMSG_DONE as u16;

/// How long an answer of the kernel may take.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// The headers of a message.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Head {
    /// Netfilter's subsystem.
    pub(crate) subsystem: u16,
    /// The subsystem's kind of message.
    pub(crate) kind: u8,
    /// Beside the one that says that it is a request.
    pub(crate) flags: u16,
    /// The kernel repeats it in errors.
    pub(crate) sequence: u32,
    /// `None` for any.
    pub(crate) family: Option<Family>,
    /// A number of the subsystem's, such as that of a queue.
    pub(crate) resource: u16,
}

/// The header of a message (`struct nlmsghdr`), without the port that sent it.
pub(crate) struct NetlinkHeader {
    pub(crate) length: usize,
    /// Subsystem and kind.
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
}

impl NetlinkHeader {
    /// Reads a header; `None` where the bytes end within it.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; NETLINK_HEADER] = bytes.first_chunk()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        Some(Self {
            length: u32::from_ne_bytes([l0, l1, l2, l3]) as usize,
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
        })
    }
}

/// The messages of a buffer, headers included, each with its kind. Ends at the first one that does
/// not fit.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = NetlinkHeader::parse(bytes)?;
        let message =
            bytes.get(..header.length).filter(|message| message.len() >= NETLINK_HEADER)?;
        bytes = bytes.get(header.length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((header.kind, message))
    })
}

/// Type and bytes of each attribute. Ends at the first one that does not fit.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let &[a, b, c, d] = bytes.first_chunk::<ATTRIBUTE_HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & TYPE_MASK, value))
    })
}

/// Appends a message's headers; [`close`] fills in its length.
pub(crate) fn open(bytes: &mut Vec<u8>, head: Head) -> usize {
    let start = bytes.len();
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    bytes.extend_from_slice(&(head.subsystem << 8 | u16::from(head.kind)).to_ne_bytes());
    bytes.extend_from_slice(&(FLAG_REQUEST | head.flags).to_ne_bytes());
    bytes.extend_from_slice(&head.sequence.to_ne_bytes());
    // The kernel knows whose socket it is, so the port may be 0.
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    // Version 0.
    bytes.extend_from_slice(&[head.family.map_or(0, Family::number), 0]);
    bytes.extend_from_slice(&head.resource.to_be_bytes());
    start
}

/// Appends an attribute that holds others, which `fill` appends.
pub(crate) fn put_nest(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    put_header(bytes, kind | NESTED, 0);
    fill(bytes);
    let length = (bytes.len() - start) as u16;
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

/// Appends an attribute, padded.
pub(crate) fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let padding = put_header(bytes, kind, value.len());
    bytes.extend_from_slice(value);
    // Bytes that stand elsewhere count too, so the length of `bytes` need not be a multiple of
    // four.
    bytes.resize(bytes.len() + padding, 0);
}

/// Appends the header of an attribute whose value stands elsewhere, and returns by how many bytes
/// that is to be padded.
pub(crate) fn put_header(bytes: &mut Vec<u8>, kind: u16, length: usize) -> usize {
    bytes.extend_from_slice(&((ATTRIBUTE_HEADER + length) as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    length.next_multiple_of(ALIGN) - length
}

/// Fills in the length of the message that began at `start` and has `more` bytes elsewhere.
pub(crate) fn close(bytes: &mut [u8], start: usize, more: usize) {
    let length = (bytes.len() - start + more) as u32;
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// The flags of a message.
pub(crate) fn flags(message: &[u8]) -> u16 {
    NetlinkHeader::parse(message).map_or(0, |header| header.flags)
}

/// The sequence number of a message; in an error it is that of the message which was refused.
pub(crate) fn sequence(message: &[u8]) -> u32 {
    NetlinkHeader::parse(message).map_or(0, |header| header.sequence)
}

/// The value of the first attribute of this kind.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|&(known, _)| known == kind).map(|(_, value)| value)
}

/// A number in the network's byte order.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|&bytes| u32::from_be_bytes(bytes))
}

/// The error code of an answer.
pub(crate) fn error(message: &[u8]) -> io::Result<()> {
    let code = message
        .get(16..20)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |&bytes| i32::from_ne_bytes(bytes));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attributes_are_read_as_they_were_put() {
        let mut bytes = Vec::new();
        let start = open(&mut bytes, Head { kind: 1, resource: 0x1234, ..Head::default() });
        put(&mut bytes, 3, &[1, 2, 3, 4]);
        put(&mut bytes, 10, b"odd");
        put_nest(&mut bytes, 11, |bytes| put(bytes, 1, &[7]));
        close(&mut bytes, start, 0);
        assert_eq!(
            bytes.len(),
            u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize
        );
        assert_eq!(&bytes[18..20], &[0x12, 0x34]);
        let all: Vec<_> = attributes(&bytes[HEADER..]).collect();
        assert_eq!(all, [(3, &[1u8, 2, 3, 4][..]), (10, b"odd"), (11, &[5, 0, 1, 0, 7, 0, 0, 0])]);
        assert_eq!(attributes(all[2].1).collect::<Vec<_>>(), [(1, &[7u8][..])]);
        assert_eq!(
            messages(&bytes).map(|(kind, own)| (kind, own.len())).collect::<Vec<_>>(),
            [(1, bytes.len())]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(attributes(&bytes).count() <= bytes.len() / 4);
            prop_assert!(messages(&bytes).count() <= bytes.len() / NETLINK_HEADER);
        }
    }
}
