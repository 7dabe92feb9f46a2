"""The highest rates without loss: of packets (RFC 2544, 26.1), and of new flows (RFC 9693, 4.4)."""

from collections.abc import Callable
from typing import Final, NamedTuple

from kbe_nat.errors import LabError
from kbe_nat.lab.live.methods.bench import Bench, Rows
from kbe_nat.lab.live.scenario import Establishment, Throughput
from kbe_nat.lab.live.search import Finding, Trial, search
from kbe_nat.lab.tables import Row


class Sent(NamedTuple):
    """What was sent in a trial, and what came."""

    sent: int
    received: int
    lost_in_queue: int | None
    seconds: float
    drain: float = 0.0
    """Seconds from the last that was sent to the last that came."""

    @property
    def lost(self) -> int:
        """What did not come."""
        return self.sent - self.received


class TrialLog:
    """The trials of a search, as rows."""

    def __init__(self, measure: str, loss: float, send: Callable[[float], Sent]) -> None:
        self.rows: list[Row] = []
        self._measure, self._loss, self._send = measure, loss, send

    def attempt(self, rate: float) -> Trial:
        """Do a trial at this rate. Raises `LabError` when nothing can be sent."""
        done = self._send(rate)
        if not done.sent or done.seconds <= 0:
            raise LabError("nothing could be sent")
        # A queue that holds a whole trial loses nothing of it, and carries no such rate.
        is_prompt = done.drain <= max(PROMPT_SECONDS, PROMPT_SHARE * done.seconds)
        trial = Trial(
            offered=done.sent / done.seconds,
            passed=is_prompt and done.lost <= self._loss * done.sent,
            carried=done.received / (done.seconds + done.drain),
        )
        counts = (done.sent, done.received, done.lost, done.lost_in_queue)
        values = (*counts, done.seconds, done.drain)
        place = (self._measure, self._loss, len(self.rows), rate, trial.offered)
        self.rows.append((*place, *values, int(trial.passed)))
        return trial


def throughput(bench: Bench, measure: Throughput) -> Rows:
    """A search for each tolerated loss."""
    flows = bench.flows()
    flows.flood(packets=WARM_UP, rate=WARM_UP_RATE)
    # As fast as it can: no faster load can be offered by this sender.
    probe = flows.flood(packets=PROBE)
    bench.settle(bench.received() + PROBE)
    highest = max(probe.sent, 1) / probe.seconds

    def send(rate: float) -> Sent:
        before, lost = bench.received(), bench.lost_in_queue()
        packets = max(LEAST, round(rate * measure.seconds))
        flood = flows.flood(
            packets=packets,
            rate=None if rate >= highest else rate,
            burst=max(1, min(BURST, round(rate * BURST_SECONDS))),
        )
        came = bench.settle(before + flood.sent)
        counts = (flood.sent, came.received - before, bench.lost_in_queue() - lost)
        return Sent(*counts, flood.seconds, came.seconds)

    findings: list[Row] = []
    trials: list[Row] = []
    for loss in measure.loss:
        log = TrialLog("throughput", loss, send)
        finding = search(log.attempt, highest, measure.precision, measure.trials)
        findings.append((loss, *_values(finding)))
        trials += log.rows
    return {"throughput": findings, "trials": trials}


def establishment(bench: Bench, measure: Establishment) -> Rows:
    """New UDP flows at a steady rate, of which each must be answered, as RFC 9693 does it."""

    most = FRESH_PORTS // measure.trials

    def send(rate: float) -> Sent:
        count = max(LEAST, min(most, round(rate * measure.seconds)))
        pings = bench.network.traffic.first_packets(
            bench.address, count=count, rate=rate, wait=PATIENCE
        )
        # The last answer was waited for, behind the last flow.
        waiting = PATIENCE if pings.answered < pings.sent else 0.0
        return Sent(pings.sent, pings.answered, None, max(count / rate, pings.seconds - waiting))

    log = TrialLog("establishment", 0.0, send)
    finding = search(log.attempt, HIGHEST_FLOWS, measure.precision, measure.trials)
    return {"establishment": [_values(finding)], "trials": log.rows}


def _values(finding: Finding) -> Row:
    rates = (finding.rate, finding.low, finding.high)
    return (*rates, finding.trials, finding.contradictions, int(finding.settled), finding.limit)


WARM_UP: Final = 2048
WARM_UP_RATE: Final = 10_000.0
PROBE: Final = 100_000
LEAST: Final = 200
"""Packets of a trial: with fewer a loss of half a percent could not show."""
FRESH_PORTS: Final = 50_000
"""Flows of a search: with more, source ports would repeat, and their flows would be no new ones."""
BURST: Final = 512
BURST_SECONDS: Final = 0.002
"""Packets of so long are sent at once: with longer bursts a short trial would offer more than it
should, by its last one.
"""
PROMPT_SHARE: Final = 0.1
"""Of a trial's length: what comes later than so long after its end came too late."""
PROMPT_SECONDS: Final = 0.02
"""But never sooner than this: a scheduler's slice, and the steps of looking."""
PATIENCE: Final = 0.5
"""Seconds until a flow without an answer is lost."""
HIGHEST_FLOWS: Final = 100_000.0
"""Flows a second that the search begins with."""
