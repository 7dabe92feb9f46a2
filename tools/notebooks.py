"""Execute the notebooks of the lab, and write them with what they print and draw.

`--check` writes nothing, and ends with 1 where a text differs from the one that is committed.
Pictures are compared by number alone: their bytes depend on fonts and on matplotlib's version.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER: Final = Path(__file__).parents[1] / "notebooks"
SECONDS: Final = 300


def execute(path: Path) -> Any:  # noqa: ANN401
    """The notebook with the results of its cells. Raises `CellExecutionError`."""
    notebook = nbformat.read(path, as_version=4)
    # An interactive window is never wanted, and the kernel inherits our interpreter's packages.
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", record_timing=False)
    client.execute(cwd=str(path.parent))
    notebook.metadata = {
        "kernelspec": notebook.metadata["kernelspec"],
        "language_info": {"name": "python"},
    }
    return notebook


def differences(path: Path) -> Iterator[str]:
    """What a run prints otherwise than the committed notebook."""
    before, after = nbformat.read(path, as_version=4), execute(path)
    for place, (old, new) in enumerate(zip(before.cells, after.cells, strict=True)):
        if old.cell_type == "code" and texts(old) != texts(new):
            yield f"{path.name}: cell {place}: {texts(old)} -> {texts(new)}"


def texts(cell: Any) -> list[str]:  # noqa: ANN401
    """What a cell prints and returns; of a picture, that there is one."""
    return [
        output.get("text") or output.get("data", {}).get("text/plain", "")
        for output in cell.outputs
    ]


def main() -> int:
    """Write all notebooks, or compare them; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    is_check = parser.parse_args().check
    complaints: list[str] = []
    for path in sorted(FOLDER.glob("*.ipynb")):
        try:
            if is_check:
                complaints += differences(path)
            else:
                nbformat.write(execute(path), path)
        except CellExecutionError as error:
            complaints.append(f"{path.name}: {error}")
    print(*complaints, sep="\n", end="\n" if complaints else "")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
