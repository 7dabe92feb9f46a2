//! The first packet of a flow: may it be served, by which list of backends, and is its source
//! masqueraded?
//!
//! Pure: tables and a query in, a decision out. Both the path of real packets and `explain` come
//! through here; the second brings a [`Trace`] that is told what was checked. Behaviour is
//! kube-proxy's (pkg/proxy/iptables/proxier.go, pkg/proxy/topology.go).

use std::net::{IpAddr, SocketAddr};

use crate::backend::Backend;

use crate::balance::{Balancer, Loads, Rendezvous, Request, State, Strategy};
use crate::service::{
    BackendSet, Frontend, FrontendKind, Mode, Scope, ServicePort, ServiceTable, UnknownPort,
};
use crate::tuple::{Address, Ends, Protocol};
use crate::verdict::{Action, Cause, Outcome};
use crate::wire::tcp::Flags;

/// Is told, in order, what was checked and what was found.
pub(crate) trait Trace {
    /// One check; `found` is only put into words where somebody reads them.
    fn step(&mut self, check: &'static str, found: impl FnOnce() -> String);
}

/// A trace without a reader.
pub(crate) struct Silent;

impl Trace for Silent {
    #[inline]
    fn step(&mut self, _: &'static str, _: impl FnOnce() -> String) {}
}

impl Trace for Vec<(&'static str, String)> {
    fn step(&mut self, check: &'static str, found: impl FnOnce() -> String) {
        self.push((check, found()));
    }
}

/// A first packet, as far as a decision needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<A> {
    pub(crate) protocol: Protocol,
    pub(crate) ends: Ends<A>,
    /// Device it came in by; 0 when it is the node's own.
    pub(crate) interface: u32,
    /// Of a TCP segment.
    pub(crate) flags: Option<Flags>,
}

impl<A: Address> Query<A> {
    /// The address that it comes from.
    #[inline]
    pub(crate) fn source(&self) -> IpAddr {
        self.ends.src.into()
    }

    /// The address and port that it goes to.
    #[inline]
    pub(crate) fn destination(&self) -> SocketAddr {
        self.ends.destination()
    }
}

/// The action for TCP in mid-stream of a connection that is not known (after a restart, or when it
/// had expired).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Midstream {
    /// Pick it up with a consistent choice: after a restart, and on every node, the same backend.
    #[default]
    Consistent,
    /// Refuse it.
    Reject,
    /// Drop it.
    Drop,
}

/// Why no backend serves a first packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unserved {
    /// No Service matches it.
    Pass,
    /// It is refused; by this service port, if one was found.
    Refuse { action: Action, cause: Cause, service: Option<u32> },
}

/// How a flow is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Serving {
    /// Position in the table.
    pub(crate) service: u32,
    pub(crate) scope: Scope,
    /// Whatever backend is chosen.
    pub(crate) masquerade: bool,
    /// The first packet was not a SYN.
    pub(crate) is_midstream: bool,
}

/// Decides which backends serve. Cost: one look-up, and a pass over pod ranges and source ranges.
#[inline(always)]
pub(crate) fn decide<A: Address>(
    table: &ServiceTable,
    query: &Query<A>,
    midstream: Midstream,
    trace: &mut impl Trace,
) -> Result<Serving, Unserved> {
    // The firewall only asks about what is not served: a served packet is spared the look.
    decide_frontend(table, query, midstream, trace)
        .map_err(|unserved| firewall(table, *query, unserved, trace))
}

/// As KUBE-FIREWALL, ahead of all refusals.
#[inline(never)]
fn firewall<A: Address>(
    table: &ServiceTable,
    query: Query<A>,
    unserved: Unserved,
    trace: &mut impl Trace,
) -> Unserved {
    let (src, dst) = (query.source(), query.destination().ip());
    if table.node().node_ports.loopback && dst.is_ipv4() && dst.is_loopback() && !src.is_loopback()
    {
        trace.step("loopback", || format!("{dst} is kept from {src}"));
        let service = match unserved {
            Unserved::Refuse { service, .. } => service,
            Unserved::Pass => None,
        };
        return Unserved::Refuse { action: Action::Drop, cause: Cause::Martian, service };
    }
    unserved
}

