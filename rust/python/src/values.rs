//! Values and machines. Values are equal when they say the same, can be hashed, pickled and copied.
//! Machines hold an engine's tables, a socket or a file: they refuse, and say what to do instead.
//!
//! A value that programs construct is restored by its constructor ([`Constructed`]). One that only
//! the engine makes is restored from a state of plain numbers and texts ([`Portable`]).

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors;

/// A value that programs construct.
pub(crate) trait Constructed {
    /// The arguments of its constructor by their names.
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>>;
}

/// A value that the engine makes.
pub(crate) trait Portable: Sized {
    /// Numbers, texts, and tuples and lists of them.
    type State;

    fn state(&self) -> Self::State;

    /// `None` for a state that no value has.
    fn restore(state: Self::State) -> Option<Self>;
}

/// The values of Rust in `fields`, as keyword arguments.
macro_rules! fields {
    ($py:expr, $($name:ident = $value:expr),* $(,)?) => {{
        let fields = pyo3::types::PyDict::new($py);
        $(fields.set_item(stringify!($name), $value)?;)*
        Ok(fields)
    }};
}
pub(crate) use fields;

/// A class, and what it is called with.
pub(crate) type Construction<'py> = (Bound<'py, PyAny>, (), Bound<'py, PyDict>);

macro_rules! constructed {
    ($($class:ident),*) => { $(
        #[pymethods]
        impl $class {
            fn __reduce__<'py>(
                own: &Bound<'py, Self>,
            ) -> PyResult<(Bound<'py, PyAny>, $crate::values::Construction<'py>)> {
                let py = own.py();
                let construct = py.import("copyreg")?.getattr("__newobj_ex__")?;
                let class = own.get_type().into_any();
                Ok((construct, (class, (), $crate::values::Constructed::fields(own.get(), py)?)))
            }

            /// The same value but for these arguments of its constructor, as `copy.replace` makes
            /// it.
            #[pyo3(signature = (**changes))]
            fn __replace__<'py>(
                own: &Bound<'py, Self>,
                changes: Option<&Bound<'py, pyo3::types::PyDict>>,
            ) -> PyResult<Bound<'py, PyAny>> {
                let fields = $crate::values::Constructed::fields(own.get(), own.py())?;
                if let Some(changes) = changes {
                    fields.update(changes.as_mapping())?;
                }
                own.get_type().call((), Some(&fields))
            }
        }
    )* };
}
pub(crate) use constructed;

/// Equality and hash of values whose engine's counterparts have none.
macro_rules! equal_by_fields {
    ($($class:ident),*) => { $(
        #[pymethods]
        impl $class {
            fn __eq__(&self, other: &Self, py: Python<'_>) -> PyResult<bool> {
                use $crate::values::Constructed;
                self.fields(py)?.eq(other.fields(py)?)
            }

            fn __hash__(&self, py: Python<'_>) -> PyResult<u64> {
                use $crate::values::Constructed;
                Ok($crate::values::hash(&self.fields(py)?.repr()?.to_string()))
            }
        }
    )* };
}
pub(crate) use equal_by_fields;

/// The hash of values that have equality and `Debug`, which shows all that equality looks at. Cost:
/// linear in the value.
macro_rules! hashed {
    ($($class:ident),*) => { $(
        #[pymethods]
        impl $class {
            fn __hash__(&self) -> u64 {
                $crate::values::hash(&format!("{self:?}"))
            }
        }
    )* };
}
pub(crate) use hashed;

pub(crate) fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

macro_rules! portable {
    ($($class:ident),*) => {
        $crate::values::hashed!($($class),*);
        $(
            #[pymethods]
            impl $class {
                fn __reduce__<'py>(
                    &self,
                    py: Python<'py>,
                ) -> PyResult<(Bound<'py, PyAny>, (&'static str, Bound<'py, PyAny>))> {
                    use pyo3::IntoPyObjectExt;
                    let restore = py.import("kbe_nat._native")?.getattr("_restore")?;
                    let state = $crate::values::Portable::state(self).into_bound_py_any(py)?;
                    Ok((restore, (stringify!($class), state)))
                }
            }
        )*
    };
}
pub(crate) use portable;

macro_rules! machines {
    ($($class:ident: $reason:literal),* $(,)?) => { $(
        #[pymethods]
        impl $class {
            fn __reduce__(&self) -> PyResult<()> {
                Err($crate::values::refusal(stringify!($class), $reason))
            }
        }
    )* };
}
pub(crate) use machines;

pub(crate) fn refusal(class: &str, reason: &str) -> PyErr {
    PyTypeError::new_err(format!("{class} cannot be pickled or copied: {reason}"))
}

/// A value from what `__reduce__` gave.
pub(crate) fn restored<T: Portable>(state: T::State, class: &str) -> PyResult<T> {
    T::restore(state).ok_or_else(|| errors::argument(format!("this is no state of a {class}")))
}

pub(crate) fn text(end: &SocketAddr) -> String {
    end.to_string()
}

/// Text that lives as long as the program, as names of the engine do. Each is kept once; there are
/// few of them, because only pickles that a program trusts are read.
pub(crate) fn constant(text: &str) -> &'static str {
    static CONSTANTS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut constants = CONSTANTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(constant) = constants.get(text) {
        return constant;
    }
    let constant = Box::leak(text.to_owned().into_boxed_str());
    constants.insert(constant);
    constant
}
