"""Files from which an interrupted run goes on."""

import contextlib
import io
import json
import math
import os
import pathlib
import secrets
import time
import zipfile
from typing import Any

import numpy as np

LONGEST_WORDS = 80  # of a value, in an error
SAME = 1e-12  # relative difference of numbers that are the same: processors differ in the last bit
SAVE_SECONDS = 10.0  # between two states of one training: later ones replace earlier ones


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; those before it are intact."""


class Checkpoint:
    """A folder with one file for each thing that is finished or under way.

    A file is complete or absent: it is written aside, brought to the disk and renamed.
    """

    def __init__(self, folder: os.PathLike | str):
        self.folder = pathlib.Path(folder)
        self._saved = time.monotonic()

    def stage(self, name: str) -> "Checkpoint":
        """The folder for a part of what this one is for."""
        return Checkpoint(self.folder / name)

    def claim(self, identity: dict[str, Any]) -> None:
        """Say what the folder is for; raises ValueError where it is for something else."""
        path = self.folder / "experiment.json"
        # Of two processes that claim the folder at a time, one finds what the other wrote.
        if write_whole(path, json.dumps(identity, indent=1).encode(), replace=False):
            return
        try:
            there = dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{path}: cannot be read; remove {self.folder} to begin anew"
            ) from error
        if differences := differences_of(there, identity):
            raise ValueError(f"checkpoint {self.folder}: is of another run: {differences}")

    def save(self, name: str, arrays: dict[str, np.ndarray], at_most_every: float = 0.0) -> None:
        """Write arrays, unless less than `at_most_every` seconds went by since the last ones.

        Raises CheckpointError where the disk does not take them.
        """
        if time.monotonic() - self._saved < at_most_every:
            return
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_whole(self.folder / f"{name}.npz", buffer.getvalue())
        self._saved = time.monotonic()

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays of that name; None where there are none that are whole."""
        path = self.folder / f"{name}.npz"
        try:
            with open(path, "rb") as raw, np.load(raw) as file:
                # The archive's checksums are verified as its members are read.
                return {key: file[key] for key in file.files}
        except (zipfile.BadZipFile, ValueError, EOFError, OSError):
            return None
        except (NotImplementedError, RuntimeError):  # of zipfile, for a header that has changed
            return None


def differences_of(there: dict[str, Any], here: dict[str, Any]) -> str:
    """What differs between two descriptions of a run, in words; empty where nothing does."""
    keys = [k for k in there.keys() | here.keys() if not _is_same(there.get(k), here.get(k))]
    return ", ".join(
        f"{k} = {_short(there.get(k))} there, {_short(here.get(k))} here" for k in sorted(keys)
    )


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=SAME)
    return one == other


def _short(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= LONGEST_WORDS else f"{words[:LONGEST_WORDS]}…"


def _put(aside: pathlib.Path, path: pathlib.Path) -> bool:
    """Rename a file to a name that is free; returns whether it was."""
    try:
        os.link(aside, path)
    except FileExistsError:
        aside.unlink()
        return False
    except OSError:  # a file system without links
        if path.exists():
            aside.unlink()
            return False
        os.replace(aside, path)
        return True
    aside.unlink()
    return True


def write_whole(path: pathlib.Path, content: bytes, *, replace: bool = True) -> bool:
    """Write a file that is complete or absent, whatever happens meanwhile.

    Returns whether it was written: unless it is to `replace` one that is there, that one stays.
    Raises CheckpointError where the disk does not take it.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(aside, path)
            return True
        return _put(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: {error.strerror}") from error
