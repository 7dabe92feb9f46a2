"""The notebooks say what they said when they were committed."""

from pathlib import Path

import nbformat
import pytest

from notebooks import FOLDER, differences, texts

BOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_repeats(path: Path) -> None:
    assert list(differences(path)) == []


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_its_results(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    pictures = [
        output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert pictures
    printed = " ".join(text for cell in code for text in texts(cell))
    for place in ("/tmp", "/home", "/root", "/work", str(Path.home())):
        assert place not in printed


def test_a_difference_is_told(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(6 * 7)")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="41\n")]
    path = tmp_path / "x.ipynb"
    nbformat.write(notebook, path)
    assert list(differences(path)) == ["x.ipynb: cell 0: ['41\\n'] -> ['42\\n']"]
