//! How the engine's errors look in Python: bad arguments are `ValueError`, the rest is defined in `kbe_nat.errors`.

use kbe_nat_engine::checkpoint::CheckpointError;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// A `ValueError` that says what is wrong.
pub(crate) fn value(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// `kbe_nat.CheckpointError`.
pub(crate) fn checkpoint(py: Python<'_>, error: CheckpointError) -> PyErr {
    defined(py, "CheckpointError", error.to_string())
}

/// An exception of `kbe_nat.errors`.
fn defined(py: Python<'_>, name: &str, message: String) -> PyErr {
    let class = py.import("kbe_nat.errors").and_then(|errors| Ok(errors.getattr(name)?.cast_into::<PyType>()?));
    match class {
        Ok(class) => PyErr::from_type(class, message),
        Err(error) => error,
    }
}