#[inline(always)]
fn decide_frontend<A: Address>(
    table: &ServiceTable,
    query: &Query<A>,
    midstream: Midstream,
    trace: &mut impl Trace,
) -> Result<Serving, Unserved> {
    let (protocol, dst) = (query.protocol, query.destination());
    let Some((service, kind)) = table.find(protocol, dst) else {
        return Err(without_frontend(table, *query, trace));
    };
    let refuse = |action, cause| Err(Unserved::Refuse { action, cause, service: Some(service) });
    let port = table.service(service);
    trace.step("frontend", || format!("{protocol} {dst} is a {} of {}", kind.name(), port.name()));

    // Packets to a balanced address may carry it as their source, if it is listed (see
    // `admits_own_addresses` in the policy).
    let is_admitted = kind == FrontendKind::LoadBalancer
        && port.spec().source_ranges.iter().any(|range| range.is_just(query.source()));
    if let Some(why) = martian(table, query).filter(|_| !is_admitted) {
        trace.step("martian", || why.to_owned());
        return refuse(Action::Drop, Cause::Martian);
    }
    if is_out_of_reach(table, port, kind, query, trace) {
        return Err(Unserved::Pass);
    }
    let mut is_midstream = false;
    if let Some(flags) = query.flags {
        if !flags.is_possible() {
            trace.step("tcp flags", || "no sane sender sets these flags together".to_owned());
            return refuse(Action::Drop, Cause::Invalid);
        }
        is_midstream = !flags.is_opening();
        if is_midstream {
            let policy = if flags.is_midstream() { midstream } else { Midstream::Drop };
            trace.step("mid-stream", || {
                format!("not a SYN, and no flow is known: {policy:?}").to_lowercase()
            });
            match policy {
                Midstream::Consistent => {}
                Midstream::Reject => return refuse(Action::Reject, Cause::Midstream),
                Midstream::Drop => return refuse(Action::Drop, Cause::Midstream),
            }
        }
    }
    match policy(table, port, kind, query, trace) {
        Ok((scope, masquerade)) => Ok(Serving { service, scope, masquerade, is_midstream }),
        Err((action, cause)) => refuse(action, cause),
    }
}

/// Traffic policies, source ranges and masquerade: which list serves, and whether the source is
/// masqueraded.
#[inline(always)]
fn policy<A: Address>(
    table: &ServiceTable,
    port: &ServicePort,
    kind: FrontendKind,
    query: &Query<A>,
    trace: &mut impl Trace,
) -> Result<(Scope, bool), (Action, Cause)> {
    let (spec, node, src) = (port.spec(), table.node(), query.source());
    let has_detector = node.has_detector(src.is_ipv4());
    let is_pod = node.is_pod(src, query.interface);
    trace.step("source", || {
        let how = if has_detector { "" } else { " (no detector tells which addresses are pods)" };
        format!("{src} is {}{how}", source_class(is_pod, is_own(table, query)))
    });
    let is_ranged = kind == FrontendKind::LoadBalancer
        || (spec.source_ranges_apply_to_all
            && matches!(kind, FrontendKind::ExternalIp | FrontendKind::NodePort));
    let has_endpoints = port.has_endpoints();
    if is_ranged
        && (has_endpoints || node.mode == Mode::Nftables)
        && !is_in_ranges(port, src, trace)
    {
        return Err((Action::Drop, Cause::SourceRange));
    }
    if !has_endpoints {
        trace.step("endpoints", || "none anywhere".to_owned());
        return Err((Action::Reject, Cause::NoEndpoints));
    }
    let is_foreign = has_detector && !is_pod;
    let (scope, masquerade, why) = traffic_policy(table, port, kind, query, (is_pod, is_foreign));
    // In nftables mode one rule for all cluster IPs goes ahead of the choice: an external address
    // may be one, too.
    let is_virtual = !masquerade
        && (node.masquerade_all || is_foreign)
        && node.mode == Mode::Nftables
        && table.is_cluster_ip(query.destination().ip());
    let (masquerade, why) =
        if is_virtual { (true, "the address is a cluster IP, too") } else { (masquerade, why) };
    trace.step("policy", || {
        format!("{} endpoints", if scope == Scope::Local { "this node's" } else { "the cluster's" })
    });
    let backends = port.set(scope).backends();
    if backends.is_empty() {
        trace.step("endpoints", || "none on this node".to_owned());
        return Err((Action::Drop, Cause::NoLocalEndpoints));
    }
    trace.step("endpoints", || {
        backends
            .iter()
            .map(|b| format!("{} weight {}", b.address, b.weight))
            .collect::<Vec<_>>()
            .join(", ")
    });
    trace.step("masquerade", || format!("{}: {why}", if masquerade { "yes" } else { "no" }));
    Ok((scope, masquerade))
}

