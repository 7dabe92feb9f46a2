//! The names of the strategies, and building a balancer from one.

use std::num::NonZeroU32;
use std::str::FromStr;

use super::{
    Balancer, Bounded, Cascade, LeastConn, Maglev, PeakEwma, Random, Rendezvous, Ring, RoundRobin,
    SizeError, SmoothWeighted, SourceHash, TwoChoices,
};
use crate::backend::Backend;

/// A way of choosing. Short names are those of IPVS where it has the strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// `random`: an independent weighted draw for each flow.
    Random,
    /// `cascade`: the same, by kube-proxy's chain of iptables rules.
    Cascade,
    /// `rr`: turns in list order, whatever the weights.
    RoundRobin,
    /// `wrr`: turns by weight, spread evenly.
    WeightedRoundRobin,
    /// `lc`: the fewest live flows.
    LeastConn,
    /// `wlc`: the fewest live flows per weight.
    WeightedLeastConn,
    /// `p2c`: the less loaded of two weighted draws.
    TwoChoices,
    /// `mh`: Maglev's table of flow hashes.
    Maglev {
        /// Slots of the table, a prime up to [`Maglev::MAX_SIZE`]; by default chosen for 1 %
        /// imbalance.
        size: Option<u32>,
    },
    /// `rendezvous`: highest random weight by flow hash.
    Rendezvous,
    /// `sh`: highest random weight by client address.
    SourceHash,
    /// `ring`: the next point on a circle by flow hash.
    Ring {
        /// Points of a backend of weight 1; by default [`Ring::VIRTUAL_NODES`].
        virtual_nodes: Option<NonZeroU32>,
    },
    /// `bounded`: the same, past backends that have more than their share.
    Bounded {
        /// As of `ring`.
        virtual_nodes: Option<NonZeroU32>,
        /// Millionths of its share by which a backend may have more; by default
        /// [`Bounded::EPSILON`].
        epsilon: Option<NonZeroU32>,
    },
    /// `peak-ewma`: of two weighted draws the one with less connect time times live flows.
    PeakEwma {
        /// Milliseconds in which a connect time fades to 1/e; by default [`PeakEwma::DECAY`].
        decay: Option<NonZeroU32>,
    },
}

/// No strategy has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown strategy {name:?}; known are {}",
    Strategy::ALL.map(|strategy| strategy.name()).join(", ")
)]
pub struct UnknownStrategy {
    /// The name that was asked for.
    pub name: String,
}

impl Strategy {
    /// Every strategy, with default parameters: [`FromStr`] finds these alone.
    pub const ALL: [Self; 13] = [
        Self::Random,
        Self::Cascade,
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::LeastConn,
        Self::WeightedLeastConn,
        Self::TwoChoices,
        Self::Maglev { size: None },
        Self::Rendezvous,
        Self::SourceHash,
        Self::Ring { virtual_nodes: None },
        Self::Bounded { virtual_nodes: None, epsilon: None },
        Self::PeakEwma { decay: None },
    ];

