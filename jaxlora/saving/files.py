"""save() and load(): a task and its prediction in one file."""

import json
import os
import pathlib
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from ..activations import Activation
from ..checkpoints import write_whole
from ..outputs import Prediction
from ..tasks import Task
from . import activation as activations
from . import trees
from .container import Content, pack, unpack

FORMAT, FORMAT_VERSION = "jaxlora prediction", 1
NUMERICS = ("samples", "replicates", "seed", "options")


def save(path: os.PathLike | str, task: Task, prediction: Prediction, **numerics: Any) -> None:
    """Write a task and its prediction to one netCDF file, which `load` reads.

    The file has every leaf as it is, in its precision: numbers, replicates, branches and status,
    in groups of the names that they have in Python, and so is open to every reader of netCDF or
    HDF5. It is written whole or not at all, and replaces none but a saved prediction. `numerics`
    are keywords that `predict` was called with (samples, replicates, seed, options); they are
    noted for who reads the file. A user's activation function is left out: its name and its values
    at fixed matrices are written.

    Raises ValueError for another keyword, for a task out of range and for a file that is there and
    is not a saved prediction; CheckpointError where the disk does not take it.
    """
    for name in numerics:
        if name not in NUMERICS:
            raise ValueError(f"{name}: must be one of {', '.join(NUMERICS)}")
    task.check()
    path = pathlib.Path(path)
    check_replaceable(path)
    values = activations.values_of(task.activation, task.tokens)
    arrays = trees.parameters_of(task) | trees.arrays_of(prediction)
    if values is not None:
        arrays[activations.VALUES] = values
    attributes = {
        "title": "Theory of LoRA fine-tuning in a solvable attention model (arXiv:2606.05899)",
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "jaxlora_version": version("jaxlora"),
        "tokens": int(task.tokens),
        "reuse": int(task.reuse),
        "activation": task.activation.name,
        "branches": " ".join(branch.start for branch in prediction.finetuning.branches),
        "numerics": json.dumps(numerics, default=_plain),
    }
    write_whole(path, pack(Content(arrays, attributes, trees.describe(list(arrays)))))


def load(
    path: os.PathLike | str,
    *,
    activation: str | Activation | Callable[[jax.Array], jax.Array] | None = None,
) -> tuple[Task, Prediction]:
    """The task and the prediction that `save` wrote, equal to them in every leaf.

    The prediction may be passed to `predict` as `known`. Where the task has a user's activation,
    `activation` must be it: what has another name or other values is refused. Numbers in float64
    need JAX with float64, as they would lose digits; those that were saved in float32 do not.

    Raises ValueError for a file that is not a saved prediction, is cut off, has changed or is of
    another version, and for another activation; RuntimeError where float64 is missing; OSError
    where there is no file to read.
    """
    path = pathlib.Path(path)
    content, whole = _open(path)
    found = content.attributes
    if not whole:
        raise ValueError(f"path = {str(path)!r}: is not what was saved: the file has changed")
    arrays = content.arrays
    if any(jax.dtypes.canonicalize_dtype(x.dtype) != x.dtype for x in arrays.values()):
        raise RuntimeError(
            f"path = {str(path)!r}: was saved with float64: call "
            "jax.config.update('jax_enable_x64', True) before loading it"
        )
    tokens = found["tokens"]
    values = arrays.get(activations.VALUES)
    chosen = activations.restore(found["activation"], values, tokens, activation)
    task = trees.task_of(arrays, tokens, chosen, bool(found["reuse"]))
    return task, trees.module_of(Prediction, arrays, found["branches"].split())


def check_replaceable(path: os.PathLike | str) -> None:
    """Raise ValueError for a file that is there and that `save` would not replace."""
    path = pathlib.Path(path)
    if not path.exists():
        return
    try:
        _open(path)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"path = {str(path)!r}: is there, and is not a saved prediction"
        ) from error


def _open(path: pathlib.Path) -> tuple[Content, bool]:
    """The content of a file of this format; raises ValueError for another."""
    try:
        content, whole = unpack(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"path = {str(path)!r}: is not a saved prediction, or is cut off"
        ) from error
    found = content.attributes
    if found.get("format") != FORMAT:
        raise ValueError(f"path = {str(path)!r}: is not a saved prediction")
    if found.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"path = {str(path)!r}: is of format {found.get('format_version')}, written by jaxlora "
            f"{found.get('jaxlora_version')}; must be of format {FORMAT_VERSION}"
        )
    return content, whole


def _plain(value: Any) -> Any:
    """Options and NumPy's numbers as JSON has them."""
    return value.item() if isinstance(value, np.generic) else vars(value)
