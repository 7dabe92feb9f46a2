"""The verbs of the command line, run in this process, and a capture for them."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP

from harness.captures import ETHERNET
from kbe_nat.__main__ import main

ROOT = Path(__file__).parents[2]
SEED = str(ROOT / "examples/simpleservice/cluster.yaml")
WEIGHTED = str(ROOT / "examples/simpleservice/weighted.yaml")
VIP = "172.30.228.255"
START = 1_700_000_000 * 10**9


def handshake(client: int, frontend: int = 80) -> list[bytes]:
    """The first and the third packet of a connection."""
    ip = IP(src="10.0.2.15", dst=VIP)
    syn = TCP(sport=40000 + client, dport=frontend, flags="S", seq=1)
    ack = TCP(sport=40000 + client, dport=frontend, flags="A", seq=2, ack=1)
    return [ETHERNET + bytes(ip / syn), ETHERNET + bytes(ip / ack)]


class Ran:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = self._capsys.readouterr()
        return code, out, err

    def json(self, *arguments: object) -> dict[str, Any]:
        code, out, err = self(*arguments, "-o", "json")
        assert code == 0, err
        result: dict[str, Any] = json.loads(out)
        return result


def on_terminal(arguments: Sequence[str], columns: int, **environment: str) -> tuple[int, str]:
    """The exit code of the command, and what it writes to a terminal that has so many columns."""
    return _on_terminal(arguments, columns, environment)


def all_on_terminal(arguments: Sequence[str], columns: int, **environment: str) -> str:
    """What the command writes to such a terminal, its standard error too."""
    return _on_terminal(arguments, columns, environment, is_all=True)[1]


def _on_terminal(
    arguments: Sequence[str], columns: int, environment: dict[str, str], *, is_all: bool = False
) -> tuple[int, str]:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "kbe_nat", *arguments]
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    places = {**plain, "TERM": "xterm", "COLUMNS": str(columns), **environment}
    errors = slave if is_all else None
    with subprocess.Popen(command, stdout=slave, stderr=errors, env=places) as process:
        os.close(slave)
        text = b""
        while True:
            try:
                text += os.read(master, 65536)
            except OSError:
                break
        code = process.wait()
    os.close(master)
    return code, text.decode(errors="replace")


def shares(result: dict[str, Any]) -> dict[str, int]:
    [service] = result["services"]
    return {own["backend"].rpartition(":")[0]: own["flows"] for own in service["backends"]}
