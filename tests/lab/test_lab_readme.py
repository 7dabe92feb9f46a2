"""README shows what the lab measures."""

from lab_figures import README, page

from kbe_nat import lab


def test_readmes_figures_are_those_of_the_gallery() -> None:
    text = README.read_text()
    assert page(text) == text, "run tools/lab_figures.py"


def test_each_figure_has_its_command() -> None:
    for name in ("seed", "even", "scale-out"):
        assert f"`kbe-nat lab run {name} -d {name}`" in README.read_text()
        assert name in lab.gallery()
