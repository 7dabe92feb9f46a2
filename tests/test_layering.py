"""Imports never run backwards: each unit may know those that it is allowed here, and no other."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGINE = ROOT / "rust/engine/src"
PACKAGE = ROOT / "python/kbe_nat"

RUST = {
    "backend": "",
    "cidr": "",
    "rng": "",
    "hint": "",
    "clock": "",
    "tuple": "",
    "hash": "rng tuple",
    "wire": "tuple",
    "verdict": "",
    "counters": "verdict",
    "events": "clock conntrack tuple",
    "rewrite": "tuple wire",
    "reject": "rewrite tuple wire",
    "balance": "backend clock rng",
    "service": "backend balance cidr hash tuple",
    "affinity": "clock hash",
    "fragment": "clock hash tuple verdict wire",
    "conntrack": "cidr clock hash hint rng tuple verdict wire",
    "decide": "backend balance service tuple verdict wire",
    "filtering": "backend decide service tuple verdict",
    "recorder": "balance clock hash service tuple verdict",
    "connects": "",
    "ledger": "balance clock connects conntrack hash recorder rng service tuple verdict",
    "config": "conntrack decide",
    "pipeline": "affinity backend balance clock config conntrack counters decide events filtering "
    "fragment hash hint ledger recorder rewrite rng service tuple verdict wire",
    "engine": "affinity backend balance cidr clock config connects conntrack counters decide "
    "events filtering fragment hash ledger pipeline recorder rewrite rng service tuple verdict "
    "wire",
}
BANNED = (
    "std::io",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::time",
    "std::thread",
    "libc",
    "pyo3",
)
CRATES = {
    "apiserver": "",
    "engine": "",
    "flowcache": "",
    "netlink": "",
    "capture": "engine",
    "datapath": "engine flowcache netlink",
    "lab": "engine",
    "traffic": "",
    "python": "apiserver capture datapath engine flowcache lab netlink traffic",
    "fuzz": "apiserver capture engine netlink",
}
PYTHON = {
    "collector": "",
    "counting": "",
    "_native": "",
    "errors": "",
    "extras": "errors",
    "interrupt": "",
    "commands": "errors",
    "family": "",
    "field_docs": "",
    "submodules": "",
    "model": "family field_docs spelling",
    "packets": "errors family field_docs model",
    "port_rows": "model",
    "reference": "",
    "policy": "family field_docs model",
    "sources": "_native family collector errors metrics model spelling",
    "engine_tables": "_native family policy words",
    "rules": "family field_docs _native commands errors model packets policy",
    "drivers": "_native errors field_docs rules submodules words",
    "datapath": "family _native drivers errors model packets policy rules",
    "control": "family collector _native datapath engine_tables errors model policy",
    "kubeproxy": "family errors model policy sources spelling",
    "server": "family model policy",
    "metrics": "family _native model",
    "client": "errors",
    "explain": "_native family kubeproxy model packets policy port_rows rules",
    "daemon": "family collector counting _native client commands control datapath drivers errors "
    "explain kubeproxy metrics model packets policy port_rows rules server sources version words",
    "doctor": "client counting daemon datapath drivers errors extras rules",
    "playground": "client commands daemon errors extras policy sources",
    "lab": "_native commands control datapath drivers engine_tables errors family field_docs "
    "kubeproxy model packets playground policy reference rules sources spelling",
    "shadow": "family _native engine_tables model packets policy",
    "cli": "_native cli_words client counting daemon doctor drivers engine_tables errors explain "
    "extras family interrupt kubeproxy lab model packets playground policy port_rows rules shadow "
    "sources spelling version words",
    "cli_names": "sources",
    "cli_words": "cli_names",
    "session": "_native field_docs words",
    "spelling": "",
    "words": "",
    "compat": "_native errors submodules",
    "loading": "_native engine_tables errors model policy sources spelling",
    "__init__": "compat drivers family _native errors lab loading model packets session words",
    "__main__": "cli cli_words errors extras interrupt spelling version",
}


def allowed(table: dict[str, str], name: str) -> set[str]:
    assert name in table, f"{name} is new: say here what it may know"
    return set(table[name].split())


def imported(source: str) -> set[str]:
    """Units of the package that a Python file imports, whether at its head or in a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("kbe_nat.")}
    return {"version" if name == "__version__" else name for name in found}


