//! Source NAT in front of backends: its settings, and what an observer learns from its ports.
//!
//! The observer has connections of its own, sees the port of the last flow of its node, and guesses
//! the next one: the port behind it, over all remotes or towards the same backend. It is off the
//! path of other flows. Differences of successive ports are counted in [`BINS`] equal parts of the
//! range, whose entropy says how much of the next port the last one leaves open. Memory grows with
//! nodes and backends, never with time.

use std::collections::HashMap;

use kbe_nat_engine::conntrack::ports::{Allocation, Mapping, PortRange};
use kbe_nat_engine::tuple::Family;
use kbe_nat_engine::{Cidr, Config};

use crate::packets;
use crate::rows::PortRow;
use crate::spec::{LabError, SourceNatSpec};

impl SourceNatSpec {
    /// Ports that are leased.
    fn range(&self) -> PortRange {
        // The reserved ports are none: a range behind which nothing lies.
        PortRange { ports: self.ports, reserved: (1, 0) }
    }

    /// The configuration of a node's engine with this source NAT.
    ///
    /// # Errors
    /// [`LabError::Cell`] for a name that there is not.
    pub(crate) fn configure(&self, config: Config, node: u32) -> Result<Config, LabError> {
        let (size, per_client) = (self.block_size, self.blocks_per_client);
        let allocation = match self.allocation.as_str() {
            "preserve" => Allocation::Preserve,
            "random" => Allocation::Random,
            "sequential" => Allocation::Sequential,
            "hashed" => Allocation::Hashed,
            "blocks" => Allocation::Blocks { size, per_client },
            "deterministic" => Allocation::Deterministic { size, clients: networks() },
            other => return Err(LabError::Cell(format!("no allocation is named {other}"))),
        };
        let mapping = match self.mapping.as_str() {
            "endpoint-dependent" => Mapping::EndpointDependent,
            "endpoint-independent" => Mapping::EndpointIndependent,
            other => return Err(LabError::Cell(format!("no mapping is named {other}"))),
        };
        let snat = FAMILIES.map(|family| packets::node(node, family)).to_vec();
        Ok(Config { snat, ports: self.range(), allocation, mapping, ..config })
    }
}

/// Networks in which the first client has position 0, and each further one the next.
fn networks() -> Vec<Cidr> {
    // Networks of 1, 2, 4, ... clients follow each other without a gap.
    let of = |family| (0..24).filter_map(move |bit| packets::network(1 << bit, family));
    FAMILIES.into_iter().flat_map(of).collect()
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Ports as an observer sees them.
#[derive(Debug)]
pub(crate) struct Observer {
    range: (u16, u16),
    /// The last port of a node, and of a node towards a backend.
    last: HashMap<u32, u16>,
    last_towards: HashMap<(u32, u32), u16>,
    guesses: (u64, u64),
    guesses_towards: (u64, u64),
    differences: Vec<u64>,
}

impl Observer {
    pub(crate) fn new(spec: &SourceNatSpec) -> Self {
        Self {
            range: spec.ports,
            last: HashMap::new(),
            last_towards: HashMap::new(),
            guesses: (0, 0),
            guesses_towards: (0, 0),
            differences: vec![0; BINS],
        }
    }

    /// A flow of a node towards a backend got this port.
    pub(crate) fn see(&mut self, node: u32, backend: u32, port: u16) {
        if let Some(last) = self.last.insert(node, port) {
            let difference = self.difference(last, port);
            count(&mut self.guesses, difference);
            let bin = difference as usize * BINS / self.count() as usize;
            self.differences[bin] += 1;
        }
        if let Some(last) = self.last_towards.insert((node, backend), port) {
            let difference = self.difference(last, port);
            count(&mut self.guesses_towards, difference);
        }
    }

    /// Steps from one port to the other, around the range.
    fn difference(&self, last: u16, port: u16) -> u32 {
        let position = |port: u16| u32::from(port.clamp(self.range.0, self.range.1) - self.range.0);
        (position(port) + self.count() - position(last)) % self.count()
    }

    fn count(&self) -> u32 {
        u32::from(self.range.1) - u32::from(self.range.0) + 1
    }

    /// Writes what it has learned into the row.
    pub(crate) fn report(&self, row: &mut PortRow) {
        let share =
            |(hits, guesses): (u64, u64)| (guesses > 0).then(|| hits as f64 / guesses as f64);
        row.next_guessed = share(self.guesses);
        row.next_guessed_towards = share(self.guesses_towards);
        row.difference_bits = (self.guesses.1 > 0).then(|| entropy(&self.differences));
    }
}

fn count((hits, guesses): &mut (u64, u64), difference: u32) {
    *hits += u64::from(difference == 1);
    *guesses += 1;
}

/// In bits.
fn entropy(counts: &[u64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let shares = counts.iter().filter(|&&n| n > 0).map(|&n| n as f64 / total as f64);
    // Plus 0.0: the sum of one share of 1 would be -0.
    // In software, as all of the simulation, so that machines agree.
    -shares.map(|share| share * libm::log2(share)).sum::<f64>() + 0.0
}

/// Parts of the range in which differences are counted: 8 bits at most.
const BINS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packets::client;

    fn observer(ports: impl IntoIterator<Item = u16>) -> PortRow {
        let spec = SourceNatSpec {
            allocation: "preserve".to_owned(),
            mapping: "endpoint-dependent".to_owned(),
            ports: (40_000, 40_255),
            block_size: 1,
            blocks_per_client: 1,
        };
        let mut observer = Observer::new(&spec);
        for (n, port) in (0..).zip(ports) {
            observer.see(0, n % 2, port);
        }
        let mut row = PortRow::default();
        observer.report(&mut row);
        row
    }

    #[test]
    fn ports_in_turn_are_guessed_and_leave_nothing_open() {
        let row = observer((0..1000).map(|n| 40_000 + n % 256));
        assert_eq!((row.next_guessed, row.next_guessed_towards), (Some(1.0), Some(0.0)));
        assert_eq!(row.difference_bits, Some(0.0));
    }

    #[test]
    fn steps_of_two_sizes_leave_a_bit_open() {
        let row = observer((0..1001).map(|n| 40_000 + (n / 2 * 3 + n % 2) % 256));
        assert_eq!(row.next_guessed, Some(0.5));
        assert!((row.difference_bits.expect("differences") - 1.0).abs() < 1e-9);
    }

    #[test]
    fn one_port_is_no_guess() {
        let row = observer([40_000]);
        assert_eq!((row.next_guessed, row.difference_bits), (None, None));
    }

    #[test]
    fn networks_count_clients_from_the_first_on() {
        let networks = networks();
        for number in [0, 1, 2, 3, 6, 7, 100, 65_535, 1_000_000] {
            let mut first = 0;
            let position = networks.iter().find_map(|network| {
                let position = network.position(client(number).into()).map(|place| first + place);
                first += network.count();
                position
            });
            assert_eq!(position, Some(number.into()));
        }
    }
}
