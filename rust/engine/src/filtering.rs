//! The second look: kube-proxy's filter chains see a packet behind its NAT chains, with the
//! backend's address.
//!
//! A backend may be an address at which another Service has a frontend: a host's external IP, a
//! node port, a cluster IP. The packet is not translated twice, but what that Service refuses is
//! refused (pkg/proxy/iptables/proxier.go, pkg/proxy/nftables/proxier.go).

use std::net::SocketAddr;

use crate::backend::Backend;
use crate::decide::{Query, Serving, Trace, is_hairpin, is_own};
use crate::service::{FrontendKind, Mode, Scope, ServicePort, ServiceTable, UnknownPort};
use crate::tuple::{Address, Protocol};
use crate::verdict::{Action, Cause};

/// The outcome for a flow that got this backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Passage {
    /// It is sent there.
    Open {
        /// Its source is masqueraded.
        masquerade: bool,
    },
    /// It is refused with the backend's address on it.
    Closed(Action, Cause),
}

/// Looks at a translated packet. Cost: one look-up, where the backend has no frontend's address.
pub(crate) fn passage<A: Address>(
    table: &ServiceTable,
    query: &Query<A>,
    serving: &Serving,
    backend: &Backend,
    trace: &mut impl Trace,
) -> Passage {
    let to = backend.address;
    let way = Way {
        is_own: is_own(table, query),
        is_local: table.is_node(to.ip()),
        is_marked: serving.masquerade || is_hairpin(query.source(), backend),
    };
    match refusal(table, query.protocol, to, &way) {
        Some((action, cause)) => {
            trace.step("second look", || {
                format!("behind the translation {to} is refused: {}", cause.meaning())
            });
            Passage::Closed(action, cause)
        }
        // A packet to this node from elsewhere is delivered behind INPUT and never sees
        // POSTROUTING. The node's own packets do.
        None => Passage::Open { masquerade: way.is_marked && (way.is_own || !way.is_local) },
    }
}

/// Whether no rule is about packets to this backend, whoever sends them: then [`passage`] is open,
/// and masquerades what is marked. Cost: two look-ups.
pub(crate) fn is_unruled(table: &ServiceTable, protocol: Protocol, to: SocketAddr) -> bool {
    let claims = table.claims(protocol, to);
    let is_claimed = claims.is_cluster_ip || claims.frontends.iter().any(Option::is_some);
    let is_unallocated = || table.node().unallocated.iter().any(|range| range.contains(to.ip()));
    !(table.is_node(to.ip()) || is_claimed || is_unallocated())
}

/// The hooks that a packet takes.
struct Way {
    /// It begins with OUTPUT.
    is_own: bool,
    /// It ends with INPUT.
    is_local: bool,
    /// It is to be masqueraded.
    is_marked: bool,
}

fn refusal(
    table: &ServiceTable,
    protocol: Protocol,
    to: SocketAddr,
    way: &Way,
) -> Option<(Action, Cause)> {
    let claims = table.claims(protocol, to);
    let by_service = claims.frontends.into_iter().flatten().find_map(|(service, kind)| {
        let port = table.service(service);
        match kind {
            FrontendKind::NodePort | FrontendKind::ClosedNodePort => {
                by_frontend(table, port, kind, way)
            }
            // An external address may be the Service's own cluster IP.
            _ => port
                .spec()
                .frontends
                .iter()
                .filter(|entry| entry.address == Some(to.ip()) && entry.port == to.port())
                .find_map(|entry| by_frontend(table, port, entry.kind, way)),
        }
    });
    by_service.or_else(|| by_range(table, to, claims.is_cluster_ip, way))
}

/// By the rules of one frontend.
fn by_frontend(
    table: &ServiceTable,
    port: &ServicePort,
    kind: FrontendKind,
    way: &Way,
) -> Option<(Action, Cause)> {
    let spec = port.spec();
    let has_endpoints = port.has_endpoints();
    let is_iptables = table.node().mode == Mode::Iptables;
    let is_balanced = kind == FrontendKind::LoadBalancer;
    // KUBE-PROXY-FIREWALL: an admitted packet has another destination by now.
    if is_iptables && is_balanced && has_endpoints && !spec.source_ranges.is_empty() {
        return Some((Action::Drop, Cause::SourceRange));
    }
    // In iptables mode KUBE-FORWARD accepts what is marked ahead of refusals.
    let is_forwarded = !(way.is_own || way.is_local || is_iptables && way.is_marked);
    let is_met = match kind {
        FrontendKind::NodePort | FrontendKind::ClosedNodePort => way.is_local,
        _ if !is_iptables => true,
        FrontendKind::ClusterIp => way.is_own || is_forwarded,
        FrontendKind::ExternalIp | FrontendKind::LoadBalancer => way.is_local || is_forwarded,
    };
    let is_confined = if kind == FrontendKind::ClusterIp {
        spec.is_internal_local
    } else {
        spec.is_external_local
    };
    match (is_met, has_endpoints) {
        (true, false) => Some((Action::Reject, Cause::NoEndpoints)),
        (true, true) if is_confined && !port.has_backends(Scope::Local) => {
            Some((Action::Drop, Cause::NoLocalEndpoints))
        }
        _ => None,
    }
}

/// By the rules about all cluster IPs: behind the translation nobody serves there, on whatever
/// port.
fn by_range(
    table: &ServiceTable,
    to: SocketAddr,
    is_cluster_ip: bool,
    way: &Way,
) -> Option<(Action, Cause)> {
    if way.is_local && !way.is_own {
        return None;
    }
    let node = table.node();
    if is_cluster_ip {
        return match node.unknown_port {
            UnknownPort::Pass => None,
            UnknownPort::Reject => Some((Action::Reject, Cause::UnknownPort)),
            UnknownPort::Drop => Some((Action::Drop, Cause::UnknownPort)),
        };
    }
    let is_unallocated = node.unallocated.iter().any(|range| range.contains(to.ip()));
    is_unallocated.then_some((Action::Drop, Cause::Unallocated))
}
