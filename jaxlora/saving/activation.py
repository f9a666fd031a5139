"""An activation in a file: its name and its values. The function itself stays outside."""

from collections.abc import Callable

import jax
import numpy as np

from ..activations import Activation, as_activation
from ..identity import is_built_in, values_at_probes

CLOSE = 1e4  # of values, in units of their precision
VALUES = "task/activation_values"


def values_of(activation: Activation, tokens: int) -> np.ndarray | None:
    """What tells an activation of the user's from others of its name; None for one of ours."""
    return None if is_built_in(activation) else values_at_probes(activation, tokens)


def restore(
    name: str,
    values: np.ndarray | None,
    tokens: int,
    chosen: str | Activation | Callable[[jax.Array], jax.Array] | None,
) -> Activation:
    """The activation of that name, which is to be `chosen` where it is of the user's own.

    Raises ValueError where it is missing or has another name or other values.
    """
    if chosen is None:
        if values is not None:
            raise ValueError(
                f"activation is missing: must be {name!r}, whose function a file cannot hold"
            )
        return as_activation(name)
    activation = as_activation(chosen)
    here = values_of(activation, tokens)
    if activation.name != name or not _agree(here, values):
        raise ValueError(
            f"activation = {activation.name!r}: must be that of the file, {name!r}, in its "
            "values too"
        )
    return activation


def _agree(here: np.ndarray | None, there: np.ndarray | None) -> bool:
    if here is None or there is None:
        return here is there
    tol = CLOSE * max(np.finfo(x.dtype).eps for x in (here, there))
    return here.shape == there.shape and np.allclose(here, there, tol, tol, equal_nan=True)
