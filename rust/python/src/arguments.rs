//! Arguments of Python as values of Rust. An error names the argument, its value and what is
//! accepted: `port is a whole number from 0 to 65535, not 70000`.
//!
//! PyO3 tells a conversion nothing of the argument's name, and its own errors leave out the name or
//! the value. So this file has a function for each name (`arguments!`, at the end), which
//! parameters are annotated with (`from_py_with`), and [`Argument`] for each type. A value of
//! another type is a `TypeError`, one out of its range or malformed an `ArgumentError`. Only an
//! error looks at a value twice.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use kbe_nat_engine::Cidr;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBool, PyBytes, PyCFunction, PyString, PyTuple, PyType};
use pyo3::{PyClass, PyTypeInfo};

use crate::errors;

/// What an error calls a value: an argument, or an item of one.
#[derive(Clone, Copy)]
pub(crate) enum Place<'p> {
    /// With its bounds, where they are narrower than its type's.
    Argument(&'p str, Option<(f64, f64)>),
    Item(&'p Place<'p>, usize),
}

impl Display for Place<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Argument(name, _) => formatter.write_str(name),
            Self::Item(list, index) => write!(formatter, "{list}[{index}]"),
        }
    }
}

impl Place<'_> {
    /// The bounds of a number here, where they are narrower than its type's.
    fn bounds(self) -> Option<(f64, f64)> {
        match self {
            Self::Argument(_, bounds) => bounds,
            Self::Item(list, _) => list.bounds(),
        }
    }

    /// No number, or none within these bounds.
    fn no_number(
        self,
        object: &Bound<'_, PyAny>,
        kind: &str,
        bounds: RangeInclusive<impl Display>,
    ) -> PyErr {
        let accepted = format!("{kind} from {} to {}", bounds.start(), bounds.end());
        let is_number = |name| !is_bool(object) && object.hasattr(name).unwrap_or(false);
        if is_number("__index__") || (kind == NUMBER && is_number("__float__")) {
            self.no_value(object, accepted)
        } else {
            self.no_type(object, accepted)
        }
    }

    /// A value out of its range, or malformed.
    pub(crate) fn no_value(self, object: &Bound<'_, PyAny>, accepted: impl Display) -> PyErr {
        errors::argument(format!("{self} is {accepted}, not {}", show(object)))
    }

    /// A value of another type.
    pub(crate) fn no_type(self, object: &Bound<'_, PyAny>, accepted: impl Display) -> PyErr {
        PyTypeError::new_err(format!("{self} is {accepted}, not {}", show(object)))
    }
}

/// A value as Python writes it, or its beginning, in one line.
pub(crate) fn show(object: &Bound<'_, PyAny>) -> String {
    let text = object.repr().and_then(|text| Ok(text.to_str()?.to_owned()));
    // An array of numpy has many.
    let lines = |text: String| text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    match text.map(lines) {
        Ok(text) if text.chars().count() > LONGEST => {
            format!("{}...", text.chars().take(LONGEST).collect::<String>())
        }
        Ok(text) => text,
        // Python writes no whole number of more than 4,300 digits.
        Err(_) => format!("<{}>", object.get_type()),
    }
}

/// Characters of a value in an error.
const LONGEST: usize = 80;

/// A value that an argument can have.
pub(crate) trait Argument<'a, 'py>: Sized {
    fn read(object: &'a Bound<'py, PyAny>, place: Place<'_>) -> PyResult<Self>;
}

macro_rules! whole_numbers {
    ($($type:ty),*) => { $(
        impl Argument<'_, '_> for $type {
            fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
                let (least, most) = match place.bounds() {
                    Some((least, most)) => (least as i128, most as i128),
                    None => (0, <$type>::MAX as i128),
                };
                match object.extract::<$type>().ok().filter(|_| !is_bool(object)) {
                    Some(number) if (least..=most).contains(&(number as i128)) => Ok(number),
                    _ => Err(place.no_number(object, WHOLE_NUMBER, least..=most)),
                }
            }
        }
    )* };
}

whole_numbers!(u16, u32, u64, usize, i32);

impl Argument<'_, '_> for f64 {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        let (least, most) = place.bounds().unwrap_or((0.0, LARGEST));
        match object.extract::<f64>().ok().filter(|_| !is_bool(object)) {
            Some(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(place.no_number(object, NUMBER, least..=most)),
        }
    }
}

