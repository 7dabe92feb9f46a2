//! Checkpoints carry flows and affinity over a restart, as bytes, with remaining times instead of
//! moments.
//!
//! Layout, all numbers little endian: `KBENATCK`, version (u32), length of the body (u64), its
//! CRC32c (u32), body. The body lists the names of service ports, then flows, then clients; see
//! `Writer`. Nothing of a checkpoint is used before all of it was read and checked. Flows
//! and clients of service ports that are not served any more are left out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Engine, EngineAddress};
use crate::affinity::Sticky;
use crate::clock::{self, Tick, ticks};
use crate::conntrack::ports::Remote;
use crate::conntrack::state::State;
use crate::conntrack::tcp::{Side, Tracking};
use crate::conntrack::{Hot, STALE};
use crate::ledger::Standing;
use crate::pipeline::FamilyState;
use crate::rewrite;
use crate::service::ServicePort;
use crate::tuple::{Direction, Ends, Family, Protocol, Tuple, WireEnds};
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

impl Engine {
    /// All flows and clients that are alive at `now`. Cost: a pass over the tables.
    #[must_use]
    pub fn checkpoint(&mut self, now: u64) -> Vec<u8> {
        let tick = self.shared.clock.advance(now);
        let mut names: Vec<(u32, &ServicePort)> = self
            .shared
            .ledger
            .services()
            .map(|(number, record)| (number, &*record.service))
            .collect();
        // The numbers tell in which order service ports came, which is no state to keep.
        names.sort_by_key(|(_, service)| (service.name(), service.family()));
        let places: HashMap<u32, u32> = names.iter().map(|&(number, _)| number).zip(0..).collect();
        let place = |number: u32| places.get(&number).copied().unwrap_or(0);
        let mut writer = Writer(Vec::new());
        writer.u32(names.len() as u32);
        for name in names.iter().map(|(_, service)| service.name()) {
            writer.u32(name.len() as u32);
            writer.0.extend_from_slice(name.as_bytes());
        }
        let v4: Vec<_> = self
            .v4
            .flows
            .iter()
            .filter(|(_, hot, _)| is_kept(hot, tick))
            .map(|(id, ..)| id)
            .collect();
        let v6: Vec<_> = self
            .v6
            .flows
            .iter()
            .filter(|(_, hot, _)| is_kept(hot, tick))
            .map(|(id, ..)| id)
            .collect();
        writer.u32((v4.len() + v6.len()) as u32);
        for id in v4 {
            let backend = self.shared.ledger.backend(self.v4.flows.cold(id).backend);
            writer.flow(&self.v4, id, tick, place(backend.service), backend.address.port());
        }
        for id in v6 {
            let backend = self.shared.ledger.backend(self.v6.flows.cold(id).backend);
            writer.flow(&self.v6, id, tick, place(backend.service), backend.address.port());
        }
        let ledger = &self.shared.ledger;
        let is_alive = |sticky: &&Sticky| {
            let backend = ledger.backend(sticky.backend.0);
            let is_listed = backend.standing == Standing::Listed;
            sticky.deadline >= tick && backend.birth == sticky.backend.1 && is_listed
        };
        // A client that is bound to a backend of no list would choose anew anyway.
        let stickies: Vec<_> = self.shared.affinity.iter().filter(is_alive).collect();
        writer.u32(stickies.len() as u32);
        for sticky in stickies {
            writer.u32(place(sticky.client.0));
            writer.address(sticky.client.1);
            let backend = ledger.backend(sticky.backend.0).address;
            writer.address(backend.ip());
            writer.u16(backend.port());
            writer.u32(sticky.deadline - tick);
        }
        let body = writer.0;
        let mut checkpoint = Vec::with_capacity(body.len() + HEADER);
        checkpoint.extend_from_slice(MAGIC);
        checkpoint.extend_from_slice(&VERSION.to_le_bytes());
        checkpoint.extend_from_slice(&(body.len() as u64).to_le_bytes());
        checkpoint.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        checkpoint.extend_from_slice(&body);
        checkpoint
    }

    /// The most bytes that a checkpoint of an engine with these limits can have.
    #[must_use]
    pub fn checkpoint_limit(&self) -> usize {
        let config = &self.shared.config;
        let flows = config.max_flows * (flow_size(Ipv4Addr::BITS) + flow_size(Ipv6Addr::BITS));
        HEADER + NAMES + flows + config.max_affinities * CLIENT_SIZE
    }

    /// Enters the flows and clients of a checkpoint that was written `away` nanoseconds ago, as far
    /// as their service ports are served and there is room; returns how many flows. Flows that are
    /// there already stay as they are.
    ///
    /// A flow ends when it would have ended at the latest: packets may have renewed it after the
    /// checkpoint was written, so it is taken over with what was left of its life, unless more than
    /// its state's whole timeout less `away`.
    ///
    /// # Errors
    /// [`CheckpointError`]; then nothing was changed.
    pub fn restore(
        &mut self,
        now: u64,
        checkpoint: &[u8],
        away: u64,
    ) -> Result<usize, CheckpointError> {
        let content = Content::read(body(checkpoint)?)?;
        let tick = self.shared.clock.advance(now);
        let away = clock::whole_ticks(away);
        let mut restored = 0;
        for flow in &content.v4 {
            restored += usize::from(self.restore_flow(flow, &content.names, tick, away));
        }
        for flow in &content.v6 {
            restored += usize::from(self.restore_flow(flow, &content.names, tick, away));
        }
        for client in &content.clients {
            let family = Family::of(client.address);
            let name = &content.names[client.service];
            let Some(number) = self.shared.ledger.find(name, family) else { continue };
            let Some(record) = self.shared.ledger.service(number) else { continue };
            let Some(seconds) = record.service.spec().affinity else { continue };
            let listed = record.backends.iter().flatten().copied();
            let mut listed =
                listed.filter(|&id| self.shared.ledger.backend(id).address == client.backend);
            if let (Some(id), Some(longest)) =
                (listed.next(), ticks(seconds.into()).checked_sub(away))
            {
                let backend = (id, self.shared.ledger.backend(id).birth);
                let deadline = tick.saturating_add(client.left.min(longest));
                self.shared
                    .affinity
                    .put(Sticky { client: (number, client.address), backend, deadline }, tick);
            }
        }
        Ok(restored)
    }

