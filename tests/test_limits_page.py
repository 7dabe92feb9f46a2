"""Numbers on the page of limits are those of the code."""

import re
from pathlib import Path

import pytest

from kbe_nat.cli.flags import proxy
from kbe_nat.daemon import acceptor, control_socket
from kbe_nat.daemon.settings import Settings
from kbe_nat.sources import snapshot
from kbe_nat.sources.kubernetes import json_answers, requests
from kbe_nat.sources.manifests import files

PAGE = Path(__file__).parents[1] / "docs/limits.md"
DEFAULTS = Settings()
MIB = 1 << 20


@pytest.mark.parametrize(
    ("row", "numbers"),
    [
        (r"connections \|", (DEFAULTS.limits.max_flows, proxy.MAX_FLOWS)),
        ("backends of a node", (DEFAULTS.marks.marks.backend.bit_count(),)),
        ("decisions remembered", (DEFAULTS.limits.decisions, proxy.MAX_DECISIONS)),
        ("packets that wait", (DEFAULTS.queues.length,)),
        ("weight of", (snapshot.MAX_WEIGHT,)),
        (
            "one file of objects",
            (files.MAX_SIZE // MIB, requests.MAX_LIST // MIB, json_answers.MAX_EVENT // MIB),
        ),
        (
            "one request at",
            (acceptor.MAX_REQUEST // 1024, control_socket.MAX_CONVERSATIONS),
        ),
    ],
)
def test_a_row_has_the_numbers_of_the_code(row: str, numbers: tuple[int, ...]) -> None:
    [line] = re.findall(rf"^\| {row}.*$", PAGE.read_text(), re.MULTILINE)[:1]
    written = {int(text.replace(",", "")) for text in re.findall(r"\d[\d,]*", line)}
    assert set(numbers) <= written


def test_the_size_of_backend_ids_is_that_of_the_mark() -> None:
    count = (1 << DEFAULTS.marks.marks.backend.bit_count()) - 1
    assert f"{count:,} addresses with ports" in PAGE.read_text()
