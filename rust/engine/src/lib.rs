//! kbe-nat-engine: a sans-IO NAT for Kubernetes Services.

pub mod backend;
pub mod balance;
pub mod rng;
