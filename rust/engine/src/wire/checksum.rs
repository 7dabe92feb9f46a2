//! Internet checksums (RFC 1071), their incremental update (RFC 1624, equation 3), and SCTP's
//! CRC32c (RFC 9260, appendix A).
//!
//! All 16-bit words are taken in native byte order: the sum is the same in either order (RFC 1071,
//! 2), so no bytes are swapped.

/// What became of a checksum's covered words: the folded sum of `!old + new` over all that changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Delta(u16);

impl Delta {
    /// Nothing changed.
    pub const NONE: Self = Self(0);

    /// From an unfolded sum of `!old + new`.
    #[inline]
    #[must_use]
    pub fn from_sum(sum: u32) -> Self {
        Self(fold(sum))
    }

    /// The change of one run of words into another of the same, even length.
    #[must_use]
    pub fn between(old: &[u8], new: &[u8]) -> Self {
        Self(fold(u32::from(!sum(old)) + u32::from(sum(new))))
    }

    /// Both changes together.
    #[inline]
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(fold(u32::from(self.0) + u32::from(other.0)))
    }

    /// The change that takes this one back.
    #[inline]
    #[must_use]
    pub fn inverse(self) -> Self {
        // Nothing, taken back, is nothing: its complement would turn a checksum of 0xffff into 0.
        if self == Self::NONE { self } else { Self(!self.0) }
    }

    /// The checksum after this change (RFC 1624 eqn 3: `HC' = ~(~HC + ~m + m')`). A wrong checksum
    /// stays wrong by as much.
    #[inline]
    #[must_use]
    pub fn update(self, checksum: [u8; 2]) -> [u8; 2] {
        // The sum of two 16-bit numbers carries once at most, and then not again.
        let (sum, carry) = (!u16::from_ne_bytes(checksum)).overflowing_add(self.0);
        (!(sum.wrapping_add(carry.into()))).to_ne_bytes()
    }

    /// As [`Delta::update`], for UDP: 0 means "no checksum" and stays, and a result of 0 is sent as
    /// 0xffff (RFC 768).
    #[inline]
    #[must_use]
    pub fn update_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        let sum = match (u16::from_ne_bytes(checksum), u16::from_ne_bytes(self.update(checksum))) {
            (0, _) => 0,
            (_, 0) => 0xffff,
            (_, updated) => updated,
        };
        sum.to_ne_bytes()
    }
}

/// The ones' complement sum of `bytes`, an odd last one padded with zero (RFC 1071). Cost: one
/// pass.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u64;
    let mut blocks = bytes.chunks_exact(4);
    for block in &mut blocks {
        // 65,535 bytes make 16,384 terms below 2^32: no overflow.
        total += u64::from(u32::from_ne_bytes([block[0], block[1], block[2], block[3]]));
    }
    let mut last = [0; 4];
    for (to, &from) in last.iter_mut().zip(blocks.remainder()) {
        *to = from;
    }
    total += u64::from(u32::from_ne_bytes(last));
    let total = (total >> 32) + (total & 0xffff_ffff);
    let total = (total >> 32) + (total & 0xffff_ffff);
    fold(total as u32)
}

/// The checksum field that makes the sum over `pseudo` (an unfolded sum of the pseudo header) and
/// `bytes` come out right. The field inside `bytes` must be zero.
#[must_use]
pub fn complete(pseudo: u32, bytes: &[u8]) -> [u8; 2] {
    (!fold(u32::from(fold(pseudo)) + u32::from(sum(bytes)))).to_ne_bytes()
}

/// The CRC32c that belongs into an SCTP packet (common header onwards, the field taken as zero), in
/// wire order.
#[must_use]
pub fn sctp(packet: &[u8]) -> [u8; 4] {
    let (head, rest) = packet.split_at(packet.len().min(8));
    let crc = crc32c::crc32c_append(crc32c::crc32c(head), &[0; 4]);
    crc32c::crc32c_append(crc, rest.get(4..).unwrap_or_default()).to_le_bytes()
}

/// A sum of 16-bit words, brought back to 16 bits with its carries.
#[inline]
#[must_use]
fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(words: &[u16]) -> u16 {
        let mut sum = 0u32;
        for &word in words {
            sum += u32::from(word);
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !(sum as u16)
    }

    /// Every old value of a 16-bit field against every new value of a coarse grid that includes the
    /// corners, and the other way round: incremental and full checksum are the same bits.
    #[test]
    fn incremental_equals_full_over_16_bit_fields() {
        let rest = [0x4500u16, 0x1234, 0xfffe];
        let corners = (0..=0xffffu16).filter(|v| v % 257 == 0 || *v < 4 || *v > 0xfffb);
        for corner in corners {
            for value in 0..=0xffffu16 {
                for (old, new) in [(corner, value), (value, corner)] {
                    let before = full(&[rest[0], rest[1], rest[2], old]);
                    let after = full(&[rest[0], rest[1], rest[2], new]);
                    let delta = Delta::between(&old.to_ne_bytes(), &new.to_ne_bytes());
                    assert_eq!(
                        delta.update(before.to_ne_bytes()),
                        after.to_ne_bytes(),
                        "{old:#x} -> {new:#x}"
                    );
                    assert_eq!(delta.inverse().update(after.to_ne_bytes()), before.to_ne_bytes());
                }
            }
        }
    }

    #[test]
    fn sum_of_rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes).to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn nothing_taken_back_is_nothing() {
        for checksum in (0..=u16::MAX).map(u16::to_be_bytes) {
            assert_eq!(Delta::NONE.inverse().update(checksum), checksum);
        }
    }

    #[test]
    fn udp_zero_rules() {
        let delta = Delta::between(&[0, 1], &[0, 2]);
        assert_eq!(delta.update_udp([0, 0]), [0, 0]);
        // 0x0001 changed by +1 gives ~(~1 + 1) = 0, which UDP sends as 0xffff.
        assert_eq!(delta.update_udp([0, 1]), [0xff, 0xff]);
    }

    #[test]
    fn crc32c_of_an_init_chunk() {
        // The check value of CRC-32C over "123456789" (RFC 3720, B.4 gives the same polynomial).
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let packet = [1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9, 10, 11];
        let zeroed = [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 10, 11];
        assert_eq!(sctp(&packet), crc32c::crc32c(&zeroed).to_le_bytes());
    }

    proptest! {
        #[test]
        fn sum_equals_word_by_word(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut padded = bytes.clone();
            padded.push(0);
            let words: Vec<u16> =
                padded.chunks_exact(2).map(|w| u16::from_ne_bytes([w[0], w[1]])).collect();
            prop_assert_eq!(!sum(&bytes), full(&words));
        }

        #[test]
        fn deltas_add_up(
            a in any::<[u8; 8]>(),
            b in any::<[u8; 8]>(),
            c in any::<[u8; 8]>(),
            rest in 1..=0xffffu16,
        ) {
            let sum_with = |x: &[u8; 8]| {
                let mut all = rest.to_ne_bytes().to_vec();
                all.extend(x);
                (!sum(&all)).to_ne_bytes()
            };
            let delta = Delta::between(&a, &b).and(Delta::between(&b, &c));
            prop_assert_eq!(delta.update(sum_with(&a)), sum_with(&c));
        }
    }
}
