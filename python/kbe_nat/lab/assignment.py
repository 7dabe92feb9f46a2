"""A balancing strategy by itself: keys in, backends out, no traffic."""

from collections.abc import Sequence
from typing import Any

import msgspec

from kbe_nat._native import Assignment as NativeAssignment
from kbe_nat._native import Backend
from kbe_nat.errors import ArgumentError
from kbe_nat.lab.arguments import whole
from kbe_nat.lab.classes import PythonStrategy
from kbe_nat.lab.scenario import Strategy, StrategyChoice
from kbe_nat.lab.timeline import strategy_values
from kbe_nat.lab.validation import choice, strategy_violations
from kbe_nat.sources.manifests.documents import reason_and_path


class Assignment:
    """The backends that a strategy chooses, for questions about the strategy alone: how evenly keys
    fall, how many move when a backend leaves, how full the fullest of many bins is.

    >>> from kbe_nat.lab import Assignment, backends
    >>> ring = Assignment("ring", backends(10))
    >>> before = ring.assign(range(1000))
    >>> ring.set_backends(backends(9))
    >>> sum(old != new for old, new in zip(before, ring.assign(range(1000))) if old != 9)
    0
    """

    def __init__(
        self,
        strategy: StrategyChoice | type[PythonStrategy],
        backends: Sequence[Backend],
        *,
        seed: int = 1,
    ) -> None:
        """`strategy` is a name, a value with parameters, or a class in Python. Raises
        `ArgumentError`.
        """
        seed = whole("seed", seed, 0, (1 << 64) - 1)
        if isinstance(strategy, type):
            spec, strategy_class = {"name": "python"}, strategy
        else:
            spec, strategy_class = _values(strategy), None
        self._name = strategy.__name__ if isinstance(strategy, type) else spec["name"]
        self._native = NativeAssignment(msgspec.json.encode(spec), seed, strategy_class)
        self.set_backends(backends)

    def __repr__(self) -> str:
        return f"<Assignment {self._name}: {len(self.loads)} backends>"

    def set_backends(self, backends: Sequence[Backend]) -> None:
        """List these in the place of those before. No backend has a connection then. Raises
        `ArgumentError` when the strategy refuses them.
        """
        self._native.set_backends(backends)

    def assign(self, keys: Sequence[int]) -> list[int | None]:
        """The position of each key's backend, None where none has weight. Keys are hashes of flows:
        64 even bits (`keys` makes them), also as a buffer such as numpy's of type uint64.
        """
        return self._native.assign(keys)

    def throw(self, keys: Sequence[int]) -> list[int | None]:
        """The same for connections that stay: each adds to the load of its backend."""
        return self._native.throw(keys)

    @property
    def memory_bytes(self) -> int | None:
        """Bytes of the strategy's tables, as a node would have them; None of a class in Python."""
        return self._native.memory_bytes()

    @property
    def loads(self) -> list[int]:
        """Connections of each backend."""
        return self._native.loads()


def _values(strategy: StrategyChoice) -> dict[str, Any]:
    """A strategy as the simulation reads it. Raises `ArgumentError`."""
    if not isinstance(strategy, str | Strategy):
        kinds = "a name, a Strategy or a class"
        raise ArgumentError(f"strategy: {kinds} is expected, not {type(strategy).__name__}")
    try:
        # Python's values are not checked when they are made.
        value = msgspec.convert(msgspec.to_builtins(choice(strategy)), Strategy)
    except msgspec.ValidationError as error:
        reason, path = reason_and_path(str(error))
        raise ArgumentError(f"strategy: {path}: {reason}") from None
    if value.name == "python":
        raise ArgumentError("strategy: one in Python is given as its class")
    for path, reason in strategy_violations("strategy", value):
        raise ArgumentError(f"{path}: {reason}")
    return strategy_values(value)


def backends(count: int, weights: Sequence[int] | None = None) -> list[Backend]:
    """Backends with addresses of their own, the same for the same position."""
    count = whole("count", count, 0, 65_535)
    numbers = weights if weights is not None else [1] * count
    if len(numbers) != count:
        raise ArgumentError(f"weights: {len(numbers)} of them, for {count} backends")
    for weight in numbers:
        whole("weights", weight, 0, (1 << 32) - 1)
    return [
        Backend(f"172.16.{place >> 8}.{place & 255}", 8080, weight)
        for place, weight in zip(range(count), numbers, strict=True)
    ]


def keys(count: int, seed: int = 1) -> list[int]:
    """Even 64-bit numbers, the same for the same seed (SplitMix64)."""
    mask = (1 << 64) - 1
    count, seed = whole("count", count, 0), whole("seed", seed, 0, mask)
    state, numbers = seed & mask, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        mixed = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & mask
        numbers.append(mixed ^ mixed >> 31)
    return numbers
