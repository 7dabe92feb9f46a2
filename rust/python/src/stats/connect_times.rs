//! `ConnectTimes`: how long backends took to answer.

use kbe_nat_engine as core;
use pyo3::prelude::*;

use crate::arguments;
use crate::values::{Portable, portable};

/// How long backends took from a client's first SYN to their SYN-ACK. Refused and unanswered
/// connections are not counted.
#[pyclass(frozen, eq, module = "kbe_nat")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ConnectTimes(pub(super) core::ConnectTimes);

#[pymethods]
impl ConnectTimes {
    /// Connections for each of `CONNECT_BOUNDS`, those of the shorter ones left out; the longer
    /// ones last.
    #[getter]
    fn counts(&self) -> Vec<u64> {
        self.0.counts.into()
    }

    /// Connections that were measured.
    #[getter]
    fn count(&self) -> u64 {
        self.0.count()
    }

    /// Of all together.
    #[getter]
    fn seconds(&self) -> f64 {
        self.0.nanoseconds as f64 / 1e9
    }

    /// The seconds within which this share of the connections was answered, reckoned from the
    /// counts; at most the last bound. None without connections.
    fn quantile(&self, #[pyo3(from_py_with = arguments::share)] share: f64) -> Option<f64> {
        self.0.quantile(share)
    }

    fn __repr__(&self) -> String {
        let (count, seconds) = (self.count(), self.seconds());
        format!("<ConnectTimes: {count} connections, {seconds:.6} s together>")
    }
}

portable!(ConnectTimes);

impl Portable for ConnectTimes {
    /// Counts, and nanoseconds.
    type State = (Vec<u64>, u64);

    fn state(&self) -> Self::State {
        (self.0.counts.into(), self.0.nanoseconds)
    }

    fn restore((counts, nanoseconds): Self::State) -> Option<Self> {
        let counts = counts.try_into().ok()?;
        Some(Self(core::ConnectTimes { counts, nanoseconds }))
    }
}
