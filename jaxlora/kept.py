"""Traced programs in the folder of JAX's compilation cache, kept for later processes.

JAX's cache spares compiling, but a program must be traced and lowered to be looked up in it, which
takes most of a short process. What is kept here is found by what it would be traced from: the
shapes and static parts of the arguments, the sources of this package, versions and settings.
Programs that run code of others, such as a user's activation, are not kept.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import os
import pathlib
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import export

from .checkpoints import CheckpointError, write_whole

VERSIONED = ("jax", "jaxlib", "jaxopt", "equinox", "numpy")  # what programs are traced with
KNOWN = ("jaxlora", "builtins", *VERSIONED)
FOLDER = "jax_compilation_cache_dir"
# What no program is traced from, and is not always imported.
ASIDE = ("cli", "figures", "plotting", "simulation", "sweeps", "terminal")


def _digest_of_sources() -> bytes:
    root = pathlib.Path(__file__).parent
    versions = [importlib.metadata.version(name) for name in VERSIONED]
    digest = hashlib.sha256(repr((sys.version, versions)).encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.digest()


SOURCES = _digest_of_sources()  # now: a file may change while this process runs


def _definitions(home: str) -> list[tuple[str, ...]]:
    """Constants and functions of the modules that a program of `home` is traced from.

    As they are now: a user may have replaced them.
    """
    names = (name for name in sorted(sys.modules) if name.startswith("jaxlora."))
    used = (name for name in names if name == home or name.split(".")[1] not in ASIDE)
    return [found for name in used for found in _defined(sys.modules[name], name)]


def _defined(namespace: Any, module: str) -> Iterator[tuple[str, ...]]:
    for name, value in sorted(vars(namespace).items()):
        if name.startswith("__"):
            continue
        if isinstance(value, bool | int | float | str | tuple):
            yield name, repr(value)
        elif hasattr(value, "__qualname__"):
            home = getattr(value, "__module__", None)
            yield name, str(home), value.__qualname__
            if isinstance(value, type) and home == module:
                yield from _defined(value, module)


class _Pickler(pickle.Pickler):
    """Refuses functions and classes whose code the file's name does not stand for."""

    def reducer_override(self, obj: Any) -> Any:
        # A class of others may have its instances pickled by a name alone.
        code = obj if hasattr(obj, "__qualname__") else type(obj)
        if not _is_known(code):
            raise pickle.PicklingError(f"{obj!r} is code of others")
        return NotImplemented


def file_of(function: Callable, described: Any) -> pathlib.Path | None:
    """Where the program of `function` is kept for arguments so `described`; None if it is not."""
    settings = jax.config.values
    folder = settings.pop(FOLDER)
    enabled = settings["jax_enable_compilation_cache"]
    if not enabled or not folder or "://" in folder or not _is_known(function):
        return None
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    pickler.fast = True  # equal parts are written alike, whether or not they are one object
    try:
        pickler.dump((function.__module__, function.__qualname__, described))
    except Exception:  # whatever keeps code of others from being written down
        return None
    definitions = _definitions(function.__module__)
    surroundings = repr((settings, os.environ.get("XLA_FLAGS"), definitions)).encode()
    digest = hashlib.sha256(stream.getvalue() + surroundings + SOURCES)
    return pathlib.Path(folder) / "programs" / f"{function.__name__}-{digest.hexdigest()}"


def lower(
    function: Any,
    leaves: list[Any],
    file: pathlib.Path | None,
    settings: dict[str, Any],
) -> tuple[jax.stages.Lowered, Any]:
    """A function of `leaves`, lowered with the `settings` of jit, and its results' structure.

    From `file` if it is kept there. The function has that structure as `results` once it is traced;
    it is then kept, unless it calls back into this process.
    """
    kept = None if file is None else _load(file) or _trace(function, leaves, file)
    if kept is None:
        return jax.jit(function, **settings).lower(*leaves), function.results
    program, structure = kept
    return jax.jit(program.call, **settings).lower(*leaves), structure


def _load(file: pathlib.Path) -> tuple[export.Exported, Any] | None:
    """The program in `file` and its results' structure, if a sound one is there."""
    try:
        program, skeleton = pickle.loads(file.read_bytes())
        return export.deserialize(program), jax.tree.structure(skeleton)
    except Exception:  # whatever is wrong with it, the program is traced and kept anew
        return None


def _trace(
    function: Any, leaves: list[Any], file: pathlib.Path
) -> tuple[export.Exported, Any] | None:
    """The same as it is traced, and keeps it in `file`; None where it calls back."""
    try:
        program = export.export(jax.jit(function))(*leaves)
        written = bytes(program.serialize())
    except (NotImplementedError, ValueError):
        return None
    structure = function.results
    skeleton = structure.unflatten(range(structure.num_leaves))
    with contextlib.suppress(CheckpointError):  # the next process traces it as well
        write_whole(file, pickle.dumps((written, skeleton)))
    return program, structure


def _is_known(code: Any) -> bool:
    return (code.__module__ or "").split(".")[0] in KNOWN
