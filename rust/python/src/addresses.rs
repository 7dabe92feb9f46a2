//! `NodeAddresses`: the addresses of a network namespace.

use std::io;
use std::sync::{Mutex, PoisonError};

use kbe_nat_netlink::addresses::Addresses;
use pyo3::prelude::*;

use crate::errors;
use crate::values::machines;

/// The addresses in the network namespace of the thread that makes this object. All methods raise
/// `RulesError`.
#[pyclass(frozen, module = "kbe_nat._native")]
pub(crate) struct NodeAddresses(Mutex<Addresses>);

#[pymethods]
impl NodeAddresses {
    #[new]
    fn new() -> PyResult<Self> {
        Addresses::open()
            .map(|addresses| Self(Mutex::new(addresses)))
            .map_err(|error| errors::addresses(&error))
    }

    /// Whether addresses or devices have changed since this was asked last, or may have, because
    /// the kernel had too much to say. Cost: a system call.
    fn has_changed(&self, py: Python<'_>) -> PyResult<bool> {
        self.ask(py, Addresses::has_changed)
    }

    /// All addresses but loopback's and link-local ones.
    fn globals(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.ask(py, |addresses| {
            let all = addresses.all()?;
            Ok(all
                .iter()
                .filter(|address| address.is_global)
                .map(|address| address.address.to_string())
                .collect())
        })
    }
}

impl NodeAddresses {
    fn ask<T: Send>(
        &self,
        py: Python<'_>,
        question: impl FnOnce(&mut Addresses) -> io::Result<T> + Send,
    ) -> PyResult<T> {
        py.detach(|| question(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
            .map_err(|error| errors::addresses(&error))
    }
}

machines! {
    NodeAddresses: "it has a socket of the kernel",
}
