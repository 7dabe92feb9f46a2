//! Mappings of clients' ports that do not depend on the backend (RFC 4787, REQ-1).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::claim::Claim;
use crate::hash::{AddressKey, HashKey};
use crate::tuple::Protocol;

/// Whether a client's port is mapped to one port of ours, or to one for each backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mapping {
    /// To one for each backend. A port serves as many flows as there are backends.
    #[default]
    EndpointDependent,
    /// To the same towards all backends, as long as it has a flow. A port serves one client's port.
    EndpointIndependent,
}

impl Mapping {
    /// Its name in settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EndpointDependent => "endpoint-dependent",
            Self::EndpointIndependent => "endpoint-independent",
        }
    }
}

/// The ports of ours that clients' ports are mapped to, and how many flows use each.
///
/// Nearly always it is one. A client that reaches one backend by two frontends from one port needs
/// a second: both flows would have the same tuple towards the backend.
#[derive(Clone, Debug)]
pub(super) struct Mappings(HashMap<Key, Vec<(u16, u32)>, HashKey>);

type Key = (AddressKey<IpAddr>, AddressKey<IpAddr>, u32);

impl Mappings {
    pub(super) fn new(key: HashKey) -> Self {
        Self(HashMap::with_hasher(key))
    }

    pub(super) fn ports(&self, claim: &Claim) -> &[(u16, u32)] {
        self.0.get(&key(claim)).map_or(&[], Vec::as_slice)
    }

    /// A flow uses this port of ours; true if it is the mapping's first.
    pub(super) fn join(&mut self, claim: &Claim, port: u16) -> bool {
        let ports = self.0.entry(key(claim)).or_default();
        if let Some((_, flows)) = ports.iter_mut().find(|(known, _)| *known == port) {
            *flows += 1;
            return false;
        }
        ports.push((port, 1));
        true
    }

    /// A flow uses this port of ours no more; true if it was the mapping's last.
    pub(super) fn leave(&mut self, claim: &Claim, port: u16) -> bool {
        let Some(ports) = self.0.get_mut(&key(claim)) else { return false };
        let Some(place) = ports.iter().position(|&(known, _)| known == port) else { return false };
        ports[place].1 -= 1;
        if ports[place].1 > 0 {
            return false;
        }
        ports.remove(place);
        if ports.is_empty() {
            self.0.remove(&key(claim));
        }
        true
    }
}

fn key(claim: &Claim) -> Key {
    let (client, Protocol(protocol)): (SocketAddr, _) = (claim.client, claim.remote.protocol);
    let rest = u32::from(client.port()) << 8 | u32::from(protocol);
    (AddressKey(client.ip()), AddressKey(claim.remote.source), rest)
}
