"""`help()` of the native classes says what the stub says: text, signature and defaults."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from kbe_nat import _native

FOREIGN = ("PanicException",)
"""Written by PyO3."""


def members() -> Iterator[tuple[str, Any]]:
    """Everything that a program can call or read, by its full name."""
    for name in _native.__all__:
        value = getattr(_native, name)
        if name in FOREIGN or not callable(value):
            continue
        yield name, value
        if inspect.isclass(value):
            # PyO3 fills the dictionary of a class in an order of its own in each process.
            for member in sorted(vars(value)):
                if not member.startswith("_"):
                    yield f"{name}.{member}", getattr(value, member)


@pytest.mark.parametrize("name", [name for name, _ in members()])
def test_a_docstring_and_a_signature_for_everything(name: str) -> None:
    value = dict(members())[name]
    text = inspect.getdoc(value) or ""
    assert text.endswith((".", ")")), f"{name} has no docstring: {text!r}"
    if callable(value):
        defaults = [parameter.default for parameter in inspect.signature(value).parameters.values()]
        assert Ellipsis not in defaults, f"{name} hides a default: {inspect.signature(value)}"


def test_the_stub_knows_all_that_is_there() -> None:
    names = {name for name, _ in members()}
    assert {"Engine.process", "Flow.protocol", "ServicePort", "reject"} <= names
    assert len(names) > 200


def test_defaults_are_those_that_hold() -> None:
    parameters = inspect.signature(_native.ServicePort).parameters
    assert parameters["local_backends"].default == ()
    assert parameters["strategy"].default == "random"
    port = _native.ServicePort("default/web", [_native.Frontend("10.96.0.1", 80)], [])
    assert (port.strategy, port.protocol, port.local_backends) == ("random", "tcp", [])
