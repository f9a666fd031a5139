"""An activation in a file: its name, and what tells it apart. The function itself stays outside."""

import platform
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..activations import ACTIVATIONS, Activation, as_activation
from ..sweeps.functions import identity_of

PROBES, PROBE_SEED = 8, 2606  # matrices at which its values are written down
CLOSE = 1e4  # of values, in units of their precision
VALUES = "task/activation_values"


def describe(activation: Activation, tokens: int) -> tuple[dict[str, str], np.ndarray | None]:
    """Attributes, and for an activation of the user's the values at the probes (T, T, PROBES)."""
    if _is_built_in(activation):
        return {"activation": activation.name}, None
    words = {"activation": activation.name, "activation_identity": identity_of(activation)}
    return words | {"python": _python()}, _values(activation, tokens)


def restore(
    attributes: dict[str, Any],
    values: np.ndarray | None,
    tokens: int,
    chosen: str | Activation | Callable[[jax.Array], jax.Array] | None,
) -> Activation:
    """The activation that was described, which is to be `chosen` where it is of the user's own.

    What Python compiled a function to is compared where the same Python wrote the file, and values
    everywhere. Raises ValueError where it is missing or another one.
    """
    name = attributes["activation"]
    if chosen is None:
        if values is not None:
            raise ValueError(
                f"activation is missing: must be {name!r}, whose function a file cannot hold"
            )
        return as_activation(name)
    activation = as_activation(chosen)
    if values is None:
        same = _is_built_in(activation) and activation.name == name
    else:
        same = activation.name == name and _agree(activation, tokens, values)
        if attributes["python"] == _python():
            same = same and identity_of(activation) == attributes["activation_identity"]
    if not same:
        raise ValueError(
            f"activation = {identity_of(activation)!r}: must be that of the file, "
            f"{attributes.get('activation_identity', name)!r}, in its values too"
        )
    return activation


def _is_built_in(activation: Activation) -> bool:
    known = ACTIVATIONS.get(activation.name)
    return known is not None and activation.function is known.function


def _values(activation: Activation, tokens: int) -> np.ndarray:
    probes = np.random.default_rng(PROBE_SEED).standard_normal((tokens, tokens, PROBES))
    return np.asarray(activation(jnp.asarray(probes + probes.swapaxes(0, 1))))


def _agree(activation: Activation, tokens: int, values: np.ndarray) -> bool:
    here = _values(activation, tokens)
    tol = CLOSE * max(np.finfo(x.dtype).eps for x in (here, values))
    return here.shape == values.shape and np.allclose(here, values, tol, tol, equal_nan=True)


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])