    /// The name that [`FromStr`] reads.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Cascade => "cascade",
            Self::RoundRobin => "rr",
            Self::WeightedRoundRobin => "wrr",
            Self::LeastConn => "lc",
            Self::WeightedLeastConn => "wlc",
            Self::TwoChoices => "p2c",
            Self::Maglev { .. } => "mh",
            Self::Rendezvous => "rendezvous",
            Self::SourceHash => "sh",
            Self::Ring { .. } => "ring",
            Self::Bounded { .. } => "bounded",
            Self::PeakEwma { .. } => "peak-ewma",
        }
    }

    /// Whether the choice follows from the request alone, and not from state, loads or the order of
    /// the list, so that all nodes with the same backends agree. The others choose a mid-stream
    /// packet's backend by rendezvous, and `bounded` by its ring.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        match self {
            Self::Maglev { .. } | Self::Rendezvous | Self::SourceHash | Self::Ring { .. } => true,
            Self::Random
            | Self::Cascade
            | Self::RoundRobin
            | Self::WeightedRoundRobin
            | Self::LeastConn
            | Self::WeightedLeastConn
            | Self::TwoChoices
            | Self::Bounded { .. }
            | Self::PeakEwma { .. } => false,
        }
    }

    /// Whether it needs the stable hash of a flow for each of its choices.
    #[inline]
    #[must_use]
    pub fn hashes_flows(&self) -> bool {
        matches!(
            self,
            Self::Maglev { .. } | Self::Rendezvous | Self::Ring { .. } | Self::Bounded { .. }
        )
    }

    /// Builds the balancer for a list of backends. O(N), for `mh` O(M log M) in the size M of its
    /// table, for `ring` and `bounded` the same in their points, and O(N log N) for the other
    /// consistent ones.
    ///
    /// # Errors
    ///
    /// [`SizeError`] for a Maglev table whose size is not prime, too large, or too small for the
    /// backends.
    pub fn build(&self, backends: &[Backend]) -> Result<Box<dyn Balancer>, SizeError> {
        Ok(match *self {
            Self::Random => Box::new(Random::new(backends)),
            Self::Cascade => Box::new(Cascade::new(backends)),
            Self::RoundRobin => Box::new(RoundRobin::new(backends)),
            Self::WeightedRoundRobin => Box::new(SmoothWeighted::new(backends)),
            Self::LeastConn => Box::new(LeastConn::new(backends)),
            Self::WeightedLeastConn => Box::new(LeastConn::weighted(backends)),
            Self::TwoChoices => Box::new(TwoChoices::new(backends)),
            Self::Maglev { size } => Box::new(Maglev::new(backends, size)?),
            Self::Rendezvous => Box::new(Rendezvous::new(backends)),
            Self::SourceHash => Box::new(SourceHash::new(backends)),
            Self::Ring { virtual_nodes } => Box::new(Ring::new(backends, virtual_nodes)),
            Self::Bounded { virtual_nodes, epsilon } => {
                Box::new(Bounded::new(backends, virtual_nodes, epsilon))
            }
            Self::PeakEwma { decay } => Box::new(PeakEwma::new(backends, decay)),
        })
    }
}

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let strategy = Self::ALL.into_iter().find(|strategy| strategy.name() == name);
        strategy.ok_or_else(|| UnknownStrategy { name: name.to_owned() })
    }
}

