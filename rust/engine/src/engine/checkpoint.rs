//! Checkpoints carry flows and affinity over a restart, as bytes, with remaining times instead of
//! moments.
//!
//! Layout, all numbers little endian: `KBENATCK`, version (u32), length of the body (u64), its
//! CRC32c (u32), body. The body lists the names of service ports, then flows, then clients; see
//! `format::Writer`.
//!
//! Upgrades lose no flow in either direction, because that layout is frozen. A later version keeps
//! writing it, and puts what it has to say beyond it into sections behind the clients: a number
//! (u32), a length (u32), so many bytes. A version skips sections that it does not know, and does
//! without those that are missing. A new state or flag goes into a section, and the frozen part
//! holds the nearest one that every version knows. The version's number grows only with a layout
//! that earlier versions could not read, which is a promise broken.
//!
//! Nothing of a checkpoint is used before all of it was read and checked. Flows
//! and clients of service ports that are not served any more are left out.

mod carried;
mod format;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use self::carried::CarriedFlow;
pub use self::format::CheckpointError;
use self::format::{CLIENT_SIZE, Content, HEADER, NAMES, SavedFlow, Writer, body, flow_size, seal};
use super::{Engine, EngineAddress};
use crate::affinity::Sticky;
use crate::clock::{self, Tick, ticks};
use crate::conntrack::ports::Claim;
use crate::conntrack::{FlowId, Hot};
use crate::hash::AddressKey;
use crate::ledger::Standing;
use crate::pipeline::FamilyState;
use crate::service::ServicePort;
use crate::tuple::{Direction, Family, Tuple};
use crate::wire::Wire;

impl Engine {
    /// All flows and clients that are alive at `now`. Cost: a pass over the tables.
    #[must_use]
    pub fn checkpoint(&mut self, now: u64) -> Vec<u8> {
        let tick = self.shared.clock.advance(now);
        let mut writer = Writer(Vec::new());
        let places = self.write_names(&mut writer);
        let (v4, v6) = (kept_flows(&self.v4, tick), kept_flows(&self.v6, tick));
        writer.u32((v4.len() + v6.len()) as u32);
        self.write_flows(&mut writer, &self.v4, &v4, tick, &places);
        self.write_flows(&mut writer, &self.v6, &v6, tick, &places);
        self.write_clients(&mut writer, tick, &places);
        writer.carried(&self.carried, self.shared.config.max_flows);
        seal(&writer.0)
    }

    /// Writes the names of all service ports, and returns the place of each number among them.
    fn write_names(&self, writer: &mut Writer) -> HashMap<u32, u32> {
        let mut names: Vec<(u32, &ServicePort)> = self
            .shared
            .ledger
            .services()
            .map(|(number, record)| (number, &*record.service))
            .collect();
        // The numbers tell in which order service ports came, which is no state to keep.
        names.sort_by_key(|(_, service)| (service.name(), service.family()));
        writer.u32(names.len() as u32);
        for name in names.iter().map(|(_, service)| service.name()) {
            writer.u32(name.len() as u32);
            writer.0.extend_from_slice(name.as_bytes());
        }
        names.iter().map(|&(number, _)| number).zip(0..).collect()
    }

    fn write_flows<A: Wire>(
        &self,
        writer: &mut Writer,
        family: &FamilyState<A>,
        flows: &[FlowId],
        now: Tick,
        places: &HashMap<u32, u32>,
    ) {
        for &id in flows {
            let backend = self.shared.ledger.backend(family.flows.cold(id).backend);
            let place = place_of(places, backend.service);
            writer.flow(family, id, now, place, backend.address.port());
        }
    }

    fn write_clients(&self, writer: &mut Writer, now: Tick, places: &HashMap<u32, u32>) {
        let ledger = &self.shared.ledger;
        // A client that is bound to a backend of no list would choose anew anyway.
        let is_alive = |sticky: &&Sticky| {
            let backend = ledger.backend(sticky.backend.0);
            let is_listed = backend.standing == Standing::Listed;
            sticky.deadline >= now && backend.birth == sticky.backend.1 && is_listed
        };
        let stickies: Vec<_> = self.shared.affinity.iter().filter(is_alive).collect();
        writer.u32(stickies.len() as u32);
        for sticky in stickies {
            writer.u32(place_of(places, sticky.client.0));
            writer.address(sticky.client.1);
            let backend = ledger.backend(sticky.backend.0).address;
            writer.address(backend.ip());
            writer.u16(backend.port());
            // Another boot has another clock, so a checkpoint holds what is left, never a moment.
            writer.u32(sticky.deadline - now);
        }
    }

