"""How the code reads, as `tools/house.py` measures it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import house

RUST = """fn f() {
    let own = 1;
    for one in [own] {}
    for frontend in [1] {}
    [1].map(|some| some);
}
fn is_wired() {}
#[getter]
fn evicted() {}
fn looked() {}

#[cfg(test)]
mod tests {
    fn what_was_written() {}
}
"""


def test_the_words_of_completion_are_up_to_date() -> None:
    """A change of any verb's flags makes the file old."""
    command = [sys.executable, str(Path(house.__file__).with_name("cli_words.py")), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_binding_is_a_filler() -> None:
    """In the package, the benchmarks, the tools, and the crates."""
    measures = dict(house.measures())
    python = measures["Python"]
    assert (python.fillers, measures["Rust"].fillers) == ([], [])
    assert {place.partition("/")[0] for place in python.places} == {"python", "benches", "tools"}


def test_fillers_and_participles_of_both_languages_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house, "ROOT", tmp_path)
    (tmp_path / "a.py").write_text("def looked(own):\n    own._one = [left for left in own]\n")
    (tmp_path / "a.rs").write_text(RUST)
    python = house.measure_python([tmp_path / "a.py"])
    assert sorted(python.fillers) == ["a.py:1: own", "a.py:2: _one", "a.py:2: left"]
    assert python.participles == ["a.py:1: looked"]
    rust = house.measure_rust([tmp_path / "a.rs"])
    assert rust.fillers == ["a.rs:2: own", "a.rs:3: one", "a.rs:5: some"]
    assert rust.participles == ["a.rs:10: looked"]


@pytest.mark.parametrize(("attribute", "expected"), [("#[new]\n", []), ("", ["a.rs:2: new"])])
def test_constructors_that_python_calls_may_have_many_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, expected: list[str]
) -> None:
    monkeypatch.setattr(house, "ROOT", tmp_path)
    parameters = ", ".join(f"p{number}: u8" for number in range(house.PARAMETERS + 1))
    (tmp_path / "a.rs").write_text(f"\n{attribute}fn new({parameters}) {{\n}}\n")
    assert house.measure_rust([tmp_path / "a.rs"]).crowded == expected


def test_a_reader_that_leaves_ends_the_table_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, house.__file__]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
