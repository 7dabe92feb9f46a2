//! The service ports of an engine.

use std::sync::{Arc, PoisonError};

use kbe_nat_engine as core;
use kbe_nat_engine::service::{ServiceError, ServiceTable};
use kbe_nat_engine::tuple::Family;
use pyo3::prelude::*;

use super::Engine;
use crate::arguments;
use crate::errors;
use crate::node::NodeView;
use crate::service::ServicePort;

#[pymethods]
impl Engine {
    /// Serve these and no others, from the next packet on; `node` stays as it was when None.
    ///
    /// Flows and affinities stay, but those to backends that are gone: UDP flows are decided anew,
    /// unanswered TCP is dropped, established TCP goes on. Cost: a look-up per service port while
    /// packets go on, and more for those that differ from the ones in force; packets wait for the
    /// books of the latter alone. Raises `ServiceError` when two have one name, or claim one
    /// frontend or node port; nothing is changed then.
    #[pyo3(signature = (services, node = None))]
    #[allow(clippy::needless_pass_by_value)]
    fn replace_services(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::services)] services: Vec<PyRef<'_, ServicePort>>,
        #[pyo3(from_py_with = arguments::node)] node: Option<PyRef<'_, NodeView>>,
    ) -> PyResult<()> {
        let (services, node) = (shared(&services), node.map(|node| node.0.clone()));
        py.detach(|| self.exchange(|table| table.with_services(&services, node)))
            .map_err(errors::service)
    }

    /// Serve `changed` in the place of the service ports of their names, or beside the others, and
    /// no longer those in `removed`, by name and address family (4 or 6).
    ///
    /// Afterwards all is as if the whole had been given to `replace_services`. A service port may
    /// be in both: it is changed. Cost: what is touched, whatever the number of the others; packets
    /// wait no longer than for a look-up per backend of what changed. Raises `ServiceError` as
    /// `replace_services` does, and when none has the name of one to be removed, and
    /// `ArgumentError` for another family; nothing is changed then.
    #[pyo3(
        signature = (changed, removed = Vec::new(), node = None),
        text_signature = "($self, changed, removed=(), node=None)"
    )]
    #[allow(clippy::needless_pass_by_value)]
    fn update_services(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::changed)] changed: Vec<PyRef<'_, ServicePort>>,
        #[pyo3(from_py_with = arguments::removed)] removed: Vec<(String, Family)>,
        #[pyo3(from_py_with = arguments::node)] node: Option<PyRef<'_, NodeView>>,
    ) -> PyResult<()> {
        let (changed, node) = (shared(&changed), node.map(|node| node.0.clone()));
        let removed: Vec<(&str, Family)> =
            removed.iter().map(|(name, family)| (name.as_str(), *family)).collect();
        py.detach(|| self.exchange(|table| table.with_changes(&changed, &removed, node)))
            .map_err(errors::service)
    }

    /// Set one service port, in the place of the one of its name and family, or beside the others:
    /// `update_services` with one.
    #[allow(clippy::needless_pass_by_value)]
    fn update_service(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::service)] service: PyRef<'_, ServicePort>,
    ) -> PyResult<()> {
        self.update_services(py, vec![service], Vec::new(), None)
    }

    /// Serve a service port no longer, by its name and address family (4 or 6). Raises
    /// `ServiceError` when none has this name.
    #[pyo3(signature = (name, family = Family::V4), text_signature = "($self, name, family=4)")]
    fn remove_service(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::name)] name: String,
        #[pyo3(from_py_with = arguments::family)] family: Family,
    ) -> PyResult<()> {
        self.update_services(py, Vec::new(), vec![(name, family)], None)
    }

    /// The service ports in force, in the order of their names and families.
    #[getter]
    fn services(&self, py: Python<'_>) -> Vec<ServicePort> {
        let table = py.detach(|| self.lock().services().clone());
        let mut services: Vec<_> = table.services().map(Arc::clone).collect();
        services.sort_unstable_by(|a, b| (a.name(), a.family()).cmp(&(b.name(), b.family())));
        services.into_iter().map(ServicePort).collect()
    }
}

impl Engine {
    /// Puts another table in force, which is made of the one that is. It is made, and the one
    /// before is freed, while packets go on; they wait for the exchange alone. Writers wait for
    /// each other.
    fn exchange(
        &self,
        make: impl FnOnce(&ServiceTable) -> Result<ServiceTable, ServiceError>,
    ) -> Result<(), ServiceError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let former = self.lock().services().clone();
        let table = Arc::new(make(&former)?);
        // The engine's reference to the former table is not the last one, here or later.
        drop(self.lock().replace_services(table));
        Ok(())
    }
}

/// The engine's service ports behind Python's.
fn shared(services: &[PyRef<'_, ServicePort>]) -> Vec<Arc<core::ServicePort>> {
    services.iter().map(|service| service.0.clone()).collect()
}
