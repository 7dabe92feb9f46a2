"""Measures how the code reads: names, functions, comments and lines, per language.

`tools/house.py` prints the table; `--list` adds every place that counts against a limit; `--check`
ends with 1 when a limit is broken. Python is read by its syntax tree, Rust by its lines.
"""

import argparse
import ast
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
FILLERS: Final = frozenset(
    [
        "own",
        "one",
        "some",
        "made",
        "found",
        "known",
        "told",
        "given",
        "gone",
        "come",
        "kept",
        "looked",
        "left",
        "taken",
        "asked",
    ]
)
"""Bindings that say nothing about what they hold."""
NOT_PARTICIPLES: Final = frozenset(
    [
        "need",
        "feed",
        "seed",
        "speed",
        "bleed",
        "embed",
        "shed",
        "red",
        "led",
        "bed",
        "unused",
        "used",
        "allowed",
        "based",
        "fixed",
        "weighted",
        "shared",
        "mixed",
        "signed",
    ]
)
PARTICIPLES: Final = re.compile(
    r"(?:^|_)(\w+ed|found|given|known|told|made|left|kept|gone|hidden|written)$"
)
VAGUE_SUBJECT: Final = re.compile(
    r"(?:^|[.:;]\s+)(?:who(?:ever)?|whom|those|what(?:ever)? is|what|somebody|nobody)\b",
    re.IGNORECASE,
)
PYTHON: Final = ("python", "benches", "tools")
COLUMNS: Final = 100
FUNCTION_LINES: Final = 60
FILE_LINES: Final = 500
PARAMETERS: Final = 9
HARD: Final = (
    "python/kbe_nat/control/overrides.py",
    "python/kbe_nat/daemon/reconciler.py",
    "python/kbe_nat/datapath/every_packet.py",
    "python/kbe_nat/datapath/first_packet.py",
    "python/kbe_nat/policy/claims.py",
    "python/kbe_nat/policy/delta.py",
    "python/kbe_nat/policy/endpoints.py",
    "python/kbe_nat/policy/planner.py",
    "python/kbe_nat/rules/backend_ids.py",
    "python/kbe_nat/rules/nat_program.py",
    "python/kbe_nat/rules/standby.py",
    "python/kbe_nat/sources/claim_order.py",
    "python/kbe_nat/sources/manifests/file_watch.py",
    "python/kbe_nat/sources/store.py",
    "rust/engine/src/conntrack.rs",
    "rust/engine/src/conntrack/sweep.rs",
    "rust/engine/src/conntrack/tcp.rs",
    "rust/engine/src/engine/checkpoint.rs",
    "rust/engine/src/engine/checkpoint/format.rs",
    "rust/engine/src/engine/offload.rs",
    "rust/engine/src/fragment.rs",
    "rust/engine/src/ledger.rs",
    "rust/engine/src/pipeline.rs",
    "rust/engine/src/pipeline/assess.rs",
    "rust/engine/src/pipeline/first_packet.rs",
    "rust/engine/src/pipeline/known.rs",
    "rust/engine/src/pipeline/state.rs",
    "rust/engine/src/service/chunks.rs",
    "rust/datapath/src/conntrack_sync.rs",
    "rust/datapath/src/kernel.rs",
    "rust/datapath/src/lib.rs",
    "rust/netlink/src/conntrack/entry.rs",
    "rust/netlink/src/conntrack/events.rs",
    "rust/netlink/src/conntrack/requests.rs",
    "rust/netlink/src/nft/elements.rs",
    "rust/netlink/src/nft/rule.rs",
    "rust/netlink/src/nft/tables.rs",
    "rust/netlink/src/nft/transaction.rs",
    "rust/netlink/src/queue.rs",
    "rust/netlink/src/socket.rs",
)
"""Files whose steps need a reason beside them."""


