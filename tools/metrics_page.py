"""Write docs/metrics.md: every metric of /metrics, from the catalog.

`--check` writes nothing, and ends with 1 if the page is not up to date.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

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
six and one for each cause of refusals: 10,000 Services make 6 MB of text. With `backend` each
backend of a service port has six more: for nodes with few endpoints. With `off` traffic is not
shown by service port.

The kernel carries connections in `first-packet`: counters of those that go on are brought up to
date every 30 s, and packets and bytes are counted if `net.netfilter.nf_conntrack_acct` is 1.
"""
RULE: Final = "|---|---|---|---|"
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


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    if not parser.parse_args().check:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        print("docs/metrics.md is not what tools/metrics_page.py writes: run it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
