"""Configuration files as strangers write them: what counts, and what is refused in one line."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kbe_nat.errors import FileError
from kbe_nat.kubeproxy.config import Configuration, read_configuration
from kbe_nat.kubeproxy.effective import as_document

DEEP = "[" * 5000
BOMB = "\n".join(
    [
        "a: &a [x, x, x, x, x, x, x, x, x]",
        *(
            f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
            for before, name in zip("abcdef", "bcdefg", strict=True)
        ),
    ]
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def value_at(path: Path, field: str) -> Any:
    value: Any = as_document(read_configuration(path)[0])
    for name in field.split("."):
        value = value[name]
    return value


@pytest.mark.parametrize(
    ("content", "field", "value"),
    [
        (b"\xef\xbb\xbfmode: nftables", "mode", "nftables"),
        ("mode: nftables".encode("utf-16"), "mode", "nftables"),
        (b"mode: nftables\r\nclusterCIDR: 10.0.0.0/8\r\n", "clusterCIDR", "10.0.0.0/8"),
        (b"---\nmode: nftables\n...\n", "mode", "nftables"),
        (b'{"mode": "nftables", "conntrack": {"min": 5}}', "conntrack.min", 5),
        (b"mode: !!str nftables", "mode", "nftables"),
        (b"iptables: &a {masqueradeBit: 5}\nnftables: *a", "nftables.masqueradeBit", 5),
        (
            b"iptables: &a {masqueradeBit: 5}\nnftables: {<<: *a, masqueradeBit: 6}",
            "nftables.masqueradeBit",
            6,
        ),
        (b"kind: null\napiVersion: ~\nmode: nftables", "mode", "nftables"),
        (b"mode: ~\nconntrack: null\nnodePortAddresses: null", "mode", "iptables"),
        (b"conntrack: {min: 010}", "conntrack.min", 8),
        (b"conntrack: {min: 1e3}", "conntrack.min", 1000),
        (b"oomScoreAdj: 5.0", "oomScoreAdj", 5),
        (b"bindAddressHardFail: yes", "bindAddressHardFail", True),
        (b"conntrack: {udpTimeout: 1h2m3.5s}", "conntrack.udpTimeout", "1h2m3.5s"),
        (b"logging: {options: {text: {infoBufferSize: 1Ki}}}", "logging.format", "text"),
        (b"hostnameOverride: 2020-01-01", "hostnameOverride", "2020-01-01"),
    ],
)
def test_what_kubernetes_reads_counts(path: Path, content: bytes, field: str, value: Any) -> None:
    path.write_bytes(content)
    assert value_at(path, field) == value


@pytest.mark.parametrize("content", [b"", b"# nothing", b"null", b"{}", b"---\n---\n"])
def test_a_file_that_says_nothing_has_the_defaults(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert read_configuration(path) == (Configuration(), ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mode: nftables\nmode: iptables", "line 2, column 1: not YAML: the key 'mode' is there"),
        ("conntrack: {min: 1, min: 2}", "the key 'min' is there twice"),
        ("kbeNat: {strategy: rr, strategy: sh}", "the key 'strategy' is there twice"),
        ("logging: {vmodule: [{filePattern: a, filePattern: b}]}", "the key 'filePattern' is"),
        ("1: a\n'1': b", "the key '1' is there twice"),
        ('{"conntrack": {"min": 1, "min": 2}}', "not JSON: the key 'min' is there twice"),
        ("moed: nftables", ": moed: there is no such field; did you mean mode"),
        ("5: x", ": 5: there is no such field"),
        ("apiVersion: kubeproxy.config.k8s.io/v1alpha2", "v1alpha2' is not kubeproxy.config"),
        ("kind: [a]", "kind: ['a'] is not KubeProxyConfiguration"),
        ("kind: Pod\napiVersion: v1", "kind: 'Pod' is not KubeProxyConfiguration"),
        ("mode: nftables\n---\nmode: iptables", "one document is expected, not 2"),
        ("- mode: nftables", "expected object, got array"),
        ("nftables", "expected object, got str"),
        ("mode: 5", "mode: expected str, got int"),
        ("hostnameOverride: on", "hostnameOverride: expected str, got bool"),
        ("bindAddressHardFail: 'true'", "bindAddressHardFail: expected bool, got str"),
        ("oomScoreAdj: '5'", "oomScoreAdj: expected int | null, got str"),
        ("conntrack: []", "conntrack: expected object, got array"),
        ("conntrack: {min: 4294967296}", "conntrack.min: expected int <= 2147483647"),
        ("conntrack: {udpTimeout: 5}", "conntrack.udpTimeout: expected str | null, got int"),
        ("conntrack: {udpTimeout: ''}", "conntrack.udpTimeout: '' is no duration"),
        ("conntrack: {udpTimeout: -1s}", "conntrack.udpTimeout: '-1s': must be greater than or"),
        ("nodePortAddresses: 10.0.0.0/8", "nodePortAddresses: expected array, got str"),
        ("nodePortAddresses: [~]", "nodePortAddresses[0]: '': must be a valid CIDR"),
        ("nodePortAddresses: [' 10.0.0.0/8']", "nodePortAddresses[0]: ' 10.0.0.0/8': must be"),
        ("featureGates: {A: 'true'}", "featureGates[...]: expected bool, got str"),
        ("logging: {verbosity: -1}", "logging.verbosity: expected int >= 0"),
        ("logging: {verbosity: 4000000000}", "logging.verbosity: 4000000000: must be <= 21474"),
        ("logging: {options: {json: {infoBufferSize: x}}}", "json.infoBufferSize: 'x' is no quan"),
        ("logging: {vmodule: [{verbosity: 1}]}", "vmodule[0].filePattern: file pattern must not"),
        ("logging: {vmodule: [{filePattern: 'a=b'}]}", "vmodule[0].filePattern: file pattern mus"),
        ("logging: {format: json, vmodule: [{filePattern: a}]}", "only supported for text"),
        ("clientConnection: {qps: .nan}", ".nan is no number of JSON"),
        ("kbeNat: []", "kbeNat: expected object, got array"),
        ("mode: !!python/object/apply:os.system [id]", "would make objects of Python"),
        ("a: *b", "unknown anchor 'b'"),
        ("mode:\tnftables\n\tx: 1", "found a tab character"),
        ("mode: \0", "control characters are not allowed"),
        (f"a: {DEEP}", "nested too deeply"),
        (BOMB, "aliases make it many times as large"),
        ("&a mode: *a", "mode"),
    ],
    ids=lambda text: text[:30],
)
def test_a_mistake_is_one_line_with_file_and_field(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    with pytest.raises(FileError) as caught:
        read_configuration(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_one_line(path: Path) -> None:
    kinds: tuple[tuple[Callable[[], None], str], ...] = (
        (lambda: path.mkdir(), "it is a directory"),
        (lambda: path.symlink_to(path.name), "symbolic links"),
        (lambda: path.symlink_to("nowhere"), "No such file"),
        (lambda: os.mkfifo(path), "not a file"),
    )
    for make, said in kinds:
        make()
        with pytest.raises(FileError, match=said):
            read_configuration(path)
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
