"""`/healthz` and `/livez`: whether this node serves, for load balancers and kubelets.

Status codes, fields and their order are those of pkg/proxy/healthcheck/proxy_health.go. Both pages
answer 503 while a change has waited for too long; `/healthz` also while load balancers should leave
the node out, which is no reason to restart anything.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from kbe_nat.server.answer import JSON_HEADERS, NOT_FOUND, Answer


@dataclass(frozen=True, slots=True)
class HealthReport:
    """How the daemon is at one moment; times are nanoseconds since 1970."""

    is_healthy: bool
    """Nothing has waited for too long, and every thread turns."""
    updated: int
    """When the kernel took over a change, or the daemon started, last."""
    now: int


class HealthPages:
    """The answers, and how many there were."""

    def __init__(self, report: Callable[[], HealthReport], is_eligible: Callable[[], bool]) -> None:
        """`is_eligible` says whether load balancers should send new connections to this node. Both
        are called in the thread that answers.
        """
        self.answers: Counter[tuple[str, int]] = Counter()
        """Answers so far, by path and status."""
        self._report = report
        self._is_eligible = is_eligible

    def respond(self, path: str) -> Answer:
        """See `kbe_nat.server.answer.Respond`."""
        if path not in (HEALTHZ, LIVEZ):
            return NOT_FOUND
        report = self._report()
        is_eligible = self._is_eligible() if path == HEALTHZ else None
        is_good = report.is_healthy and is_eligible is not False
        status = 200 if is_good else 503
        self.answers[path, status] += 1
        return status, JSON_HEADERS, _body(report, is_eligible, is_good).encode()


def _body(report: HealthReport, is_eligible: bool | None, is_good: bool) -> str:
    # A client that looks at the time alone, as old ones do, takes a node that waits for nothing for
    # an up-to-date one.
    families = {"lastUpdated": timestamp(report.updated), "healthy": report.is_healthy}
    body: dict[str, object] = {
        "lastUpdated": timestamp(report.now if is_good else report.updated),
        "currentTime": timestamp(report.now),
    }
    if is_eligible is not None:
        body["nodeEligible"] = is_eligible
    body["healthy"] = report.is_healthy
    # One step brings both families into force.
    body["status"] = {"IPv4": families, "IPv6": families}
    return json.dumps(body, separators=(",", ":"))


def timestamp(nanoseconds: int) -> str:
    """The time in Go's RFC3339Nano: UTC, without zeros at the end."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f".{fraction:09}".rstrip("0")
    return f"{text}{digits if fraction else ''}Z"


HEALTHZ: Final = "/healthz"
LIVEZ: Final = "/livez"
