//! `Snat`, `PortUse`: what replaces masqueraded sources, and how its ports were given.

use std::net::IpAddr;

use kbe_nat_engine::conntrack::ports::{Allocation, Mapping, PortRange};
use kbe_nat_engine::{self as core, Cidr};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arguments::{self, within};
use crate::errors::argument;
use crate::values::{Constructed, Portable, constructed, fields, hashed, portable};
use crate::words::list;

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
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Snat {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: PortRange,
    pub(crate) allocation: Allocation,
    pub(crate) mapping: Mapping,
    clients: Vec<Cidr>,
}

#[pymethods]
impl Snat {
    #[new]
    // PyO3 writes no default that is a tuple into the signature that Python sees.
    #[pyo3(
        signature = (
            addresses, *, ports = (1024, 65535), reserved = (30000, 32767), allocation = "preserve",
            mapping = Mapping::EndpointDependent, block_size = None, blocks_per_client = None,
            clients = Vec::new(),
        ),
        text_signature = "(addresses, *, ports=(1024, 65535), reserved=(30000, 32767), \
                          allocation='preserve', mapping='endpoint-dependent', block_size=None, \
                          blocks_per_client=None, clients=())"
    )]
    #[allow(clippy::needless_pass_by_value, clippy::too_many_arguments)]
    fn new(
        #[pyo3(from_py_with = arguments::addresses)] addresses: Vec<IpAddr>,
        #[pyo3(from_py_with = arguments::ports)] ports: (u16, u16),
        #[pyo3(from_py_with = arguments::reserved)] reserved: (u16, u16),
        #[pyo3(from_py_with = arguments::allocation)] allocation: &str,
        #[pyo3(from_py_with = arguments::mapping)] mapping: Mapping,
        #[pyo3(from_py_with = arguments::block_size)] block_size: Option<u32>,
        #[pyo3(from_py_with = arguments::blocks_per_client)] blocks_per_client: Option<u16>,
        #[pyo3(from_py_with = arguments::clients)] clients: Vec<Cidr>,
    ) -> PyResult<Self> {
        if let Some(second) = second_of_family(&addresses) {
            return Err(argument(format!(
                "addresses are at most one of each family, and {} and {} are of one",
                second.0, second.1
            )));
        }
        if ports.0 > ports.1 {
            return Err(argument(format!("ports are a range (low, high), not {ports:?}")));
        }
        let ports = PortRange { ports, reserved };
        let blocks = (block_size, blocks_per_client, clients.clone());
        let allocation = allocation_of(allocation, ports.count(), blocks)?;
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
        self.clients.iter().map(Cidr::to_string).collect()
    }

    fn __repr__(&self) -> String {
        let addresses = match self.addresses() {
            none if none.is_empty() => "without addresses".to_owned(),
            addresses => addresses.join(", "),
        };
        let allocation = self.allocation.name();
        let ((low, high), mapping) = (self.ports.ports, self.mapping.name());
        format!("<Snat {addresses}, ports {low}-{high}: {allocation}, {mapping}>")
    }
}

constructed!(Snat);
hashed!(Snat);

impl Constructed for Snat {
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        fields!(
            py,
            addresses = self.addresses(),
            ports = self.ports(),
            reserved = self.reserved(),
            allocation = self.allocation(),
            mapping = self.mapping(),
            block_size = self.block_size(),
            blocks_per_client = self.blocks_per_client(),
            clients = self.clients(),
        )
    }
}

/// An address, and the next one of its family.
fn second_of_family(addresses: &[IpAddr]) -> Option<(IpAddr, IpAddr)> {
    let next = |(index, first): (usize, &IpAddr)| {
        let others = &addresses[index + 1..];
        let next = others.iter().find(|other| other.is_ipv4() == first.is_ipv4());
        next.map(|second| (*first, *second))
    };
    addresses.iter().enumerate().find_map(next)
}

/// A way of giving ports with its parameters. Of blocks there is one at least.
fn allocation_of(
    name: &str,
    ports: usize,
    (size, per_client, clients): (Option<u32>, Option<u16>, Vec<Cidr>),
) -> PyResult<Allocation> {
    let has_blocks = matches!(name, "blocks" | "deterministic");
    let refuse = |field: &str, ways: &str| {
        Err(argument(format!("{field} belongs to allocation {ways}, not to '{name}'")))
    };
    if size.is_some() && !has_blocks {
        return refuse("block_size", "'blocks' or 'deterministic'");
    }
    if per_client.is_some() && name != "blocks" {
        return refuse("blocks_per_client", "'blocks'");
    }
    if !clients.is_empty() && name != "deterministic" {
        return refuse("clients", "'deterministic'");
    }
    let size = size.unwrap_or(BLOCK_SIZE.min(ports.max(1) as u32));
    let most = ports.clamp(1, u16::MAX.into()) as u32;
    let size = within("block_size", size, &(1..=most))? as u16;
    Ok(match name {
        "preserve" => Allocation::Preserve,
        "random" => Allocation::Random,
        "sequential" => Allocation::Sequential,
        "hashed" => Allocation::Hashed,
        "blocks" => {
            let per_client = per_client.unwrap_or(BLOCKS_PER_CLIENT);
            Allocation::Blocks { size, per_client }
        }
        "deterministic" if clients.is_empty() => {
            return Err(argument("allocation 'deterministic' needs clients: their networks"));
        }
        "deterministic" => Allocation::Deterministic { size, clients },
        other => {
            let names = ["preserve", "random", "sequential", "hashed", "blocks", "deterministic"];
            return Err(argument(format!("allocation is {}, not '{other}'", list(&names))));
        }
    })
}

/// Ports of a block, where the range has so many.
const BLOCK_SIZE: u32 = 512;
const BLOCKS_PER_CLIENT: u16 = 4;

/// How source ports were given since the start, of all addresses.
#[pyclass(frozen, eq, get_all, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PortUse {
    /// Flows that got a port.
    allocations: u64,
    /// Of these, flows whose first choice of a port was not free, or none that may be leased.
    collisions: u64,
    /// Ports that were looked at for them, up to those that they got.
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

#[pymethods]
impl PortUse {
    fn __repr__(&self) -> String {
        let Self { allocations, collisions, probes, log_lines } = self;
        format!(
            "<PortUse: {allocations} allocations, {collisions} collisions, {probes} probes, \
             {log_lines} log lines>"
        )
    }
}

portable!(PortUse);

impl Portable for PortUse {
    type State = [u64; 4];

    fn state(&self) -> Self::State {
        [self.allocations, self.collisions, self.probes, self.log_lines]
    }

    fn restore([allocations, collisions, probes, log_lines]: Self::State) -> Option<Self> {
        Some(Self { allocations, collisions, probes, log_lines })
    }
}
