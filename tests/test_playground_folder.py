"""The playground's folder: nothing that is not a playground's is removed."""

from pathlib import Path

import pytest

from kbe_nat.errors import PlaygroundError
from kbe_nat.playground.world import World


@pytest.mark.parametrize("verb", ["up", "down"])
def test_a_folder_with_something_else_is_left_as_it_is(tmp_path: Path, verb: str) -> None:
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("years of work")
    with pytest.raises(PlaygroundError, match=f"^{tmp_path}: no playground is in this folder"):
        getattr(World(tmp_path), verb)()
    assert thesis.read_text() == "years of work"


def test_an_empty_folder_and_none_are_no_playground(tmp_path: Path) -> None:
    World(tmp_path / "absent").down()
    World(tmp_path).down()
    assert tmp_path.is_dir()
