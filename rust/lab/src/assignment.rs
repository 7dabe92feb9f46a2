//! A strategy by itself, without traffic: keys in, backends out.

use std::fmt::Debug;

use kbe_nat_engine::Backend;
use kbe_nat_engine::balance::{Balancer, Loads, Request, State};

use crate::balancers::{Builder, Foreign, builder};
use crate::spec::{LabError, StrategySpec};

/// A strategy with its backends and their loads.
#[derive(Debug)]
pub struct Assignment {
    name: String,
    builder: Box<dyn Builder>,
    balancer: Box<dyn Balancer>,
    state: State,
    records: Vec<u32>,
    active: Vec<u32>,
}

impl Assignment {
    /// A strategy over no backends.
    ///
    /// # Errors
    /// [`LabError::Strategy`].
    pub fn new(
        spec: &StrategySpec,
        seed: u64,
        foreign: Option<&dyn Foreign>,
    ) -> Result<Self, LabError> {
        let mut builder = builder(spec, foreign, seed)?;
        let balancer = build(&spec.name, &mut *builder, &[])?;
        Ok(Self {
            name: spec.name.clone(),
            builder,
            balancer,
            state: State::new(seed),
            records: Vec::new(),
            active: Vec::new(),
        })
    }

    /// Lists these backends in the place of those before; none has a load.
    ///
    /// # Errors
    /// [`LabError::Strategy`] when the strategy refuses them.
    pub fn set_backends(&mut self, backends: &[Backend]) -> Result<(), LabError> {
        self.balancer = build(&self.name, &mut *self.builder, backends)?;
        self.records = (0..backends.len() as u32).collect();
        self.active = vec![0; backends.len()];
        Ok(())
    }

    /// The position of the backend that a key gets. With `stays` it is a connection that adds to
    /// the backend's load.
    pub fn pick(&mut self, key: u64, stays: bool) -> Option<usize> {
        let loads = Loads { records: &self.records, active: &self.active, ..Loads::default() };
        let request = Request { source: key, flow: key, loads };
        let index = self.balancer.pick(&request, &mut self.state)?;
        if stays && let Some(load) = self.active.get_mut(index) {
            *load += 1;
        }
        Some(index)
    }

    /// Bytes of the strategy's tables; `None` of one in Python.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<usize> {
        self.balancer.memory_bytes()
    }

    /// Connections of each backend.
    #[must_use]
    pub fn loads(&self) -> &[u32] {
        &self.active
    }
}

fn build(
    name: &str,
    builder: &mut dyn Builder,
    backends: &[Backend],
) -> Result<Box<dyn Balancer>, LabError> {
    let refuse = |reason| LabError::Strategy { name: name.to_owned(), reason };
    builder.build(backends).map_err(refuse)
}
