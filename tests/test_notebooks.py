"""The notebooks run, and what is kept of them is what their sources say."""

import importlib.util
import pathlib
import re

import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
LARGEST = 300_000  # bytes
# Addresses of objects, and files of the machine that a notebook was executed on.
PRIVATE = re.compile(r"0x[0-9a-f]{6,}|(?<![\w./])/\w+/\w+|[A-Z]:\\\\")


def load_executor():
    specification = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


executor = load_executor()


def kept(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_every_notebook_is_known():
    sources = {path.stem for path in FOLDER.glob("*.py")} - {"execute"}
    assert sources == {path.stem for path in FOLDER.glob("*.ipynb")} == set(executor.NAMES)


@pytest.mark.parametrize("name", executor.NAMES)
def test_what_is_kept_has_the_cells_of_its_source(name):
    source, notebook = executor.read(name), kept(name)
    cells, expected = (
        [(cell.id, cell.cell_type, cell.source) for cell in one.cells] for one in (notebook, source)
    )
    assert cells == expected, "run `make notebooks`"
    assert notebook.metadata == source.metadata


@pytest.mark.parametrize("name", executor.NAMES)
def test_what_is_kept_was_executed_from_first_to_last_without_errors(name):
    cells = code_cells(kept(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output.output_type != "error"
        assert output.get("name") != "stderr"


@pytest.mark.parametrize("name", executor.NAMES)
def test_what_is_kept_is_small_and_of_no_machine(name):
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST
    for cell in code_cells(kept(name)):
        assert set(cell.metadata) == set()
        for output in cell.outputs:
            texts = [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
            texts.append(output.get("data", {}).get("text/html", ""))
            assert not PRIVATE.search("\n".join(texts))


@pytest.mark.slow
@pytest.mark.parametrize("name", executor.NAMES)
def test_source_runs_without_errors_and_warnings(name):
    """Claims of the text are asserted in its cells."""
    notebook = executor.execute(name)
    for cell, before in zip(code_cells(notebook), code_cells(kept(name)), strict=True):
        kinds, kinds_before = (
            [(o.output_type, *sorted(o.get("data", {}))) for o in one.outputs]
            for one in (cell, before)
        )
        assert kinds == kinds_before
