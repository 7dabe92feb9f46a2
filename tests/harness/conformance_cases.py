"""The conformance cases: what they ask for, and what `kbe-nat` answers when it is asked as a user
would.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from kbe_nat.cli import app

FOLDER = Path(__file__).parents[1] / "conformance/cases"


@dataclass(frozen=True)
class Case:
    """One folder of `conformance/cases`."""

    folder: Path
    about: dict[str, Any] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.folder.name

    @property
    def objects(self) -> Path:
        return self.folder / "objects.yaml"

    def flags(self, mode: str, scratch: Path) -> list[str]:
        """The case's node and configuration, as flags."""
        config = scratch / "kube-proxy.yaml"
        own = dict(self.about.get("config") or {})
        inner = {key: own.pop(key) for key in ("masqueradeAll", "masqueradeBit") if key in own}
        ports = {key: own.pop(key) for key in ("localhostNodePorts",) if key in own}
        document = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": mode,
            "iptables": {**inner, **ports},
            "nftables": inner,
            **own,
        }
        config.write_text(yaml.safe_dump(document))
        addresses = self.about.get("localAddresses", ())
        return [
            *("-f", str(self.objects), "--node", self.about["node"], "--config", str(config)),
            *(part for address in addresses for part in ("--node-address", address)),
        ]

    def expected(self, mode: str) -> dict[str, Any]:
        """What kube-proxy decides, by flow."""
        return {flow["name"]: _expectation(flow, mode) for flow in self.about["flows"]}

    def answers(self, mode: str, scratch: Path) -> dict[str, Any]:
        """What we decide, in the same form."""
        kept = ("verdict", "destinations", "masquerade", "masqueraded")
        told = self.explained(mode, scratch)
        return {
            own["packet"]: {key: own[key] for key in kept if key in own}
            | {"verdict": KUBE_PROXY_WORDS.get(own["verdict"], own["verdict"])}
            | refusals(own["refused"])
            for own in told
        }

    def explained(self, mode: str, scratch: Path) -> list[dict[str, Any]]:
        """What `kbe-nat explain` says of every flow."""
        flags = [
            *self.flags(mode, scratch),
            "--flows",
            str(self.folder / "case.yaml"),
            "-o",
            "json",
        ]
        told: list[dict[str, Any]] = json.loads(run("explain", *flags))["items"]
        return told


KUBE_PROXY_WORDS = {"translate": "dnat"}
"""The cases speak of rules of kube-proxy."""


def refusals(found: list[dict[str, str]]) -> dict[str, Any]:
    """Endpoints at whose address the packet is refused; nothing where there are none."""
    kept = [{key: own[key] for key in ("endpoint", "verdict")} for own in found]
    return {"refused": kept} if kept else {}


def run(*arguments: str) -> str:
    """What the command prints."""
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def _expectation(flow: dict[str, Any], mode: str) -> dict[str, Any]:
    expected: dict[str, Any] = flow["expect"]
    return flow.get("expect_nftables", expected) if mode == "nftables" else expected


CASES = [
    Case(folder, yaml.safe_load((folder / "case.yaml").read_text()))
    for folder in sorted(FOLDER.iterdir())
]
