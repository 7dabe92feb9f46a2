"""A little of what `make chaos` does for long."""

import json
import subprocess
import sys
from pathlib import Path

from harness.stage import OFFLOADING_DATAPATHS
from kbe_nat.rules.rule import DatapathKind

TESTS = Path(__file__).parents[1]


@OFFLOADING_DATAPATHS
def test_f113_no_flow_is_lost_or_moved_whatever_happens(datapath: DatapathKind) -> None:
    own = ("--datapath", str(datapath), "--minutes", "0.5", "--seed", "113", "-o", "json")
    command = (sys.executable, "-m", "chaos.run", *own)
    done = subprocess.run(
        command, cwd=TESTS, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert told["wrong"] == []
    assert done.returncode == 0
    assert told["answers"]["tcp-asked"] > 0 and told["answers"]["udp-asked"] > 0
    assert told["starts"] > 1
