"""Write docs/metrics.md: every metric of /metrics, from the catalog.

`--check` writes nothing, and ends with 1 if the page is not up to date.
"""

import sys
from pathlib import Path
from typing import Final

from written import write

from kbe_nat.metrics.catalog import ABSENT, METRICS, Metric

PAGE: Final = Path(__file__).parents[1] / "docs/metrics.md"
HEAD: Final = """# Metrics

`http://127.0.0.1:10249/metrics` has these, and the `process_*` metrics of all Prometheus clients;
`--metrics-bind-address` moves it ([node.md](node.md#health)). `tools/metrics_page.py` writes this
page.

Names that begin with `kubeproxy_` are kube-proxy's, with its labels and buckets, so its dashboards
and alerts work here. `packaging/prometheus/alerts.yaml` has alerts, and
`packaging/grafana/kbe-nat.json` a dashboard.

`--metrics-backends` bounds the number of series. With `service`, the default, each service port has
six, one for each cause of refusals, and 16 once a client of TCP has connected: 10,000 Services make
6 MB of text, and 28 MB when all of them have connections. With `backend` each backend of a service
port has eight more: for nodes with few endpoints. With `off` traffic is not shown by service port.

The kernel carries connections in `first-packet` and `cached`: counters of those that go on are
brought up to date every 30 s, and packets and bytes are counted if
`net.netfilter.nf_conntrack_acct` is 1.
"""
RULE: Final = "|---|---|---|---|"
CONNECTS: Final = """
`kbe_nat_service_connect_duration_seconds` measures from the first SYN that is sent to a backend to
its SYN-ACK; repeated SYNs begin no new wait. Refused and unanswered connections are not in it, nor
those whose handshake a restart divides, nor those that the standby served while no daemon ran.

In `every-packet` both moments are the engine's, and all connections are measured. In the other
datapaths the engine sees the SYN, and an event of the kernel tells of the SYN-ACK. Events have the
kernel's time from Linux 6.14 on if `net.netfilter.nf_conntrack_timestamp` is 1. Otherwise their
arrival counts, which is late by as long as our thread waits for a processor, and an event that may
have waited for more than 1 ms is not counted. Of a node with many connections a sample is measured:
the kernel makes 5,000 events a second for us, those of some 800 connections, and `updates-paused`
counts the seconds with more. Which ones does not depend on how long they took. All this costs up to
2 % of a processor.
"""
SECTIONS: Final = (
    ("kube-proxy's names", "kubeproxy_"),
    ("Requests to the API server", "rest_client_"),
    ("The daemon and its tables", "kbe_nat_"),
    ("Service ports", "kbe_nat_service_"),
    ("Backends", "kbe_nat_backend_"),
)


def page() -> str:
    """The page."""
    lines = [HEAD]
    for title, prefix in SECTIONS:
        lines += [
            "",
            f"## {title}",
            "",
            "| metric | type | labels | meaning |",
            "|---|---|---|---|",
        ]
        lines += [row(metric) for metric in METRICS.values() if section(metric) == prefix]
        if prefix == "kbe_nat_service_":
            lines.append(CONNECTS.rstrip())
        if prefix == "rest_client_":
            lines += ["", "These names of kube-proxy's are absent, also above:", ""]
            lines += [f"- `{name}`: {reason}." for name, reason in ABSENT.items()]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def section(metric: Metric) -> str:
    """The prefix of the section in which a metric stands: the longest."""
    if metric.name == "kbe_nat_service_ports":
        return "kbe_nat_"
    return max((prefix for _, prefix in SECTIONS if metric.name.startswith(prefix)), key=len)


def row(metric: Metric) -> str:
    """One line of a table."""
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |"


if __name__ == "__main__":
    sys.exit(write(PAGE, page(), __doc__))
