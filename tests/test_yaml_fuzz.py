"""Property: whatever a file of YAML or JSON text says, reading it gives a snapshot and a list of
what is wrong, or a `FileError`; no other exception.
"""

import os
import tempfile
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbe_nat.errors import FileError
from kbe_nat.model import Snapshot
from kbe_nat.sources.manifests.manifests import read_manifests

ROOT: Final = Path(__file__).parent.parent
TEXTS: Final = [
    path.read_bytes()
    for folder in ("examples", "tests/seed", "tests/conformance/cases")
    for path in sorted((ROOT / folder).rglob("*.yaml"))[:24]
]
EXAMPLES: Final = int(os.environ.get("KBE_NAT_FUZZ_EXAMPLES", "150"))
"""Texts per test; set it higher to look for longer."""

PIECES: Final = [
    *b"\0\t\r\n :-?#&*!|>'\"%@`,[]{}=~<\\\x7f\x85\xa0\xfe\xff",
]
SNIPPETS: Final = [
    *(bytes([piece]) for piece in PIECES),
    b"---\n",
    b"...\n",
    b"%YAML 9.9\n---\n",
    b"&a ",
    b"*a",
    b"&a [*a]",
    b"<<: *a\n",
    b"!!binary ",
    b"!!python/object:os.system ",
    b"!!float x",
    b"? ",
    b"? [a]\n: ",
    b"1:30:00",
    b"0o17",
    b"0x_",
    b"1_000",
    b".inf",
    b".nan",
    b"1e999",
    b"2001-02-30",
    b"2001-01-01T25:00:00Z",
    b"null",
    b"yes",
    b"=",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xfe\xff\0a",
    b"\xed\xa0\x80",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b'"\\ud800"',
    b"9" * 5000,
    b"[" * 2000,
    b"{a: " * 2000,
    b"- " * 2000,
    b"kind: List\nitems: []\n",
]


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """A real manifest with some pieces put in, taken out, doubled or moved."""
    text = bytearray(draw(st.sampled_from(TEXTS)))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 60)))
        match draw(st.integers(0, 4)):
            case 0:
                text[start:start] = draw(st.sampled_from(SNIPPETS))
            case 1:
                del text[start:end]
            case 2:
                text[start:start] = text[start:end]
            case 3:
                text[start:end] = draw(st.sampled_from(SNIPPETS))
            case _:
                other = draw(st.sampled_from(TEXTS))
                place = draw(st.integers(0, len(other)))
                text[start:start] = other[place : place + 200]
    return bytes(text)


def read(text: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"objects{suffix}")
        path.write_bytes(text)
        try:
            update = read_manifests([path])
        except FileError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
            return
    assert isinstance(update.snapshot, Snapshot)
    assert all("\n" not in str(said) for said in (*update.errors, *update.notes))


@settings(max_examples=EXAMPLES)
@given(texts(), st.sampled_from([".yaml", ".json"]))
def test_a_changed_manifest_is_read_or_refused(text: bytes, suffix: str) -> None:
    read(text, suffix)


@settings(max_examples=EXAMPLES)
@given(
    st.lists(st.one_of(st.sampled_from(SNIPPETS), st.binary(max_size=6)), max_size=12).map(b"".join)
)
def test_any_text_is_read_or_refused(text: bytes) -> None:
    read(text, ".yaml")


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_every_snippet_alone(snippet: bytes) -> None:
    read(snippet, ".yaml")
    read(b"kind: Service\nmetadata: {name: " + snippet + b"}\n", ".yaml")
