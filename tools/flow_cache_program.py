"""Write rust/flowcache/src/program/code/*.rs: the flow cache's programs as the kernel takes them,
compiled from flow_cache.bpf.c and its headers, which stand beside it.

So that neither users nor builds need a compiler for BPF, the files are in the repository. `--check`
writes nothing, and ends with 1 if the source has changed since, or if the compiler that wrote the
file gives other code. Another compiler's code is not compared; then it says so.
"""

import hashlib
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from written import write

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = ROOT / "rust/flowcache/src/program/flow_cache.bpf.c"
CODE: Final = SOURCE.with_name("code")
FLAGS: Final = ("-O2", "-target", "bpfel", "-mcpu=v3", "-Wall", "-Wextra", "-Werror")
"""v3 has comparisons of 32 bits: half the instructions where numbers are narrow."""
COLUMNS: Final = 100
PROGRAMS: Final = ("ingress", "egress", "probe")
HEAD: Final = """//! Written by tools/flow_cache_program.py from flow_cache.bpf.c and its headers.
//! Source: sha256 {digest}
//! Compiler: {compiler}

use crate::program::{names};

"""


@dataclass(frozen=True)
class Section:
    """A section of an ELF file of 64 bits."""

    name: str
    content: bytes
    link: int


@dataclass(frozen=True)
class Relocation:
    """An instruction that names a map, and how far behind the map's beginning it points."""

    instruction: int
    symbol: str
    offset: int


def main() -> int:
    """The exit code."""
    clang = shutil.which("clang")
    compiler = clang and version(clang)
    sources = sorted(SOURCE.parent.glob("*.bpf.[ch]"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    if "--check" in sys.argv:
        before = "".join((CODE / f"{name}.rs").read_text() for name in PROGRAMS)
        wanted = re.search(r"^//! Compiler: (.*)$", before, re.MULTILINE)
        if before.count(f"sha256 {digest}") != len(PROGRAMS):
            print(f"{CODE} is of another {SOURCE.name}: run {sys.argv[0]}", file=sys.stderr)
            return 1
        if not compiler or not wanted or wanted.group(1) != compiler:
            written_by = wanted and wanted.group(1)
            print(f"{CODE} is not compared: by {written_by}, here is {compiler or 'no clang'}")
            return 0
    if not clang:
        print("clang is needed: tools/system-packages.sh clang", file=sys.stderr)
        return 1
    by_name = {section.name: section for section in sections(compiled(clang))}
    codes = []
    # All of them, also when the first one differs.
    for name in PROGRAMS:
        text = "\n".join(program(by_name, name))
        names = "{MapName, Program}" if "MapName" in text else "Program"
        head = HEAD.format(digest=digest, compiler=compiler, names=names)
        codes.append(write(CODE / f"{name}.rs", head + text, __doc__))
    return max(codes)


def version(clang: str) -> str:
    """The compiler's name and version."""
    done = subprocess.run([clang, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0].strip()


def compiled(clang: str) -> bytes:
    """The object file."""
    # The kernel's headers of this machine's processor: they are about the width of types alone.
    headers = f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH')}"
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "flow_cache.o"
        command = [clang, *FLAGS, headers, "-c", str(SOURCE), "-o", str(target)]
        subprocess.run(command, check=True)
        return target.read_bytes()


def program(by_name: dict[str, Section], name: str) -> Iterator[str]:
    """A constant of Rust."""
    code = by_name[f"classifier/{name}"].content
    words = [f"{word:#x}" for (word,) in struct.iter_unpack("<Q", code)]
    yield "#[rustfmt::skip]"
    yield f"pub(crate) static {name.upper()}: Program = Program {{"
    yield f'    name: "kbe_nat_{name}",'
    yield "    instructions: &["
    indent = 8 * " "
    lines = textwrap.wrap(f"{', '.join(words)},", COLUMNS - len(indent))
    yield textwrap.indent("\n".join(lines), indent)
    yield "    ],"
    yield "    relocations: &["
    cells = [relocated(relocation) for relocation in relocations(by_name, name)]
    for start in range(0, len(cells), 2):
        yield f"        {', '.join(cells[start : start + 2])},"
    yield "    ],"
    yield "};"
    yield ""


def relocated(relocation: Relocation) -> str:
    """A relocation in Rust."""
    title = "".join(part.title() for part in re.findall(r"[a-z]+|\d+", relocation.symbol))
    return f"({relocation.instruction}, MapName::{title}, {relocation.offset})"


def sections(elf: bytes) -> list[Section]:
    """All sections, in their order."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    heads = [struct.unpack_from("<IIQQQQIIQQ", elf, table + size * i) for i in range(count)]
    contents = [elf[head[4] : head[4] + head[5]] for head in heads]
    return [
        Section(text(contents[names], head[0]), content, head[6])
        for head, content in zip(heads, contents, strict=True)
    ]


def relocations(by_name: dict[str, Section], program: str) -> Iterator[Relocation]:
    """Where maps' descriptors belong in a program."""
    section = by_name.get(f".relclassifier/{program}")
    code = by_name[f"classifier/{program}"].content
    symbols = [struct.unpack("<IBBHQQ", row) for row in rows(by_name[".symtab"].content, 24)]
    for row in rows(section.content if section else b"", 16):
        place, information = struct.unpack("<QQ", row)
        name = text(by_name[".strtab"].content, symbols[information >> 32][0])
        (offset,) = struct.unpack_from("<i", code, place + 4)
        yield Relocation(place // 8, name, offset)


def rows(content: bytes, length: int) -> Iterator[bytes]:
    """The rows of a table."""
    return (content[start : start + length] for start in range(0, len(content), length))


def text(strings: bytes, start: int) -> str:
    """A string of a table of strings."""
    return strings[start : strings.index(b"\0", start)].decode()


if __name__ == "__main__":
    sys.exit(main())
