"""The page of the lab shows what the lab measures."""

from lab_figures import PAGE, page

from kbe_nat import lab


def test_the_figures_are_those_of_the_gallery() -> None:
    text = PAGE.read_text()
    assert page(text) == text, "run tools/lab_figures.py"


def test_each_figure_has_its_command() -> None:
    for name in ("two-endpoints", "even", "scale-out"):
        assert f"`kbe-nat lab run {name} -d {name}`" in PAGE.read_text()
        assert name in lab.gallery()