def imported_modules(source: str) -> set[str]:
    """Modules that a Python file imports names from."""
    tree = ast.parse(source)
    return {
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
    }


OFFLINE = sorted(
    path.stem
    for path in (PACKAGE / "cli").glob("*.py")
    if "kbe_nat.cli.flags.objects" in imported_modules(path.read_text())
)
"""Verbs that read objects themselves need no daemon, though some may ask one."""


def used(source: str) -> set[str]:
    """Modules of its crate that a Rust file uses outside its tests."""
    code = re.sub(r"//.*", "", source.split("#[cfg(test)]")[0])
    found = set(re.findall(r"\bcrate::([a-z]\w*)", code))
    for group in re.findall(r"\bcrate::\{([^}]*)\}", code):
        found |= set(re.findall(r"\b([a-z]\w*)(?:::|,|$)", group))
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_python_imports_run_one_way(path: Path) -> None:
    unit = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert imported(path.read_text()) - {unit} <= allowed(PYTHON, unit)


@pytest.mark.parametrize("verb", OFFLINE)
def test_offline_verbs_run_without_the_daemon(verb: str) -> None:
    """Nor do the modules of the command line that they import."""
    pending, seen = {f"cli.{verb}"}, set()
    while pending:
        module = pending.pop()
        seen.add(module)
        source = (PACKAGE / f"{module.replace('.', '/')}.py").read_text()
        names = {name.removeprefix("kbe_nat.") for name in imported_modules(source)}
        assert not [name for name in names if name.startswith("daemon")], module
        pending |= {name for name in names if name.startswith("cli.")} - seen


def modules_of_tests(sources: Path) -> set[Path]:
    """The Rust files here that are compiled for tests alone, those below them included."""
    heads = {
        path.with_suffix("") / name
        for path in sources.rglob("*.rs")
        for name in re.findall(r"#\[cfg\(test\)\]\s*mod (\w+);", path.read_text())
    }
    return {
        path
        for path in sources.rglob("*.rs")
        if not heads.isdisjoint({path.with_suffix(""), *path.parents})
    }


@pytest.mark.parametrize(
    "path",
    sorted(set(ENGINE.rglob("*.rs")) - modules_of_tests(ENGINE)),
    ids=lambda path: str(path.relative_to(ENGINE)),
)
def test_rust_uses_run_one_way(path: Path) -> None:
    module = path.relative_to(ENGINE).parts[0].removesuffix(".rs")
    if module != "lib":
        assert used(path.read_text()) - {module} <= allowed(RUST, module)


@pytest.mark.parametrize("table", [RUST, PYTHON, CRATES], ids=["rust", "python", "crates"])
def test_what_is_allowed_has_no_circle(table: dict[str, str]) -> None:
    done: set[str] = set()
    while len(done) < len(table):
        next_ones = {
            name
            for name in table
            if name not in done and allowed(table, name) - {"version"} <= done
        }
        assert next_ones, f"a circle among {sorted(set(table) - done)}"
        done |= next_ones


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("rust/*/Cargo.toml")), ids=lambda path: path.parent.name
)
def test_crates_depend_one_way(path: Path) -> None:
    dependencies = path.read_text().partition("[dependencies]")[2].partition("\n[")[0]
    own = set(re.findall(r"kbe-nat-(\w+)", dependencies))
    assert own <= allowed(CRATES, path.parent.name)


def test_the_engine_has_no_input_no_output_no_clock_and_no_threads() -> None:
    for path in ENGINE.rglob("*.rs"):
        code = path.read_text().split("#[cfg(test)]")[0]
        for banned in (
            "std::io",
            "std::fs",
            "std::net::Tcp",
            "std::net::Udp",
            "std::time",
            "std::thread",
            "libc",
            "pyo3",
        ):
            assert banned not in code, f"{path.relative_to(ROOT)} uses {banned}"
        if path.name != "hint.rs":
            assert "unsafe" not in code, f"{path.relative_to(ROOT)} has unsafe code"


def test_scapy_stays_in_the_tests() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert "scapy" not in path.read_text()
