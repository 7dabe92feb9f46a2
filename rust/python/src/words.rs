//! Words that arguments have from a short list, and address families, as values of the engine.

use kbe_nat_engine::conntrack::ports::Mapping;
use kbe_nat_engine::conntrack::state::State;
use kbe_nat_engine::reject::RejectWith;
use kbe_nat_engine::service::{FrontendKind, Mode, UnknownPort};
use kbe_nat_engine::tuple::{Family, Protocol};
use kbe_nat_engine::{Action, InvalidTcp, Midstream, OffloadedPackets};
use kbe_nat_netlink::NfVerdict;
use pyo3::prelude::*;

use crate::arguments::{Argument, Place, is_bool};

macro_rules! words {
    ($($type:ident: $($word:literal $variant:ident),*;)*) => { $(
        impl Argument<'_, '_> for $type {
            fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
                match <&str>::read(object, place)? {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(place.no_value(object, list(&[$($word),*]))),
                }
            }
        }
    )* };
}

words! {
    FrontendKind: "cluster-ip" ClusterIp, "external-ip" ExternalIp, "load-balancer" LoadBalancer,
        "node-port" NodePort;
    InvalidTcp: "translate" Translate, "drop" Drop;
    Mapping: "endpoint-dependent" EndpointDependent, "endpoint-independent" EndpointIndependent;
    Midstream: "consistent" Consistent, "reject" Reject, "drop" Drop;
    Mode: "iptables" Iptables, "nftables" Nftables;
    NfVerdict: "accept" Accept, "drop" Drop, "repeat" Repeat;
    OffloadedPackets: "decide" Decide, "pass" Pass;
    RejectWith: "icmp" PortUnreachable, "tcp-reset" TcpReset;
    UnknownPort: "pass" Pass, "reject" Reject, "drop" Drop;
    // Those that a decision about the first packet of a flow may have.
    Action: "translate" Translate, "drop" Drop, "reject" Reject;
}

/// Words as a sentence has them.
pub(crate) fn list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// The name of a state of TCP or SCTP, as nf_conntrack shows it.
pub(crate) struct StateName(pub(crate) String);

impl Argument<'_, '_> for StateName {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        let name = <&str>::read(object, place)?;
        let names = State::names();
        if names.contains(&name) {
            Ok(Self(name.to_owned()))
        } else {
            Err(place.no_value(object, list(&names)))
        }
    }
}

/// By its IP version.
impl Argument<'_, '_> for Family {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        match object.extract::<u32>() {
            Ok(4) => Ok(Self::V4),
            Ok(6) => Ok(Self::V6),
            _ if object.hasattr("__index__")? && !is_bool(object) => {
                Err(place.no_value(object, "4 or 6"))
            }
            _ => Err(place.no_type(object, "4 or 6")),
        }
    }
}

/// By its name, or its number as text.
impl Argument<'_, '_> for Protocol {
    fn read(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Self> {
        let accepted = "'tcp', 'udp', 'sctp', or another protocol's name or number";
        Self::from_name(<&str>::read(object, place)?)
            .ok_or_else(|| place.no_value(object, accepted))
    }
}
