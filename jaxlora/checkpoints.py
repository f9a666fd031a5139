"""Files from which an interrupted run goes on."""

import contextlib
import io
import json
import os
import pathlib
import secrets
import time
import zipfile
from typing import Any

import numpy as np

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
        if path.exists():
            there = json.loads(path.read_text())
            keys = [k for k in there.keys() | identity.keys() if there.get(k) != identity.get(k)]
            if keys:
                differences = ", ".join(
                    f"{k} = {there.get(k)!r} there, {identity.get(k)!r} here" for k in sorted(keys)
                )
                raise ValueError(f"checkpoint {self.folder}: is of another run: {differences}")
        else:
            write_whole(path, json.dumps(identity, indent=1).encode())

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
        except (FileNotFoundError, zipfile.BadZipFile, ValueError, EOFError, OSError):
            return None


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Write a file that is complete or absent, whatever happens meanwhile.

    Raises CheckpointError where the disk does not take it.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: {error.strerror}") from error
