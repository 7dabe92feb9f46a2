//! Events of a cell: changes in force, and the census of connections after them.

use std::collections::BTreeSet;

use crate::cell::{BATCH, Cell};
use crate::dataplane::{Fate, thread_time};
use crate::measures::Outcome;
use crate::packets::{self, Segment};
use crate::rows::{ChangeRow, EventRow};
use crate::services::Remapping;
use crate::spec::{Change, LabError};

impl Cell {
    /// Does what event `number` says, and counts what that does to connections.
    pub(crate) fn change(&mut self, number: u32) -> Result<(), LabError> {
        let event = self.spec.events[number as usize].clone();
        // Fair shares of load change with the lists: until now they were those of before.
        self.measures.book_loads(&self.services, self.now);
        let established: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_established())
            .map(|(slot, _)| slot)
            .collect();
        // In order, so that each Service is built once however many of its backends change.
        let mut touched = BTreeSet::new();
        let mut dead = BTreeSet::new();
        for change in &event.changes {
            self.apply(change, &mut touched, &mut dead)?;
        }
        let touched: Vec<u32> = touched.into_iter().collect();
        let remapping = self.put_in_force(event.at, &event.name, &touched)?;
        self.assign_nodes();
        let minimum = established
            .iter()
            .filter_map(|&slot| self.connections.get(slot))
            .filter(|connection| !connection.is_one_way())
            .filter_map(|connection| connection.backend)
            .filter(|backend| dead.contains(backend))
            .count() as u64;
        let (moved, broken) = self.count_damage(&established);
        self.note_tables();
        self.progress.events.push(EventRow {
            time: event.at,
            event: event.name,
            live: established.len() as u64,
            moved,
            broken,
            minimum,
            keys_moved: remapping.map(|remapping| remapping.moved),
            keys_minimum: remapping.map(|remapping| remapping.minimum),
        });
        Ok(())
    }

    /// One change; notes the Services that must be built, and the backends that died.
    fn apply(
        &mut self,
        change: &Change,
        touched: &mut BTreeSet<u32>,
        dead: &mut BTreeSet<u32>,
    ) -> Result<(), LabError> {
        let (group, place) = match *change {
            Change::List(group, place, _)
            | Change::Weight(group, place, _)
            | Change::Alive(group, place, _) => (group, place as usize),
            Change::Node(number, is_up) => {
                if self.nodes[number as usize] && !is_up {
                    self.dataplane.restart(number);
                }
                self.nodes[number as usize] = is_up;
                return Ok(());
            }
            Change::Strategy(group, ref strategy) => {
                touched.extend(self.services.group(group));
                let (foreign, seed) = (self.foreign.as_deref(), self.spec.seed);
                return self.services.set_strategy(group, strategy, foreign, seed);
            }
        };
        for number in self.services.group(group) {
            let service = &mut self.services.services[number as usize];
            let backend = &mut service.backends[place];
            match *change {
                Change::List(_, _, is_listed) => {
                    // One that left may return: JET provides for it.
                    (backend.is_listed, backend.is_expected) = (is_listed, !is_listed);
                }
                Change::Weight(_, _, weight) => backend.weight = weight,
                Change::Alive(_, _, is_alive) => {
                    if backend.is_alive && !is_alive {
                        dead.insert(service.first + place as u32);
                    }
                    backend.is_alive = is_alive;
                    // Tables do not know: health checks come later, as changes of lists.
                    continue;
                }
                Change::Node(..) | Change::Strategy(..) => {}
            }
            self.measures.note_share(service, place);
            touched.insert(number);
        }
        Ok(())
    }

    /// Builds Services and puts them in force on all nodes. Returns the mean of how mappings have
    /// changed.
    pub(crate) fn put_in_force(
        &mut self,
        time: f64,
        event: &str,
        numbers: &[u32],
    ) -> Result<Option<Remapping>, LabError> {
        let before = self.services.build_time;
        let mut states = Vec::with_capacity(numbers.len());
        let mut sum: Option<Remapping> = None;
        for &number in numbers {
            let (state, remapping) = self.services.build(number, numbers.len())?;
            states.push(state);
            if let Some(remapping) = remapping {
                let sum = sum.get_or_insert(Remapping { moved: 0.0, minimum: 0.0 });
                sum.moved += remapping.moved / numbers.len() as f64;
                sum.minimum += remapping.minimum / numbers.len() as f64;
            }
        }
        let peak = self.balancer_peak.zip(self.services.balancer_bytes);
        self.balancer_peak = peak.map(|(peak, bytes)| peak.max(bytes));
        let start = thread_time();
        self.dataplane.update(&states).map_err(LabError::Cell)?;
        self.progress.changes.push(ChangeRow {
            time,
            event: event.to_owned(),
            services: numbers.len() as u64,
            build_ns: self.services.build_time - before,
            change_ns: thread_time() - start,
        });
        Ok(sum)
    }

    /// Routers choose anew for every flow.
    fn assign_nodes(&mut self) {
        let slots: Vec<u32> = self.connections.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            let Some(connection) = self.connections.get(slot) else { continue };
            let source = packets::client(connection.client);
            let node = self.node_of(source, connection.port, connection.service);
            if let Some(connection) = self.connections.get_mut(slot) {
                connection.node = node;
            }
        }
    }

    /// Lets established connections send a packet each; how many were moved, and how many ended.
    fn count_damage(&mut self, slots: &[u32]) -> (u64, u64) {
        let (mut moved, mut broken) = (0, 0);
        let mut fates = Vec::new();
        for chunk in slots.chunks(BATCH) {
            let packets: Vec<Segment> = chunk
                .iter()
                .filter_map(|&slot| Some(self.connections.get(slot)?.keepalive()))
                .collect();
            self.send(&packets, &mut fates);
            for (place, (&slot, &fate)) in chunk.iter().zip(&fates).enumerate() {
                self.note_translation(slot, place, fate);
                let Some(connection) = self.connections.get(slot) else { continue };
                let Some(backend) = connection.backend else { continue };
                let survives = match fate {
                    Fate::To(target) if target == backend => {
                        connection.is_one_way() || self.services.backend(backend).is_alive
                    }
                    Fate::To(target) => {
                        moved += 1;
                        self.divert(slot, target)
                    }
                    Fate::Back | Fate::Refused => false,
                };
                if !survives {
                    broken += 1;
                    self.end_at(slot, Outcome::Lost, self.now);
                }
            }
        }
        self.flush();
        (moved, broken)
    }
}
