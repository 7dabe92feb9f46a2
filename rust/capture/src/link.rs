//! Link types (<https://www.tcpdump.org/linktypes.html>): where in a frame the IP packet begins.

/// How the frames of a capture begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// MAC addresses and an EtherType, perhaps behind VLAN tags (IEEE 802.3, 802.1Q, 802.1ad).
    Ethernet,
    /// The IP packet itself.
    Raw,
    /// Four bytes of address family in the byte order of the machine (NULL) or of the network
    /// (LOOP).
    Family,
    /// Linux "cooked" capture, version 1.
    Cooked,
    /// Linux "cooked" capture, version 2.
    Cooked2,
}

impl Link {
    /// The link type with this number, if it is one that is understood.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        match number {
            0 | 108 => Some(Self::Family),
            1 => Some(Self::Ethernet),
            12 | 14 | 101 | 228 | 229 => Some(Self::Raw),
            113 => Some(Self::Cooked),
            276 => Some(Self::Cooked2),
            _ => None,
        }
    }

    /// Length of the header in front of the IP packet; `None` for a frame that holds no IP packet,
    /// such as ARP.
    #[must_use]
    pub fn header(self, frame: &[u8]) -> Option<usize> {
        let (ether_type, length) = match self {
            Self::Raw => return is_ip(frame.first()?).then_some(0),
            Self::Family => return is_ip(frame.get(4)?).then_some(4),
            Self::Ethernet => (12, 14),
            Self::Cooked => (14, 16),
            Self::Cooked2 => (0, 20),
        };
        let mut inner = number(frame, ether_type)?;
        let mut length = length;
        while matches!(inner, 0x8100 | 0x88a8 | 0x9100) {
            inner = number(frame, length + 2)?;
            length += 4;
        }
        (matches!(inner, 0x0800 | 0x86dd) && frame.len() > length).then_some(length)
    }

    /// The header for an answer to a frame that had `header`: back to where it came from.
    #[must_use]
    pub fn answer(self, header: &[u8]) -> Vec<u8> {
        let mut answer = header.to_vec();
        if self == Self::Ethernet
            && let Some(addresses) = answer.get_mut(..12)
        {
            addresses.rotate_left(6);
        }
        answer
    }
}

fn is_ip(first: &u8) -> bool {
    matches!(first >> 4, 4 | 6)
}

fn number(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ip_packet_is_found_behind_every_header() {
        let behind = |header: &[u8]| [header, &[0x45; 20]].concat();
        let mac = [2; 12];
        let tagged = [&mac[..], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 7, 0x86, 0xdd]].concat();
        let cooked = [&[0; 14][..], &[8, 0]].concat();
        let cooked_tagged = [&[0; 14][..], &[0x81, 0, 0, 7, 8, 0]].concat();
        let cooked2 = [&[8, 0][..], &[0; 18]].concat();
        let arp = [&mac[..], &[8, 6]].concat();
        for (link, header, expected) in [
            (1, [&mac[..], &[8, 0]].concat(), Some(14)),
            (1, tagged, Some(22)),
            (1, arp, None),
            (12, vec![], Some(0)),
            (101, vec![], Some(0)),
            (0, vec![2, 0, 0, 0], Some(4)),
            (108, vec![0, 0, 0, 2], Some(4)),
            (113, cooked, Some(16)),
            (113, cooked_tagged, Some(20)),
            (276, cooked2, Some(20)),
        ] {
            let link = Link::of(link).expect("a link type that is understood");
            assert_eq!(link.header(&behind(&header)), expected, "{link:?} {header:?}");
        }
        assert_eq!(Link::of(105), None);
        for length in 0..14 {
            assert_eq!(Link::Ethernet.header(&[8; 14][..length]), None);
        }
    }

    #[test]
    fn an_answer_goes_back_to_the_sender() {
        let header = [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0];
        assert_eq!(Link::Ethernet.answer(&header), [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 8, 0]);
        assert_eq!(Link::Family.answer(&[2, 0, 0, 0]), [2, 0, 0, 0]);
    }
}
