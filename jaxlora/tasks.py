"""The parameters of both stages, validated (theory section 1)."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .activations import Activation, as_activation
from .programs import frozen


def _positive(x):
    return x > 0


def _positive_finite(x):
    return (x > 0) & (x < jnp.inf)


def _non_negative_finite(x):
    return (x >= 0) & (x < jnp.inf)


# Each real parameter: what it must satisfy, in a function for arrays and in words.
_ALLOWED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "kappa0": (_positive_finite, "positive and finite"),
    "kappa": (lambda x: (x >= 1) & (x < jnp.inf), "at least 1 and finite"),
    "alpha": (_positive_finite, "positive and finite"),
    "delta": (_non_negative_finite, "non-negative and finite"),
    "lam": (_positive, "positive (inf: no pre-training)"),
    "alpha_ft": (_positive_finite, "positive and finite"),
    "lam_ft": (_positive, "positive (inf: no fine-tuning)"),
    "beta": (_non_negative_finite, "non-negative and finite"),
    "active_ratio": (lambda x: (x > 0) & (x <= 1), "in (0, 1]"),
}
# Those by which the observables have derivatives; `given` adds its three.
PARAMETERS = tuple(name for name in _ALLOWED if name != "active_ratio")


class Task(eqx.Module):
    """A pre-training and a LoRA fine-tuning: what `predict` predicts.

    The real parameters are array leaves, so that a task can be differentiated and vmapped;
    `tokens`, `activation` and `reuse` are static.

    - `tokens`: T ≥ 1 (softmax: ≥ 2), `activation`: "softmax", "identity", or a function on T×T
      arrays (see `Activation`).
    - `kappa0` = P0/D > 0, `kappa` = P/D ≥ 1: ranks of teacher and student; `alpha` = N/D² > 0:
      pre-training samples; `delta` ≥ 0: label noise Δ; `lam` > 0: ridge λ (inf: Ŵ = 0).
    - `alpha_ft` = N'/D > 0: labelled fine-tuning samples α' (after selection); `lam_ft` > 0: ridge
      λ' (inf: ŵ = 0); `reuse`: e = 1, they are pre-training samples.
    - `beta` ≥ 0: recalibration Ŵ → √β Ŵ (26); `active_ratio` ρ in (0, 1]: share of the candidates
      that active fine-tuning labels (Algorithm 1).
    - `given` = (Q0, Q, M): an effective pre-training set by hand, instead of kappa0, kappa, alpha
      and lam; not with `reuse`.

    Raises ValueError naming the parameter, its value and what is allowed.
    """

    tokens: int = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)
    reuse: bool = eqx.field(static=True)
    kappa0: Any  # these and lam: arrays, or None where `given` replaces them
    kappa: Any
    alpha: Any
    delta: jax.Array
    lam: Any
    alpha_ft: jax.Array
    lam_ft: jax.Array
    beta: jax.Array
    active_ratio: jax.Array
    given: tuple[jax.Array, jax.Array, jax.Array] | None

    def __init__(
        self,
        *,
        tokens: int,
        activation: str | Activation | Callable[[jax.Array], jax.Array] = "softmax",
        kappa0: Any = None,
        kappa: Any = None,
        alpha: Any = None,
        delta: Any,
        lam: Any = None,
        alpha_ft: Any,
        lam_ft: Any,
        reuse: bool = False,
        beta: Any = 1.0,
        active_ratio: Any = 1.0,
        given: tuple[Any, Any, Any] | None = None,
    ):
        self.tokens = tokens
        self.activation = as_activation(activation)
        self.reuse = bool(reuse)
        self.kappa0, self.kappa, self.alpha = _leaf(kappa0), _leaf(kappa), _leaf(alpha)
        self.delta, self.lam = _leaf(delta), _leaf(lam)
        self.alpha_ft, self.lam_ft = _leaf(alpha_ft), _leaf(lam_ft)
        self.beta, self.active_ratio = _leaf(beta), _leaf(active_ratio)
        self.given = None if given is None else _triple(given)
        self.check()

    def check(self) -> None:
        """Raise ValueError for a parameter outside its range; ones traced by jit or vmap pass."""
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int | np.integer):
            raise ValueError(f"tokens = {self.tokens!r}: must be an integer")
        least = self.activation.min_tokens
        if self.tokens < least:
            raise ValueError(
                f"tokens = {self.tokens}: must be at least {least} for {self.activation.name}"
            )
        if self.given is not None and self.reuse:
            raise ValueError("reuse = True: not with given (Q0, Q, M), which has no training set")
        for name, (_, words) in _ALLOWED.items():
            value = frozen(getattr(self, name))
            if value is None:
                if self.given is None:
                    raise ValueError(f"{name} is missing: must be {words}, or given = (Q0, Q, M)")
            elif not isinstance(value, Tracer) and refusal(name, value):
                raise ValueError(f"{name} = {_show(value)}: must be {words}")
        if self.given is not None and not isinstance(self._given_is_valid(), Tracer):
            self._check_given()

    def is_valid(self) -> jax.Array:
        """Whether all parameters are in their ranges, for traced values."""
        checks = [
            jnp.all(allowed(value))
            for name, (allowed, _) in _ALLOWED.items()
            if (value := getattr(self, name)) is not None
        ]
        if self.given is not None:
            checks.append(jnp.all(self._given_is_valid()))
        return jnp.all(jnp.stack(checks))

    def teacher_variance(self) -> jax.Array:
        """A0 = Q0 + Δ/2, the variance of the teacher's pre-activations, O(1)."""
        return self.teacher_norm() + self.delta / 2

    def teacher_norm(self) -> jax.Array:
        """Q0 = Tr S*²/D² = 1 + κ0 (8), or as given."""
        if self.given is not None:
            return self.given[0]
        return 1 + self.kappa0

    def _given_is_valid(self) -> jax.Array:
        assert self.given is not None
        Q0, Q, M = self.given
        finite = jnp.isfinite(Q0) & jnp.isfinite(Q) & jnp.isfinite(M)
        return finite & (Q0 > 0) & (Q >= M**2 / (Q0 + self.delta / 2))

    def _check_given(self) -> None:
        assert self.given is not None
        given, A0 = frozen((self.given, self.teacher_variance()))
        Q0, Q, M = map(_show, given)
        if not np.all(np.asarray(given[0]) > 0):
            raise ValueError(f"given Q0 = {Q0}: must be positive")
        if not np.all(self._given_is_valid()):
            bound = _show(given[2] ** 2 / A0)
            raise ValueError(
                f"given Q = {Q}: must be finite and at least M²/(Q0 + Δ/2) = {bound} (M = {M})"
            )


def refusal(name: str, values: Any) -> str | None:
    """What the real parameter `name` must be, in words, where one of `values` is not."""
    allowed, words = _ALLOWED[name]
    return None if np.all(allowed(np.asarray(values))) else words


def _triple(given) -> tuple[jax.Array, jax.Array, jax.Array]:
    Q0, Q, M = given
    return tuple(_leaf(x) for x in (Q0, Q, M))  # type: ignore[return-value]


def _leaf(value) -> Any:
    """A parameter as an array of strong type, concrete under jit too unless it is traced itself."""
    if value is None:
        return None
    if isinstance(value, Tracer):
        return jnp.asarray(value, dtype=float)
    with jax.ensure_compile_time_eval():
        return jnp.asarray(value, dtype=float)


def _show(value) -> str:
    """A parameter's value for an error message: the number, or the range of an array."""
    array = np.asarray(value)
    if array.ndim == 0:
        return f"{array:g}"
    return f"array of shape {array.shape} with least {array.min():g}, largest {array.max():g}"
