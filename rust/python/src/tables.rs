//! `NftTables` and the transactions that change them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use kbe_nat_engine::tuple::Family;
use kbe_nat_netlink::nft;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::arguments;
use crate::convert;
use crate::errors;
use crate::values::{Constructed, constructed, fields, machines};

/// A table of nf_tables: its family, 4 or 6, and its name. Raises `ArgumentError`.
#[pyclass(frozen, eq, hash, module = "kbe_nat._native")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct NftTable(nft::Table);

#[pymethods]
impl NftTable {
    #[new]
    fn new(
        #[pyo3(from_py_with = arguments::family)] family: Family,
        #[pyo3(from_py_with = arguments::name)] name: String,
    ) -> Self {
        Self(nft::Table { family: convert::table_family(family), name })
    }

    /// Its name, as `nft list tables` shows it.
    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    fn __repr__(&self) -> String {
        format!("<NftTable {}>", self.0)
    }
}

/// Elements of a set or map: lengths of a key and of a value, and all keys with their values, as
/// the kernel lays them out. Those of sets have values of length 0. Raises `ArgumentError` for
/// lengths that do not fit.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct NftElements(nft::Elements);

#[pymethods]
impl NftElements {
    #[new]
    fn new(
        #[pyo3(from_py_with = arguments::key_length)] key_length: usize,
        #[pyo3(from_py_with = arguments::value_length)] value_length: usize,
        #[pyo3(from_py_with = arguments::elements)] elements: &[u8],
    ) -> PyResult<Self> {
        nft::Elements::new(key_length, value_length, elements)
            .map(Self)
            .ok_or_else(|| errors::argument("these are no whole elements"))
    }

    /// A sum over the elements, whatever their order. Sums of several may be added, modulo 2**64.
    /// Cost: linear in the elements.
    #[getter]
    fn fingerprint(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.0.fingerprint())
    }

    fn __len__(&self) -> usize {
        self.0.count()
    }
}

/// A rule that `nft` cannot write.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct NftRule(nft::Rule);

#[pymethods]
impl NftRule {
    /// Packets go to `total` queues from number `first` on. With `bypass` they go on while no
    /// process listens. With `fanout` each goes to the queue of the processor that carries it, else
    /// they are spread by their addresses. `native` says whether nf_tables' own expression is used,
    /// or iptables' target: many kernels have only one of them.
    #[staticmethod]
    #[pyo3(signature = (first, total, *, bypass, fanout, native))]
    fn queue(
        #[pyo3(from_py_with = arguments::first)] first: u16,
        #[pyo3(from_py_with = arguments::total)] total: u16,
        #[pyo3(from_py_with = arguments::bypass)] bypass: bool,
        #[pyo3(from_py_with = arguments::fanout)] fanout: bool,
        #[pyo3(from_py_with = arguments::native)] native: bool,
    ) -> Self {
        Self(nft::Rule::Queue { first, total, bypass, fanout, native })
    }

    /// The destination becomes the value that a map has for the bits `key` of the packet mark. Of
    /// the mark the bits `keep` stay.
    #[staticmethod]
    #[pyo3(signature = (map, *, key, keep))]
    fn dnat_by_mark(
        #[pyo3(from_py_with = arguments::map)] map: String,
        #[pyo3(from_py_with = arguments::key)] key: u32,
        #[pyo3(from_py_with = arguments::keep)] keep: u32,
    ) -> Self {
        Self(nft::Rule::DnatByMark { key, keep, map })
    }

    /// The destination becomes the value that a map has for it, its protocol and port, and the
    /// number of one of `size` slots from `first` on: one that is drawn at random, or by a hash of
    /// the source address with the seed `hash_seed`.
    #[staticmethod]
    #[pyo3(signature = (map, *, size, first, hash_seed=None))]
    fn dnat_by_slot(
        #[pyo3(from_py_with = arguments::map)] map: String,
        #[pyo3(from_py_with = arguments::size)] size: u32,
        #[pyo3(from_py_with = arguments::first)] first: u32,
        #[pyo3(from_py_with = arguments::hash_seed)] hash_seed: Option<u32>,
    ) -> Self {
        let draw = hash_seed.map_or(nft::Draw::Random, |seed| nft::Draw::Source { seed });
        Self(nft::Rule::DnatBySlot { draw, size, first, map })
    }

    fn __repr__(&self) -> String {
        format!("<NftRule {}>", self.0)
    }
}

/// Steps that the kernel takes all together or not at all, in the order in which they were added.
#[pyclass(module = "kbe_nat._native")]
#[derive(Default)]
pub(crate) struct Transaction(nft::Transaction);

#[pymethods]
impl Transaction {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Add a rule at the end of a chain.
    fn append(
        &mut self,
        #[pyo3(from_py_with = arguments::table)] table: PyRef<'_, NftTable>,
        #[pyo3(from_py_with = arguments::chain)] chain: String,
        #[pyo3(from_py_with = arguments::rule)] rule: PyRef<'_, NftRule>,
    ) {
        self.0.append(table.0.clone(), chain, rule.0.clone());
    }

    /// Add a rule at the beginning of a chain.
    fn insert(
        &mut self,
        #[pyo3(from_py_with = arguments::table)] table: PyRef<'_, NftTable>,
        #[pyo3(from_py_with = arguments::chain)] chain: String,
        #[pyo3(from_py_with = arguments::rule)] rule: PyRef<'_, NftRule>,
    ) {
        self.0.insert(table.0.clone(), chain, rule.0.clone());
    }