/// The class of a source, as `explain` names it.
fn source_class(is_pod: bool, is_node: bool) -> &'static str {
    match (is_pod, is_node) {
        (true, _) => "a pod",
        (false, true) => "this node",
        (false, false) => "outside",
    }
}

/// The list that the traffic policies say, whether they masquerade the source, and why. The source
/// is a pod, or foreign: no pod although a detector tells pods.
#[inline(always)]
fn traffic_policy<A: Address>(
    table: &ServiceTable,
    port: &ServicePort,
    kind: FrontendKind,
    query: &Query<A>,
    (is_pod, is_foreign): (bool, bool),
) -> (Scope, bool, &'static str) {
    let (spec, node) = (port.spec(), table.node());
    if kind == FrontendKind::ClusterIp {
        let scope = if spec.is_internal_local { Scope::Local } else { Scope::Cluster };
        let why = if node.masquerade_all {
            "all is masqueraded"
        } else if is_foreign {
            "the source is no pod"
        } else {
            "no policy asks for it"
        };
        (scope, node.masquerade_all || is_foreign, why)
    } else {
        match (spec.is_external_local, is_pod) {
            _ if kind == FrontendKind::ClosedNodePort => {
                (Scope::Local, false, "the address serves no node ports")
            }
            (false, _) => (Scope::Cluster, true, "external traffic to the whole cluster"),
            (true, true) => (Scope::Cluster, false, "a pod is short-cut to the whole cluster"),
            // Only this arm asks whose the source is: that is a look-up.
            (true, false) if is_own(table, query) => {
                (Scope::Cluster, true, "the node is short-cut to the whole cluster")
            }
            (true, false) => (Scope::Local, false, "externalTrafficPolicy is Local"),
        }
    }
}

/// Chooses the backend by its position in the list, and says how. Affinity goes before the
/// strategy; a connection in mid-stream gets a consistent choice whatever the strategy is. `None`
/// when all backends are drained. Cost: that of the strategy.
#[inline(always)]
pub(crate) fn choose(
    port: &ServicePort,
    serving: &Serving,
    remembered: Option<usize>,
    request: &Request<'_>,
    state: &mut State,
    trace: &mut impl Trace,
) -> Option<(usize, Outcome)> {
    let set = port.set(serving.scope);
    if port.spec().affinity.is_some() {
        let sticky = remembered.filter(|&index| set.backends()[index].weight > 0);
        trace.step("affinity", || match sticky {
            Some(index) => format!("the client had {} and keeps it", set.backends()[index].address),
            None => "the client has no eligible backend from before".to_owned(),
        });
        if let Some(index) = sticky {
            return Some((index, Outcome::Affinity));
        }
    }
    let strategy = port.spec().strategy;
    let (chosen, outcome) = if serving.is_midstream && !strategy.is_consistent() {
        (agreed_choice(strategy, set, request, state), Outcome::Consistent)
    } else {
        (set.balancer().pick(request, state), Outcome::Strategy)
    };
    trace.step("strategy", || match chosen {
        Some(index) if serving.is_midstream && !strategy.is_consistent() => {
            let how = if strategy.hashes_flows() { "the ring" } else { "rendezvous hashing" };
            format!("mid-stream: {how} gives {}", set.backends()[index].address)
        }
        Some(index) => {
            let reason = set.balancer().reason(request, index);
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("{} gives {}{reason}", strategy.name(), set.backends()[index].address)
        }
        None => "every endpoint is drained".to_owned(),
    });
    Some((chosen?, outcome))
}

