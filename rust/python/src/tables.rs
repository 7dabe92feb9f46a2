//! `NftTables`: transactions about the kernel's tables.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use kbe_nat_netlink::Rule;
use kbe_nat_netlink::tables::{Elements, Step, Table, Tables};
use pyo3::prelude::*;

use crate::errors;

/// Tables of nf_tables.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct NftTables(Mutex<Tables>);

/// Table, set, length of a key, length of a value, and elements.
type Change = ((u8, String), String, usize, usize, Vec<u8>);

/// Table, chain, the first queue's number, how many there are, whether packets go on when nobody
/// listens, and whether it is nf_tables' own expression.
type Queueing = ((u8, String), String, u16, u16, bool, bool);

/// Table, chain, bits of the mark that are looked up, bits that stay, and a map.
type Translating = ((u8, String), String, u32, u32, String);

#[pymethods]
impl NftTables {
    #[new]
    fn new() -> PyResult<Self> {
        Tables::open().map(|own| Self(Mutex::new(own))).map_err(|error| errors::tables(&error))
    }

    fn generation(&self, py: Python<'_>) -> PyResult<u32> {
        self.asked(py, Tables::generation)
    }

    /// All tables of one family; whether each is dormant.
    fn names(&self, py: Python<'_>, family: u8) -> PyResult<Vec<(String, bool)>> {
        self.asked(py, |own| own.names(family))
    }

    fn rules(&self, py: Python<'_>, family: u8, table: String) -> PyResult<BTreeMap<String, u64>> {
        self.asked(py, |own| own.rules(&Table { family, name: table }))
    }

    fn fingerprint(
        &self,
        py: Python<'_>,
        family: u8,
        table: String,
        set: String,
    ) -> PyResult<Option<u64>> {
        self.asked(py, |own| own.fingerprint(&Table { family, name: table }, &set))
    }

    #[staticmethod]
    fn fingerprint_of(
        py: Python<'_>,
        key: usize,
        value: usize,
        elements: Vec<u8>,
    ) -> PyResult<u64> {
        let elements = Elements::new(key, value, elements)
            .ok_or_else(|| errors::argument("these are no whole elements"))?;
        Ok(py.detach(|| elements.fingerprint()))
    }

    /// One transaction: rules that come, elements that leave, those that come, tables that go, and
    /// tables that wake up.
    #[pyo3(signature = (
        *, queueing = Vec::new(), translating = Vec::new(), removed = Vec::new(), added = Vec::new(), deleted = Vec::new(),
        activated = Vec::new()
    ))]
    #[allow(clippy::too_many_arguments)]
    fn commit(
        &self,
        py: Python<'_>,
        queueing: Vec<Queueing>,
        translating: Vec<Translating>,
        removed: Vec<Change>,
        added: Vec<Change>,
        deleted: Vec<(u8, String)>,
        activated: Vec<(u8, String)>,
    ) -> PyResult<()> {
        let table = |(family, name)| Table { family, name };
        let changed =
            |(own, set, key, value, bytes): Change| -> PyResult<(Table, String, Elements)> {
                let elements = Elements::new(key, value, bytes).ok_or_else(|| {
                    errors::argument(format!("{set}: these are no whole elements"))
                })?;
                Ok((table(own), set, elements))
            };
        let mut steps = Vec::new();
        for (own, chain, first, total, is_bypassed, is_native) in queueing {
            steps.push(Step::Append(
                table(own),
                chain,
                Rule::Queue { first, total, is_bypassed, is_native },
            ));
        }
        for (own, chain, index, kept, map) in translating {
            steps.push(Step::Append(table(own), chain, Rule::Translate { index, kept, map }));
        }
        for change in removed {
            let (table, set, elements) = changed(change)?;
            steps.push(Step::Remove(table, set, elements));
        }
        for change in added {
            let (table, set, elements) = changed(change)?;
            steps.push(Step::Add(table, set, elements));
        }
        steps.extend(deleted.into_iter().map(|own| Step::Delete(table(own))));
        steps.extend(activated.into_iter().map(|own| Step::Activate(table(own))));
        self.asked(py, |own| own.commit(&steps))
    }
}

impl NftTables {
    fn asked<T: Send>(
        &self,
        py: Python<'_>,
        ask: impl FnOnce(&mut Tables) -> io::Result<T> + Send,
    ) -> PyResult<T> {
        py.detach(|| ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
            .map_err(|error| errors::tables(&error))
    }
}
