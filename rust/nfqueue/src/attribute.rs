//! Netlink messages and attributes (`linux/netlink.h`, `linux/netfilter/nfnetlink_queue.h`): type, length, bytes, padding to four.

/// Netlink header and netfilter's own behind it.
pub(crate) const HEADER: usize = 20;

const ALIGN: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;
/// Without the flags for nesting and byte order.
const TYPE_MASK: u16 = 0x3fff;
const SUBSYSTEM_QUEUE: u16 = 3;
const FLAG_REQUEST: u16 = 1;

/// Type and bytes of each attribute. Ends at the first one that does not fit.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let &[a, b, c, d] = bytes.first_chunk::<ATTRIBUTE_HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & TYPE_MASK, value))
    })
}

/// Appends a message's headers; [`close`] fills in its length.
pub(crate) fn open(bytes: &mut Vec<u8>, kind: u8, flags: u16, queue: u16) -> usize {
    let start = bytes.len();
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    bytes.extend_from_slice(&(SUBSYSTEM_QUEUE << 8 | u16::from(kind)).to_ne_bytes());
    bytes.extend_from_slice(&(FLAG_REQUEST | flags).to_ne_bytes());
    // No sequence number, and the kernel knows who we are.
    bytes.extend_from_slice(&[0; 8]);
    // Any family, version 0.
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&queue.to_be_bytes());
    start
}

/// Appends an attribute, padded.
pub(crate) fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let padding = put_header(bytes, kind, value.len());
    bytes.extend_from_slice(value);
    // What stands elsewhere counts too, so it is not the length of `bytes` that is to be a multiple of four.
    bytes.resize(bytes.len() + padding, 0);
}

/// Appends the header of an attribute whose value stands elsewhere, and returns by how many bytes that is to be padded.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_put_is_found() {
        let mut bytes = Vec::new();
        let start = open(&mut bytes, 1, 4, 0x1234);
        put(&mut bytes, 3, &[1, 2, 3, 4]);
        put(&mut bytes, 10, b"odd");
        close(&mut bytes, start, 0);
        assert_eq!(bytes.len(), u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize);
        assert_eq!(&bytes[18..20], &[0x12, 0x34]);
        let found: Vec<_> = attributes(&bytes[HEADER..]).collect();
        assert_eq!(found, [(3, &[1u8, 2, 3, 4][..]), (10, b"odd")]);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(attributes(&bytes).count() <= bytes.len() / 4);
        }
    }
}
