//! The kernel's numbers (`linux/netfilter/nfnetlink_conntrack.h`, `nf_conntrack_common.h`).

pub(super) const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_CTNETLINK as u16;
pub(super) const NEW_FLOW: u16 = SUBSYSTEM << 8 | IPCTNL_MSG_CT_NEW;
pub(super) const DELETED_FLOW: u16 = SUBSYSTEM << 8 | IPCTNL_MSG_CT_DELETE as u16;
pub(super) const IPCTNL_MSG_CT_NEW: u16 = 0;
pub(super) const IPS_SEEN_REPLY: u32 = 1 << 1;
pub(super) const IPS_ASSURED: u32 = 1 << 2;
pub(super) const IPS_CONFIRMED: u32 = 1 << 3;
pub(super) const IPS_SEQ_ADJUST: u32 = 1 << 6;
/// Conntrack has chosen its helper by itself.
pub(super) const IPS_HELPER: u32 = 1 << 13;
/// It stands beside the entry of a flow with the same original ends, for answers alone.
pub(super) const IPS_NAT_CLASH: u32 = 1 << 12;
pub(super) const CTA_TUPLE_ORIG: u16 = 1;
pub(super) const CTA_TUPLE_REPLY: u16 = 2;
pub(super) const CTA_STATUS: u16 = 3;
pub(super) const CTA_PROTOINFO: u16 = 4;
pub(super) const CTA_HELP: u16 = 5;
pub(super) const CTA_NAT_SRC: u16 = 6;
pub(super) const CTA_TIMEOUT: u16 = 7;
pub(super) const CTA_MARK: u16 = 8;
pub(super) const CTA_COUNTERS_ORIG: u16 = 9;
pub(super) const CTA_COUNTERS_REPLY: u16 = 10;
pub(super) const CTA_USE: u16 = 11;
pub(super) const CTA_ID: u16 = 12;
pub(super) const CTA_NAT_DST: u16 = 13;
pub(super) const CTA_SEQ_ADJ_ORIG: u16 = 15;
pub(super) const CTA_SEQ_ADJ_REPLY: u16 = 16;
pub(super) const CTA_ZONE: u16 = 18;
/// Where `nf_conntrack_timestamp` was 1 when the flow began.
pub(super) const CTA_TIMESTAMP: u16 = 20;
pub(super) const CTA_TIMESTAMP_START: u16 = 1;
pub(super) const CTA_SYNPROXY: u16 = 24;
/// From Linux 6.14 on.
pub(super) const CTA_TIMESTAMP_EVENT: u16 = 27;
pub(super) const CTA_TUPLE_IP: u16 = 1;
pub(super) const CTA_TUPLE_PROTO: u16 = 2;
pub(super) const CTA_TUPLE_ZONE: u16 = 3;
pub(super) const CTA_IP_V4_SRC: u16 = 1;
pub(super) const CTA_IP_V4_DST: u16 = 2;
pub(super) const CTA_IP_V6_SRC: u16 = 3;
pub(super) const CTA_IP_V6_DST: u16 = 4;
pub(super) const CTA_PROTO_NUM: u16 = 1;
pub(super) const CTA_PROTO_SRC_PORT: u16 = 2;
pub(super) const CTA_PROTO_DST_PORT: u16 = 3;
/// Of what an end is translated to.
pub(super) const CTA_NAT_V4_MINIP: u16 = 1;
pub(super) const CTA_NAT_PROTO: u16 = 3;
pub(super) const CTA_NAT_V6_MINIP: u16 = 4;
pub(super) const CTA_PROTONAT_PORT_MIN: u16 = 1;
pub(super) const CTA_PROTONAT_PORT_MAX: u16 = 2;
pub(super) const CTA_PROTOINFO_TCP: u16 = 1;
/// The same number for TCP and SCTP.
pub(super) const CTA_PROTOINFO_STATE: u16 = 1;
pub(super) const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;
pub(super) const CTA_PROTOINFO_TCP_FLAGS_REPLY: u16 = 5;
/// TCP's state after a RST.
pub(super) const TCP_CLOSE: u8 = 8;
/// An end has begun to close the connection: a SYN begins another one.
pub(super) const TCP_FLAG_CLOSE_INIT: u8 = 1 << 2;
/// The kernel knows what this end has acknowledged last.
pub(super) const TCP_FLAG_ACKNOWLEDGED: u8 = 1 << 5;
/// Packets outside of the windows are not invalid.
pub(super) const TCP_FLAG_BE_LIBERAL: u8 = 1 << 3;
/// An end has sent what the other one has not acknowledged.
pub(super) const TCP_FLAG_DATA_UNACKNOWLEDGED: u8 = 1 << 4;
pub(super) const CTA_COUNTERS_PACKETS: u16 = 1;
pub(super) const CTA_COUNTERS_BYTES: u16 = 2;
pub(super) const IPCTNL_MSG_CT_GET: u8 = 1;
pub(super) const IPCTNL_MSG_CT_DELETE: u8 = 2;
pub(super) const IPCTNL_MSG_CT_GET_STATS_CPU: u8 = 4;
pub(super) const NLM_F_DUMP_INTR: u16 = libc::NLM_F_DUMP_INTR as u16;
pub(super) const CTA_FILTER: u16 = 25;
pub(super) const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// Which parts of the tuple count (the kernel's `nf_internals.h`).
pub(super) const FILTER_IP_DST: u32 = 1 << 1;
pub(super) const FILTER_PROTO_NUM: u32 = 1 << 3;
pub(super) const FILTER_DST_PORT: u32 = 1 << 5;
pub(super) const CTA_STATS_INSERT_FAILED: u16 = 9;
pub(super) const CTA_STATS_DROP: u16 = 10;
