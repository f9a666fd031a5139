"""Named arrays and attributes as one netCDF file, with a digest of all of them."""

import hashlib
import io
import json
from typing import Any, NamedTuple

import numpy as np

DIGEST = "sha256"  # the attribute that holds it


class Content(NamedTuple):
    """Arrays by their path "group/…/name", what is known of each, and attributes of the whole.

    Attributes are words and numbers. `described` may leave arrays out, and is not read back.
    """

    arrays: dict[str, np.ndarray]
    attributes: dict[str, Any]
    described: dict[str, dict[str, Any]]


def pack(content: Content) -> bytes:
    """The file."""
    import h5netcdf  # takes half a second

    buffer = io.BytesIO()
    with h5netcdf.File(buffer, "w") as file:
        for name, value in (content.attributes | {DIGEST: digest_of(content)}).items():
            file.attrs[name] = value
        for path, array in content.arrays.items():
            along = tuple(f"size{length}" for length in array.shape)
            for name, length in zip(along, array.shape, strict=True):
                if name not in file.dimensions:
                    file.dimensions[name] = length
            variable = file.create_variable(path, along, data=array)
            for name, value in content.described.get(path, {}).items():
                variable.attrs[name] = value
    return buffer.getvalue()


def unpack(file: bytes) -> tuple[Content, bool]:
    """What a file holds, and whether that is all it held when it was written.

    Raises ValueError for what is not a netCDF file, or is a part of one.
    """
    import h5py

    try:
        with h5py.File(io.BytesIO(file), "r") as opened:
            attributes = {name: _plain(x) for name, x in opened.attrs.items() if name[0] != "_"}
            content = Content(_arrays_of(opened), attributes, {})
    except Exception as error:  # HDF5 makes of a damaged file what it can
        raise ValueError("not a netCDF file, or a damaged one") from error
    return content, attributes.pop(DIGEST, None) == digest_of(content)


def digest_of(content: Content) -> str:
    """Of all arrays and attributes, the same for the same ones."""
    found = hashlib.sha256(json.dumps(content.attributes, sort_keys=True, default=str).encode())
    for path, array in sorted(content.arrays.items()):
        found.update(f"{path} {array.dtype.str} {array.shape} ".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _arrays_of(opened: Any) -> dict[str, np.ndarray]:
    arrays = {}

    def keep(path: str, item: Any) -> None:
        if hasattr(item, "shape") and not item.is_scale:  # dimensions of netCDF are scales
            arrays[path] = np.asarray(item[()])

    opened.visititems(keep)
    return arrays


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value
