"""What of kube-proxy's behaviour holds, case by case, as a table: `make conformance`."""

import sys
import tempfile
from pathlib import Path

from harness.conformance_cases import CASES, Case, run
from kbe_nat.cli.output import show, table
from kbe_nat.kubeproxy.normalise import normalise

RULES = {
    "iptables-save": ("iptables", "--family", "ipv4"),
    "ip6tables-save": ("iptables", "--family", "ipv6"),
    "nft": ("nftables", "--format", "nft"),
}


def flows(case: Case, mode: str, scratch: Path) -> tuple[int, int]:
    """Flows that are decided as by kube-proxy, and all."""
    wanted, told = case.expected(mode), case.answers(mode, scratch)
    return sum(told[name] == wanted[name] for name in wanted), len(wanted)


def rules(case: Case, scratch: Path) -> tuple[int, int]:
    """Dumps that are as kube-proxy's, and all."""
    goldens = {name: case.folder / f"{name}.golden" for name in RULES}
    there = {name: path for name, path in goldens.items() if path.exists()}
    right = 0
    for name, path in there.items():
        mode, *more = RULES[name]
        text = run("dump", *case.flags(mode, scratch), *more)
        right += normalise(text) == path.read_text().splitlines()
    return right, len(there)


def main() -> int:
    """Prints the table; 1 when anything differs."""
    made = table(
        "", "case", "feature", "flows, iptables mode", "flows, nftables mode", "rule dumps"
    )
    is_right = True
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            cells = [flows(case, mode, Path(folder)) for mode in ("iptables", "nftables")]
            cells.append(rules(case, Path(folder)))
            is_right &= all(right == total for right, total in cells)
            made.add_row(
                str(case), case.about["title"], *(f"{right} of {total}" for right, total in cells)
            )
    show(made)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
