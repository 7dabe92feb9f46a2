"""Write docs/annotations.md: every annotation, label and taint of objects that is read, with the
values that the code takes.

`--check` writes nothing, and ends with 1 if the page is not up to date.
"""

import sys
from pathlib import Path
from typing import Final, NamedTuple

from written import write

from kbe_nat.model import Choice, Strategy
from kbe_nat.sources import snapshot

PAGE: Final = Path(__file__).parents[1] / "docs/annotations.md"
HEAD: Final = """# Annotations and labels

These keys of objects have a meaning here, and no others; `tools/annotations_page.py` writes this
page. A wrong value never stops the daemon: the log names object, key and value, and the last
column says what is served then. With `--strict` the daemon does not start on one in its files.
A change of a key counts at once: for new connections.
"""
OWN: Final = """## Of kbe-nat

Absent, each of them leaves the Service as kube-proxy would serve it."""
KUBERNETES: Final = """## Of Kubernetes

They mean here what they mean to kube-proxy 1.36."""
TAIL: Final = """## Labels of one's own choice

`-l` of the listings ([node.md](node.md#listings)) and of `decisions` selects by the labels of
Services. In files, a Service's `spec.selector` finds Pods and controllers by their labels."""


class Key(NamedTuple):
    """A key that is read."""

    name: str
    objects: str
    """The objects that have it, and what of them it is."""
    values: str
    meaning: str
    wrong: str
    """What holds where the value is none of these."""


IGNORED: Final = "ignored"
KEYS: Final = {
    OWN: (
        Key(
            snapshot.STRATEGY_ANNOTATION,
            "annotation of a Service",
            ", ".join(f"`{strategy}`" for strategy in Strategy),
            "how backends are chosen ([node.md](node.md#strategies)); it overrides"
            " `--strategy`, and `kbe-nat strategy set` overrides it until"
            " `kbe-nat strategy unset`, or until the daemon ends",
            "the strategy of all",
        ),
        Key(
            snapshot.WEIGHT_ANNOTATION,
            "annotation of an EndpointSlice; of a Pod in files, where it overrides that of"
            " the slice",
            f"0 to {snapshot.MAX_WEIGHT}; absent: 1",
            "the share of new connections relative to other endpoints; 0 drains. The API server"
            " is not asked for Pods, so on a cluster that of the slice alone counts",
            "1",
        ),
        Key(
            snapshot.RANGES_ANNOTATION,
            "annotation of a Service",
            "`all`, `load-balancer`",
            "`all`: `loadBalancerSourceRanges` restrict external IPs and node ports too",
            "the Service is refused, since the key restricts; what was served before stays",
        ),
        Key(
            snapshot.SLOTS_ANNOTATION,
            "annotation of a Service",
            f"1 to {snapshot.MOST_STANDBY_SLOTS}",
            "over how many slots new connections spread while no daemon runs, rounded up"
            " ([datapaths.md](datapaths.md#standbys)); it overrides `--standby-slots`; 1: they have"
            " one endpoint",
            "the number of all",
        ),
        Key(
            snapshot.CHOICE_ANNOTATION,
            "annotation of a Service",
            ", ".join(f"`{choice}`" for choice in Choice),
            "what chooses endpoints; it overrides `--choice`. The kernel does where it knows all"
            " that the engine would ask"
            " ([datapaths.md](datapaths.md#connections-that-wait-for-nobody))",
            "the choice of all",
        ),
        Key(
            snapshot.CACHE_ANNOTATION,
            "annotation of a Service",
            "`on`, `off`",
            "`off`: with `--datapath cached`, all packets of the Service go the kernel's whole way"
            " ([datapaths.md](datapaths.md#how-cached-works))",
            "the Service is refused, since the key restricts; what was served before stays",
        ),
    ),
    KUBERNETES: (
        Key(
            snapshot.PROXY_NAME_LABEL,
            "label of a Service",
            "any",
            "the Service belongs to the proxy of that name: `--service-proxy-name`",
            "",
        ),
        Key(
            snapshot.SERVICE_NAME_LABEL,
            "label of an EndpointSlice",
            "a Service of its namespace",
            "whose endpoints these are",
            "the slice is left out",
        ),
        Key(
            snapshot.HEADLESS_LABEL,
            "label of an EndpointSlice",
            "any",
            "the endpoints are of a headless Service: nothing is served for them",
            "",
        ),
        Key(
            snapshot.ZONE_LABEL,
            "label of a Node",
            "any",
            "the Node's zone, for endpoints with hints for zones",
            "",
        ),
        Key(
            snapshot.TRIGGER_ANNOTATION,
            "annotation of an EndpointSlice",
            "a time (RFC 3339)",
            "when Pods changed, for `kubeproxy_network_programming_duration_seconds`"
            " ([metrics.md](metrics.md)); it decides nothing",
            IGNORED,
        ),
        *(
            Key(
                name,
                "annotation of a Service in files without EndpointSlices",
                "`Auto`, `auto`",
                "endpoints that are made of Pods get no hints by `trafficDistribution`. On a"
                " cluster the controller reads it, and kbe-nat the hints of its slices",
                IGNORED,
            )
            for name in reversed(snapshot.TOPOLOGY_ANNOTATIONS)
        ),
        Key(
            snapshot.DELETION_TAINT,
            "taint of this Node",
            "any",
            "the Node is about to go: `/healthz` answers 503 ([node.md](node.md#health))",
            "",
        ),
    ),
}


def page() -> str:
    """The page."""
    lines = [HEAD]
    for title, keys in KEYS.items():
        lines += [
            title,
            "",
            "| key | of | values | meaning | a wrong value |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| `{key.name}` | {key.objects} | {key.values} | {key.meaning} | {key.wrong} |"
            for key in keys
        ]
        lines.append("")
    return "\n".join([*lines, TAIL]) + "\n"


if __name__ == "__main__":
    sys.exit(write(PAGE, page(), __doc__))
