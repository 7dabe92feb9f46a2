"""Property: any line at the control socket is answered with plain values, or refused in one line;
it is never a defect, and never changes what the daemon serves otherwise than its verb says.
"""

import json
import os
from itertools import islice
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.full_engine import controller_with, verbs_of
from kbe_nat.client import encode_line
from kbe_nat.daemon import verbs
from kbe_nat.daemon.requests import VERBS, parse
from kbe_nat.errors import KbeNatError

EXAMPLES: Final = int(os.environ.get("KBE_NAT_FUZZ_EXAMPLES", "150"))
"""Lines per test; set it higher to look for longer."""

PARAMETERS: Final = (
    "verb",
    "service",
    "limit",
    "protocol",
    "source",
    "destination",
    "backend",
    "state",
    "form",
    "names",
    "family",
    "packet",
    "device",
    "strategy",
    "seconds",
    "is_followed",
    "self",
    "rows",
)
words = st.sampled_from(
    (
        *VERBS,
        *PARAMETERS,
        "default/web",
        "default/web:",
        "default/none",
        "10.0.0.1",
        "10.0.0.1:9876",
        "10.1.0.1",
        "::ffff:10.0.0.1",
        "fe80::1%eth0",
        "udp",
        "17",
        "-1",
        "999999999999",
        "ESTABLISHED",
        "nft",
        "iptables-save",
        "modern",
        "legacy",
        "ipv4",
        "ipv6",
        "rr",
        "maglev",
        "random",
        "45000021000040004011",
        "60",
        "4" * 80,
        "\0",
        "\n",
        "\x1b[2J",
        "\u202e",
        "é" * 2000,
    )
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    words,
    st.integers(-2, 70_000),
    st.integers(),
    st.sampled_from((2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400)),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=100).map(bytes.hex),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """A verb with parameters, most of which it has."""
    verb = draw(st.sampled_from([*VERBS, *VERBS, "__class__", "_pages", ""]))
    own = tuple(VERBS[verb].__struct_fields__) if verb in VERBS else PARAMETERS
    request: dict[str, Any] = {"verb": verb}
    for name in own:
        if draw(st.integers(0, 9)) < 8:
            request[name] = draw(st.one_of(words, scalars, values))
    if draw(st.integers(0, 9)) == 0:
        request[draw(st.one_of(st.sampled_from(PARAMETERS), st.text(max_size=8)))] = draw(values)
    return request


@pytest.fixture(scope="module", autouse=True)
def _impatient() -> Any:
    """Somebody who watches events is told at once that there are none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verbs, "HEARTBEAT", 0.0)
        yield


ANSWERS: Final = verbs_of(controller_with(2))


def check(line: bytes) -> None:
    try:
        # Events, and a drain that is followed, have no end.
        for result in islice(ANSWERS(parse(line)), 1):
            encode_line({"result": result})
    except KbeNatError as error:
        text = str(error)
        assert text.isprintable(), text
        assert len(text) < 2000


searching = settings(max_examples=EXAMPLES)


@searching
@given(requests())
def test_verbs_with_any_parameters(request: dict[str, Any]) -> None:
    check(json.dumps(request).encode())


@searching
@given(
    requests(), st.lists(st.tuples(st.integers(0), st.binary(max_size=4)), min_size=1, max_size=4)
)
def test_requests_with_mutated_bytes(
    request: dict[str, Any], edits: list[tuple[int, bytes]]
) -> None:
    text = bytearray(json.dumps(request).encode())
    for place, inserted in edits:
        start = place % (len(text) + 1)
        text[start : start + place % 3] = inserted
    check(bytes(text))


@searching
@given(values)
def test_any_json(value: Any) -> None:
    check(json.dumps(value).encode())


@searching
@given(
    st.one_of(
        st.binary(max_size=200),
        st.integers(0, 3).map(lambda kind: b'[{"'[kind : kind + 1] * 100_000),
    )
)
def test_any_bytes(line: bytes) -> None:
    check(line)
