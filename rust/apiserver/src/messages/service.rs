//! A Service.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::metadata::Metadata;
use super::object::ObjectMessage;
use crate::error::Fault;
use crate::json::{Object, Value, Written};

/// A Service.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Service {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "2")]
    spec: Option<Spec>,
    #[prost(message, optional, tag = "3")]
    status: Option<Status>,
}

impl ObjectMessage for Service {
    fn write_fields<'a>(&self, object: Object<'a>) -> Written<'a> {
        object
            .message("metadata", self.metadata.as_ref())?
            .message("spec", self.spec.as_ref())?
            .message("status", self.status.as_ref())
    }
}

#[derive(Clone, PartialEq, Message)]
struct Spec {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    ports: Vec<Bytes>,
    #[prost(btree_map = "string, string", tag = "2")]
    selector: BTreeMap<String, String>,
    #[prost(bytes = "bytes", tag = "3")]
    cluster_ip: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    r#type: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    external_ips: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "7")]
    session_affinity: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "9")]
    load_balancer_source_ranges: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "11")]
    external_traffic_policy: Bytes,
    #[prost(int32, tag = "12")]
    health_check_node_port: i32,
    #[prost(bool, tag = "13")]
    publish_not_ready_addresses: bool,
    #[prost(message, optional, tag = "14")]
    session_affinity_config: Option<AffinityConfig>,
    #[prost(bytes = "bytes", repeated, tag = "18")]
    cluster_ips: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "19")]
    ip_families: Vec<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "22")]
    internal_traffic_policy: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "23")]
    traffic_distribution: Option<Bytes>,
}

impl Value for Spec {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text)
            .each::<Port>("ports", &self.ports)?
            .filled("selector", &self.selector)?
            .filled("clusterIP", &self.cluster_ip)?
            .filled("clusterIPs", &self.cluster_ips)?
            .filled("type", &self.r#type)?
            .filled("externalIPs", &self.external_ips)?
            .filled("sessionAffinity", &self.session_affinity)?
            .filled("loadBalancerSourceRanges", &self.load_balancer_source_ranges)?
            .filled("externalTrafficPolicy", &self.external_traffic_policy)?
            .filled("healthCheckNodePort", &self.health_check_node_port)?
            .filled("publishNotReadyAddresses", &self.publish_not_ready_addresses)?
            .optional("sessionAffinityConfig", self.session_affinity_config.as_ref())?
            .filled("ipFamilies", &self.ip_families)?
            .optional("internalTrafficPolicy", self.internal_traffic_policy.as_ref())?
            .optional("trafficDistribution", self.traffic_distribution.as_ref())?
            .end()
    }
}

#[derive(Clone, PartialEq, Message)]
struct Port {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    protocol: Bytes,
    #[prost(int32, tag = "3")]
    port: i32,
    #[prost(message, optional, tag = "4")]
    target_port: Option<IntOrString>,
    #[prost(int32, tag = "5")]
    node_port: i32,
}

impl Value for Port {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text)
            .filled("name", &self.name)?
            .filled("protocol", &self.protocol)?
            .field("port", &self.port)?
            .message("targetPort", self.target_port.as_ref())?
            .filled("nodePort", &self.node_port)?
            .end()
    }
}

/// A number or a text, whichever `type` says.
#[derive(Clone, PartialEq, Message)]
struct IntOrString {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int32, tag = "2")]
    int_val: i32,
    #[prost(bytes = "bytes", tag = "3")]
    str_val: Bytes,
}

impl Value for IntOrString {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        match self.r#type {
            0 => self.int_val.write(text),
            1 => self.str_val.write(text),
            other => Err(Fault::new(format!("of type {other}, neither a number nor a text"))),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct AffinityConfig {
    #[prost(message, optional, tag = "1")]
    client_ip: Option<ClientIp>,
}

impl Value for AffinityConfig {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text).optional("clientIP", self.client_ip.as_ref())?.end()
    }
}

#[derive(Clone, PartialEq, Message)]
struct ClientIp {
    #[prost(int32, optional, tag = "1")]
    timeout_seconds: Option<i32>,
}

impl Value for ClientIp {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text).optional("timeoutSeconds", self.timeout_seconds.as_ref())?.end()
    }
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(message, optional, tag = "1")]
    load_balancer: Option<LoadBalancer>,
}

impl Value for Status {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text).message("loadBalancer", self.load_balancer.as_ref())?.end()
    }
}

#[derive(Clone, PartialEq, Message)]
struct LoadBalancer {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    ingress: Vec<Bytes>,
}

impl Value for LoadBalancer {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text).each::<Ingress>("ingress", &self.ingress)?.end()
    }
}

#[derive(Clone, PartialEq, Message)]
struct Ingress {
    #[prost(bytes = "bytes", tag = "1")]
    ip: Bytes,
    #[prost(bytes = "bytes", optional, tag = "3")]
    ip_mode: Option<Bytes>,
}

impl Value for Ingress {
    fn write(&self, text: &mut Vec<u8>) -> Result<(), Fault> {
        Object::new(text).filled("ip", &self.ip)?.optional("ipMode", self.ip_mode.as_ref())?.end()
    }
}
