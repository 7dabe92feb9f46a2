"""Lists of packets that verbs take as files: what is read, and what is refused."""

from pathlib import Path

import pytest

from kbe_nat.cli.flows import FlowQuestion, read_flows
from kbe_nat.errors import FileError


def flow_list(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "flows.yaml"
    path.write_text(text)
    return path


def test_lists_of_packets(tmp_path: Path) -> None:
    listed = (
        "- {from: 10.0.0.1, to: '10.0.0.2:80'}\n"
        "- {from: 10.0.0.1, to: '10.0.0.2:53', proto: udp, iif: eth1}\n"
        "- {from: 10.0.0.1, to: '10.0.0.2:80', iif: null}"
    )
    wanted = [
        FlowQuestion("10.0.0.1", "10.0.0.2:80"),
        FlowQuestion("10.0.0.1", "10.0.0.2:53", "udp", "eth1"),
        FlowQuestion("10.0.0.1", "10.0.0.2:80"),
    ]
    assert read_flows(flow_list(tmp_path, listed)) == wanted
    inner = "\n".join(f"  {line}" for line in listed.splitlines())
    assert read_flows(flow_list(tmp_path, f"title: a case\nflows:\n{inner}")) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {from: 10.0.0.1}", "[0]: object missing required field to"),
        ("- {from: 10.0.0.1, to: x, proto: gre}", "[0].proto: invalid enum value 'gre'"),
        ("title: x", "object missing required field flows"),
        ("hello", "expected"),
    ],
)
def test_what_is_wrong_in_a_list_of_packets(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FileError) as raised:
        read_flows(flow_list(tmp_path, text))
    assert message in str(raised.value)


def test_texts_in_lists_of_packets_are_those_of_kubectl(tmp_path: Path) -> None:
    listed = "- {from: 2001:10:20:30:10:10:10:5, to: '[2001:10:20:30:10:10:10:6]:80', name: 22:30}"
    [flow] = read_flows(flow_list(tmp_path, listed))
    assert (flow.source, flow.name) == ("2001:10:20:30:10:10:10:5", "22:30")
    surrogate = '[{"from": "10.0.0.1", "to": "10.0.0.2:80", "name": "\\ud83d\\ude80"}]'
    [flow] = read_flows(flow_list(tmp_path, surrogate))
    assert flow.name == "\U0001f680"
