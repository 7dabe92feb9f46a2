"""Arrows among the files of a Rust crate, read from their text.

A file uses another where a path leads to a name of that file's module (`crate::`, `super::`, or the
name of a child module). A name that another module re-exports (`pub use`) belongs to the file that
defines it: a parent may pass on what its children define, and the children may use the parent.

A file also uses another where it calls a method that an inherent `impl` over there adds to a type.
Such a call needs no path. On `self` within an `impl` of that type the method is certain; elsewhere
methods are told by their names, so only those count that lie in another file than their type and
whose name occurs once in the crate. Code under `#[cfg(test)]` and comments do not count.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

Arrows = dict[Path, set[Path]]
Module = tuple[str, ...]

PATH = re.compile(r"(?<![\w:])((?:\w+::)+\w+|(?:\w+::)+\*)")
REEXPORT = re.compile(r"^pub(?:\([a-z]+\))? use ([^;]+);", re.MULTILINE)
CHILD = re.compile(r"^(?:pub(?:\([a-z]+\))? )?mod (\w+);", re.MULTILINE)
IMPL = re.compile(r"^impl(?:<[^{]*?>)? (\w+)(?:<[^{]*>)? \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
FUNCTION = re.compile(r"\bfn (\w+)")
TYPE = re.compile(r"^\s*(?:pub(?:\([a-z]+\))? )?(?:struct|enum) (\w+)", re.MULTILINE)
METHOD = re.compile(r"^    (?:pub(?:\([a-z]+\))? )?(?:const )?fn (\w+)", re.MULTILINE)
CALL = re.compile(r"\.\s*(\w+)(?:::<[^()]*>)?\(")
CALL_ON_SELF = re.compile(r"\b(?:self\s*\.\s*|Self::)(\w+)(?:::<[^()]*>)?\(")
GROUP = re.compile(r"((?:\w+::)+)\{([^{}]*)\}")
TESTS = re.compile(r"#\[cfg\(test\)\]\s*mod \w+ \{")


def arrows(sources: Path) -> Arrows:
    """Which files of the crate, whose sources lie in this directory, each file uses."""
    crate = _Crate({_module(path, sources): path for path in sources.rglob("*.rs")})
    return {
        path: (crate.by_path(module) | crate.by_method(module)) - {path}
        for module, path in crate.files.items()
    }


def circles(graph: Arrows) -> list[list[Path]]:
    """The files of each circle: those that reach each other."""
    reach = {path: _reachable(graph, path) for path in graph}
    groups = {
        tuple(sorted(other for other in reach[path] if path in reach[other])) for path in graph
    }
    return sorted([*group] for group in groups if len(group) > 1)


def _reachable(graph: Arrows, start: Path) -> set[Path]:
    seen = {start}
    pending = [start]
    while pending:
        new = graph[pending.pop()] - seen
        seen |= new
        pending += new
    return seen


def _module(path: Path, sources: Path) -> Module:
    parts = path.relative_to(sources).with_suffix("").parts
    return () if parts == ("lib",) else parts


@dataclass
class _Crate:
    """The files of a crate by module; their code without comments, strings, tests, re-exports."""

    files: dict[Module, Path]

    def __post_init__(self) -> None:
        self.code: dict[Module, str] = {}
        self.reexports: dict[Module, list[str]] = {}
        for module, path in self.files.items():
            text = TESTS.split(path.read_text())[0]
            text = _written_out(re.sub(r'"(?:[^"\\]|\\.)*"', '""', re.sub(r"//.*", "", text)))
            self.reexports[module] = [
                name for names in REEXPORT.findall(text) for name in re.split(r"\s*,\s*", names)
            ]
            self.code[module] = REEXPORT.sub("", text)

    def by_path(self, module: Module) -> set[Path]:
        """Files that define the names of a module's paths."""
        homes = (self._home(module, path) for path in PATH.findall(self.code[module]))
        return {home for home in homes if home}

    def _home(self, module: Module, path: str) -> Path | None:
        """The file that defines a path's name, seen from a module; None outside of the crate."""
        start, *names = path.split("::")
        if start == "crate":
            module = ()
        elif start == "super":
            module = module[:-1]
        elif start in CHILD.findall(self.code[module]):
            module = (*module, start)
        elif start != "self":
            return None
        for name in names:
            if name == "super":
                module = module[:-1]
            elif (*module, name) in self.files:
                module = (*module, name)
            else:
                ends = (own for own in self.reexports[module] if own.endswith(f"::{name}"))
                if passed_on := next(ends, None):
                    return self._home(module, passed_on)
                break
        return self.files[module]

    def by_method(self, module: Module) -> set[Path]:
        """Files whose `impl` of a type has a method that the module calls."""
        code = self.code[module]
        calls = {(None, name) for name in CALL.findall(code)} | {
            (owner, name)
            for owner, body in IMPL.findall(code)
            for name in CALL_ON_SELF.findall(body)
        }
        return {self.files[self.methods[call]] for call in calls if call in self.methods}

    @cached_property
    def methods(self) -> dict[tuple[str | None, str], Module]:
        """Where an `impl` has a type's method; also under None, if that is not the type's file."""
        homes = {name: module for module, code in self.code.items() for name in TYPE.findall(code)}
        names = [name for code in self.code.values() for name in FUNCTION.findall(code)]
        methods: dict[tuple[str | None, str], Module] = {}
        for module, code in self.code.items():
            for owner, body in IMPL.findall(code):
                for name in METHOD.findall(body):
                    methods[owner, name] = module
                    if homes.get(owner) != module and names.count(name) == 1:
                        methods[None, name] = module
        return methods


def _written_out(code: str) -> str:
    """Each path of a group (`use a::{b, c::d};`) in full."""

    def paths(group: re.Match[str]) -> str:
        names = (name.strip() for name in group[2].split(","))
        return ", ".join(
            group[1].removesuffix("::") if name == "self" else group[1] + name
            for name in names
            if name
        )

    while GROUP.search(code):
        code = GROUP.sub(paths, code)
    return code
