//! Hears of changes that may make packets of established flows go another way, or nowhere: other
//! rules of nf_tables, devices, addresses, routes, routing rules, neighbours.
//!
//! Theory of operation. The kernel tells listeners of each change, and of much that is none: a
//! neighbour that answers again, a device whose statistics are due. So the newest state of devices
//! and neighbours is kept, and a message that repeats it is no doubt. What is new here is one.
//! Everything else is a doubt whatever it says, because a doubt costs little and a wrong way costs
//! packets.
//!
//! Rules of iptables-legacy change without a message. Listening needs no privilege, but for
//! nf_tables CAP_NET_ADMIN.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use crate::addresses::address;
use crate::attribute::{FLAG_DUMP, Head, NETLINK_HEADER, attributes, close, find, open};
use crate::exchange::Exchange;
use crate::inbox::{Arrival, Inbox};
use crate::socket::Socket;

/// What a [`Doubt`] is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Topic {
    /// The kernel dropped messages: it may be about anything.
    Overrun,
    /// A transaction of nf_tables, whoever's rules it changed.
    Rules,
    /// A device came, changed or went.
    Device,
    /// An address of the node's own.
    Address,
    /// A route.
    Route,
    /// A routing rule (`ip rule`).
    RoutingRule,
    /// A neighbour has another link address, or none.
    Neighbour,
}

/// A reason why packets may go another way now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Doubt {
    /// What has changed.
    pub topic: Topic,
    /// The device (its index) that it is about; `None`: it may be about any.
    pub device: Option<u32>,
}

/// A network device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its number in the namespace.
    pub index: u32,
    /// Its name; bytes that are no UTF-8 are replaced.
    pub name: String,
    /// The kind of its link headers (`ARPHRD_...`).
    pub hardware: u16,
    /// `IFF_...`.
    pub flags: u32,
    /// Bytes of a packet, at most, without the link header.
    pub mtu: u32,
    /// Its link address.
    pub address: Vec<u8>,
    /// The device that it is a port of: a bridge, bond or VRF.
    pub controller: Option<u32>,
}

/// Hears of doubts, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Doubts {
    rules: Socket,
    routing: Socket,
    inbox: Inbox,
    requests: Exchange,
    devices: HashMap<u32, Device>,
    neighbours: HashMap<(u32, IpAddr), Vec<u8>>,
}

impl Doubts {
    /// Listens from now on.
    ///
    /// # Errors
    /// The system's: no privilege.
    pub fn open() -> io::Result<Self> {
        let listen = |protocol, groups: &[u32]| {
            let socket = Socket::open(protocol)?;
            socket.set_buffer(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, BUFFER)?;
            for &group in groups {
                let option = libc::NETLINK_ADD_MEMBERSHIP;
                socket.set(libc::SOL_NETLINK, option, group as i32)?;
            }
            io::Result::Ok(socket)
        };
        let mut doubts = Self {
            rules: listen(libc::NETLINK_NETFILTER, &[libc::NFNLGRP_NFTABLES as u32])?,
            routing: listen(libc::NETLINK_ROUTE, &ROUTING)?,
            inbox: Inbox::new(),
            requests: Exchange::open(libc::NETLINK_ROUTE)?,
            devices: HashMap::new(),
            neighbours: HashMap::new(),
        };
        doubts.read_all()?;
        Ok(doubts)
    }