    /// Add elements to a set or map.
    fn add(
        &mut self,
        #[pyo3(from_py_with = arguments::table)] table: PyRef<'_, NftTable>,
        #[pyo3(from_py_with = arguments::set)] set: String,
        #[pyo3(from_py_with = arguments::elements)] elements: PyRef<'_, NftElements>,
    ) {
        self.0.add(table.0.clone(), set, elements.0.clone());
    }

    /// Remove the elements with these keys. The kernel refuses keys that are not there.
    fn remove(
        &mut self,
        #[pyo3(from_py_with = arguments::table)] table: PyRef<'_, NftTable>,
        #[pyo3(from_py_with = arguments::set)] set: String,
        #[pyo3(from_py_with = arguments::elements)] elements: PyRef<'_, NftElements>,
    ) {
        self.0.remove(table.0.clone(), set, elements.0.clone());
    }

    /// Delete a table with everything in it.
    fn delete_table(
        &mut self,
        #[pyo3(from_py_with = arguments::table)] table: PyRef<'_, NftTable>,
    ) {
        self.0.delete_table(table.0.clone());
    }

    /// Put the chains of a dormant table in force.
    fn activate(&mut self, #[pyo3(from_py_with = arguments::table)] table: PyRef<'_, NftTable>) {
        self.0.activate(table.0.clone());
    }

    /// What each step does, in words.
    #[getter]
    fn steps(&self) -> Vec<String> {
        self.0.steps().collect()
    }

    fn __repr__(&self) -> String {
        format!("<Transaction: {}>", self.steps().join("; "))
    }
}

/// Tables of nf_tables in the network namespace of the thread that makes this object. All methods
/// raise `RulesError`.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct NftTables(Mutex<nft::Tables>);

#[pymethods]
impl NftTables {
    #[new]
    fn new() -> PyResult<Self> {
        nft::Tables::open()
            .map(|tables| Self(Mutex::new(tables)))
            .map_err(|error| errors::tables(&error))
    }

    /// Grows by one with each transaction of any program.
    fn generation(&self, py: Python<'_>) -> PyResult<u32> {
        self.ask(py, nft::Tables::generation)
    }

    /// All tables of a family, and whether each is dormant.
    fn names(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::family)] family: Family,
    ) -> PyResult<Vec<(String, bool)>> {
        let family = convert::table_family(family);
        self.ask(py, |tables| tables.names(family))
    }

    /// The chains, each with a number that changes with its rules, its hook and its policy; nothing
    /// for a table that is not there.
    fn rules(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::table)] table: PyRef<'_, NftTable>,
    ) -> PyResult<BTreeMap<String, u64>> {
        let table = &table.0;
        self.ask(py, |tables| tables.rules(table))
    }

    /// The fingerprint of what a set or map holds, as of `NftElements`; None when the kernel does
    /// not have it.
    fn fingerprint(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::table)] table: PyRef<'_, NftTable>,
        #[pyo3(from_py_with = arguments::set)] set: &str,
    ) -> PyResult<Option<u64>> {
        let table = &table.0;
        self.ask(py, |tables| tables.fingerprint(table, set))
    }

    /// What a set or map holds: keys with their values as the kernel lays them out, in any order.
    /// None when the kernel does not have it.
    fn contents<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = arguments::table)] table: PyRef<'_, NftTable>,
        #[pyo3(from_py_with = arguments::set)] set: &str,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let table = &table.0;
        let contents = self.ask(py, |tables| tables.contents(table, set))?;
        Ok(contents.map(|contents| PyBytes::new(py, &contents)))
    }

    /// What is in a set of addresses, each with the seconds after which it leaves the set, if it
    /// does. Nothing for a set that the kernel does not have.
    fn addresses(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::table)] table: PyRef<'_, NftTable>,
        #[pyo3(from_py_with = arguments::set)] set: &str,
    ) -> PyResult<Vec<(String, Option<f64>)>> {
        let table = &table.0;
        let addresses = self.ask(py, |tables| tables.addresses(table, set))?;
        let seconds = |expiry: Option<u64>| expiry.map(|milliseconds| milliseconds as f64 / 1e3);
        Ok(addresses.into_iter().map(|(ip, expiry)| (ip.to_string(), seconds(expiry))).collect())
    }

    /// The packets that a counter has counted; None when the kernel does not have it.
    fn counted_packets(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::table)] table: PyRef<'_, NftTable>,
        #[pyo3(from_py_with = arguments::counter)] counter: &str,
    ) -> PyResult<Option<u64>> {
        let table = &table.0;
        self.ask(py, |tables| tables.counted_packets(table, counter))
    }

    /// Take all steps, or none. The error names the step that the kernel refused. Nothing is sent
    /// for a transaction without steps.
    fn commit(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::transaction)] transaction: PyRef<'_, Transaction>,
    ) -> PyResult<()> {
        let transaction = &transaction.0;
        py.detach(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).commit(transaction))
            .map_err(|error| errors::commit(&error))
    }
}

impl NftTables {
    fn ask<T: Send>(
        &self,
        py: Python<'_>,
        question: impl FnOnce(&mut nft::Tables) -> io::Result<T> + Send,
    ) -> PyResult<T> {
        py.detach(|| question(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
            .map_err(|error| errors::tables(&error))
    }
}

machines! {
    NftElements: "it belongs to a transaction",
    NftRule: "it belongs to a transaction",
    NftTables: "it has a socket of the kernel",
    Transaction: "add its steps to another one",
}

constructed!(NftTable);

impl Constructed for NftTable {
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let family = match self.0.family {
            kbe_nat_netlink::Family::V4 => 4,
            kbe_nat_netlink::Family::V6 => 6,
        };
        fields!(py, family = family, name = self.name())
    }
}
