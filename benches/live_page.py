"""What an open live page costs the daemon at many Services.

A controller whose rules are kept in memory serves Services with 15 endpoints each, as in
`benches.scrape`; messages are made as the pages' thread makes them. Writes
benches/results/page.json and a part of benches/RESULTS.md.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from benches.harness.report import by_services
from benches.scrape import ENDPOINTS, controller_of, status_of
from kbe_nat.daemon.live.page import LivePage
from kbe_nat.daemon.live.traffic import PERIOD

FIELDS: Final = {
    "first message kB": "first_kilobytes",
    "next bytes": "next_bytes",
    "one page, CPU ms a second": "page_cpu_ms",
    "each further page": "further_page_cpu_ms",
    "a search for an endpoint, once": "search_cpu_ms",
}
Row = dict[str, Any]


def measure(services: int, rounds: int) -> Row:
    """One row of the table."""
    controller = controller_of(services)
    status = status_of(controller)
    page = LivePage(controller, lambda: status)
    stream, further = page.stream({}), page.stream({})
    first = len(stream.message())
    further.message()
    page_costs, further_costs, sizes = [], [], []
    for _ in range(rounds):
        # So that the counters are looked at anew.
        time.sleep(PERIOD)
        cost, size = timed(stream.message)
        page_costs.append(cost)
        sizes.append(size)
        further_costs.append(timed(further.message)[0])
    search = page.stream({"search": "11.0.2."})
    search_cost, _ = timed(search.message)
    return {
        "services": services,
        "endpoints": services * ENDPOINTS,
        "first_kilobytes": first / 1e3,
        "next_bytes": statistics.median(sizes),
        "page_cpu_ms": statistics.median(page_costs) * 1000,
        "further_page_cpu_ms": statistics.median(further_costs) * 1000,
        "search_cpu_ms": search_cost * 1000,
    }


def timed(message: Callable[[], bytes]) -> tuple[float, int]:
    """Seconds on a processor for a message, and its bytes."""
    started = time.thread_time()
    size = len(message())
    return time.thread_time() - started, size


if __name__ == "__main__":
    by_services("page", measure, FIELDS, 10, __doc__)