@dataclass(slots=True)
class Measure:
    """Counts of the files of one language. Places are "file:line: name"."""

    places: list[str] = field(default_factory=list)
    """Every file."""
    lines: int = 0
    bindings: int = 0
    functions: int = 0
    words: int = 0
    fillers: list[str] = field(default_factory=list)
    participles: list[str] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    wide: list[str] = field(default_factory=list)
    long_functions: list[str] = field(default_factory=list)
    long_files: list[str] = field(default_factory=list)
    crowded: list[str] = field(default_factory=list)
    largest: int = 0
    hard_lines: int = 0
    hard_comments: int = 0


def measures() -> Iterator[tuple[str, Measure]]:
    """The counts of this tree, by language."""
    python = sorted(path for room in PYTHON for path in (ROOT / room).rglob("*.py"))
    yield "Python", measure_python(python)
    yield "Rust", measure_rust(sorted(ROOT.glob("rust/*/src/**/*.rs")))


def measure_python(paths: list[Path]) -> Measure:
    """Counts in Python files."""
    measure = Measure()
    for path in paths:
        text, place = path.read_text(), str(path.relative_to(ROOT))
        _measure_lines(measure, place, text, "#")
        tree = ast.parse(text)
        for node in ast.walk(tree):
            line = getattr(node, "lineno", 0)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                _measure_function(measure, f"{place}:{line}", node)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                _measure_binding(measure, f"{place}:{line}", node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                _measure_binding(measure, f"{place}:{line}", node.attr)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                _measure_prose(measure, f"{place}:{line}", ast.get_docstring(node) or "")
        for number, row in enumerate(text.splitlines(), 1):
            _, mark, comment = row.partition("# ")
            if mark:
                _measure_prose(measure, f"{place}:{number}", comment)
    return measure


def measure_rust(paths: list[Path]) -> Measure:
    """Counts in Rust files, without their tests' modules."""
    measure = Measure()
    for path in paths:
        text, place = path.read_text(), str(path.relative_to(ROOT))
        _measure_lines(measure, place, text, "//")
        # The tests of a file are the module at its end.
        rows = text.partition("\n#[cfg(test)]\nmod ")[0].splitlines()
        for number, row in enumerate(rows, 1):
            code, mark, comment = row.partition("//")
            if mark:
                _measure_prose(measure, f"{place}:{number}", comment.lstrip("/! "))
            for binding in RUST_BINDING.finditer(code):
                _measure_binding(measure, f"{place}:{number}", binding.group(1) or binding.group(2))
            if header := RUST_FUNCTION.match(code):
                measure.functions += 1
                # Python reads a getter as a field.
                if rows[number - 2].strip() != "#[getter]":
                    _measure_name(measure, f"{place}:{number}", header.group(2))
                end = next(
                    (i for i in range(number, len(rows)) if rows[i] == header.group(1) + "}"),
                    number,
                )
                signature = " ".join(rows[number - 1 : end]).partition("{")[0]
                # A trait declares functions without a body; `;` also stands in types of arrays.
                is_declared = re.search(r"\)[^;{\[]*;", signature) is not None
                if end - number + 2 > FUNCTION_LINES and not is_declared:
                    measure.long_functions.append(f"{place}:{number}: {header.group(2)}")
                parameters = re.findall(r"\b\w+: ", signature.partition("->")[0])
                if len(parameters) > PARAMETERS and not _is_python_constructor(rows, number):
                    measure.crowded.append(f"{place}:{number}: {header.group(2)}")
    return measure


def _is_python_constructor(rows: list[str], number: int) -> bool:
    """Whether Python calls the function in this line as a class, with keywords and defaults."""
    start = max((i for i in range(number - 1) if not rows[i].strip()), default=0)
    return any(row.strip() == "#[new]" for row in rows[start:number])


def _measure_lines(measure: Measure, place: str, text: str, mark: str) -> None:
    rows = text.splitlines()
    measure.places.append(place)
    measure.lines += len(rows)
    measure.largest = max(measure.largest, len(rows))
    if len(rows) >= FILE_LINES:
        measure.long_files.append(f"{place}: {len(rows)} lines")
    measure.wide += [f"{place}:{n}" for n, row in enumerate(rows, 1) if len(row) > COLUMNS]
    if place in HARD:
        measure.hard_lines += sum(bool(row.strip()) for row in rows)
        measure.hard_comments += sum(bool(re.match(rf"\s*{mark} ", row)) for row in rows)


def _measure_function(
    measure: Measure, place: str, node: ast.FunctionDef | ast.AsyncFunctionDef
) -> None:
    measure.functions += 1
    _measure_name(measure, place, node.name)
    if (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES:
        measure.long_functions.append(f"{place}: {node.name}")
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    if len([argument for argument in arguments if argument.arg != "self"]) > PARAMETERS:
        measure.crowded.append(f"{place}: {node.name}")
    for argument in arguments:
        if argument.arg != "self":
            _measure_binding(measure, place, argument.arg)


def _measure_name(measure: Measure, place: str, name: str) -> None:
    participle = PARTICIPLES.search(name)
    is_predicate = name.lstrip("_").split("_")[0] in ("is", "has", "are", "was", "test", "on")
    last = name.rsplit("_", 1)[-1]
    if (
        participle
        and not is_predicate
        and last not in NOT_PARTICIPLES
        and not re.match(r"[fF]\d+_", name)
    ):
        measure.participles.append(f"{place}: {name}")


def _measure_binding(measure: Measure, place: str, name: str) -> None:
    measure.bindings += 1
    if name.strip("_") in FILLERS:
        measure.fillers.append(f"{place}: {name}")


def _measure_prose(measure: Measure, place: str, text: str) -> None:
    measure.words += len(text.split())
    measure.subjects += [
        f"{place}: {match.group().strip()}" for match in VAGUE_SUBJECT.finditer(text)
    ]


def _rows(measure: Measure) -> Iterator[tuple[str, float, float, list[str]]]:
    """Each measure's name, value, limit and the places that count."""
    yield (
        "bindings that are no noun, %",
        100 * len(measure.fillers) / measure.bindings,
        1.5,
        measure.fillers,
    )
    yield (
        "functions named by a participle, %",
        100 * len(measure.participles) / measure.functions,
        2.0,
        measure.participles,
    )
    yield (
        "vague subjects, per 1,000 words of comment",
        1000 * len(measure.subjects) / measure.words,
        2.5,
        measure.subjects,
    )
    yield "lines over 100 columns", len(measure.wide), 0, measure.wide
    yield "functions over 60 lines", len(measure.long_functions), 0, measure.long_functions
    yield "files of 500 lines and more", len(measure.long_files), 0, measure.long_files
    yield "functions of more than 9 parameters", len(measure.crowded), 0, measure.crowded
    if measure.hard_lines:
        share = 100 * measure.hard_comments / measure.hard_lines
        yield "hard files: lines without a comment beside, %", 100 - share, 97.0, []


def main() -> int:
    """Print the table; the exit code of `--check`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="name every place that counts")
    parser.add_argument("--check", action="store_true", help="end with 1 when a limit is broken")
    arguments = parser.parse_args()
    broken = 0
    for language, measure in measures():
        print(f"{language}: {len(measure.places)} files, largest {measure.largest} lines")
        for what, value, limit, places in _rows(measure):
            is_broken = value > limit
            broken += is_broken
            print(f"  {what:<48}{value:8.1f}  at most {limit:g}{'  BROKEN' if is_broken else ''}")
            if arguments.list:
                print("".join(f"      {place}\n" for place in places), end="")
    return int(arguments.check and broken > 0)


RUST_BINDING: Final = re.compile(r"\b(?:let(?: mut)?|for) ([a-z_]\w*)\b|\|([a-z_]\w*)\|")
RUST_FUNCTION: Final = re.compile(r"(\s*)(?:pub(?:\(\w+\))? )?(?:const )?fn (\w+)")

if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough. Python's flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
