"""`replay --flows-csv` and `--flows-parquet`: one row for each connection of a capture."""

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

from kbe_nat import packets as wire
from kbe_nat._native import Engine, Flow
from kbe_nat.cli.original_packets import OriginalPackets
from kbe_nat.drivers.capture import CaptureQueue, is_standard_output
from kbe_nat.drivers.queue import NEW, VERDICT, Batch
from kbe_nat.errors import FileError
from kbe_nat.extras import require

_Key = tuple[str, tuple[str, int], tuple[str, int]]


@dataclass(slots=True)
class FlowLog(OriginalPackets):
    """A `PacketQueue` around another one that notes each flow of the engine when it ends."""

    source: CaptureQueue
    engine: Engine
    rows: list[dict[str, Any]] = field(default_factory=list)
    _now: int = 0
    _starts: dict[_Key, int] = field(default_factory=dict)
    """When the first packet of each flow was captured, in nanoseconds since 1970."""
    _backends: dict[_Key, tuple[str, int]] = field(default_factory=dict)
    """The newest backend of each client at each frontend."""

    def __post_init__(self) -> None:
        self.engine.watch(CAPACITY)

    def receive(self) -> Batch | None:
        """See `PacketQueue`."""
        batch = OriginalPackets.receive(self)
        # What the loop has ended since the batch before.
        self._note()
        if batch is not None and len(batch):
            self._now = batch.now
        return batch

    def set_verdicts(
        self, batch: Batch, verdicts: bytes, released: list[tuple[int, str, bytes | None]]
    ) -> None:
        """See `PacketQueue`."""
        self._note()
        # The third byte of each verdict has the flags.
        for number, flags in enumerate(verdicts[2 :: VERDICT.size]):
            if flags & NEW:
                start, end = batch.offsets[number : number + 2]
                ends = wire.ends(self.original[start:end])
                if ends is not None:
                    key = (ends.protocol, ends.source, ends.destination)
                    self._starts[key] = self.source.times[number]
        self.queue.set_verdicts(batch, verdicts, released)

    def finish(self) -> None:
        """Note the flows that the capture has not ended."""
        self._note()
        for flow in self.engine.flows():
            self.rows.append(self._row(flow, end=None))
        self.rows.sort(key=lambda row: (row["start"], row["client"], row["client_port"]))
        for row in self.rows:
            row["moved"] = self._is_moved(row)

    def _note(self) -> None:
        events, _ = self.engine.take_events()
        for kind, flow in events:
            if kind == "DESTROY":
                self.rows.append(self._row(flow, end=self._now / 1e9))

    def _row(self, flow: Flow, end: float | None) -> dict[str, Any]:
        key = (flow.protocol, flow.source, flow.destination)
        start = self._starts.pop(key, self._now)
        places = {
            "client": flow.source,
            "frontend": flow.destination,
            "backend": flow.reply_source,
        }
        ends = {
            key: value
            for name, (address, port) in places.items()
            for key, value in ((name, address), (f"{name}_port", port))
        }
        return {
            "service": flow.service,
            "protocol": flow.protocol,
            **ends,
            "start": start / 1e9,
            "end": end,
            "state": flow.state,
            "packets": flow.packets[0],
            "packets_back": flow.packets[1],
            "bytes": flow.bytes[0],
            "bytes_back": flow.bytes[1],
            "masquerade": flow.masquerade,
        }

    def _is_moved(self, row: dict[str, Any]) -> bool:
        """Whether the client's connection to this frontend went elsewhere before."""
        key = (
            row["protocol"],
            (row["client"], row["client_port"]),
            (row["frontend"], row["frontend_port"]),
        )
        backend = (row["backend"], row["backend_port"])
        before = self._backends.get(key, backend)
        self._backends[key] = backend
        return before != backend


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """Rows with the names of columns before them. Raises `FileError`."""
    if is_standard_output(path):
        _write_csv(rows, sys.stdout)
        return
    try:
        with path.open("w", newline="") as file:
            _write_csv(rows, file)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from None


def _write_csv(rows: list[dict[str, Any]], file: TextIO) -> None:
    writer = csv.DictWriter(file, COLUMNS)
    writer.writeheader()
    writer.writerows(_csv_rows(rows))


def _csv_rows(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield {
            name: str(value).lower() if isinstance(value, bool) else value
            for name, value in row.items()
        }


def write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    """The same as a table of Parquet. Raises `FileError`, `ExtraError` without polars."""
    require("lab", "--flows-parquet")
    import polars

    kinds = {str: polars.String, int: polars.Int64, float: polars.Float64, bool: polars.Boolean}
    schema = {name: kinds[kind] for name, kind in COLUMNS.items()}
    target = sys.stdout.buffer if is_standard_output(path) else path
    try:
        polars.DataFrame(rows, schema).write_parquet(target)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from None


COLUMNS: Final[dict[str, type]] = {
    "service": str,
    "protocol": str,
    "client": str,
    "client_port": int,
    "frontend": str,
    "frontend_port": int,
    "backend": str,
    "backend_port": int,
    "start": float,
    "end": float,
    "state": str,
    "packets": int,
    "packets_back": int,
    "bytes": int,
    "bytes_back": int,
    "masquerade": bool,
    "moved": bool,
}
"""Each with its type. Times are seconds since 1970; a connection that the capture has not ended has
no end.
"""
CAPACITY: Final = 1 << 20
"""Events between two batches; a batch has at most 1024 packets."""
