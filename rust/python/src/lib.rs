//! `kbe_nat._native`: the engine as a Python module. Convert, release the GIL, call the engine,
//! convert; no meaning lives here.

mod addresses;
mod apiserver;
mod arguments;
mod cache_sync;
mod capture;
mod conntrack;
mod convert;
mod decisions;
mod engine;
mod errors;
mod explanation;
mod flow;
mod flow_cache;
mod flow_table;
mod html;
mod lab;
mod limits;
mod node;
mod queue;
mod raw_queue;
mod service;
mod snat;
mod stats;
mod tables;
mod traffic;
mod values;
mod verdict;
mod words;

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// What speaks with the kernel.
fn add_kernel_classes(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<cache_sync::CacheSync>()?;
    module.add_class::<flow_cache::CachedFlow>()?;
    module.add_class::<flow_cache::FlowCache>()?;
    module.add_class::<queue::BackendIdMap>()?;
    module.add_class::<queue::KernelQueue>()?;
    module.add_class::<queue::Loop>()?;
    module.add_class::<raw_queue::QueuedPacket>()?;
    module.add_class::<raw_queue::RawQueue>()?;
    module.add_class::<conntrack::AnswerWatch>()?;
    module.add_class::<conntrack::ConntrackEntry>()?;
    module.add_class::<conntrack::ConntrackEvents>()?;
    module.add_class::<conntrack::ConntrackSync>()?;
    module.add_class::<tables::NftElements>()?;
    module.add_class::<tables::NftRule>()?;
    module.add_class::<tables::NftTable>()?;
    module.add_class::<tables::NftTables>()?;
    module.add_class::<tables::Transaction>()?;
    Ok(())
}

/// The Rust engine. Import its names from `kbe_nat`, not from here.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    refuse_subinterpreters(py)?;
    add_kernel_classes(module)?;
    module.add_class::<service::Backend>()?;
    module.add_class::<service::Frontend>()?;
    module.add_class::<service::ServicePort>()?;
    module.add_class::<limits::Limits>()?;
    module.add_class::<snat::PortUse>()?;
    module.add_class::<snat::Snat>()?;
    module.add_class::<limits::Timeouts>()?;
    module.add_class::<node::NodePorts>()?;
    module.add_class::<node::NodeView>()?;
    module.add_class::<verdict::Verdict>()?;
    module.add_class::<flow::Flow>()?;
    module.add_class::<flow_table::FlowTable>()?;
    module.add_class::<stats::ConnectTimes>()?;
    module.add_class::<stats::BackendStats>()?;
    module.add_class::<stats::ServiceStats>()?;
    module.add_class::<stats::Stats>()?;
    module.add_class::<explanation::Explanation>()?;
    module.add_class::<decisions::Decision>()?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<addresses::NodeAddresses>()?;
    module.add_class::<apiserver::ProtobufDocument>()?;
    module.add_class::<apiserver::ProtobufFrames>()?;
    module.add_class::<apiserver::ProtobufList>()?;
    module.add_class::<apiserver::ProtobufRefusal>()?;
    module.add_class::<capture::CaptureReader>()?;
    module.add_class::<capture::CaptureBatch>()?;
    module.add_class::<capture::CaptureWriter>()?;
    module.add_class::<lab::Assignment>()?;
    module.add_class::<lab::LabCell>()?;
    module.add_class::<traffic::HeldConnections>()?;
    module.add_class::<traffic::HeldFlows>()?;
    module.add_class::<traffic::TrafficServer>()?;
    module.add("PanicException", py.get_type::<pyo3::panic::PanicException>())?;
    add_functions(module)?;
    add_constants(module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}

/// Classes and names are made once for the process, and go with the interpreter that was first: the
/// main one is the last to go. Where Python cannot tell interpreters apart there is one.
fn refuse_subinterpreters(py: Python<'_>) -> PyResult<()> {
    // The name since Python 3.13, and the one before.
    let interpreters = ["_interpreters", "_xxsubinterpreters"].map(|name| py.import(name).ok());
    let Some(interpreters) = interpreters.into_iter().flatten().next() else { return Ok(()) };
    let current = interpreters.call_method0("get_current")?;
    if current.ne(interpreters.call_method0("get_main")?)? {
        return Err(PyImportError::new_err("kbe_nat runs in the main interpreter alone"));
    }
    Ok(())
}

/// The value of this class with the state that its `__reduce__` gave: for pickles and copies.
#[pyfunction]
#[pyo3(signature = (name, state, /))]
fn _restore<'py>(name: &str, state: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    macro_rules! restore {
        ($($module:ident::$class:ident),*) => {
            match name {
                $(stringify!($class) => {
                    let value = values::restored::<$module::$class>(state.extract()?, name)?;
                    value.into_bound_py_any(state.py())
                })*
                _ => Err(errors::argument(format!("{name} is no class of values"))),
            }
        };
    }
    restore!(
        apiserver::ProtobufRefusal,
        conntrack::ConntrackEntry,
        decisions::Decision,
        flow::Flow,
        flow_cache::CachedFlow,
        raw_queue::QueuedPacket,
        snat::PortUse,
        verdict::Verdict,
        stats::BackendStats,
        stats::ConnectTimes,
        explanation::Explanation,
        stats::ServiceStats,
        stats::Stats
    )
}

fn add_functions(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(traffic::traffic_bulk, module)?)?;
    module.add_function(wrap_pyfunction!(traffic::traffic_connect, module)?)?;
    module.add_function(wrap_pyfunction!(traffic::traffic_ping, module)?)?;
    module.add_function(wrap_pyfunction!(_restore, module)?)?;
    module.add_function(wrap_pyfunction!(apiserver::protobuf_event, module)?)?;
    module.add_function(wrap_pyfunction!(verdict::reject, module)?)?;
    module.add_function(wrap_pyfunction!(conntrack::conntrack_entries, module)?)?;
    module.add_function(wrap_pyfunction!(cache_sync::uncached_devices, module)?)?;
    module.add_function(wrap_pyfunction!(conntrack::probe_flows, module)?)
}

/// Names by number, and bounds, as the engine and the loop have them.
fn add_constants(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("REVISION", option_env!("KBE_NAT_REVISION"))?;
    let actions = kbe_nat_engine::Action::ALL.map(kbe_nat_engine::Action::name);
    module.add("ACTIONS", PyTuple::new(py, actions)?)?;
    let causes = kbe_nat_engine::Cause::ALL.iter().map(|cause| cause.name()).collect::<Vec<_>>();
    module.add("CAUSES", PyTuple::new(py, causes)?)?;
    let strategies = kbe_nat_engine::Strategy::ALL.map(|strategy| strategy.name());
    module.add("STRATEGIES", PyTuple::new(py, strategies)?)?;
    let timeouts = PyDict::new(py);
    for (_, name, seconds) in kbe_nat_engine::conntrack::timeouts::Timeout::ALL {
        timeouts.set_item(name, seconds)?;
    }
    module.add("TIMEOUTS", timeouts)?;
    let bounds = kbe_nat_engine::CONNECT_BOUNDS.map(|nanoseconds| nanoseconds as f64 / 1e9);
    module.add("CONNECT_BOUNDS", PyTuple::new(py, bounds)?)?;
    module.add("BATCH_SIZES", PyTuple::new(py, kbe_nat_datapath::BATCH_SIZES)?)?;
    module.add("EXPIRY_BUDGET", kbe_nat_datapath::EXPIRY_BUDGET)
}
