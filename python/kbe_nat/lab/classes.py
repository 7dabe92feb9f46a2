"""Strategies in Python: the classes that a scenario names, found and checked before any cell runs.

A class is one that the caller gives, or `module:Class`. The module is searched for beside the
scenario first, where traces are too, then in the folders in which an earlier run found it, then
where Python finds its modules. Python keeps modules by their names alone; a module that was loaded
from beside one scenario is loaded anew when another one has a module of that name beside it.
"""

import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, TypeAlias, cast

from kbe_nat._native import Backend
from kbe_nat.errors import ArgumentError, ScenarioError
from kbe_nat.lab.cells import Cell
from kbe_nat.lab.scenario import Strategy


class PythonStrategy(Protocol):
    """A balancing strategy in Python. An instance serves one list of backends; another list gets
    another instance.

    Class attributes, False where they are not there: `consistent` says that choices follow from the
    hash alone, `by_client` that the hash is that of the client's address and not of the flow.
    """

    def __init__(self, backends: list[Backend], seed: int) -> None: ...

    def pick(self, hash: int, loads: list[int]) -> int | None:
        """The position of the backend for a new connection, or None to refuse it. `loads` are the
        connections alive of each backend.
        """


Classes: TypeAlias = Mapping[str, type[PythonStrategy]]
"""Strategies in Python by the name that a scenario calls them."""


def class_of(strategy: Strategy, classes: Classes) -> type[PythonStrategy] | None:
    """The class of a strategy in Python, None for others."""
    return classes[strategy.class_name] if strategy.class_name is not None else None


@contextmanager
def module_path(folders: Iterable[Path]) -> Iterator[None]:
    """Lets Python find modules in these folders first, while a scenario is checked or runs."""
    before = sys.path[:]
    sys.path[:0] = dict.fromkeys(str(folder.absolute()) for folder in folders)
    try:
        yield
    finally:
        sys.path[:] = before


def find_classes(cells: Iterable[Cell], named: Classes) -> dict[str, type[PythonStrategy]]:
    """The classes of the strategies in Python that these cells have. Call it within `module_path`.
    Raises `ScenarioError` where there is none, or where it can be no strategy, and `ArgumentError`
    for classes of the caller that are no mapping.
    """
    if not isinstance(named, Mapping):
        raise ArgumentError(f"classes: a mapping of names to classes is expected, not {named!r}")
    classes: dict[str, type[PythonStrategy]] = {}
    for cell in cells:
        name = cell.strategy.class_name
        if name is None:
            continue
        if name not in classes:
            value = named[name] if name in named else _imported(cell, name)
            _check(cell, name, value)
            classes[name] = cast("type[PythonStrategy]", value)
        if cell.memory != "conntrack" and not getattr(classes[name], "consistent", False):
            reason = f"with memory {cell.memory} a class must say consistent = True"
            _refuse(cell, name, reason)
    return classes


def module_folders(classes: Classes, named: Classes) -> dict[str, str]:
    """The folder in which Python found the module of each class, by the name of the class. Those of
    the caller have none.
    """
    folders = {}
    for name in classes.keys() - named.keys():
        module = name.partition(":")[0]
        file = getattr(sys.modules.get(module), "__file__", None)
        if file is not None:
            is_package = Path(file).name == "__init__.py"
            depth = module.count(".") + (1 if is_package else 0)
            folders[name] = str(Path(file).absolute().parents[depth])
    return folders


def _imported(cell: Cell, name: str) -> object:
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        reason = "the caller gave no class of this name, and a class of a module is module:Class"
        _refuse(cell, name, reason)
    _forget(module.partition(".")[0])
    importlib.invalidate_caches()
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        # A module of the user may fail in any way while it is imported, or end as a script does.
        words = str(error) or type(error).__name__
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            words += f"; it was searched for in {cell.folder.absolute()} and where Python does"
        _refuse(cell, name, words)


def _forget(module: str) -> None:
    """Unload a module that was loaded for another scenario, where this one has its own."""
    spec = PathFinder.find_spec(module)
    origin = spec.origin if spec else None
    if _LOADED.get(module, origin) != origin:
        for name in [each for each in sys.modules if each.partition(".")[0] == module]:
            del sys.modules[name]
    if module not in sys.modules and origin is not None:
        _LOADED[module] = origin


def _check(cell: Cell, name: str, value: object) -> None:
    """That the class can be made and asked as the simulation does."""
    if not isinstance(value, type):
        _refuse(cell, name, f"is no class, but {type(value).__name__}")
    pick = getattr(value, "pick", None)
    if not callable(pick):
        _refuse(cell, name, "has no method pick")
    # A method gets its instance too; what stands in the class says whether there is one.
    kind = inspect.getattr_static(value, "pick")
    instance = () if isinstance(kind, staticmethod | classmethod) else (None,)
    for function, arguments, words in (
        (value, ([], 0), "cannot be made of (backends, seed)"),
        (pick, (*instance, 0, []), "pick cannot be called with (hash, loads)"),
    ):
        if reason := _misfit(function, arguments):
            _refuse(cell, name, f"{words}: {reason}")


def _misfit(function: Any, arguments: Sequence[object]) -> str:  # noqa: ANN401
    """Why a function cannot be called with these arguments; empty where it can, or says nothing."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*arguments)
    except TypeError as error:
        return str(error)
    return ""


def _refuse(cell: Cell, name: str, reason: str) -> NoReturn:
    scenario = cell.scenario
    places = [
        f"strategies[{place}].class"
        for place, value in enumerate(scenario.strategies)
        if isinstance(value, Strategy) and value.class_name == name
    ]
    raise ScenarioError(scenario.name, places[0] if places else "strategies", f"{name}: {reason}")


_LOADED: Final[dict[str, str]] = {}
"""Files of modules that were loaded for scenarios, by the name of the module."""
