//! The fields of objects that are read, with their numbers, and what JSON calls them.

mod endpoint_slice;
mod metadata;
mod node;
mod object;
mod service;
mod service_cidr;
mod status;
mod time;

pub(crate) use metadata::ListMetadata;
pub(crate) use object::TypeName;
use object::{Write, write};

/// Version and kind of the objects that are read, and how.
const KINDS: [(&str, &str, Write); 6] = [
    ("v1", "Service", write::<service::Service>),
    ("discovery.k8s.io/v1", "EndpointSlice", write::<endpoint_slice::EndpointSlice>),
    ("v1", "Node", write::<node::Node>),
    ("networking.k8s.io/v1", "ServiceCIDR", write::<service_cidr::ServiceCidr>),
    ("networking.k8s.io/v1beta1", "ServiceCIDR", write::<service_cidr::ServiceCidr>),
    ("v1", "Status", write::<status::Status>),
];

/// How an object of this kind is written; `None` where the kind is not read.
pub(crate) fn writer(name: &TypeName<'_>) -> Option<Write> {
    let (.., write) =
        KINDS.iter().find(|(version, kind, _)| *version == name.version && *kind == name.kind)?;
    Some(*write)
}
