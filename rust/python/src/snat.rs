//! `Snat`, `PortUse`: what replaces masqueraded sources, and how its ports were given.

use std::net::IpAddr;

use kbe_nat_engine::conntrack::ports::{Allocation, Mapping, PortRange};
use kbe_nat_engine::{self as core, Cidr};
use pyo3::prelude::*;

use crate::convert;
use crate::errors::argument;

/// The sources of masqueraded flows: addresses, at most one of each family, and ports that are
/// leased from the range `ports` less those in `reserved` (the node ports).
///
/// `allocation` says which port a new mapping gets: "preserve" (the client's own while it is free,
/// else a random one), "random", "sequential", "hashed" (RFC 6056, algorithm 3), "blocks" (each
/// client has up to `blocks_per_client` blocks of `block_size` ports for itself; 4 of 512) or
/// "deterministic" (the block of the client's place in the networks `clients`; RFC 7422). `mapping`
/// says whether a client's port has a port for each backend ("endpoint-dependent": a port serves as
/// many flows as there are backends) or one towards all ("endpoint-independent", RFC 4787). Flows
/// whose source stays their own keep their port, whatever these say.
///
/// Raises `ArgumentError`, also for a parameter that does not belong to the allocation.
#[pyclass(frozen, eq, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Snat {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: PortRange,
    pub(crate) allocation: Allocation,
    pub(crate) mapping: Mapping,
    /// As they were given.
    clients: Vec<String>,
}

#[pymethods]
impl Snat {
    #[new]
    // PyO3 writes no default that is a tuple into the signature that Python sees.
    #[pyo3(
        signature = (
            addresses, *, ports = (1024, 65535), reserved = (30000, 32767), allocation = "preserve",
            mapping = "endpoint-dependent", block_size = None, blocks_per_client = None,
            clients = Vec::new(),
        ),
        text_signature = "(addresses, *, ports=(1024, 65535), reserved=(30000, 32767), \
                          allocation='preserve', mapping='endpoint-dependent', block_size=None, \
                          blocks_per_client=None, clients=())"
    )]
    #[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
    fn new(
        addresses: Vec<String>,
        ports: (u16, u16),
        reserved: (u16, u16),
        allocation: &str,
        mapping: &str,
        block_size: Option<i64>,
        blocks_per_client: Option<i64>,
        clients: Vec<String>,
    ) -> PyResult<Self> {
        if ports.0 > ports.1 {
            return Err(argument(format!("ports are a range (low, high), not {ports:?}")));
        }
        let addresses = convert::addresses(&addresses)?;
        let ports = PortRange { ports, reserved };
        let networks: Vec<Cidr> = clients.iter().map(convert::cidr).collect::<PyResult<_>>()?;
        let blocks = (block_size, blocks_per_client, networks);
        let allocation = allocation_of(allocation, ports.count(), blocks)?;
        let mapping = convert::mapping(mapping)?;
        Ok(Self { addresses, ports, allocation, mapping, clients })
    }

    /// The addresses, at most one of each family.
    #[getter]
    fn addresses(&self) -> Vec<String> {
        self.addresses.iter().map(IpAddr::to_string).collect()
    }

    /// The range of ports that are leased: the lowest and the highest.
    #[getter]
    fn ports(&self) -> (u16, u16) {
        self.ports.ports
    }

    /// The range of ports that are never leased: the lowest and the highest.
    #[getter]
    fn reserved(&self) -> (u16, u16) {
        self.ports.reserved
    }

    /// Which port a new mapping gets.
    #[getter]
    fn allocation(&self) -> &'static str {
        self.allocation.name()
    }

    /// Whether a client's port has a port for each backend, or one towards all.
    #[getter]
    fn mapping(&self) -> &'static str {
        self.mapping.name()
    }

    /// Ports of a block; None where there are no blocks.
    #[getter]
    fn block_size(&self) -> Option<u16> {
        match self.allocation {
            Allocation::Blocks { size, .. } | Allocation::Deterministic { size, .. } => Some(size),
            _ => None,
        }
    }

    /// Blocks of a client at most; None where there are no blocks, or each client has one.
    #[getter]
    fn blocks_per_client(&self) -> Option<u16> {
        match self.allocation {
            Allocation::Blocks { per_client, .. } => Some(per_client),
            _ => None,
        }
    }

    /// The networks of clients, where blocks follow from addresses.
    #[getter]
    fn clients(&self) -> Vec<String> {
        self.clients.clone()
    }
}

/// A way of giving ports with its parameters. Of blocks there is one at least.
fn allocation_of(
    name: &str,
    ports: usize,
    (size, per_client, clients): (Option<i64>, Option<i64>, Vec<Cidr>),
) -> PyResult<Allocation> {
    let has_blocks = matches!(name, "blocks" | "deterministic");
    let refuse = |field: &str, ways: &str| {
        Err(argument(format!("{field} belongs to allocation {ways}, not to {name:?}")))
    };
    if size.is_some() && !has_blocks {
        return refuse("block_size", "\"blocks\" or \"deterministic\"");
    }
    if per_client.is_some() && name != "blocks" {
        return refuse("blocks_per_client", "\"blocks\"");
    }
    if !clients.is_empty() && name != "deterministic" {
        return refuse("clients", "\"deterministic\"");
    }
    let size = size.unwrap_or(BLOCK_SIZE.min(ports.max(1) as i64));
    let size = within("block_size", size, ports)?;
    Ok(match name {
        "preserve" => Allocation::Preserve,
        "random" => Allocation::Random,
        "sequential" => Allocation::Sequential,
        "hashed" => Allocation::Hashed,
        "blocks" => {
            let per_client = per_client.unwrap_or(BLOCKS_PER_CLIENT);
            let per_client = within("blocks_per_client", per_client, usize::from(u16::MAX))?;
            Allocation::Blocks { size, per_client }
        }
        "deterministic" if clients.is_empty() => {
            return Err(argument("allocation \"deterministic\" needs clients: their networks"));
        }
        "deterministic" => Allocation::Deterministic { size, clients },
        other => {
            let names = "\"preserve\", \"random\", \"sequential\", \"hashed\", \"blocks\" or \
                         \"deterministic\"";
            return Err(argument(format!("allocation is {names}, not {other:?}")));
        }
    })
}

fn within(field: &str, value: i64, most: usize) -> PyResult<u16> {
    let range = 1..=most.clamp(1, u16::MAX.into()) as i64;
    let error = || argument(format!("{field} is 1 to {}, not {value}", range.end()));
    if range.contains(&value) { Ok(value as u16) } else { Err(error()) }
}

/// Ports of a block, where the range has so many.
const BLOCK_SIZE: i64 = 512;
const BLOCKS_PER_CLIENT: i64 = 4;

/// How source ports were given since the start, of all addresses.
#[pyclass(frozen, get_all, module = "kbe_nat")]
pub(crate) struct PortUse {
    /// Flows that got a port.
    allocations: u64,
    /// Of these, flows whose first choice of a port was not free.
    collisions: u64,
    /// Ports that were looked at for them.
    probes: u64,
    /// Lines that a log needs, by which the client behind a port is found again: one when a mapping
    /// or a block begins, and one when it ends (RFC 6888, REQ-12).
    log_lines: u64,
}

impl From<core::conntrack::ports::PortUse> for PortUse {
    fn from(uses: core::conntrack::ports::PortUse) -> Self {
        let core::conntrack::ports::PortUse { allocations, collisions, probes, log_lines } = uses;
        Self { allocations, collisions, probes, log_lines }
    }
}
