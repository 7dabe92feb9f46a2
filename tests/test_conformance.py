"""Decisions of kube-proxy 1.36 for the cases in `conformance/cases`, in both of its modes."""

from pathlib import Path

import pytest
from conformance_cases import CASES, Case


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_flows(case: Case, mode: str, tmp_path: Path) -> None:
    assert case.answers(mode, tmp_path) == case.expected(mode)