    /// What a cache has carried of flows: of an earlier daemon's, from a checkpoint, until
    /// [`Engine::set_carried`] was called.
    #[must_use]
    pub fn carried(&self) -> &[CarriedFlow] {
        &self.carried
    }

    /// Has later checkpoints say this of what a cache has carried, and nothing else.
    pub fn set_carried(&mut self, flows: Vec<CarriedFlow>) {
        self.carried = flows;
    }

    /// The most bytes that a checkpoint of an engine with these limits can have.
    #[must_use]
    pub fn checkpoint_limit(&self) -> usize {
        let config = &self.shared.config;
        let flows = config.max_flows * (flow_size(Ipv4Addr::BITS) + flow_size(Ipv6Addr::BITS));
        let carried = carried::limit(config.max_flows);
        HEADER + NAMES + flows + config.max_affinities * CLIENT_SIZE + carried
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
        self.carried = content.carried;
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
            let name = &content.names[client.service];
            let ends = (client.address, client.backend);
            self.bind(name, ends, tick, |longest| {
                Some(client.left.min(longest.checked_sub(away)?))
            });
        }
        Ok(restored)
    }

    /// Remembers that a client of this service port has this backend for so many seconds more, as
    /// another proxy has bound it; not longer than the service port's affinity lasts. False where
    /// the service port has no affinity, no such backend in its lists, or has bound the client
    /// itself. Cost: its backends.
    pub fn bind_client(
        &mut self,
        now: u64,
        service: &str,
        client: IpAddr,
        backend: SocketAddr,
        seconds: f64,
    ) -> bool {
        let tick = self.shared.clock.advance(now);
        let span = ticks(seconds.max(0.0));
        self.bind(service, (client, backend), tick, |longest| Some(span.min(longest))).is_some()
    }

    /// Remembers a client of the service port with this name. `span` says how long, for the ticks
    /// that its affinity lasts. `None`: it is not remembered.
    fn bind(
        &mut self,
        name: &str,
        (client, address): (IpAddr, SocketAddr),
        now: Tick,
        span: impl FnOnce(Tick) -> Option<Tick>,
    ) -> Option<()> {
        let ledger = &self.shared.ledger;
        let number = ledger.find(name, Family::of(client))?;
        let record = ledger.service(number)?;
        let span = span(ticks(record.service.spec().affinity?.into()))?;
        let mut listed = record.backends.iter().flatten().copied();
        let id = listed.find(|&id| ledger.backend(id).address == address)?;
        let backend = (id, ledger.backend(id).birth);
        // What was remembered here is newer than what comes from elsewhere.
        if self.shared.affinity.get(&(number, client), now).is_some() {
            return None;
        }
        let sticky =
            Sticky { client: (number, client), backend, deadline: now.saturating_add(span) };
        self.shared.affinity.put(sticky, now);
        Some(())
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
        let state = hot.state;
        shared.ledger.open_flow(id, state);
        let hot = Hot { deadline, ..hot.clone() };
        let (is_leased, source) = (hot.has(Hot::<A>::LEASED), hot.ends(Direction::Original).src);
        let claim = Claim::of_flow(&hot);
        let created = now.wrapping_sub(saved.age.saturating_add(away));
        if family.flows.insert(hot, created, id, saved.tracking).is_err() {
            shared.ledger.close_flow(id, state, [0; 2], [0; 2]);
            return false;
        }
        if is_leased {
            shared.leases.take(&claim, reply.dport);
        }
        if shared.config.max_flows_per_source.is_some() {
            *family.sources.entry(AddressKey(source)).or_default() += 1;
        }
        true
    }
}

/// The flows of a family that a checkpoint keeps.
fn kept_flows<A: Wire>(family: &FamilyState<A>, now: Tick) -> Vec<FlowId> {
    let flows = family.flows.iter().filter(|(_, hot, _)| is_kept(hot, now));
    flows.map(|(id, ..)| id).collect()
}

/// The place of a service port's name; every number in the tables has one.
fn place_of(places: &HashMap<u32, u32>, number: u32) -> u32 {
    places.get(&number).copied().unwrap_or(0)
}

/// Whether a flow is to outlive a restart by a checkpoint. The kernel keeps those that are
/// offloaded.
fn is_kept<A: Wire>(hot: &Hot<A>, now: Tick) -> bool {
    !hot.is_expired(now) && !hot.has(Hot::<A>::OFFLOADED | Hot::<A>::FORGOTTEN)
}
