//! Hears of changes that may make packets of established flows go another way, or nowhere: other
//! rules of nf_tables, devices, their tc filters, addresses, routes, next hops, routing rules,
//! neighbours, policies of IPsec and their keys.
//!
//! Theory of operation. The kernel tells listeners of each change, and of much that is none: a
//! neighbour that answers again, a device whose statistics are due. So the newest state of devices
//! and neighbours is kept, and a message that repeats it is no doubt. What is new here is one, but
//! for a neighbour that nobody could send to until now. Everything else is a doubt whatever it
//! says, because a doubt costs little and a wrong way costs packets.
//!
//! When the kernel drops messages, that is a doubt at once, and devices and neighbours are read
//! anew: at once after quiet, and under a flood as seldom as [`Pace`] says.
//!
//! Rules of iptables-legacy, and sets of ipset that any rules ask, change without a message.
//! Listening needs no privilege, but for nf_tables and IPsec CAP_NET_ADMIN.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use crate::addresses::address;
use crate::attribute::{FLAG_DUMP, Head, NETLINK_HEADER, attributes, close, find, open};
use crate::detours::{RTM_DELNEXTHOP, RTM_NEWNEXTHOP, detours};
use crate::exchange::Exchange;
use crate::inbox::{Arrival, Inbox};
use crate::pace::Pace;
use crate::socket::Socket;

/// What a [`Doubt`] is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Topic {
    /// The kernel dropped messages: it may be about anything.
    Overrun,
    /// After an overrun, devices and neighbours were read anew.
    Reread,
    /// A transaction of nf_tables, whoever's rules it changed.
    Rules,
    /// A device came, changed or went.
    Device,
    /// What tc does with packets of a device.
    Filter,
    /// An address of the node's own.
    Address,
    /// A route, or a next hop that routes share.
    Route,
    /// A routing rule (`ip rule`).
    RoutingRule,
    /// A route, next hop or routing rule that leads or led some packets of a flow another way than
    /// others: see [`crate::detours`].
    Detour,
    /// A neighbour has no longer the link address that packets were sent to.
    Neighbour,
    /// What IPsec encrypts, lets pass or refuses, and by which keys (`ip xfrm`).
    Ipsec,
}

/// A reason why packets may go another way now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Doubt {
    /// What has changed.
    pub topic: Topic,
    /// The device (its index) that it is about; `None`: it may be about any.
    pub device: Option<u32>,
    /// Of a neighbour: where packets for it were sent until now; `None`: that is not known.
    pub link: Option<LinkAddress>,
}

/// An Ethernet address.
pub type LinkAddress = [u8; 6];

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
    /// Of a bridge, whether its own setting hands packets of IPv4 and IPv6 to iptables
    /// (`br_netfilter`).
    pub calls_iptables: Option<[bool; 2]>,
}

/// Hears of doubts, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Doubts {
    rules: Socket,
    routing: Socket,
    /// `None`: the kernel has no IPsec.
    ipsec: Option<Socket>,
    inbox: Inbox,
    requests: Exchange,
    known: Known,
    pace: Pace,
    delayed: u64,
}

