"""A balancing strategy of your own, beside two of the engine's, in the lab:

python examples/strategy.py
"""

from collections.abc import Sequence

from kbe_nat import Backend, lab


class LeastOfAll:
    """The backend with the fewest connections by weight, the first one among equals."""

    def __init__(self, backends: Sequence[Backend], seed: int) -> None:
        self.weights = [backend.weight for backend in backends]

    def pick(self, hash: int, loads: Sequence[int]) -> int | None:
        """The position of a backend."""
        positions = [n for n, weight in enumerate(self.weights) if weight]
        return min(positions, key=lambda n: loads[n] / self.weights[n], default=None)


result = lab.run(
    {
        "name": "mine",
        "duration": 20,
        "repeats": 3,
        "strategies": ["random", "lc", {"name": "python", "class": "least"}],
        "services": [{"name": "web", "backends": [{"count": 4}]}],
        "traffic": [{"service": "web", "arrivals": {"kind": "poisson", "rate": 200}}],
    },
    classes={"least": LeastOfAll},
)
for row in result.rows("balance"):
    if row["quantity"] == "load" and row["window"] == "run" and row["repeat"] == 0:
        print(f"{row['strategy']:20} largest load over the mean: {row['max_over_mean']:.3f}")
