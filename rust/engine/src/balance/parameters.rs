//! Strategies with parameters, from the values that users write.

use std::num::NonZeroU32;

use super::{Strategy, UnknownStrategy};

/// Parameters of strategies; `None` stands for the default.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Parameters {
    /// `mh`: slots of the table, a prime.
    pub table_size: Option<u32>,
    /// `ring`, `bounded`: points of a backend of weight 1, from 1 to 100,000; by default 100.
    pub virtual_nodes: Option<u32>,
    /// `bounded`: the load above its share that a backend may have, as a part of it, from 0.000001
    /// to 1000; by default 0.25.
    pub epsilon: Option<f64>,
    /// `peak-ewma`: seconds in which a latency fades to 1/e, from 0.001 to 86,400; by default 10.
    pub decay: Option<f64>,
}

/// Why there is no such strategy.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum ParameterError {
    /// No strategy has this name.
    #[error(transparent)]
    Unknown(#[from] UnknownStrategy),
    /// The strategy has no such parameter.
    #[error("{parameter}: strategy {strategy:?} has no such parameter")]
    Foreign {
        /// The parameter.
        parameter: &'static str,
        /// The strategy's name.
        strategy: &'static str,
    },
    /// The parameter cannot have this value.
    #[error("{parameter}: {value} is not from {least} to {most}")]
    Range {
        /// The parameter.
        parameter: &'static str,
        /// The value.
        value: f64,
        /// The least that it may be.
        least: f64,
        /// The most that it may be.
        most: f64,
    },
}

impl Strategy {
    /// The strategy of this name with these parameters. Whether a Maglev table can have its size
    /// depends on the backends, and is asked when it is built.
    ///
    /// # Errors
    /// [`ParameterError`].
    pub fn with(name: &str, parameters: &Parameters) -> Result<Self, ParameterError> {
        let Parameters { table_size, virtual_nodes, epsilon, decay } = *parameters;
        let nodes = || scaled("virtual_nodes", virtual_nodes.map(f64::from), (1.0, 100_000.0), 1.0);
        let strategy: Self = name.parse()?;
        let (strategy, own): (Self, &[&str]) = match strategy {
            Self::Maglev { .. } => (Self::Maglev { size: table_size }, &["table_size"]),
            Self::Ring { .. } => (Self::Ring { virtual_nodes: nodes()? }, &["virtual_nodes"]),
            Self::Bounded { .. } => {
                let epsilon = scaled("epsilon", epsilon, (1e-6, 1000.0), 1e6)?;
                let strategy = Self::Bounded { virtual_nodes: nodes()?, epsilon };
                (strategy, &["virtual_nodes", "epsilon"])
            }
            Self::PeakEwma { .. } => {
                let decay = scaled("decay", decay, (0.001, 86_400.0), 1e3)?;
                (Self::PeakEwma { decay }, &["decay"])
            }
            _ => (strategy, &[]),
        };
        let present = [
            ("table_size", table_size.is_some()),
            ("virtual_nodes", virtual_nodes.is_some()),
            ("epsilon", epsilon.is_some()),
            ("decay", decay.is_some()),
        ];
        let is_foreign = |&(name, is_present): &(_, bool)| is_present && !own.contains(&name);
        match present.into_iter().find(is_foreign) {
            Some((parameter, _)) => {
                Err(ParameterError::Foreign { parameter, strategy: strategy.name() })
            }
            None => Ok(strategy),
        }
    }
}

impl Strategy {
    /// The parameters that give this strategy: the reverse of [`Strategy::with`].
    #[must_use]
    pub fn parameters(self) -> Parameters {
        let none = Parameters::default();
        let plain = |number: Option<NonZeroU32>| number.map(NonZeroU32::get);
        let unscaled = |number, units: f64| plain(number).map(|number| f64::from(number) / units);
        match self {
            Self::Maglev { size } => Parameters { table_size: size, ..none },
            Self::Ring { virtual_nodes } => {
                Parameters { virtual_nodes: plain(virtual_nodes), ..none }
            }
            Self::Bounded { virtual_nodes, epsilon } => Parameters {
                virtual_nodes: plain(virtual_nodes),
                epsilon: unscaled(epsilon, 1e6),
                ..none
            },
            Self::PeakEwma { decay } => Parameters { decay: unscaled(decay, 1e3), ..none },
            _ => none,
        }
    }
}

/// A value within its limits, in whole numbers of a smaller unit.
fn scaled(
    parameter: &'static str,
    value: Option<f64>,
    (least, most): (f64, f64),
    units: f64,
) -> Result<Option<NonZeroU32>, ParameterError> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err(ParameterError::Range { parameter, value, least, most })
        }
        _ => Ok(value.and_then(|value| NonZeroU32::new((value * units).round() as u32))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_whole_numbers() {
        let ring = Parameters { virtual_nodes: Some(7), ..Parameters::default() };
        let seven = NonZeroU32::new(7);
        assert_eq!(Strategy::with("ring", &ring), Ok(Strategy::Ring { virtual_nodes: seven }));
        let bounded = Parameters { epsilon: Some(0.05), ..ring };
        let epsilon = NonZeroU32::new(50_000);
        let expected = Strategy::Bounded { virtual_nodes: seven, epsilon };
        assert_eq!(Strategy::with("bounded", &bounded), Ok(expected));
        let peak = Parameters { decay: Some(0.25), ..Parameters::default() };
        let decay = NonZeroU32::new(250);
        assert_eq!(Strategy::with("peak-ewma", &peak), Ok(Strategy::PeakEwma { decay }));
        for strategy in Strategy::ALL {
            assert_eq!(Strategy::with(strategy.name(), &Parameters::default()), Ok(strategy));
        }
        let sized = Parameters { table_size: Some(13), ..Parameters::default() };
        for (name, given) in
            [("ring", ring), ("bounded", bounded), ("peak-ewma", peak), ("mh", sized)]
        {
            assert_eq!(Strategy::with(name, &given).map(Strategy::parameters), Ok(given), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let none = Parameters::default();
        let rows = [
            ("ringo", none, "unknown strategy \"ringo\"; known are random, "),
            (
                "bounded",
                Parameters { epsilon: Some(0.0), ..none },
                "epsilon: 0 is not from 0.000001 to 1000",
            ),
            (
                "bounded",
                Parameters { epsilon: Some(f64::NAN), ..none },
                "epsilon: NaN is not from 0.000001 to 1000",
            ),
            (
                "ring",
                Parameters { virtual_nodes: Some(0), ..none },
                "virtual_nodes: 0 is not from 1 to 100000",
            ),
            (
                "peak-ewma",
                Parameters { decay: Some(1e9), ..none },
                "decay: 1000000000 is not from 0.001 to 86400",
            ),
            (
                "ring",
                Parameters { epsilon: Some(0.25), ..none },
                "epsilon: strategy \"ring\" has no such parameter",
            ),
            (
                "rr",
                Parameters { table_size: Some(101), ..none },
                "table_size: strategy \"rr\" has no such parameter",
            ),
        ];
        for (name, parameters, expected) in rows {
            let refusal = Strategy::with(name, &parameters).unwrap_err().to_string();
            assert!(refusal.starts_with(expected), "{refusal}");
        }
    }
}