/// The choice for a connection that is met in its middle, where the strategy's own would follow
/// from what this node has seen. All nodes agree on it: rendezvous, or the ring of `bounded`, which
/// is where most of its connections are.
#[cold]
fn agreed_choice(
    strategy: Strategy,
    set: &BackendSet,
    request: &Request<'_>,
    state: &mut State,
) -> Option<usize> {
    if strategy.hashes_flows() {
        return set.balancer().pick(&Request { loads: Loads::default(), ..*request }, state);
    }
    Rendezvous::new(set.backends()).pick(request, state)
}

/// Whether what goes to a frontend is ours to serve or to refuse.
pub(crate) fn is_reached<A: Address>(table: &ServiceTable, query: &Query<A>) -> bool {
    table.find(query.protocol, query.destination()).is_some_and(|(service, kind)| {
        let port = table.service(service);
        !is_out_of_reach(table, port, kind, query, &mut Silent)
    })
}

/// Whether kube-proxy has no rule for this packet, although the frontend is known. A packet to
/// a node port's number on an address that serves none is only refused. In iptables mode the node's
/// own packets to other hosts' addresses are not even that, since KUBE-EXTERNAL-SERVICES hangs in
/// INPUT and FORWARD alone; nor is what others send to a cluster IP that the node has (NodeLocal
/// DNSCache), since KUBE-SERVICES hangs in FORWARD and OUTPUT.
#[inline(always)]
fn is_out_of_reach<A: Address>(
    table: &ServiceTable,
    port: &ServicePort,
    kind: FrontendKind,
    query: &Query<A>,
    trace: &mut impl Trace,
) -> bool {
    let is_closed = kind == FrontendKind::ClosedNodePort && !port.refuses_somebody();
    let is_iptables = table.node().mode == Mode::Iptables;
    // Look-ups, and nearly always a service port has endpoints: they are asked last.
    let (is_own, is_local) = (|| is_own(table, query), || table.is_node(query.destination().ip()));
    let passes_by = match kind {
        FrontendKind::ExternalIp | FrontendKind::LoadBalancer => {
            is_iptables && !port.has_endpoints() && is_own() && !is_local()
        }
        FrontendKind::ClusterIp => {
            let scope = if port.spec().is_internal_local { Scope::Local } else { Scope::Cluster };
            // It may be an external address of the Service, too, and refused as that.
            let at = |frontend: &&Frontend| {
                frontend.address == Some(query.destination().ip())
                    && frontend.port == query.ends.dport
            };
            let is_internal_only = || {
                port.spec()
                    .frontends
                    .iter()
                    .filter(at)
                    .all(|frontend| frontend.kind == FrontendKind::ClusterIp)
            };
            let is_unserved = port.set(scope).backends().is_empty();
            is_iptables && is_unserved && !is_own() && is_local() && is_internal_only()
        }
        _ => false,
    };
    if passes_by {
        trace.step("endpoints", || {
            let whose = if is_own() {
                "the node's own packets"
            } else {
                "packets to the node's own addresses"
            };
            format!("none that may serving, but in iptables mode {whose} are not refused")
        });
    }
    is_closed || passes_by
}

