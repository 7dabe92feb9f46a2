"""The words of the engine as types: `Literal`s, so that a type checker finds a word that is none.

At run time they are plain text. `kbe_nat.ACTIONS` and `kbe_nat.CAUSES` list the words of verdicts,
`kbe_nat.Strategy` those of strategies.
"""

from typing import Literal, TypeAlias

Protocol: TypeAlias = Literal["tcp", "udp", "sctp"]
Action: TypeAlias = Literal["pass", "translate", "drop", "reject", "hold"]
Decided: TypeAlias = Literal["translate", "drop", "reject"]
"""Actions that a decision about the first packet of a flow may have."""
Direction: TypeAlias = Literal["original", "reply"]
Cause: TypeAlias = Literal[
    "established",
    "new",
    "related",
    "fragment",
    "not-ours",
    "invalid",
    "no-endpoints",
    "no-local-endpoints",
    "source-range",
    "unknown-port",
    "unallocated",
    "midstream",
    "martian",
    "table-full",
    "source-limit",
    "hash-chain",
    "ports-exhausted",
    "backend-gone",
    "forgotten",
    "malformed",
    "source-route",
    "bad-icmp",
    "icmp-unmatched",
    "fragment-held",
    "fragment-tiny",
    "fragment-overlap",
    "fragment-limit",
    "fragment-timeout",
    "fragment-refused",
]
StrategyName: TypeAlias = Literal[
    "random",
    "cascade",
    "rr",
    "wrr",
    "lc",
    "wlc",
    "p2c",
    "mh",
    "rendezvous",
    "sh",
    "ring",
    "bounded",
    "peak-ewma",
]
FrontendKind: TypeAlias = Literal["cluster-ip", "external-ip", "load-balancer", "node-port"]
State: TypeAlias = Literal[
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "SHUTDOWN_SENT",
    "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT",
]
"""Of a flow of TCP or SCTP, as nf_conntrack names it."""
UnknownPort: TypeAlias = Literal["pass", "reject", "drop"]
Mode: TypeAlias = Literal["iptables", "nftables"]
Midstream: TypeAlias = Literal["consistent", "reject", "drop"]
InvalidTcp: TypeAlias = Literal["translate", "drop"]
Offloaded: TypeAlias = Literal["decide", "pass"]
Answer: TypeAlias = Literal["icmp", "tcp-reset"]
Allocation: TypeAlias = Literal[
    "preserve", "random", "sequential", "hashed", "blocks", "deterministic"
]
Mapping: TypeAlias = Literal["endpoint-dependent", "endpoint-independent"]
QueueVerdict: TypeAlias = Literal["accept", "drop", "repeat"]
Event: TypeAlias = Literal["NEW", "UPDATE", "DESTROY"]
