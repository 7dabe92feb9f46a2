"""Writes the docstrings of python/kbe_nat/_native.pyi from the built extension: the Rust sources
hold the text once, `help()` shows it, and editors find it in the stub. `--check` tells whether the
stub is as it should be.

Types and defaults of the stub are written by hand; `make check` holds them against the extension
(stubtest). Docstrings of constants and of modules stand in the stub alone: the run time has none.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from written import write

from kbe_nat import _native

ROOT: Final = Path(__file__).parents[1]
STUB: Final = ROOT / "python/kbe_nat/_native.pyi"
WIDTH: Final = 100
FOREIGN: Final = ("PanicException",)
"""Classes whose docstring PyO3 has written."""
Documented: TypeAlias = ast.ClassDef | ast.FunctionDef


def stub() -> str:
    """The stub's text with the docstrings of the run time."""
    text = STUB.read_text()
    lines = text.splitlines()
    # From the end, so that numbers of earlier lines stay right.
    for node, docstring in sorted(_documented(ast.parse(text)), key=lambda part: -part[0].lineno):
        _replace(lines, node, docstring)
    return "\n".join(lines) + "\n"


def _documented(tree: ast.Module) -> Iterator[tuple[Documented, str]]:
    """Classes, functions, methods and properties with their docstrings at run time."""
    for node in tree.body:
        if not isinstance(node, Documented) or node.name in FOREIGN:
            continue
        # A class of the stub alone is a type for its annotations.
        if not hasattr(_native, node.name):
            continue
        value = getattr(_native, node.name)
        yield node, _docstring(value)
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and not member.name.startswith("__"):
                    yield member, _docstring(getattr(value, member.name))


def _docstring(value: object) -> str:
    return inspect.cleandoc(getattr(value, "__doc__", None) or "")


def _replace(lines: list[str], node: Documented, text: str) -> None:
    """Puts a docstring in the place of the one that the node has, or of its ellipsis."""
    first = node.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    indent = " " * (node.col_offset + 4)
    docstring = _wrapped(text, indent) if text else []
    end = first.end_lineno
    if not is_docstring or end is None:
        start = min([first.lineno, *(part.lineno for part in getattr(first, "decorator_list", []))])
        lines[start - 1 : start - 1] = docstring
    elif first.lineno != _colon_line(lines, node):
        lines[first.lineno - 1 : end] = docstring or [f"{indent}..."]
    elif docstring:
        # `def f(self) -> int: ...` becomes a line with its body below.
        line = lines[first.lineno - 1]
        lines[first.lineno - 1 : end] = [line.removesuffix(" ..."), *docstring]


def _colon_line(lines: list[str], node: Documented) -> int:
    """The line on which the head of a definition ends."""
    number = node.lineno
    while not re.search(r":( \.\.\.)?$", lines[number - 1]):
        number += 1
    return number


def _wrapped(text: str, indent: str) -> list[str]:
    """A docstring as the house writes it: quotes on the first line, and below if it has more."""
    quoted = f" {text}" if text.startswith('"') else text
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", quoted)]
    paragraphs[0] = f'"""{" " * quoted.startswith(" ")}{paragraphs[0]}'
    whole = f'{indent}{paragraphs[0]}"""'
    if len(paragraphs) == 1 and len(whole) <= WIDTH:
        return [whole]
    lines = _filled(paragraphs, indent, WIDTH)
    if len(lines) == 1:
        # The formatter draws the quotes up to a line that is alone, and past the width.
        lines = _filled(paragraphs, indent, WIDTH - len('"""'))
    return [*lines, f'{indent}"""']


def _filled(paragraphs: list[str], indent: str, width: int) -> list[str]:
    lines: list[str] = []
    for paragraph in paragraphs:
        lines += [""] * bool(lines)
        lines += textwrap.wrap(
            paragraph,
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


if __name__ == "__main__":
    sys.exit(write(STUB, stub(), __doc__))
