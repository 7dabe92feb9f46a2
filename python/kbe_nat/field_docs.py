"""Docstrings of fields at run time.

Python does not keep a docstring that stands below a field. `help()` and `inspect` look for that of
a field in the `__slots__` of its class, where these are a mapping. `documented` makes them one that
reads the source of the class when it is asked: one text for both, and imports cost nothing.
"""

import ast
import inspect
import sys
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type[Any])


def documented(owner: _Class) -> _Class:
    """Let `help()` show the docstrings of the fields of a dataclass with slots, or of a struct."""
    owner.__slots__ = _SlotDocs(owner)
    return owner


class _SlotDocs(dict[str, str]):
    def __init__(self, owner: type[Any]) -> None:
        super().__init__(dict.fromkeys(owner.__slots__, ""))
        self._owner = owner
        # `import kbe_nat` calls public classes by another name than their module's.
        self.module = owner.__module__

    def __getitem__(self, name: str) -> str:
        return docstrings(self._owner).get(name, "")


def docstrings(owner: type) -> Mapping[str, str]:
    """What stands below each field of a class and of its bases, by the field's name; nothing where
    the source is not there. The classes stand at the left margin of their modules.
    """
    words: dict[str, str] = {}
    for kind in reversed(owner.__mro__):
        slots = vars(kind).get("__slots__")
        module = slots.module if isinstance(slots, _SlotDocs) else kind.__module__
        words |= _docstrings_in(module).get(kind.__name__, {})
    return words


@cache
def _docstrings_in(module: str) -> Mapping[str, Mapping[str, str]]:
    """The docstrings of fields by class and field."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):
        # A module of C, or a program that was packed without sources.
        return {}
    return {node.name: _docstrings_of(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _docstrings_of(node: ast.ClassDef) -> Mapping[str, str]:
    words: dict[str, str] = {}
    for statement, successor in pairwise(node.body):
        match statement, successor:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                words[name] = inspect.cleandoc(text)
    return words