/// Whether the packet comes from this node itself.
#[inline(always)]
pub(crate) fn is_own<A: Address>(table: &ServiceTable, query: &Query<A>) -> bool {
    let src = query.source();
    table.is_node(src) || (src.is_loopback() && query.interface == 0)
}

/// Whether a flow from `source` to this backend needs its source masqueraded so that the answer
/// comes back through the node.
pub(crate) fn is_hairpin(source: IpAddr, backend: &Backend) -> bool {
    backend.hairpin && backend.address.ip() == source
}

#[inline(never)]
fn without_frontend<A: Address>(
    table: &ServiceTable,
    query: Query<A>,
    trace: &mut impl Trace,
) -> Unserved {
    let query = &query;
    let (protocol, dst) = (query.protocol, query.destination());
    let has_ports = matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP);
    if table.is_node(dst.ip()) && !is_own(table, query) {
        // The rules about all cluster IPs hang in FORWARD and OUTPUT.
        trace.step("frontend", || {
            format!("{protocol} {dst} is no frontend, and the node has the address")
        });
        return Unserved::Pass;
    }
    let is_unallocated = table.node().unallocated.iter().any(|range| range.contains(dst.ip()));
    if has_ports && is_unallocated && !table.is_cluster_ip(dst.ip()) {
        trace.step("frontend", || format!("{} is a cluster IP that no Service has", dst.ip()));
        return Unserved::Refuse { action: Action::Drop, cause: Cause::Unallocated, service: None };
    }
    if !has_ports || !table.is_cluster_ip(dst.ip()) {
        trace.step("frontend", || format!("{protocol} {dst} is no frontend"));
        return Unserved::Pass;
    }
    trace.step("frontend", || {
        format!("{} is a cluster IP, but {protocol} port {} is not served", dst.ip(), dst.port())
    });
    let refuse = |action| Unserved::Refuse { action, cause: Cause::UnknownPort, service: None };
    match table.node().unknown_port {
        UnknownPort::Pass => Unserved::Pass,
        UnknownPort::Reject => refuse(Action::Reject),
        UnknownPort::Drop => refuse(Action::Drop),
    }
}

/// Why these addresses cannot be (F91, F108); loopback is the node's own affair. External addresses
/// may be those of hosts, other nodes among them, and so may send; cluster IPs are nobody's.
#[inline(always)]
fn martian<A: Address>(table: &ServiceTable, query: &Query<A>) -> Option<&'static str> {
    let (src, dst) = (query.source(), query.destination().ip());
    let is_unusable = match src {
        IpAddr::V4(src) => src.octets()[0] == 0 || src.octets()[0] >= 224,
        IpAddr::V6(src) => src.is_unspecified() || src.is_multicast(),
    };
    let is_loopback = src.is_loopback() || dst.is_loopback();
    if is_unusable {
        Some("the source is no address of a host")
    } else if src == dst && !is_own(table, query) {
        Some("source and destination are the same address")
    } else if is_loopback && query.interface != 0 {
        Some("a loopback address came in by a device")
    } else if table.is_cluster_ip(src) && !is_own(table, query) {
        Some("the source is a cluster IP")
    } else {
        None
    }
}

/// Ranges restrict a load balancer's frontends only; none of the family, or one that covers
/// everything, restricts nothing.
fn is_in_ranges(port: &ServicePort, src: IpAddr, trace: &mut impl Trace) -> bool {
    let ranges = &port.spec().source_ranges;
    let mut relevant = ranges.iter().filter(|range| range.is_ipv4() == src.is_ipv4()).peekable();
    let is_inside = relevant.peek().is_none() || relevant.any(|range| range.contains(src));
    if !ranges.is_empty() {
        trace.step("source ranges", || {
            format!("{src} is {}", if is_inside { "allowed" } else { "in none of them" })
        });
    }
    is_inside
}