/// The newest state, as far as messages have told of it.
#[derive(Default, Debug)]
struct Known {
    devices: HashMap<u32, Device>,
    neighbours: HashMap<(u32, IpAddr), Vec<u8>>,
    /// Some neighbours were forgotten for want of room, so one that is not known may be an old one.
    lacks_neighbours: bool,
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
            ipsec: match listen(libc::NETLINK_XFRM, &IPSEC) {
                Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => None,
                listening => Some(listening?),
            },
            inbox: Inbox::new(),
            requests: Exchange::open(libc::NETLINK_ROUTE)?,
            known: Known::default(),
            pace: Pace::new(),
            delayed: 0,
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
                // A transaction with many elements: nothing else is told of here.
                Arrival::Overrun => note(doubts, Doubt::about(Topic::Rules)),
                Arrival::Messages => {
                    let is_new = self.inbox.messages().any(|(kind, _)| kind == NEW_GENERATION);
                    if is_new {
                        note(doubts, Doubt::about(Topic::Rules));
                    }
                }
            }
        }
        for _ in 0..TAKES {
            match self.inbox.take(&self.routing)? {
                Arrival::Nothing => break,
                Arrival::Overrun => {
                    // What was known may be wrong, and only the kernel knows what has changed.
                    self.delayed += u64::from(self.pace.lose(Instant::now()));
                    note(doubts, Doubt::about(Topic::Overrun));
                }
                Arrival::Messages => {
                    for (kind, message) in self.inbox.messages() {
                        if let Some(doubt) = self.known.read(kind, message) {
                            note(doubts, doubt);
                        }
                    }
                }
            }
        }
        if let Some(socket) = &self.ipsec {
            for _ in 0..TAKES {
                match self.inbox.take(socket)? {
                    Arrival::Nothing => break,
                    // Whatever they say, and whatever was lost.
                    _ => note(doubts, Doubt::about(Topic::Ipsec)),
                }
            }
        }
        let started = Instant::now();
        if self.pace.is_due(started) {
            self.read_all()?;
            self.pace.read(started, Instant::now());
            note(doubts, Doubt::about(Topic::Reread));
        }
        Ok(())
    }

    /// Overruns after which devices and neighbours were not read anew at once.
    pub fn delayed(&self) -> u64 {
        self.delayed
    }

    /// The devices, as far as messages have told of them.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.known.devices.values()
    }

    /// The sockets at which messages wait.
    pub(crate) fn sockets(&self) -> [&Socket; 3] {
        [&self.rules, &self.routing, self.ipsec.as_ref().unwrap_or(&self.rules)]
    }

    /// Reads devices and neighbours as they are.
    fn read_all(&mut self) -> io::Result<()> {
        self.known = Known::default();
        for kind in [libc::RTM_GETLINK, libc::RTM_GETNEIGH] {
            let mut request = Vec::new();
            let head = Head { kind: kind as u8, flags: FLAG_DUMP, ..Head::default() };
            let start = open(&mut request, head);
            close(&mut request, start, 0);
            self.requests.ask(&request, |kind, message| {
                let _ = self.known.read(kind, message);
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
            calls_iptables: calls_iptables(attributes),
        })
    }

    /// Whether no other device decides about its packets: it is neither loopback nor a port.
    #[must_use]
    pub fn is_on_its_own(&self) -> bool {
        self.flags & libc::IFF_LOOPBACK as u32 == 0 && self.controller.is_none()
    }

    /// Whether its packets have Ethernet headers.
    #[must_use]
    pub fn is_ethernet(&self) -> bool {
        self.hardware == libc::ARPHRD_ETHER
    }
}

/// See [`Device::calls_iptables`].
fn calls_iptables(attributes: &[u8]) -> Option<[bool; 2]> {
    let information = find(attributes, libc::IFLA_LINKINFO)?;
    let about = find(information, libc::IFLA_INFO_DATA)?;
    let is_bridge = find(information, libc::IFLA_INFO_KIND)?.starts_with(b"bridge\0");
    let calls = |attribute| find(about, attribute).is_some_and(|value| value != [0]);
    is_bridge.then(|| CALLS_IPTABLES.map(calls))
}

fn note(doubts: &mut Vec<Doubt>, doubt: Doubt) {
    if !doubts.contains(&doubt) {
        doubts.push(doubt);
    }
}

impl Doubt {
    /// About any device.
    #[must_use]
    pub const fn about(topic: Topic) -> Self {
        Self { topic, device: None, link: None }
    }

    const fn of_device(topic: Topic, device: u32) -> Self {
        Self { topic, device: Some(device), link: None }
    }
}