/// Properties of all strategies.
#[cfg(test)]
mod tests {
    use super::{Backend, Strategy};
    use crate::balance::State;
    use crate::balance::fixture::{IDLE, backends, loads, picks, request};
    use crate::rng::mix64;
    use proptest::prelude::{Just, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

    #[test]
    fn names_round_trip() {
        for strategy in Strategy::ALL {
            assert_eq!(strategy.name().parse(), Ok(strategy));
        }
        let refusal = "Random".parse::<Strategy>().unwrap_err().to_string();
        assert!(refusal.starts_with("unknown strategy \"Random\"; known are random, cascade, "));
    }

    /// A hundred backends of weight 1. `bounded` has a ring beside its lists; of `random`, `lc` and
    /// the like the tables are lists of backends.
    #[test]
    fn memory_is_that_of_the_tables() {
        let list = backends(&[1; 100]);
        let ring = 100 * 100 * 8 + 8192 * 4;
        let draws = 100 * 16 + 100 * 8 + 100 * 4;
        for (name, bytes) in [
            ("random", 100 * 8),
            ("cascade", 99 * 4 + 100 * 8),
            ("rr", 100 * 8),
            ("wrr", 100 * 8),
            ("lc", 100 * 16),
            ("wlc", 100 * 16),
            ("p2c", draws),
            ("mh", 16_381 * 2),
            ("rendezvous", 100 * 24),
            ("sh", 100 * 24),
            ("ring", ring),
            ("bounded", ring + 100 * 16 + 100 * 4),
            ("peak-ewma", draws),
        ] {
            let strategy: Strategy = name.parse().unwrap();
            assert_eq!(strategy.build(&list).unwrap().memory_bytes(), Some(bytes), "{name}");
        }
        let sized = Strategy::Maglev { size: Some(655_373) };
        assert_eq!(sized.build(&list).unwrap().memory_bytes(), Some(2 * 655_373));
        let many: Vec<Backend> = backends(&vec![1; 65_536]);
        assert_eq!(sized.build(&many).unwrap().memory_bytes(), Some(4 * 655_373));
        for strategy in Strategy::ALL {
            let empty = strategy.build(&[]).unwrap().memory_bytes();
            assert!(empty.is_some_and(|bytes| bytes <= 8), "{}: {empty:?}", strategy.name());
        }
    }

    #[test]
    fn consistent_strategies_choose_by_the_request_alone() {
        let list = backends(&[1, 2, 3]);
        let reversed: Vec<Backend> = list.iter().rev().copied().collect();
        for strategy in Strategy::ALL.iter().filter(|strategy| strategy.is_consistent()) {
            let [here, elsewhere] = [&list, &reversed].map(|list| strategy.build(list).unwrap());
            let mut state = State::new(1);
            for flow in 0..100 {
                let request = request(mix64(flow), IDLE.loads);
                let chosen = here.pick(&request, &mut state).map(|index| list[index]);
                let same =
                    elsewhere.pick(&request, &mut State::new(2)).map(|index| reversed[index]);
                assert_eq!(chosen, same, "{} goes by the order of the list", strategy.name());
            }
            let is_untouched = format!("{state:?}") == format!("{:?}", State::new(1));
            assert!(is_untouched, "{} changes the state", strategy.name());
        }
    }

    /// The first choices of every strategy for weights 1, 2, 0, 7 under seed 42. A change here
    /// changes the choices of all users: results of the lab are no longer comparable, and
    /// consistent strategies disagree between versions.
    #[test]
    fn golden() {
        let rows = [
            ("random", "33110303133133303303303301333333"),
            ("cascade", "13013133113030333331301330331133"),
            ("rr", "01301301301301301301301301301301"),
            ("wrr", "31330331333133033133313303313331"),
            ("lc", "01301301301301301301301301301301"),
            ("wlc", "01301301301301301301301301301301"),
            ("p2c", "31013133103303333303313033103313"),
            ("mh", "33033331333003333333310313333311"),
            ("rendezvous", "33311311300333333313333333300313"),
            ("sh", "33311311300333333313333333300313"),
            ("ring", "33333311303313333103333313330313"),
            ("bounded", "33333311303313333103333313330313"),
            ("peak-ewma", "31013133103303333303313033103313"),
        ];
        assert_eq!(rows.map(|(name, _)| name), Strategy::ALL.map(|strategy| strategy.name()));
        for (name, expected) in rows {
            let balancer =
                name.parse::<Strategy>().unwrap().build(&backends(&[1, 2, 0, 7])).unwrap();
            let sequence: String = picks(&*balancer, 32).iter().map(usize::to_string).collect();
            assert_eq!(sequence, expected, "{name}");
        }
    }

    fn weight() -> impl proptest::strategy::Strategy<Value = u32> {
        prop_oneof![Just(0), Just(u32::MAX), 1..5u32, any::<u32>()]
    }

    proptest! {
        /// Any weights, any duplicates, any loads, and any state that another list may have left
        /// behind.
        #[test]
        fn picks_have_weight_and_nothing_panics(
            list in prop::collection::vec((0..8usize, weight(), any::<u32>()), 0..40),
            cursor: u64,
            current in prop::collection::vec(any::<i64>(), 0..40),
            seed: u64,
        ) {
            let places = backends(&[1; 8]);
            let list_of: Vec<Backend> = (list.iter())
                .map(|&(place, weight, _)| Backend { weight, ..places[place] })
                .collect();
            let active: Vec<u32> = list.iter().map(|&(_, _, active)| active).collect();
            let loads = loads(&active);
            let any_weight = list_of.iter().any(|backend| backend.weight > 0);
            for strategy in Strategy::ALL {
                let balancer = strategy.build(&list_of).unwrap();
                let mut state = State::new(seed);
                state.cursor = cursor;
                state.current.clone_from(&current);
                for flow in 0..20 {
                    let chosen = balancer.pick(&request(mix64(seed ^ flow), loads), &mut state);
                    prop_assert_eq!(chosen.is_some(), any_weight, "{}", strategy.name());
                    let has_weight = chosen.is_none_or(|index| list_of[index].weight > 0);
                    prop_assert!(has_weight, "{}", strategy.name());
                }
            }
        }
    }
}
