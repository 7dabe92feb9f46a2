//! `NftTables` and the transactions that change them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use kbe_nat_netlink::nft;
use pyo3::prelude::*;

use crate::convert;
use crate::errors;

/// A table of nf_tables.
#[pyclass(frozen, eq, hash, module = "kbe_nat._native")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct NftTable(nft::Table);

#[pymethods]
impl NftTable {
    #[new]
    fn new(family: u32, name: String) -> PyResult<Self> {
        Ok(Self(nft::Table { family: convert::table_family(family)?, name }))
    }

    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    fn __repr__(&self) -> String {
        format!("<NftTable {}>", self.0)
    }
}

/// Elements of a set or map.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct NftElements(nft::Elements);

#[pymethods]
impl NftElements {
    #[new]
    fn new(key_length: usize, value_length: usize, elements: &[u8]) -> PyResult<Self> {
        nft::Elements::new(key_length, value_length, elements)
            .map(Self)
            .ok_or_else(|| errors::argument("these are no whole elements"))
    }

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
    #[staticmethod]
    #[pyo3(signature = (first, total, *, bypass, native))]
    fn queue(first: u16, total: u16, bypass: bool, native: bool) -> Self {
        Self(nft::Rule::Queue { first, total, bypass, native })
    }

    #[staticmethod]
    #[pyo3(signature = (map, *, key, keep))]
    fn dnat_by_mark(map: String, key: u32, keep: u32) -> Self {
        Self(nft::Rule::DnatByMark { key, keep, map })
    }

    fn __repr__(&self) -> String {
        format!("<NftRule {}>", self.0)
    }
}

/// Steps that the kernel takes all together or not at all.
#[pyclass(module = "kbe_nat._native")]
#[derive(Default)]
pub(crate) struct Transaction(nft::Transaction);

#[pymethods]
impl Transaction {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    fn append(&mut self, table: &NftTable, chain: String, rule: &NftRule) {
        self.0.append(table.0.clone(), chain, rule.0.clone());
    }

    fn add(&mut self, table: &NftTable, set: String, elements: &NftElements) {
        self.0.add(table.0.clone(), set, elements.0.clone());
    }

    fn remove(&mut self, table: &NftTable, set: String, elements: &NftElements) {
        self.0.remove(table.0.clone(), set, elements.0.clone());
    }

    fn delete_table(&mut self, table: &NftTable) {
        self.0.delete_table(table.0.clone());
    }

    fn activate(&mut self, table: &NftTable) {
        self.0.activate(table.0.clone());
    }

    #[getter]
    fn steps(&self) -> Vec<String> {
        self.0.steps().collect()
    }

    fn __repr__(&self) -> String {
        format!("<Transaction: {}>", self.steps().join("; "))
    }
}

/// Tables of nf_tables in the kernel.
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

    fn generation(&self, py: Python<'_>) -> PyResult<u32> {
        self.ask(py, nft::Tables::generation)
    }

    fn names(&self, py: Python<'_>, family: u32) -> PyResult<Vec<(String, bool)>> {
        let family = convert::table_family(family)?;
        self.ask(py, |tables| tables.names(family))
    }

    fn rules(&self, py: Python<'_>, table: &NftTable) -> PyResult<BTreeMap<String, u64>> {
        self.ask(py, |tables| tables.rules(&table.0))
    }

    fn fingerprint(&self, py: Python<'_>, table: &NftTable, set: &str) -> PyResult<Option<u64>> {
        self.ask(py, |tables| tables.fingerprint(&table.0, set))
    }

    fn addresses(
        &self,
        py: Python<'_>,
        table: &NftTable,
        set: &str,
    ) -> PyResult<Vec<(String, Option<f64>)>> {
        let addresses = self.ask(py, |tables| tables.addresses(&table.0, set))?;
        let seconds = |expiry: Option<u64>| expiry.map(|milliseconds| milliseconds as f64 / 1e3);
        Ok(addresses.into_iter().map(|(ip, expiry)| (ip.to_string(), seconds(expiry))).collect())
    }

    fn commit(&self, py: Python<'_>, transaction: &Transaction) -> PyResult<()> {
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