/// Python's True is a number; where one is meant, it is a slip.
pub(crate) fn is_bool(object: &Bound<'_, PyAny>) -> bool {
    object.is_exact_instance_of::<PyBool>()
}

const WHOLE_NUMBER: &str = "a whole number";
const NUMBER: &str = "a number";
/// Seconds, or events a second: more than any caller means.
const LARGEST: f64 = 1e9;

impl Argument<'_, '_> for Duration {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        f64::read(object, place).map(Duration::from_secs_f64)
    }
}

impl Argument<'_, '_> for bool {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        object.extract().map_err(|_| place.no_type(object, "True or False"))
    }
}

impl<'a> Argument<'a, '_> for &'a str {
    fn read(object: &'a Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        let text = object.cast::<PyString>().map_err(|_| place.no_type(object, "text"))?;
        text.to_str().map_err(|_| place.no_value(object, "text that can be written as UTF-8"))
    }
}

impl Argument<'_, '_> for String {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        <&str>::read(object, place).map(str::to_owned)
    }
}

impl<'a> Argument<'a, '_> for &'a [u8] {
    fn read(object: &'a Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        match object.cast::<PyBytes>() {
            Ok(bytes) => Ok(bytes.as_bytes()),
            Err(_) => Err(place.no_type(object, "bytes")),
        }
    }
}

impl Argument<'_, '_> for PyBackedBytes {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        object.extract().map_err(|_| place.no_type(object, "bytes"))
    }
}

impl Argument<'_, '_> for PathBuf {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        object.extract().map_err(|_| place.no_type(object, "a path"))
    }
}

/// A copy of a buffer's bytes, for others may change a buffer while the GIL is released; or the
/// bytes that an object says it is.
pub(crate) struct Octets(pub(crate) Vec<u8>);

impl Argument<'_, '_> for Octets {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        let py = object.py();
        // A buffer of bytes, which most packets are, would be asked for its shape.
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(Self(bytes.as_bytes().to_vec()));
        }
        if let Ok(buffer) = PyBuffer::<u8>::get(object) {
            return buffer.to_vec(py).map(Self);
        }
        // Our packets, and those of scapy: classes in Python have buffers from 3.12 on only.
        match object.getattr_opt(intern!(py, "__bytes__"))? {
            Some(method) if !object.is_instance_of::<PyType>() => {
                Ok(Self(method.call0()?.cast::<PyBytes>()?.as_bytes().to_vec()))
            }
            _ => Err(place.no_type(object, "bytes, or a buffer of them")),
        }
    }
}

/// Numbers of 64 bits: a buffer of them (`array("Q")`), bytes that hold such, or any sequence.
pub(crate) struct Numbers(pub(crate) Vec<u64>);

impl Argument<'_, '_> for Numbers {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        if let Ok(buffer) = PyBuffer::<u64>::get(object) {
            return buffer.to_vec(object.py()).map(Self);
        }
        let Ok(bytes) = object.cast::<PyBytes>() else {
            return Vec::read(object, place).map(Self);
        };
        match bytes.as_bytes().as_chunks::<8>() {
            (numbers, []) => {
                Ok(Self(numbers.iter().map(|number| u64::from_ne_bytes(*number)).collect()))
            }
            _ => Err(place.no_value(object, "numbers of 64 bits each")),
        }
    }
}

/// An IPv4-mapped IPv6 address is refused: it would be of both families.
impl Argument<'_, '_> for IpAddr {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        let accepted = "an IP address";
        let text = text_of(object, &["IPv4Address", "IPv6Address"])?;
        let text = text.ok_or_else(|| place.no_type(object, accepted))?;
        match text.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
                Err(place.no_value(object, "an IP address of one family, and not IPv4-mapped"))
            }
            Ok(address) => Ok(address),
            Err(_) => Err(place.no_value(object, accepted)),
        }
    }
}

/// `address/prefix`; without a prefix the address alone.
impl Argument<'_, '_> for Cidr {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        let accepted = "an IP address, or a range of them such as '10.0.0.0/8'";
        let classes = ["IPv4Network", "IPv6Network", "IPv4Address", "IPv6Address"];
        let text = text_of(object, &classes)?;
        let text = text.ok_or_else(|| place.no_type(object, accepted))?;
        cidr(&text).ok_or_else(|| place.no_value(object, accepted))
    }
}