    /// Adds the doubts since the last call to `doubts`, each once. Does not wait, and takes a
    /// bounded number of messages: the rest of a storm waits for the next call.
    ///
    /// # Errors
    /// The system's.
    pub fn take(&mut self, doubts: &mut Vec<Doubt>) -> io::Result<()> {
        for _ in 0..TAKES {
            match self.inbox.take(&self.rules)? {
                Arrival::Nothing => break,
                Arrival::Overrun => self.note_overrun(doubts)?,
                Arrival::Messages => {
                    let is_new = self.inbox.messages().any(|(kind, _)| kind == NEW_GENERATION);
                    if is_new {
                        note(doubts, Doubt { topic: Topic::Rules, device: None });
                    }
                }
            }
        }
        for _ in 0..TAKES {
            match self.inbox.take(&self.routing)? {
                Arrival::Nothing => break,
                Arrival::Overrun => self.note_overrun(doubts)?,
                Arrival::Messages => {
                    let (devices, neighbours) = (&mut self.devices, &mut self.neighbours);
                    for (kind, message) in self.inbox.messages() {
                        if let Some(doubt) = read(kind, message, devices, neighbours) {
                            note(doubts, doubt);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The devices, as far as messages have told of them.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.values()
    }

    /// The sockets at which messages wait.
    pub(crate) fn sockets(&self) -> [&Socket; 2] {
        [&self.rules, &self.routing]
    }

    /// What was known may be wrong, and only the kernel knows what has changed.
    fn note_overrun(&mut self, doubts: &mut Vec<Doubt>) -> io::Result<()> {
        note(doubts, Doubt { topic: Topic::Overrun, device: None });
        self.read_all()
    }

    /// Reads devices and neighbours as they are.
    fn read_all(&mut self) -> io::Result<()> {
        let (devices, neighbours) = (&mut self.devices, &mut self.neighbours);
        devices.clear();
        neighbours.clear();
        for kind in [libc::RTM_GETLINK, libc::RTM_GETNEIGH] {
            let mut request = Vec::new();
            let head = Head { kind: kind as u8, flags: FLAG_DUMP, ..Head::default() };
            let start = open(&mut request, head);
            close(&mut request, start, 0);
            self.requests.ask(&request, |kind, message| {
                let _ = read(kind, message, devices, neighbours);
            })?;
        }
        Ok(())
    }
}

impl Device {
    /// Reads a message about a device; `None` for one about a port of a bridge, or without a name.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let body = message.get(NETLINK_HEADER..)?;
        let &[family, _, k0, k1, i0, i1, i2, i3, f0, f1, f2, f3] = body.first_chunk()?;
        if i32::from(family) != libc::AF_UNSPEC {
            return None;
        }
        let attributes = body.get(DEVICE..)?;
        let number = |kind| {
            find(attributes, kind)
                .and_then(<[u8]>::first_chunk)
                .map(|&bytes| u32::from_ne_bytes(bytes))
        };
        let name = find(attributes, libc::IFLA_IFNAME)?;
        Some(Self {
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            name: String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned(),
            hardware: u16::from_ne_bytes([k0, k1]),
            flags: u32::from_ne_bytes([f0, f1, f2, f3]),
            mtu: number(libc::IFLA_MTU).unwrap_or(0),
            address: find(attributes, libc::IFLA_ADDRESS).unwrap_or_default().to_vec(),
            controller: number(libc::IFLA_MASTER).filter(|&index| index != 0),
        })
    }

    /// Whether its packets have Ethernet headers that a program may write, and no other device
    /// decides about them: it is neither loopback nor a port.
    #[must_use]
    pub fn is_ethernet(&self) -> bool {
        self.hardware == libc::ARPHRD_ETHER
            && self.flags & libc::IFF_LOOPBACK as u32 == 0
            && self.controller.is_none()
    }
}

fn note(doubts: &mut Vec<Doubt>, doubt: Doubt) {
    if !doubts.contains(&doubt) {
        doubts.push(doubt);
    }
}

/// The doubt of a message of the routing part of the kernel, if it says something new.
fn read(
    kind: u16,
    message: &[u8],
    devices: &mut HashMap<u32, Device>,
    neighbours: &mut HashMap<(u32, IpAddr), Vec<u8>>,
) -> Option<Doubt> {
    let doubt = |topic, device| Some(Doubt { topic, device });
    match kind {
        libc::RTM_NEWLINK => {
            let device = Device::parse(message)?;
            let index = device.index;
            let is_same = devices.get(&index) == Some(&device);
            devices.insert(index, device);
            if is_same { None } else { doubt(Topic::Device, Some(index)) }
        }
        libc::RTM_DELLINK => {
            let index = Device::parse(message)?.index;
            devices.remove(&index);
            doubt(Topic::Device, Some(index))
        }
        libc::RTM_NEWADDR | libc::RTM_DELADDR => doubt(Topic::Address, None),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => doubt(Topic::Route, None),
        libc::RTM_NEWRULE | libc::RTM_DELRULE => doubt(Topic::RoutingRule, None),
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
            let neighbour = Neighbour::parse(message)?;
            let (device, key) = (neighbour.device, (neighbour.device, neighbour.address));
            let link = neighbour.link.filter(|_| kind == libc::RTM_NEWNEIGH);
            // Nobody sends to a neighbour that is not known and does not answer.
            if neighbours.get(&key) == link.as_ref() {
                return None;
            }
            neighbours.remove(&key);
            // A network that makes up neighbours has us forget the others, not grow.
            if neighbours.len() >= NEIGHBOURS {
                neighbours.clear();
            }
            neighbours.extend(link.map(|link| (key, link)));
            doubt(Topic::Neighbour, Some(device))
        }
        _ => None,
    }
}

/// A neighbour: whom packets for an address go to on a device.
struct Neighbour {
    device: u32,
    address: IpAddr,
    /// `None`: nobody answers.
    link: Option<Vec<u8>>,
}

impl Neighbour {
    /// Reads a message (`struct ndmsg`); `None` for an entry of a bridge's table.
    fn parse(message: &[u8]) -> Option<Self> {
        let body = message.get(NETLINK_HEADER..)?;
        let &[family, _, _, _, i0, i1, i2, i3, s0, s1, _, _] = body.first_chunk()?;
        let state = u16::from_ne_bytes([s0, s1]);
        let (mut to, mut link) = (None, None);
        for (kind, value) in attributes(body.get(NEIGHBOUR..)?) {
            match kind {
                libc::NDA_DST => to = address(family, value),
                libc::NDA_LLADDR if state & libc::NUD_FAILED == 0 => link = Some(value.to_vec()),
                _ => {}
            }
        }
        Some(Self { device: u32::from_ne_bytes([i0, i1, i2, i3]), address: to?, link })
    }
}

const ROUTING: [u32; 8] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
];
/// Subsystem and kind (`linux/netfilter/nf_tables.h`).
const NEW_GENERATION: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | libc::NFT_MSG_NEWGEN as u16;
/// Bytes of messages that wait at a socket. A transaction of nf_tables has a message for each of
/// its elements: more of them are an overrun, which is a doubt like any other.
const BUFFER: i32 = 1 << 20;
/// Takes of messages by one call, at most.
const TAKES: usize = 64;
/// Neighbours that are remembered, at most.
const NEIGHBOURS: usize = 16_384;
/// Length of `struct ifinfomsg`.
const DEVICE: usize = 16;
/// Length of `struct ndmsg`.
const NEIGHBOUR: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::put;
    use proptest::prelude::*;

    fn device(index: u32, mtu: u32, more: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; NETLINK_HEADER];
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&libc::ARPHRD_ETHER.to_ne_bytes());
        bytes.extend_from_slice(&index.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        put(&mut bytes, libc::IFLA_IFNAME, b"veth7\0");
        put(&mut bytes, libc::IFLA_MTU, &mtu.to_ne_bytes());
        for (kind, value) in more {
            put(&mut bytes, *kind, value);
        }
        bytes
    }

