//! The bytes of a checkpoint: the frame, and what a body is written to and read from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::carried::{self, CarriedFlow};
use crate::clock::{Tick, between};
use crate::conntrack::state::State;
use crate::conntrack::tcp::{Side, Tracking};
use crate::conntrack::{Hot, STALE};
use crate::pipeline::FamilyState;
use crate::rewrite;
use crate::tuple::{Ends, Protocol, WireEnds};
use crate::wire::Wire;

/// Why a checkpoint was refused; nothing of it was used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It does not begin as a checkpoint does.
    #[error("not a checkpoint")]
    Foreign,
    /// A later version of this program wrote it.
    #[error("the checkpoint has version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// It is shorter or longer than it says.
    #[error("the checkpoint is cut, or something follows it")]
    Length,
    /// Its checksum is wrong.
    #[error("the checkpoint is damaged: its checksum is wrong")]
    Checksum,
    /// A value in it cannot be.
    #[error("the checkpoint holds a value that cannot be, at byte {0} of its body")]
    Value(usize),
}

/// A body behind its header.
pub(super) fn seal(body: &[u8]) -> Vec<u8> {
    let mut checkpoint = Vec::with_capacity(body.len() + HEADER);
    checkpoint.extend_from_slice(MAGIC);
    checkpoint.extend_from_slice(&VERSION.to_le_bytes());
    // Length and checksum come first, so that a cut file is refused before any of it is read.
    checkpoint.extend_from_slice(&(body.len() as u64).to_le_bytes());
    checkpoint.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    checkpoint.extend_from_slice(body);
    checkpoint
}

/// Checks the frame of a checkpoint.
pub(super) fn body(checkpoint: &[u8]) -> Result<&[u8], CheckpointError> {
    let rest = checkpoint.strip_prefix(MAGIC).ok_or(CheckpointError::Foreign)?;
    let (version, rest) = rest.split_first_chunk().ok_or(CheckpointError::Length)?;
    match u32::from_le_bytes(*version) {
        VERSION => {}
        version => return Err(CheckpointError::Version(version)),
    }
    let (length, rest) = rest.split_first_chunk().ok_or(CheckpointError::Length)?;
    let (checksum, body) = rest.split_first_chunk().ok_or(CheckpointError::Length)?;
    if u64::from_le_bytes(*length) != body.len() as u64 {
        return Err(CheckpointError::Length);
    }
    if u32::from_le_bytes(*checksum) != crc32c::crc32c(body) {
        return Err(CheckpointError::Checksum);
    }
    Ok(body)
}

pub(super) struct SavedFlow<A> {
    /// Its deadline is the rest of its life. Its generation is [`STALE`], so the first packet looks
    /// whether the backend is still there.
    pub(super) hot: Hot<A>,
    pub(super) age: Tick,
    /// Place of the service port's name.
    pub(super) service: usize,
    pub(super) backend_port: u16,
    pub(super) tracking: Tracking,
}

pub(super) struct SavedClient {
    pub(super) service: usize,
    pub(super) address: IpAddr,
    pub(super) backend: SocketAddr,
    pub(super) left: Tick,
}

/// A checkpoint's body, read and checked.
#[derive(Default)]
pub(super) struct Content {
    pub(super) names: Vec<String>,
    pub(super) v4: Vec<SavedFlow<Ipv4Addr>>,
    pub(super) v6: Vec<SavedFlow<Ipv6Addr>>,
    pub(super) clients: Vec<SavedClient>,
    pub(super) carried: Vec<CarriedFlow>,
}