impl Known {
    /// The doubt of a message of the routing part of the kernel, if it says something new.
    fn read(&mut self, kind: u16, message: &[u8]) -> Option<Doubt> {
        match kind {
            libc::RTM_NEWLINK => {
                let device = Device::parse(message)?;
                let index = device.index;
                let is_same = self.devices.get(&index) == Some(&device);
                self.devices.insert(index, device);
                (!is_same).then_some(Doubt::of_device(Topic::Device, index))
            }
            libc::RTM_DELLINK => {
                let index = Device::parse(message)?.index;
                self.devices.remove(&index);
                Some(Doubt::of_device(Topic::Device, index))
            }
            // `struct ifaddrmsg` and `struct tcmsg` have the device in one place.
            libc::RTM_NEWADDR | libc::RTM_DELADDR => Some(about_device(Topic::Address, message)),
            libc::RTM_NEWQDISC
            | libc::RTM_DELQDISC
            | libc::RTM_NEWTFILTER
            | libc::RTM_DELTFILTER => Some(about_device(Topic::Filter, message)),
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE | RTM_NEWNEXTHOP..=RTM_DELNEXTHOP => {
                Some(about_routing(Topic::Route, kind, message))
            }
            RTM_NEWNEXTHOPBUCKET..=RTM_DELNEXTHOPBUCKET => Some(Doubt::about(Topic::Route)),
            libc::RTM_NEWRULE | libc::RTM_DELRULE => {
                Some(about_routing(Topic::RoutingRule, kind, message))
            }
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => self.read_neighbour(kind, message),
            _ => None,
        }
    }

    fn read_neighbour(&mut self, kind: u16, message: &[u8]) -> Option<Doubt> {
        let neighbour = Neighbour::parse(message)?;
        let (device, key) = (neighbour.device, (neighbour.device, neighbour.address));
        let link = neighbour.link.filter(|_| kind == libc::RTM_NEWNEIGH);
        // Nobody sends to a neighbour that is not known and does not answer.
        if self.neighbours.get(&key) == link.as_ref() {
            return None;
        }
        let former = self.neighbours.remove(&key);
        // A network that makes up neighbours has us forget the others, not grow.
        if self.neighbours.len() >= NEIGHBOURS {
            self.neighbours.clear();
            self.lacks_neighbours = true;
        }
        self.neighbours.extend(link.map(|link| (key, link)));
        match former {
            // Nobody could send to it until now.
            None if !self.lacks_neighbours => None,
            former => {
                let link = former.and_then(|link| LinkAddress::try_from(link).ok());
                Some(Doubt { topic: Topic::Neighbour, device: Some(device), link })
            }
        }
    }
}

/// About any device: routes and routing rules lead packets from one to another.
fn about_routing(topic: Topic, kind: u16, message: &[u8]) -> Doubt {
    Doubt::about(if detours(kind, message).is_empty() { topic } else { Topic::Detour })
}

/// About the device that a message has behind four other bytes.
fn about_device(topic: Topic, message: &[u8]) -> Doubt {
    let index = message.get(NETLINK_HEADER + 4..).and_then(<[u8]>::first_chunk);
    let index = index.map(|&bytes| u32::from_ne_bytes(bytes));
    Doubt { topic, device: index.filter(|&index| index != SHARED_BLOCK), link: None }
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

const ROUTING: [u32; 10] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_TC,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_NEXTHOP,
];
/// `XFRMNLGRP_EXPIRE`, `XFRMNLGRP_SA` and `XFRMNLGRP_POLICY` (`linux/xfrm.h`).
const IPSEC: [u32; 3] = [2, 3, 4];
/// `linux/rtnetlink.h`, which libc has in part.
const RTM_NEWNEXTHOPBUCKET: u16 = 116;
const RTM_DELNEXTHOPBUCKET: u16 = 117;
/// In a device's place: filters that several devices share (`TCM_IFINDEX_MAGIC_BLOCK`).
pub(crate) const SHARED_BLOCK: u32 = u32::MAX;
/// Subsystem and kind (`linux/netfilter/nf_tables.h`).
const NEW_GENERATION: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | libc::NFT_MSG_NEWGEN as u16;
/// Bytes of messages that wait at a socket. A transaction of nf_tables has a message for each of
/// its elements: more of them are an overrun, which is a doubt like any other.
const BUFFER: i32 = 1 << 20;
/// Takes of messages by one call, at most.
const TAKES: usize = 64;
/// Neighbours that are remembered, at most.
const NEIGHBOURS: usize = 16_384;
/// Of a bridge, for IPv4 and IPv6 (`IFLA_BR_NF_CALL_IPTABLES`; libc lacks it).
const CALLS_IPTABLES: [u16; 2] = [36, 37];
/// Length of `struct ifinfomsg`.
const DEVICE: usize = 16;
/// Length of `struct ndmsg`.
const NEIGHBOUR: usize = 12;

#[cfg(test)]
mod tests;
