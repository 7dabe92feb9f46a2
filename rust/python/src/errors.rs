//! How the engine's errors look in Python: the classes of `kbe_nat.errors`.

use std::path::Path;

use kbe_nat_capture::CaptureError;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// `kbe_nat.ArgumentError`: an argument is malformed or out of its range.
pub(crate) fn argument(error: impl std::fmt::Display) -> PyErr {
    exception("ArgumentError", &error.to_string())
}

/// `kbe_nat.ServiceError`: a service port contradicts itself or another.
pub(crate) fn service(error: kbe_nat_engine::service::ServiceError) -> PyErr {
    exception("ServiceError", &error.to_string())
}

/// `kbe_nat.CheckpointError`.
pub(crate) fn checkpoint(error: kbe_nat_engine::checkpoint::CheckpointError) -> PyErr {
    exception("CheckpointError", &error.to_string())
}

/// `kbe_nat.CaptureError`, or the `OSError` behind it; both name the file.
pub(crate) fn capture(path: &Path, error: CaptureError) -> PyErr {
    match error {
        CaptureError::Io(error) => match error.raw_os_error() {
            Some(number) => PyOSError::new_err((
                number,
                errno_text(&error),
                path.to_string_lossy().into_owned(),
            )),
            None => exception("CaptureError", &format!("{}: {error}", path.display())),
        },
        error => exception("CaptureError", &format!("{}: {error}", path.display())),
    }
}

/// `kbe_nat.EncodingError`.
pub(crate) fn encoding(error: &kbe_nat_apiserver::DecodingError) -> PyErr {
    exception("EncodingError", &error.to_string())
}

/// `kbe_nat.QueueError`.
pub(crate) fn queue(error: &kbe_nat_netlink::QueueError) -> PyErr {
    exception("QueueError", &error.to_string())
}

/// `kbe_nat.ConntrackError`.
pub(crate) fn conntrack(error: &std::io::Error) -> PyErr {
    let reason = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "it cannot be read without CAP_NET_ADMIN".to_owned()
        }
        _ => errno_text(error),
    };
    exception("ConntrackError", &format!("the kernel's connection tracking: {reason}"))
}

/// `kbe_nat.RulesError`, about the kernel's tables.
pub(crate) fn tables(error: &std::io::Error) -> PyErr {
    exception("RulesError", &format!("nf_tables: {}", errno_text(error)))
}

/// `kbe_nat.RulesError`, about a transaction.
pub(crate) fn commit(error: &kbe_nat_netlink::nft::CommitError) -> PyErr {
    exception("RulesError", &format!("nf_tables: {}", errno_text(error)))
}

/// `kbe_nat.RulesError`, about the node's addresses.
pub(crate) fn addresses(error: &std::io::Error) -> PyErr {
    exception("RulesError", &format!("the node's addresses: {}", errno_text(error)))
}

/// `kbe_nat.FlowCacheError`.
pub(crate) fn flow_cache(error: &impl std::fmt::Display) -> PyErr {
    exception("FlowCacheError", &format!("the flow cache: {}", errno_text(error)))
}

/// The system's words without the number that Rust puts behind them.
fn errno_text(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let Some((words, number)) = text.split_once(" (os error ") else { return text };
    let rest = number.split_once(')').map_or("", |(_, rest)| rest);
    format!("{words}{rest}")
}

/// An exception of `kbe_nat.errors`.
fn exception(name: &str, message: &str) -> PyErr {
    Python::attach(|py| {
        let class = py
            .import("kbe_nat.errors")
            .and_then(|errors| Ok(errors.getattr(name)?.cast_into::<PyType>()?));
        match class {
            Ok(class) => PyErr::from_type(class, message.to_owned()),
            Err(error) => error,
        }
    })
}

/// `kbe_nat.LabError`, about traffic.
pub(crate) fn lab(error: kbe_nat_traffic::TrafficError) -> PyErr {
    exception("LabError", &errno_text(&error))
}
