//! Builders by name, with the parameters of a description.

use std::fmt::Debug;

use kbe_nat_engine::balance::{Balancer, Parameters};
use kbe_nat_engine::{Backend, Strategy};

use super::anchor::{self, AnchorBuilder};
use super::jump::Jump;
use super::least_of::{self, LeastOf};
use super::modulo::Modulo;
use super::{Builder, Foreign, LOADS, MAPPING};
use crate::spec::{LabError, StrategySpec};

/// The builder for a strategy.
///
/// # Errors
/// [`LabError::Strategy`] for an unknown name, or parameters that cannot be.
pub fn builder(
    spec: &StrategySpec,
    foreign: Option<&dyn Foreign>,
    seed: u64,
) -> Result<Box<dyn Builder>, LabError> {
    let builder = match spec.name.as_str() {
        "modulo" => Ok(mapping(|backends| Ok(Box::new(Modulo::new(backends)?)))),
        "jump" => Ok(mapping(|backends| Ok(Box::new(Jump::new(backends)?)))),
        "anchor" => of_anchor(spec),
        "lcd" => of_least(spec),
        "python" => foreign
            .map(|foreign| foreign.builder(seed))
            .ok_or_else(|| "no class was given".to_owned()),
        _ => of_engine(spec),
    };
    builder.map_err(|reason| LabError::Strategy { name: spec.name.clone(), reason })
}

type Answer = Result<Box<dyn Builder>, String>;

fn of_engine(spec: &StrategySpec) -> Answer {
    let &StrategySpec { table_size, virtual_nodes, epsilon, decay, .. } = spec;
    let parameters = Parameters { table_size, virtual_nodes, epsilon, decay };
    let strategy = Strategy::with(&spec.name, &parameters).map_err(|error| error.to_string())?;
    let build = move |backends: &[Backend]| strategy.build(backends).map_err(|e| e.to_string());
    Ok(stateless(build, strategy))
}

fn of_anchor(spec: &StrategySpec) -> Answer {
    let buckets = at_least_one(spec.buckets.unwrap_or(anchor::BUCKETS), "buckets")?;
    Ok(Box::new(AnchorBuilder::new(buckets)))
}

fn of_least(spec: &StrategySpec) -> Answer {
    let draws = at_least_one(spec.draws.unwrap_or(least_of::DRAWS), "draws")?;
    Ok(stateless(move |backends| Ok(Box::new(LeastOf::new(backends, draws))), LOADS))
}

fn at_least_one(value: u32, name: &str) -> Result<u32, String> {
    if value == 0 { Err(format!("{name}: at least 1")) } else { Ok(value) }
}

fn mapping<F>(build: F) -> Box<dyn Builder>
where
    F: FnMut(&[Backend]) -> Result<Box<dyn Balancer>, String> + Send + 'static,
{
    stateless(build, MAPPING)
}

/// A builder that remembers nothing.
struct Stateless<F> {
    build: F,
    kind: Strategy,
}

impl<F> Debug for Stateless<F> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Stateless({:?})", self.kind)
    }
}

impl<F> Builder for Stateless<F>
where
    F: FnMut(&[Backend]) -> Result<Box<dyn Balancer>, String> + Send,
{
    fn build(&mut self, backends: &[Backend]) -> Result<Box<dyn Balancer>, String> {
        (self.build)(backends)
    }

    fn kind(&self) -> Strategy {
        self.kind
    }
}

fn stateless<F>(build: F, kind: Strategy) -> Box<dyn Builder>
where
    F: FnMut(&[Backend]) -> Result<Box<dyn Balancer>, String> + Send + 'static,
{
    Box::new(Stateless { build, kind })
}