impl Content {
    pub(super) fn read(body: &[u8]) -> Result<Self, CheckpointError> {
        let mut reader = Reader { body, at: 0 };
        let mut content = Self::default();
        for _ in 0..reader.u32()? {
            let length = reader.u32()? as usize;
            let name = std::str::from_utf8(reader.take(length)?).map_err(|_| reader.wrong())?;
            content.names.push(name.to_owned());
        }
        for _ in 0..reader.u32()? {
            match reader.u8()? {
                4 => content.v4.push(reader.flow(content.names.len())?),
                6 => content.v6.push(reader.flow(content.names.len())?),
                _ => return Err(reader.wrong()),
            }
        }
        for _ in 0..reader.u32()? {
            let service = reader.place(content.names.len())?;
            let address = reader.address()?;
            let backend = SocketAddr::new(reader.address()?, reader.u16()?);
            content.clients.push(SavedClient { service, address, backend, left: reader.u32()? });
        }
        // A later version may say more: each section of it has a number, a length, and so many
        // bytes.
        while reader.at < body.len() {
            let number = reader.u32()?;
            let length = reader.u32()? as usize;
            let start = reader.at;
            let mut section =
                Reader { body: &body[..start + reader.take(length)?.len()], at: start };
            if number == carried::SECTION {
                while section.at < section.body.len() {
                    content.carried.push(section.carried()?);
                }
            }
        }
        Ok(content)
    }
}

/// Whether both directions have the ports that packets of this protocol have; a rewrite relies on
/// it.
fn has_possible_ports<A: Wire>(protocol: Protocol, [original, reply]: &[Ends<A>; 2]) -> bool {
    match protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => true,
        Protocol::ICMP | Protocol::ICMPV6 => original.dport == 0 && reply.sport == 0,
        _ => [original.sport, original.dport, reply.sport, reply.dport] == [0; 4],
    }
}

pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn flow<A: Wire>(
        &mut self,
        family: &FamilyState<A>,
        id: u32,
        now: Tick,
        service: u32,
        backend_port: u16,
    ) {
        let (hot, cold) = (family.flows.hot(id), family.flows.cold(id));
        self.0.extend_from_slice(&[A::VERSION, hot.protocol.0, hot.state as u8, hot.flags]);
        for ends in hot.ends.map(WireEnds::ends) {
            self.address(ends.src.into());
            self.address(ends.dst.into());
            self.u16(ends.sport);
            self.u16(ends.dport);
        }
        self.u32(hot.deadline - now);
        self.u32(between(cold.created, now));
        self.u32(service);
        self.u16(backend_port);
        for number in hot.packets.into_iter().map(u64::from).chain(hot.bytes) {
            self.0.extend_from_slice(&number.to_le_bytes());
        }
        for side in cold.tracking.untimed().sides {
            self.u32(side.end);
            self.u32(side.ack);
            self.u32(side.window);
            self.0.extend_from_slice(&[
                side.scale,
                side.flags,
                side.retransmissions,
                side.packets_high,
            ]);
        }
    }

    /// Writes the section, if there is something to say; of so many flows at most.
    pub(super) fn carried(&mut self, flows: &[CarriedFlow], most: usize) {
        let flows = flows.get(..most).unwrap_or(flows);
        if flows.is_empty() {
            return;
        }
        let mut section = Writer(Vec::new());
        for flow in flows {
            section.0.push(flow.protocol.0);
            section.u32(flow.id);
            for end in [flow.original.0, flow.original.1, flow.reply.0, flow.reply.1] {
                section.address(end.ip());
                section.u16(end.port());
            }
            for number in flow.packets.into_iter().chain(flow.bytes) {
                section.0.extend_from_slice(&number.to_le_bytes());
            }
        }
        self.u32(carried::SECTION);
        self.u32(section.0.len() as u32);
        self.0.extend_from_slice(&section.0);
    }

    pub(super) fn u16(&mut self, number: u16) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.0.push(4);
                self.0.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                self.0.push(6);
                self.0.extend_from_slice(&address.octets());
            }
        }
    }
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn carried(&mut self) -> Result<CarriedFlow, CheckpointError> {
        let (protocol, id) = (Protocol(self.u8()?), self.u32()?);
        let mut end = || Ok(SocketAddr::new(self.address()?, self.u16()?));
        let (original, reply) = ((end()?, end()?), (end()?, end()?));
        let mut numbers = || Ok([self.u64()?, self.u64()?]);
        Ok(CarriedFlow { protocol, id, original, reply, packets: numbers()?, bytes: numbers()? })
    }

    fn wrong(&self) -> CheckpointError {
        CheckpointError::Value(self.at)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], CheckpointError> {
        let end = self.at.checked_add(length).ok_or(self.wrong())?;
        let bytes = self.body.get(self.at..end).ok_or(self.wrong())?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        self.take(N)?.try_into().map_err(|_| self.wrong())
    }

    fn u8(&mut self) -> Result<u8, CheckpointError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, CheckpointError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, CheckpointError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, CheckpointError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn place(&mut self, places: usize) -> Result<usize, CheckpointError> {
        let place = self.u32()? as usize;
        if place < places { Ok(place) } else { Err(self.wrong()) }
    }

    fn address(&mut self) -> Result<IpAddr, CheckpointError> {
        match self.u8()? {
            4 => Ok(Ipv4Addr::from(self.array()?).into()),
            6 => Ok(Ipv6Addr::from(self.array::<16>()?).into()),
            _ => Err(self.wrong()),
        }
    }

    fn ends<A: Wire>(&mut self) -> Result<Ends<A>, CheckpointError> {
        let address = self.address()?;
        let src = A::from_ip(address).ok_or(self.wrong())?;
        let address = self.address()?;
        let dst = A::from_ip(address).ok_or(self.wrong())?;
        Ok(Ends { src, dst, sport: self.u16()?, dport: self.u16()? })
    }

    fn flow<A: Wire>(&mut self, names: usize) -> Result<SavedFlow<A>, CheckpointError> {
        let protocol = Protocol(self.u8()?);
        let state = self.u8()?;
        let state =
            State::from_number(state).filter(|state| state.is_tcp() == (protocol == Protocol::TCP));
        let state = state.ok_or(self.wrong())?;
        let flags = self.u8()?;
        if flags & (Hot::<A>::OFFLOADED | Hot::<A>::FORGOTTEN) != 0 {
            return Err(self.wrong());
        }
        let ends: [Ends<A>; 2] = [self.ends()?, self.ends()?];
        if !has_possible_ports::<A>(protocol, &ends) {
            return Err(self.wrong());
        }
        let (l3, l4) = rewrite::deltas(protocol, &ends[0].into(), &ends[1].reply().into());
        let deadline = self.u32()?;
        let age = self.u32()?;
        let service = self.place(names)?;
        let backend_port = self.u16()?;
        let mut packets = [0; 2];
        for packets in &mut packets {
            *packets = u32::try_from(self.u64()?).map_err(|_| self.wrong())?;
        }
        let bytes = [self.u64()?, self.u64()?];
        let mut tracking = Tracking::default();
        for side in &mut tracking.sides {
            let (end, ack, window) = (self.u32()?, self.u32()?, self.u32()?);
            let [scale, flags, retransmissions, packets_high] = self.array()?;
            if scale > 14 {
                return Err(self.wrong());
            }
            *side = Side { end, ack, window, scale, flags, retransmissions, packets_high };
        }
        let tracking = tracking.untimed();
        let ends = ends.map(WireEnds::from);
        let hot = Hot {
            ends,
            deadline,
            generation: STALE,
            l3,
            l4,
            protocol,
            state,
            flags,
            fast: 0,
            packets,
            bytes,
        };
        Ok(SavedFlow { hot, age, service, backend_port, tracking })
    }
}

const MAGIC: &[u8; 8] = b"KBENATCK";
const VERSION: u32 = 1;
pub(super) const HEADER: usize = MAGIC.len() + 4 + 8 + 4;
/// Room for the names of service ports: 100,000 of the longest.
pub(super) const NAMES: usize = 64 << 20;
/// An affinity: service port, client, backend, what is left.
pub(super) const CLIENT_SIZE: usize = 4 + 2 * 17 + 2 + 4;

/// Bytes of a flow whose addresses have so many bits: see [`Writer::flow`].
pub(super) const fn flow_size(bits: u32) -> usize {
    let ends = 2 * (1 + bits as usize / 8) + 2 * 2;
    4 + 2 * ends + 3 * 4 + 2 + 4 * 8 + 2 * (3 * 4 + 4)
}
