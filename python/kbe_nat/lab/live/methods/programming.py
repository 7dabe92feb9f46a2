"""How long a way takes from objects to answers."""

from kbe_nat.lab.live.methods.bench import Bench, Rows
from kbe_nat.lab.live.scenario import Programming
from kbe_nat.lab.tables import Row


def programming(bench: Bench, measure: Programming) -> Rows:
    """From all objects to the first answer, and from one endpoint's change to the first connection
    that reaches the new endpoint.
    """
    served = bench.served
    rows: list[Row] = []
    for place in range(0 if bench.is_static else measure.changes):
        pod = (place + 1) % len(bench.network.pods)
        since = served.change(bench.objects(pod))
        answer = bench.network.first_answer(bench.family, "tcp", pod=pod)
        rows.append((place, (answer - since) * 1e3))
    return {"programming": [(served.programming_seconds, served.peak_mb)], "changes": rows}
