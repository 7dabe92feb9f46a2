//! `NodeAddresses`: the addresses of a network namespace.

use std::io;
use std::sync::{Mutex, PoisonError};

use kbe_nat_netlink::addresses::Addresses;
use pyo3::prelude::*;

use crate::errors;

/// The addresses of a network namespace.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct NodeAddresses(Mutex<Addresses>);

#[pymethods]
impl NodeAddresses {
    #[new]
    fn new() -> PyResult<Self> {
        Addresses::open()
            .map(|own| Self(Mutex::new(own)))
            .map_err(|error| errors::addresses(&error))
    }

    fn has_changed(&self, py: Python<'_>) -> PyResult<bool> {
        self.asked(py, Addresses::has_changed)
    }

    fn globals(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.asked(py, |own| {
            let all = own.all()?;
            Ok(all.iter().filter(|one| one.is_global).map(|one| one.address.to_string()).collect())
        })
    }
}

impl NodeAddresses {
    fn asked<T: Send>(
        &self,
        py: Python<'_>,
        ask: impl FnOnce(&mut Addresses) -> io::Result<T> + Send,
    ) -> PyResult<T> {
        py.detach(|| ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
            .map_err(|error| errors::addresses(&error))
    }
}