    fn restore_flow<A: EngineAddress>(
        &mut self,
        saved: &SavedFlow<A>,
        names: &[String],
        now: Tick,
        away: Tick,
    ) -> bool {
        let (shared, family) = A::split(self);
        let hot = &saved.hot;
        // Not longer than a packet would keep it, whatever the checkpoint claims: no packet need
        // ever come again.
        let Some(longest) = shared.config.timeouts.of(hot.state).checked_sub(away) else {
            return false;
        };
        let deadline = now.saturating_add(hot.deadline.min(longest));
        let name = &names[saved.service];
        let Some(number) = shared.ledger.find(name, A::FAMILY) else { return false };
        let is_known = hot.ends.iter().any(|ends| {
            family.flows.find(&Tuple { ends: ends.ends(), protocol: hot.protocol }).is_some()
        });
        let reply = hot.ends(Direction::Reply);
        let backend = SocketAddr::new(reply.src.into(), saved.backend_port);
        let id = if is_known { return false } else { shared.ledger.backend_for(number, backend) };
        // The flow counts with its backend before it is entered, so that a refusal is taken back in
        // the same way as an end.
        shared.ledger.open_flow(id);
        let hot = Hot { deadline, ..hot.clone() };
        let (is_leased, source) = (hot.has(Hot::<A>::LEASED), hot.ends(Direction::Original).src);
        let protocol = hot.protocol;
        if family
            .flows
            .insert(hot, now.saturating_sub(saved.age.saturating_add(away)), id, saved.tracking)
            .is_err()
        {
            shared.ledger.close_flow(id, [0; 2], [0; 2]);
            return false;
        }
        if is_leased {
            shared.leases.take(
                Remote { protocol, source: reply.dst.into(), backend: reply.source() },
                reply.dport,
            );
        }
        if shared.config.max_flows_per_source.is_some() {
            *family.sources.entry(source).or_default() += 1;
        }
        true
    }
}

/// Whether a flow is to outlive a restart by a checkpoint. The kernel keeps those that are
/// offloaded.
fn is_kept<A: Wire>(hot: &Hot<A>, now: Tick) -> bool {
    !hot.is_expired(now) && !hot.has(Hot::<A>::OFFLOADED | Hot::<A>::FORGOTTEN)
}

/// Checks the frame of a checkpoint.
fn body(checkpoint: &[u8]) -> Result<&[u8], CheckpointError> {
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

struct SavedFlow<A> {
    /// Its deadline is the rest of its life. Its generation is [`STALE`], so the first packet looks
    /// whether the backend is still there.
    hot: Hot<A>,
    age: Tick,
    /// Place of the service port's name.
    service: usize,
    backend_port: u16,
    tracking: Tracking,
}

struct SavedClient {
    service: usize,
    address: IpAddr,
    backend: SocketAddr,
    left: Tick,
}

/// A checkpoint's body, read and checked.
struct Content {
    names: Vec<String>,
    v4: Vec<SavedFlow<Ipv4Addr>>,
    v6: Vec<SavedFlow<Ipv6Addr>>,
    clients: Vec<SavedClient>,
}

impl Content {
    fn read(body: &[u8]) -> Result<Self, CheckpointError> {
        let mut reader = Reader { body, at: 0 };
        let mut content =
            Self { names: Vec::new(), v4: Vec::new(), v6: Vec::new(), clients: Vec::new() };
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
        if reader.at == body.len() { Ok(content) } else { Err(reader.wrong()) }
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

struct Writer(Vec<u8>);

impl Writer {
    fn flow<A: Wire>(
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
        self.u32(now.saturating_sub(cold.created));
        self.u32(service);
        self.u16(backend_port);
        for number in hot.packets.into_iter().map(u64::from).chain(hot.bytes) {
            self.0.extend_from_slice(&number.to_le_bytes());
        }
        for side in cold.tracking.sides {
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

    fn u16(&mut self, number: u16) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn address(&mut self, address: IpAddr) {
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
    fn wrong(&self) -> CheckpointError {
        CheckpointError::Value(self.at)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], CheckpointError> {
        let end = self.at.checked_add(length).ok_or(self.wrong())?;
        let taken = self.body.get(self.at..end).ok_or(self.wrong())?;
        self.at = end;
        Ok(taken)
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
        let (l3, l4) = rewrite::deltas(protocol, &ends[0], &ends[1].reply());
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
const HEADER: usize = MAGIC.len() + 4 + 8 + 4;
/// Room for the names of service ports: 100,000 of the longest.
const NAMES: usize = 64 << 20;
/// An affinity: service port, client, backend, what is left.
const CLIENT_SIZE: usize = 4 + 2 * 17 + 2 + 4;

/// Bytes of a flow whose addresses have so many bits: see [`Writer::flow`].
const fn flow_size(bits: u32) -> usize {
    let ends = 2 * (1 + bits as usize / 8) + 2 * 2;
    4 + 2 * ends + 3 * 4 + 2 + 4 * 8 + 2 * (3 * 4 + 4)
}