fn cidr(text: &str) -> Option<Cidr> {
    let (network, prefix) = match text.split_once('/') {
        Some((network, prefix)) => (network, Some(prefix)),
        None => (text, None),
    };
    let network: IpAddr = network.parse().ok()?;
    if matches!(network, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
        return None;
    }
    let whole = if network.is_ipv4() { 32 } else { 128 };
    Cidr::new(network, prefix.map_or(Some(whole), |prefix| prefix.parse().ok())?)
}

/// Text, or the text of an object of the module `ipaddress`; `None` for anything else.
fn text_of(object: &Bound<'_, PyAny>, classes: &[&str]) -> PyResult<Option<String>> {
    if let Ok(text) = object.cast::<PyString>() {
        return Ok(Some(text.to_string_lossy().into_owned()));
    }
    let module = object.py().import("ipaddress")?;
    for class in classes {
        if object.is_instance(&module.getattr(*class)?)? {
            return Ok(Some(object.str()?.to_string()));
        }
    }
    Ok(None)
}

/// Address and port.
impl Argument<'_, '_> for SocketAddr {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        if object.cast::<PyTuple>().is_err() {
            return Err(place.no_type(object, "a tuple of address and port"));
        }
        let (address, port) = <(IpAddr, u16)>::read(object, place)?;
        Ok(Self::new(address, port))
    }
}

impl<'a, 'py, T: Argument<'a, 'py>> Argument<'a, 'py> for Option<T> {
    fn read(object: &'a Bound<'py, PyAny>, place: Place<'_>) -> PyResult<Self> {
        if object.is_none() { Ok(None) } else { T::read(object, place).map(Some) }
    }
}

impl<'py, T: for<'i> Argument<'i, 'py>> Argument<'_, 'py> for Vec<T> {
    fn read(object: &Bound<'py, PyAny>, place: Place<'_>) -> PyResult<Self> {
        items(object, place)?
            .enumerate()
            .map(|(index, item)| item_of(&item?, place, index))
            .collect()
    }
}

/// The items of a sequence. A text is none: it would be one of letters.
pub(crate) fn items<'py>(
    object: &Bound<'py, PyAny>,
    place: Place<'_>,
) -> PyResult<Bound<'py, pyo3::types::PyIterator>> {
    let is_text = object.is_instance_of::<PyString>() || object.is_instance_of::<PyBytes>();
    match object.try_iter() {
        Ok(items) if !is_text => Ok(items),
        _ => Err(place.no_type(object, "a sequence")),
    }
}

/// An item of a sequence or a tuple.
pub(crate) fn item_of<'a, 'py, T: Argument<'a, 'py>>(
    item: &'a Bound<'py, PyAny>,
    place: Place<'_>,
    index: usize,
) -> PyResult<T> {
    T::read(item, Place::Item(&place, index))
}

macro_rules! tuples {
    ($($words:literal: $($type:ident $index:tt),*;)*) => { $(
        impl<'py, $($type: for<'i> Argument<'i, 'py>),*> Argument<'_, 'py> for ($($type,)*) {
            fn read(object: &Bound<'py, PyAny>, place: Place<'_>) -> PyResult<Self> {
                let tuple = object.cast::<PyTuple>().ok();
                let tuple = tuple.filter(|tuple| tuple.len() == [$($index),*].len());
                let tuple = tuple.ok_or_else(|| {
                    place.no_type(object, concat!("a tuple of ", $words, " values"))
                })?;
                Ok(($(item_of::<$type>(&tuple.get_item($index)?, place, $index)?,)*))
            }
        }
    )* };
}

tuples! {
    "two": A 0, B 1;
    "three": A 0, B 1, C 2;
    "four": A 0, B 1, C 2, D 3;
}

impl<'py, T: PyClass> Argument<'_, 'py> for PyRef<'py, T> {
    fn read(object: &Bound<'py, PyAny>, place: Place<'_>) -> PyResult<Self> {
        Ok(object.cast::<T>().map_err(|_| no_instance::<T>(object, place))?.try_borrow()?)
    }
}

