"""Names in prose exist: modules and values of ours that comments and pages mention, and files."""

import ast
import importlib
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for room in ("python", "tests", "benches", "tools") for path in (ROOT / room).rglob("*.py")
)
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "tests/conformance/README.md",
    ROOT / "benches/RESULTS.md",
]
DOTTED = re.compile(r"\bkbe_nat(?:\.\w+)+")
FILE = re.compile(r"`([\w./-]*\w\.(?:py|rs|md|yaml|sh|toml|service))`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
FOLDERS = ("", "python", "python/kbe_nat", "rust", "tests", "benches", "docs", "rust/engine/src")
"""Where a path in prose may begin, beside the folder of the file that mentions it."""
FILE_NAMES = frozenset(
    path.name
    for room in (
        "python",
        "rust",
        "tests",
        "benches",
        "tools",
        "docs",
        "deploy",
        "packaging",
        "examples",
    )
    for path in (ROOT / room).rglob("*.*")
)
"""A name without a folder may be that of any file."""
CHANGELOG = ROOT / "CHANGELOG.md"


def prose(path: Path) -> str:
    """The docstrings and comments of a Python file."""
    text = path.read_text()
    parts = [
        node.value.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    parts += [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    ]
    return "\n".join(parts)


def exists(name: str) -> bool:
    """Whether a dotted name leads to a module, or to a value in one."""
    words = name.split(".")
    for count in range(len(words), 0, -1):
        try:
            value: object = importlib.import_module(".".join(words[:count]))
        except ModuleNotFoundError:
            continue
        for word in words[count:]:
            if not hasattr(value, word):
                return False
            value = getattr(value, word)
        return True
    return False


def lost_names(text: str) -> list[str]:
    """Dotted names that lead nowhere."""
    return [name for name in DOTTED.findall(text) if not exists(name)]


def lost_files(text: str, folder: Path) -> list[str]:
    """Names of files that are in no folder where a reader would look. `NAME` stands for any."""
    places = [folder, *(ROOT / name for name in FOLDERS)]
    return [
        name
        for name in FILE.findall(text)
        if "NAME" not in name
        and not any((place / name).exists() for place in places)
        and name not in FILE_NAMES
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_in_docstrings_and_comments_exist(path: Path) -> None:
    text = prose(path)
    assert lost_names(text) == []
    assert lost_files(text, path.parent) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_in_pages_exist(path: Path) -> None:
    text = path.read_text()
    if path != CHANGELOG:
        assert lost_names(text) == []
        assert lost_files(text, path.parent) == []
    links = [link for link in LINK.findall(text) if not link.startswith("http")]
    assert [link for link in links if not (path.parent / link).exists()] == []
