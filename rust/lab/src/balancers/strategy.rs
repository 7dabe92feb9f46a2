//! Builders by name, with the parameters of a description.

use std::fmt::Debug;
use std::sync::Arc;

use kbe_nat_engine::balance::Balancer;
use kbe_nat_engine::{Backend, Strategy};

use super::anchor::{self, AnchorBuilder};
use super::bounded::{self, Bounded};
use super::jump::Jump;
use super::least_of::{self, LeastOf};
use super::modulo::Modulo;
use super::peak_ewma::{self, Latencies, PeakEwma};
use super::ring::{self, Ring};
use super::{Builder, Foreign, LOADS, MAPPING};
use crate::spec::{LabError, StrategySpec};

/// The builder for a strategy. `latencies` are those that `peak-ewma` goes by.
///
/// # Errors
/// [`LabError::Strategy`] for an unknown name, or parameters that cannot be.
pub fn builder(
    spec: &StrategySpec,
    latencies: &Arc<Latencies>,
    foreign: Option<&dyn Foreign>,
    seed: u64,
) -> Result<Box<dyn Builder>, LabError> {
    let builder = match spec.name.as_str() {
        "modulo" => Ok(mapping(|backends| Ok(Box::new(Modulo::new(backends)?)))),
        "jump" => Ok(mapping(|backends| Ok(Box::new(Jump::new(backends)?)))),
        "ring" => of_ring(spec),
        "bounded" => of_bounded_loads(spec),
        "anchor" => of_anchor(spec),
        "lcd" => of_least(spec),
        "peak-ewma" => of_latencies(spec, latencies),
        "python" => foreign
            .map(|foreign| foreign.builder(seed))
            .ok_or_else(|| "no class was given".to_owned()),
        _ => of_engine(spec),
    };
    builder.map_err(|reason| LabError::Strategy { name: spec.name.clone(), reason })
}

type Answer = Result<Box<dyn Builder>, String>;

fn of_engine(spec: &StrategySpec) -> Answer {
    let strategy = match spec.name.parse() {
        Ok(Strategy::Maglev { .. }) => Strategy::Maglev { size: spec.table_size },
        Ok(strategy) => strategy,
        Err(_) => return Err("there is none of this name".to_owned()),
    };
    let build = move |backends: &[Backend]| strategy.build(backends).map_err(|e| e.to_string());
    Ok(stateless(build, strategy))
}

fn of_ring(spec: &StrategySpec) -> Answer {
    let points = virtual_nodes(spec)?;
    Ok(mapping(move |backends| Ok(Box::new(Ring::new(backends, points)))))
}

fn of_bounded_loads(spec: &StrategySpec) -> Answer {
    let points = virtual_nodes(spec)?;
    let epsilon = positive(spec.epsilon.unwrap_or(bounded::EPSILON), "epsilon")?;
    let build = move |backends: &[Backend]| {
        let balancer: Box<dyn Balancer> = Box::new(Bounded::new(backends, points, epsilon));
        Ok(balancer)
    };
    // It goes by loads too, so that one flow may have several backends.
    Ok(Box::new(Stateless { build, kind: MAPPING, is_mapping: false }))
}

fn of_anchor(spec: &StrategySpec) -> Answer {
    let buckets = at_least_one(spec.buckets.unwrap_or(anchor::BUCKETS), "buckets")?;
    Ok(Box::new(AnchorBuilder::new(buckets)))
}

fn of_least(spec: &StrategySpec) -> Answer {
    let draws = at_least_one(spec.draws.unwrap_or(least_of::DRAWS), "draws")?;
    Ok(stateless(move |backends| Ok(Box::new(LeastOf::new(backends, draws))), LOADS))
}

fn of_latencies(spec: &StrategySpec, latencies: &Arc<Latencies>) -> Answer {
    latencies.set_decay(positive(spec.decay.unwrap_or(peak_ewma::DECAY), "decay")?);
    let latencies = latencies.clone();
    let build = move |backends: &[Backend]| {
        let balancer: Box<dyn Balancer> = Box::new(PeakEwma::new(backends, latencies.clone()));
        Ok(balancer)
    };
    Ok(stateless(build, LOADS))
}

fn virtual_nodes(spec: &StrategySpec) -> Result<u32, String> {
    at_least_one(spec.virtual_nodes.unwrap_or(ring::VIRTUAL_NODES), "virtual_nodes")
}

fn at_least_one(value: u32, name: &str) -> Result<u32, String> {
    if value == 0 { Err(format!("{name}: at least 1")) } else { Ok(value) }
}

fn positive(value: f64, name: &str) -> Result<f64, String> {
    if value > 0.0 && value.is_finite() { Ok(value) } else { Err(format!("{name}: above 0")) }
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
    is_mapping: bool,
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

    fn is_mapping(&self) -> bool {
        self.is_mapping
    }
}

fn stateless<F>(build: F, kind: Strategy) -> Box<dyn Builder>
where
    F: FnMut(&[Backend]) -> Result<Box<dyn Balancer>, String> + Send + 'static,
{
    Box::new(Stateless { build, kind, is_mapping: kind.is_consistent() })
}