impl<T: PyClass> Argument<'_, '_> for Py<T> {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        Ok(object.cast::<T>().map_err(|_| no_instance::<T>(object, place))?.clone().unbind())
    }
}

fn no_instance<T: PyTypeInfo>(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyErr {
    let name = T::type_object(object.py()).name();
    let is_vowel =
        |name: &Bound<'_, PyString>| name.to_string_lossy().starts_with(['A', 'E', 'I', 'O']);
    name.map_or_else(
        |error| error,
        |name| {
            let article = if is_vowel(&name) { "an" } else { "a" };
            place.no_type(object, format!("{article} {name}"))
        },
    )
}

/// A whole number whose range depends on other arguments.
pub(crate) fn within(name: &str, value: u32, range: &RangeInclusive<u32>) -> PyResult<u32> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = (range.start(), range.end());
    Err(errors::argument(format!("{name} is {WHOLE_NUMBER} from {least} to {most}, not {value}")))
}

/// The error without the note that `PyO3` adds to it behind us: "while processing" and the name,
/// which the error says already. The error gets a method `add_note` of its own, which takes that
/// note, drops it, and takes itself away.
fn without_note(py: Python<'_>, error: PyErr) -> PyErr {
    let value = error.value(py).clone().unbind();
    let add_note = PyCFunction::new_closure(py, None, None, move |arguments, _| {
        value.bind(arguments.py()).delattr(intern!(arguments.py(), "add_note"))
    });
    // Without it the note stays, which does no harm.
    let _ = add_note.and_then(|method| error.value(py).setattr(intern!(py, "add_note"), method));
    error
}

/// A function for each name that an argument has anywhere. Bounds are only where they are narrower
/// than the type's.
macro_rules! arguments {
    ($($name:ident $(: $least:literal,  $most:expr)?;)*) => { $(
        pub(crate) fn $name<'a, 'py, T: Argument<'a, 'py>>(
            object: &'a Bound<'py, PyAny>,
        ) -> PyResult<T> {
            let bounds = None::<(f64, f64)>$(.or(Some(($least as f64, $most as f64))))?;
            let value = T::read(object, Place::Argument(stringify!($name), bounds));
            value.map_err(|error| without_note(object.py(), error))
        }
    )* };
}

arguments! {
    address; addresses; after; allocation; answer; away; backend; backend_ids;
    backends; budget; burst; bypass; bytes; cache; capacity; captured; chain; changed; checkpoint;
    counter;
    client; clients; cluster_backends; copy_range; count; destination; device; elements; ended;
    engine; excluded_devices; excluded_ranges; fail_open; family; fanout; first; flows; frame;
    frames; fresh; frontends; gso; hairpin; hash_seed; id;
    incomplete_checksum; interface; invalid; is_external_local; is_internal_local; is_peer;
    keep; key; key_length; keys; kind; limit; limits; local_backends; loopback; map; mapping;
    mark; marks; mask; masquerade_all; max_affinities; max_flows_per_source; max_fragments;
    max_length; max_packets; max_span; max_unassured; megabytes; midstream; mode; name; native;
    node; node_ports; now; number; offloaded; offsets; packet; packets; path; payload;
    pod_interfaces; pod_ranges; ports; proposals; protocol; rate; reader;
    reject_addresses; released; removed; reserved; rule; seconds; seed; service; services;
    serving_backends; set; settle; since; snat; socket_buffer; source; source_ranges;
    source_ranges_apply_to_all; span; spec; spin; state; strategy; streams; table; threads;
    timeout; timeouts; total; transaction; unallocated; unknown_port; until; validate;
    value_length; verdict; verdicts; wait; watched; wildcard_families;
    port: 1, u16::MAX;
    affinity_seconds: 1, u32::MAX;
    weight: 0, u16::MAX;
    max_flows: 1, u32::MAX;
    max_decisions: 0, 1 << 24;
    virtual_nodes: 1, 100_000;
    share: 0, 1;
    size: 1, u32::MAX;
    epsilon: 1e-6, 1e3;
    decay: 1e-3, 86_400;
    block_size: 1, u16::MAX;
    blocks_per_client: 1, u16::MAX;
    table_size: 1, u32::MAX;
}
