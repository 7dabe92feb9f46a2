//! `sh`: a client keeps its backend, without a table of clients.

use super::{Balancer, Rendezvous, Request, State};
use crate::backend::Backend;

/// Rendezvous hashing by the client's address alone, the same on every node. O(N) to pick.
///
/// IPVS fills 256 buckets with the backends in turn. There a change of the list moves most clients,
/// and keeping clients where they are is all that this strategy is for; order counts, and weights
/// above 256 in sum are cut off. Rendezvous has none of these, at a price that is paid once per
/// flow.
#[derive(Debug)]
pub struct SourceHash(Rendezvous);

impl SourceHash {
    /// Gives each backend with weight its key.
    #[must_use]
    pub fn new(backends: &[Backend]) -> Self {
        Self(Rendezvous::new(backends))
    }
}

impl Balancer for SourceHash {
    fn pick(&self, request: &Request<'_>, _: &mut State) -> Option<usize> {
        self.0.winner(request.source)
    }

    fn memory_bytes(&self) -> Option<usize> {
        self.0.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::fixture::{IDLE, assert_shares, backends, tally};
    use crate::balance::stable_hash_address;
    use std::net::Ipv4Addr;

    #[test]
    fn only_the_source_counts() {
        let balancer = SourceHash::new(&backends(&[1; 10]));
        let mut state = State::new(0);
        for host in 0..1000 {
            let source = stable_hash_address(Ipv4Addr::from_bits(host).into(), 0);
            let mut pick = |flow| balancer.pick(&Request { source, flow, ..IDLE }, &mut state);
            assert_eq!(pick(1), pick(u64::MAX));
        }
    }

    #[test]
    fn f67_shares_follow_weights() {
        for weights in [&[1, 2, 7][..], &[5], &[0, 3, 0, 1]] {
            assert_shares(
                &tally(&SourceHash::new(&backends(weights)), weights.len(), 1_000_000),
                weights,
            );
        }
    }
}
