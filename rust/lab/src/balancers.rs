//! Strategies to compare with those of the engine, behind the engine's own trait.
//!
//! A [`Builder`] makes a balancer whenever the backends of a Service change. It may remember what
//! it built before: AnchorHash needs to know in which order backends left. A balancer itself is
//! immutable, as in the engine.

mod anchor;
mod jump;
mod least_of;
mod modulo;
mod strategy;

use std::fmt::Debug;

use kbe_nat_engine::balance::Balancer;
use kbe_nat_engine::{Backend, Strategy};

pub use anchor::Anchor;
pub use jump::Jump;
pub use least_of::LeastOf;
pub use modulo::Modulo;
pub use strategy::builder;

/// Names of the strategies that are the lab's.
pub const NAMES: [&str; 4] = ["modulo", "jump", "anchor", "lcd"];

/// Makes balancers for the backends of one Service.
pub trait Builder: Debug + Send {
    /// A balancer for these backends.
    ///
    /// # Errors
    /// In words, when they cannot be.
    fn build(&mut self, backends: &[Backend]) -> Result<Box<dyn Balancer>, String>;

    /// Which hashes the engine gives with a request, and whether packets in mid-stream go by this
    /// balancer: as for this strategy of its own.
    fn kind(&self) -> Strategy;

    /// Whether a choice follows from the flow's hash and the backends alone.
    fn is_mapping(&self) -> bool {
        self.kind().is_consistent()
    }
}

/// Makes builders of a strategy that is neither the engine's nor the lab's.
pub trait Foreign: Debug + Send + Sync {
    /// A builder for one Service.
    fn builder(&self, seed: u64) -> Box<dyn Builder>;
}

/// The engine's strategy that has the flow's hash, and is consistent.
const MAPPING: Strategy = Strategy::Rendezvous;
/// The engine's strategy that goes by loads alone.
const LOADS: Strategy = Strategy::LeastConn;

/// Each backend with weight, by position in the list, once for each unit of its weight after
/// division by the weights' common divisor. The strategies that know no weights see units.
fn units(backends: &[Backend]) -> Result<Vec<(usize, u32)>, String> {
    let mut order: Vec<usize> = (0..backends.len()).filter(|&i| backends[i].weight > 0).collect();
    // The same for every order of the list.
    order.sort_by_key(|&index| backends[index].address);
    let divisor = order.iter().fold(0, |divisor, &index| gcd(divisor, backends[index].weight));
    let count = |index: usize| backends[index].weight / divisor;
    let total: u64 = order.iter().map(|&index| u64::from(count(index))).sum();
    if total > MAX_UNITS {
        return Err(format!("weights add up to {total} units; {MAX_UNITS} at most"));
    }
    Ok(order.iter().flat_map(|&index| (0..count(index)).map(move |unit| (index, unit))).collect())
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

const MAX_UNITS: u64 = 1 << 20;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
