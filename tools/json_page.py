"""Write docs/json.md: the fields of what `-o json` prints, of the structs that are printed.

`--check` writes nothing, and ends with 1 if the page is not up to date.
"""

import ast
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

from written import write

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs/json.md"
PACKAGE: Final = ROOT / "python/kbe_nat"
SOURCES: Final = (
    "port_rows.py",
    "daemon/rows.py",
    "explain.py",
    "cli/summary.py",
    "cli/comparison.py",
    "cli/diff.py",
    "cli/shadow.py",
    "doctor.py",
    "cli/demo.py",
    "cli/top.py",
    "playground/rows.py",
    "cli/lab.py",
    "lab/report.py",
)
"""Files of the package with printed structs."""
HEAD: Final = """# JSON

What `-o json` prints, by verb. `tools/json_page.py` writes this page of the structs that are
printed; the control socket sends the same rows.

[The schema](../schemas/kbe-nat.v1.schema.json) describes every document (`tools/json_schemas.py`
writes it). `apiVersion` changes when a field goes or gets another meaning; fields may be added.
Backends and the ends of connections are texts, `address:port`, with an address of IPv6 in brackets;
frontends have kind, address and port. Rows about a service port begin with the same four fields.
Counters by direction are `[there, back]`; verdicts are those of the [glossary](glossary.md).

A list is an object with `apiVersion` (`kbe-nat.io/v1`), `kind` (`ServiceList`) and its rows as
`items`; one name that has one row is the row itself, with `apiVersion` and `kind`. `conntrack -E`,
`decisions -f`, `drain`, `top`, `shadow` and `-w` print one document per line. Every verb prints the
same documents as YAML by `-o yaml`.
"""


def page() -> str:
    """The page."""
    lines = [HEAD]
    bases: dict[str, list[str]] = {}
    for source in SOURCES:
        for node in ast.parse((PACKAGE / source).read_text()).body:
            if isinstance(node, ast.ClassDef) and "msgspec.Struct" in inherited(node, bases):
                lines += section(node)
                bases[node.name] = inherited(node, bases)
    return "\n".join(lines)


def inherited(node: ast.ClassDef, bases: dict[str, list[str]]) -> list[str]:
    """Names of all classes that one is derived from."""
    direct = [ast.unparse(base) for base in node.bases]
    return [*direct, *(name for base in direct for name in bases.get(base, []))]


def section(node: ast.ClassDef) -> Iterator[str]:
    """The table of one struct."""
    yield f"\n## {node.name}\n"
    yield (ast.get_docstring(node) or "").replace("\n", " ")
    if base := next((name for name in map(ast.unparse, node.bases) if name[0].isupper()), None):
        yield f"\nFirst the fields of [{base}](#{base.lower()}), then:"
    yield "\n| field | type | meaning |\n|---|---|---|"
    names = renames(node)
    for statement, successor in pairwise(node.body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assert isinstance(successor, ast.Expr) and isinstance(successor.value, ast.Constant)
            meaning = " ".join(str(successor.value.value).split())
            kind = json_type(ast.unparse(statement.annotation))
            name = names.get(statement.target.id, statement.target.id)
            yield f"| `{name}` | {kind} | {meaning} |"


def renames(node: ast.ClassDef) -> dict[str, str]:
    """Fields that JSON calls by another name than Python."""
    values = [keyword.value for keyword in node.keywords if keyword.arg == "rename"]
    return ast.literal_eval(values[0]) if values else {}


def json_type(annotation: str) -> str:
    """A type of Python as JSON has it."""
    if annotation.endswith(" | msgspec.UnsetType"):
        return f"{json_type(annotation.removesuffix(' | msgspec.UnsetType'))}, or absent"
    if match := re.fullmatch(r"list\[(.*)\]", annotation):
        return f"array of {json_type(match[1])}"
    if match := re.fullmatch(r"tuple\[(.*)\]", annotation):
        return f"[{', '.join(map(json_type, match[1].split(', ')))}]"
    if match := re.fullmatch(r"dict\[str, (.*)\]", annotation):
        head, mark, content = json_type(match[1]).partition(" of ")
        return f"object of {head}s{mark}{content}"
    if " | " in annotation:
        return " or ".join(map(json_type, annotation.split(" | ")))
    return TYPES.get(annotation, f"[{annotation}](#{annotation.lower()})")


TYPES: Final = {
    "str": "string",
    "int": "number",
    "float": "number",
    "bool": "boolean",
    "None": "null",
    "Pair": "[number, number]",
    "State": "string",
    "Document": "object",
    "DecisionAction": "string",
}

if __name__ == "__main__":
    sys.exit(write(PAGE, page() + "\n", __doc__))