    fn neighbour(state: u16, link: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; NETLINK_HEADER];
        bytes.extend_from_slice(&[libc::AF_INET as u8, 0, 0, 0]);
        bytes.extend_from_slice(&7u32.to_ne_bytes());
        bytes.extend_from_slice(&state.to_ne_bytes());
        bytes.extend_from_slice(&[0; 2]);
        put(&mut bytes, libc::NDA_DST, &[192, 0, 2, 1]);
        put(&mut bytes, libc::NDA_LLADDR, link);
        bytes
    }

    #[derive(Default)]
    struct Listener {
        devices: HashMap<u32, Device>,
        neighbours: HashMap<(u32, IpAddr), Vec<u8>>,
    }

    impl Listener {
        fn hears(&mut self, kind: u16, message: &[u8]) -> Option<(Topic, Option<u32>)> {
            read(kind, message, &mut self.devices, &mut self.neighbours)
                .map(|doubt| (doubt.topic, doubt.device))
        }
    }

    #[test]
    fn a_device_is_a_doubt_when_it_differs() {
        let mut listener = Listener::default();
        let changed = Some((Topic::Device, Some(7)));
        assert_eq!(listener.hears(libc::RTM_NEWLINK, &device(7, 1500, &[])), changed, "new");
        assert_eq!(listener.hears(libc::RTM_NEWLINK, &device(7, 1500, &[])), None, "again");
        assert_eq!(listener.hears(libc::RTM_NEWLINK, &device(7, 1400, &[])), changed);
        let port = device(7, 1400, &[(libc::IFLA_MASTER, &9u32.to_ne_bytes())]);
        assert_eq!(listener.hears(libc::RTM_NEWLINK, &port), changed);
        let kept = &listener.devices[&7];
        assert_eq!((kept.name.as_str(), kept.mtu, kept.controller), ("veth7", 1400, Some(9)));
        assert!(!kept.is_ethernet(), "the bridge decides about a port's packets");
        assert_eq!(listener.hears(libc::RTM_DELLINK, &device(7, 1400, &[])), changed, "gone");
        assert!(listener.devices.is_empty());
    }

    #[test]
    fn a_neighbour_is_a_doubt_when_packets_for_it_go_elsewhere() {
        let mut listener = Listener::default();
        let changed = Some((Topic::Neighbour, Some(7)));
        let (one, two) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut hears = |kind, state, link: &[u8]| listener.hears(kind, &neighbour(state, link));
        let new = libc::RTM_NEWNEIGH;
        assert_eq!(hears(new, libc::NUD_REACHABLE, &one), changed, "for the first time");
        for state in [libc::NUD_STALE, libc::NUD_DELAY, libc::NUD_PROBE, libc::NUD_REACHABLE] {
            assert_eq!(hears(new, state, &one), None);
        }
        assert_eq!(hears(new, libc::NUD_STALE, &two), changed, "another link address");
        assert_eq!(hears(new, libc::NUD_FAILED, &two), changed, "nobody answers");
        assert_eq!(hears(new, libc::NUD_FAILED, &two), None, "still not");
        assert_eq!(hears(new, libc::NUD_REACHABLE, &two), changed, "again");
        assert_eq!(hears(libc::RTM_DELNEIGH, libc::NUD_STALE, &two), changed, "forgotten");
    }

    #[test]
    fn routes_rules_and_addresses_are_doubts() {
        let mut listener = Listener::default();
        for (kinds, topic) in [
            ([libc::RTM_NEWROUTE, libc::RTM_DELROUTE], Topic::Route),
            ([libc::RTM_NEWRULE, libc::RTM_DELRULE], Topic::RoutingRule),
            ([libc::RTM_NEWADDR, libc::RTM_DELADDR], Topic::Address),
        ] {
            for kind in kinds {
                assert_eq!(listener.hears(kind, &[0; NETLINK_HEADER]), Some((topic, None)));
            }
        }
        assert_eq!(listener.hears(libc::RTM_NEWTFILTER, &[0; NETLINK_HEADER]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(
            kind in 16u16..40,
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = Listener::default().hears(kind, &bytes);
        }
    }
}
