"""Executes the notebooks' sources and writes what they show: `python notebooks/execute.py [NAME]`.

A source `<name>.py` holds the cells, `<name>.ipynb` beside it what they gave when executed last.
"""

import os
import pathlib
import sys
import tempfile

import jupytext
import nbclient
import nbformat
from traitlets.config import Config

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}  # else XLA says on slow machines that compiling takes long
FOLDER = pathlib.Path(__file__).parent
NAMES = ("tour", "tuning", "experiment", "active", "activation")
START_TIMEOUT, CELL_TIMEOUT = 300, 1800  # seconds
# Times, versions and random identifiers would differ whenever a notebook is executed.
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def read(name: str) -> nbformat.NotebookNode:
    """The notebook that `<name>.py` describes, not executed."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"{name}-{number}"
    return notebook


def execute(name: str) -> nbformat.NotebookNode:
    """The notebook `name` with its outputs.

    Raises nbclient's CellExecutionError where a cell does, RuntimeError for what is on stderr.
    """
    notebook = read(name)
    with tempfile.TemporaryDirectory() as sockets:
        # Sockets in a folder of ours, where TCP would be open to others on the machine.
        manager = {"transport": "ipc", "ip": f"{sockets}/kernel"}
        client = nbclient.NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT,
            startup_timeout=START_TIMEOUT,
            kernel_name="python3",
            record_timing=False,
            config=Config({"KernelManager": manager}),
            resources={"metadata": {"path": str(FOLDER)}},
        )
        client.execute(env=os.environ | QUIET)
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{name}, {cell.source!r} writes to stderr: {output.text}")
    return notebook


def main(names: list[str]) -> None:
    """Execute the named notebooks, or all, and write them."""
    for name in names or NAMES:
        print(f"executing {name}", flush=True)
        nbformat.write(execute(name), FOLDER / f"{name}.ipynb")


if __name__ == "__main__":
    main(sys.argv[1:])
