"""What `-o json` prints: the fields that scripts know, in their order, and the page about them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.full_engine import controller_with, verbs_of
from kbe_nat.__main__ import main
from kbe_nat.daemon.control_socket import ControlServer

ROOT = Path(__file__).parent.parent
COUNTERS = "active flows packets bytes"
SERVICE = f"name protocol family frontends strategy backends affinity_seconds {COUNTERS} refused"
POLICIES = "internal_traffic_policy external_traffic_policy source_ranges endpoints"
FLOW = (
    "protocol state timeout age source destination reply_source reply_destination service assured"
    " replied masquerade packets bytes"
)


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    with ControlServer(tmp_path / "control.sock", verbs_of(controller_with(3))):
        yield tmp_path / "control.sock"


@pytest.mark.parametrize(
    ("verb", "fields"),
    [
        ("get services", SERVICE),
        ("get endpoints", f"service backend weight state {COUNTERS}"),
        ("describe service default/web", f"{SERVICE} {POLICIES}"),
        ("get flows", FLOW),
        ("conntrack -L", FLOW),
        (
            "get stats",
            "actions causes flows assured affinities expired evicted truncated kernel queues",
        ),
        (
            "get status",
            "datapath driver queues rules seed pid seconds generation service_ports refused"
            " rules_up_to_date drains loops",
        ),
        (
            "explain --live --from 10.0.0.1 --to 172.30.228.255:80 --proto udp",
            "verdict service destinations backend masquerade refused "
            "excluded chains kernel reasons",
        ),
    ],
)
def test_fields_of_json(
    socket: Path, verb: str, fields: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*verb.split(), "--socket", str(socket), "-o", "json"]) == 0
    result: Any = json.loads(capsys.readouterr().out)
    row = result[0] if isinstance(result, list) else result
    assert " ".join(row) == fields


def test_the_page_says_what_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/json_page.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
