"""The notebooks: what is stored in them is whole and clean, and they run."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

LARGEST_BYTES = 700_000
LONGEST_CELL_S = 600

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:tmp|root|home|Users|work|opt|usr|var|private|mnt|etc)\b|\b[A-Za-z]:\\")
"""Absolute paths of some machine, but not the path within an address such as https://host/home."""

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: Any) -> Iterator[str]:
    """Everything in a cell's outputs that a person could read; pictures are left out."""
    for output in cell.outputs:
        yield output.get("text", "")
        yield from output.get("traceback", [])
        for kind, content in output.get("data", {}).items():
            if not kind.startswith("image/") or kind == "image/svg+xml":
                yield str(content)


def kinds(cell: Any) -> set[str]:
    """Types of a cell's outputs: ``stdout``, ``stderr``, ``image/png``, ``text/html``, …"""
    found: set[str] = set()
    for output in cell.outputs:
        found |= {output.name} if output.output_type == "stream" else set(output.get("data", {output.output_type: ""}))
    return found


def assert_clean(notebook: Any, *forbidden: str) -> None:
    for number, cell in enumerate(code_cells(notebook)):
        read = "\n".join(texts(cell))
        where = f"code cell {number}:\n{cell.source}\n---\n{read}"
        assert not kinds(cell) & {"error", "stderr"}, where
        assert not MACHINE_PATH.search(read), where
        assert not any(text in read for text in forbidden), where


def test_stored_outputs_are_there_and_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST_BYTES
    assert notebook.metadata.kernelspec.name == "python3"
    cells = code_cells(notebook)
    # Run once, from top to bottom, and shown as a whole.
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in kinds(cell) for cell in cells)
    assert_clean(notebook)


@pytest.mark.slow
def test_runs_and_gives_the_stored_kinds_of_output(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody's start-up files, and no choice of theirs where figures go.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    folder = tmp_path / "folder"
    folder.mkdir()
    stored = nbformat.read(path, as_version=4)
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None

    client = NotebookClient(
        notebook, timeout=LONGEST_CELL_S, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()

    assert_clean(notebook, tempfile.gettempdir(), str(Path.home()), str(Path.cwd()))
    # Otherwise what is stored was made by another version of the cells.
    assert [kinds(cell) for cell in code_cells(notebook)] == [kinds(cell) for cell in code_cells(stored)]
    assert not any(folder.iterdir()), "the notebook leaves something behind in the working folder"
