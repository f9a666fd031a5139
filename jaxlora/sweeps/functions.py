"""What tells two functions of the same name apart, the same in every process."""

import hashlib
import types
from typing import Any

from ..activations import Activation


def identity_of(activation: Activation) -> str:
    """The name of an activation, with a digest of the Python function that it is, if any."""
    if not isinstance(activation.function, types.FunctionType):
        return activation.name
    digest = hashlib.sha256(repr(_parts(activation.function)).encode()).hexdigest()
    return f"{activation.name} {digest[:12]}"


def _parts(value: Any) -> Any:
    """What a value consists of, without addresses, which differ from process to process."""
    if isinstance(value, types.FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        return _parts((value.__code__, value.__defaults__, *held))
    if isinstance(value, types.CodeType):
        return value.co_code, value.co_names, _parts(value.co_consts)
    if isinstance(value, tuple | list):
        return [_parts(part) for part in value]
    if isinstance(value, int | float | complex | str | bytes | None):
        return value
    return getattr(value, "__name__", type(value).__name__)
