"""Training of a factor by L-BFGS to a stated gradient, in segments that can be interrupted.

In the pre-training the factor is not unique, F Fᵀ is what counts, and its columns of small norm
make the problem ill-conditioned. Between segments the columns are made orthogonal, those that
vanish are dropped, and the others are measured in units of about their norm. The loss at a
minimum then does not depend on how many columns were kept, which `Objective.slack` checks.

A large fine-tuning gets close by message passing (`approach`), where L-BFGS takes over. A large
pre-training gets close with its data in float32 (`rounded`), and ends with the exact loss.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .approach import approach
from .nearby import Nearby, in_single, near
from .objective import Objective
from .optimisers import OPTIMISERS
from .rounded import LEAST_TOL, SAFETY, Rounded, is_worth_rounding, rounded

# Iterations between two changes of the units, which forget the Hessian; later ones change little.
SEGMENTS = (20, 20, 30, 40)
LAST_SEGMENT = 100
ONE_COLUMN_SEGMENT = 50  # has no units; between two segments the gradient is found exactly
SMALL_COLUMN = 1e-2  # columns of smaller norm than this share of the largest are dropped
UNIT_FLOOR = 0.17  # the smallest unit, relative to the largest norm of a column
RANK_STEPS = 8  # the number of columns is a multiple of P/8: each new one is compiled anew,
WORTH_COMPILING = 1.5e9  # and only where an evaluation takes so many operations
WIDTH = 8  # their number is then rounded up to a multiple of this, for faster products
# Least eigenvalue of the slack, relative to the largest, that passes as 0: what the gradient left
# by training makes of it grows with its tolerance.
SLACK_TOLERANCE = 1e-3
SLACK_PER_TOL = 100.0
ESCAPES = 3  # times that columns are added


@dataclasses.dataclass(frozen=True)
class Training:
    """How to train.

    `optimiser` is "optax" or "jaxopt", both L-BFGS; optax needs half the evaluations. Large
    pre-trainings get close with their data in float32, large fine-tunings by message passing, and
    both end with the exact loss; "optax-alone" does without either. `tol` is the root-mean-square
    gradient per weight of the losses (2) and (3) that counts as converged, by default 1e-6, or 1e-4
    in float32. `rescale`: whether to drop columns of W that vanish, and measure the others in units
    of about their norm.
    """

    optimiser: str = "optax"
    tol: float = 1e-6
    max_iterations: int = 3000
    rescale: bool = True

    @classmethod
    def of(cls, precision: str, **fields: Any) -> "Training":
        """What is best for that precision, with other `fields` where given."""
        best: dict[str, Any] = {"tol": 1e-4} if precision == "float32" else {}
        return cls(**(best | fields))

    def __post_init__(self):
        if self.optimiser not in OPTIMISERS:
            known = ", ".join(OPTIMISERS)
            raise ValueError(f"optimiser = {self.optimiser!r}: must be one of {known}")
        if not self.tol > 0:
            raise ValueError(f"tol = {self.tol!r}: must be positive")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations = {self.max_iterations!r}: must be at least 1")


class Trained(NamedTuple):
    """A trained factor (D, P), its loss and root-mean-square gradient, and what it took.

    `slack` is the least eigenvalue of `Objective.slack` relative to the largest, where columns were
    dropped: non-negative at a minimum over all ranks.
    """

    factor: jax.Array
    value: float
    gradient: float
    iterations: int
    evaluations: int
    converged: bool
    slack: float


class Report(NamedTuple):
    """Where a training is, for whoever watches it."""

    iterations: int
    gradient: float
    tol: float
    seconds: float


class _Place(NamedTuple):
    """Everything a training needs to go on; the factor is `scaled` times `unit` a column.

    `exact`: whether value and gradient are those of the objective itself, and not of it `rounded`.
    """

    scaled: Any
    unit: Any
    state: Any
    segment: int = 0
    iterations: int = 0
    evaluations: int = 0
    escapes: int = 0
    last_value: float = np.inf
    exact: bool = True


def train(
    objective: Objective,
    start: jax.Array,
    training: Training,
    *,
    watch: Callable[[Report], None] = lambda report: None,
    saved: dict[str, np.ndarray] | None = None,
    save: Callable[[dict[str, np.ndarray]], None] = lambda place: None,
) -> Trained:
    """Minimise the objective from `start` (D, P).

    After each segment `save` is given what `saved` needs to be to go on from there with the same
    numbers; what comes before the first is done again.
    """
    begun = time.monotonic()
    optimiser = OPTIMISERS[training.optimiser]
    columns = start.shape[1]
    size = start.size**0.5
    reduces = training.rescale and columns > 1
    if reduces and columns > len(start):
        start = _orthogonal(start)[:, : len(start)]
    single = None if optimiser.alone else in_single(objective.data.inputs, columns)

    def report(iterations: int, gradient: float) -> None:
        watch(Report(iterations, gradient, training.tol, time.monotonic() - begun))

    local: Objective | Nearby | Rounded = objective
    if saved:
        local = objective if saved["exact"] else rounded(objective)
        place = _unpack(saved, local, training)
    elif single is not None:
        factor, read = approach(
            objective, single, start, training.tol, training.max_iterations, report
        )
        local, value, gradient = near(objective, single, factor)
        state = _known(value, gradient, factor, training.optimiser)
        place = _Place(factor, _no_units(factor), state, iterations=read - 1, evaluations=read)
    elif not optimiser.alone and is_worth_rounding(objective.data.inputs, columns):
        local = rounded(objective)
        place = _begin(local, start, training)._replace(exact=False)
    else:
        place = _begin(local, start, training)
    slack = np.nan
    while True:
        if single is not None and place.segment > 0:
            local, place = _move_near(objective, single, place, optimiser)
        gradient = float(_gradient_norm(optimiser, place)) / size
        value = float(optimiser.progress(place.state).value)
        # Rounding hides what decrease there may still be.
        resolution = 4 * float(jnp.finfo(start.dtype if place.exact else jnp.float32).eps)
        stalled = place.segment > len(SEGMENTS) and value >= place.last_value * (1 - resolution)
        report(place.iterations, gradient)
        tol = training.tol if place.exact else SAFETY * max(training.tol, LEAST_TOL)
        at_rest = converged = gradient <= tol
        exhausted = stalled or place.iterations >= training.max_iterations
        ends = at_rest or exhausted or not np.isfinite(gradient)
        if ends and not place.exact:
            local = objective
            place = _continue(objective, (place.scaled * place.unit, place.unit), training, place)
            place = place._replace(exact=True)
            continue
        if at_rest and reduces:
            slack, escape = _escape(objective, place.scaled * place.unit, columns, training.tol)
            # At rest, but at a saddle where columns are missing still.
            converged = escape is None
            if escape is not None and place.escapes < ESCAPES:
                place = _continue(objective, escape, training, place)
                # New columns start small and must not be dropped for that.
                place = place._replace(segment=len(SEGMENTS) + 1, escapes=place.escapes + 1)
                continue
        if ends:
            break
        if reduces and 0 < place.segment <= len(SEGMENTS):
            place = _continue(local, _reduced(objective, place, columns), training, place)
        length = _segment_length(place.segment, columns)
        length = min(length, training.max_iterations - place.iterations)
        scaled, state, steps = _advance(
            local,
            place.scaled,
            place.unit,
            place.state,
            jnp.asarray(length),
            jnp.asarray(tol * size, start.dtype),
            training.optimiser,
        )
        place = place._replace(
            scaled=scaled,
            state=state,
            segment=place.segment + 1,
            iterations=place.iterations + int(steps),
            last_value=value,
        )
        save(_pack(place))
    factor = place.scaled * place.unit
    return Trained(
        jnp.pad(factor, ((0, 0), (0, columns - factor.shape[1]))),
        value,
        gradient,
        place.iterations,
        place.evaluations + int(optimiser.progress(place.state).evaluations),
        converged,
        slack,
    )


def _begin(objective, factor, training) -> _Place:
    unit = _no_units(factor)
    return _Place(factor, unit, _init(objective, factor, unit, training.optimiser))


def _no_units(factor) -> jax.Array:
    return jnp.ones((1, factor.shape[1]), factor.dtype)


def _continue(objective, factor_and_unit, training, place: _Place) -> _Place:
    """The place with another factor and other units, from which L-BFGS starts afresh."""
    factor, unit = factor_and_unit
    scaled = factor / unit
    done = place.evaluations + int(OPTIMISERS[training.optimiser].progress(place.state).evaluations)
    state = _init(objective, scaled, unit, training.optimiser)
    return place._replace(
        scaled=scaled, unit=unit, state=state, evaluations=done, last_value=np.inf
    )


def _segment_length(segment: int, columns: int) -> int:
    """The most iterations of a segment."""
    if columns == 1:
        return ONE_COLUMN_SEGMENT
    return SEGMENTS[segment] if segment < len(SEGMENTS) else LAST_SEGMENT


def _move_near(objective, single, place: _Place, optimiser) -> tuple[Nearby, _Place]:
    """The objective near the place, and the place with the exact value and gradient there."""
    nearby, value, gradient = near(objective, single, place.scaled * place.unit)
    state = optimiser.corrected(place.state, value, gradient * place.unit)
    return nearby, place._replace(state=state, evaluations=place.evaluations + 1)


def _reduced(objective, place: _Place, columns: int) -> tuple[jax.Array, jax.Array]:
    """Orthogonal columns of the same F Fᵀ without the smallest, and their units."""
    factor = _orthogonal(place.scaled * place.unit)
    norms = np.asarray(jnp.linalg.norm(factor, axis=0))
    step = max(1, columns // RANK_STEPS)
    needed = int(np.sum(norms > SMALL_COLUMN * norms[0]))
    kept = step * -(-max(needed, 1) // step)
    kept = min(factor.shape[1], WIDTH * -(-kept // WIDTH))
    if 4 * objective.data.inputs.size * columns < WORTH_COMPILING:
        kept = factor.shape[1]
    return factor[:, :kept], _units(factor[:, :kept])


def _orthogonal(factor) -> jax.Array:
    """Orthogonal columns of the same F Fᵀ in descending order of their norms."""
    return factor @ jnp.linalg.eigh(factor.T @ factor)[1][:, ::-1]


def _units(factor: jax.Array) -> jax.Array:
    norms = jnp.linalg.norm(factor, axis=0, keepdims=True)
    return 1 / jnp.sqrt((norms / jnp.max(norms)) ** 2 + UNIT_FLOOR**2)


def _escape(
    objective, factor, columns: int, tol: float
) -> tuple[float, tuple[jax.Array, jax.Array] | None]:
    """The relative slack, and the factor with columns that lower the loss where there are any."""
    values, vectors = _slack(objective, factor)
    relative = float(values[0] / values[-1])
    if relative >= -max(SLACK_TOLERANCE, SLACK_PER_TOL * tol):
        return relative, None
    norms = jnp.linalg.norm(factor, axis=0)
    count = min(int(jnp.sum(values < 0)), factor.shape[0] // RANK_STEPS + 1)
    new = SMALL_COLUMN * jnp.max(norms) * vectors[:, :count]
    # P ≥ D columns can hold any F Fᵀ.
    factor = _orthogonal(jnp.concatenate([factor, new], axis=1))[:, :columns]
    return relative, (factor, _units(factor))


@eqx.filter_jit
def _slack(objective, factor):
    return jnp.linalg.eigh(objective.slack(factor))


def _in_units(objective, unit):
    def function(scaled):
        value, gradient = objective.value_and_gradient(scaled * unit)
        return value, gradient * unit

    return function


@eqx.filter_jit
def _init(objective, scaled, unit, optimiser: str):
    return OPTIMISERS[optimiser].init(_in_units(objective, unit), scaled)


@eqx.filter_jit
def _known(value, gradient, factor, optimiser: str):
    """The state at a factor whose value and gradient are known."""
    return OPTIMISERS[optimiser].init(lambda _: (value, gradient), factor)


@eqx.filter_jit
def _advance(objective, scaled, unit, state, length, tol, optimiser: str):
    """At most `length` iterations, until the norm of the gradient is at most `tol`."""
    method = OPTIMISERS[optimiser]
    function = _in_units(objective, unit)

    def busy(carry):
        _, state, steps = carry
        gradient = method.progress(state).gradient / unit
        # A gradient that is not finite ends the loop as well.
        return (steps < length) & (jnp.linalg.norm(gradient) > tol)

    def step(carry):
        scaled, state, steps = carry
        return (*method.step(function, scaled, state), steps + 1)

    return jax.lax.while_loop(busy, step, (scaled, state, 0))


def _gradient_norm(optimiser, place: _Place) -> jax.Array:
    return jnp.linalg.norm(optimiser.progress(place.state).gradient / place.unit)


def _pack(place: _Place) -> dict[str, np.ndarray]:
    """A place as named arrays."""
    leaves = {f"state{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(place.state))}
    counts = np.array([place.segment, place.iterations, place.evaluations, place.escapes])
    arrays = {"scaled": np.asarray(place.scaled), "unit": np.asarray(place.unit)}
    values = {"last_value": np.array(place.last_value), "exact": np.array(place.exact)}
    return arrays | {"counts": counts} | values | leaves


def _unpack(saved: dict[str, np.ndarray], objective, training) -> _Place:
    scaled, unit = jnp.asarray(saved["scaled"]), jnp.asarray(saved["unit"])
    like = eqx.filter_eval_shape(_init, objective, scaled, unit, training.optimiser)
    leaves = [jnp.asarray(saved[f"state{i}"]) for i in range(len(jax.tree.leaves(like)))]
    state = jax.tree.unflatten(jax.tree.structure(like), leaves)
    segment, iterations, evaluations, escapes = (int(x) for x in saved["counts"])
    last_value = float(saved["last_value"])
    exact = bool(saved["exact"])
    return _Place(scaled, unit, state, segment, iterations, evaluations, escapes, last_value, exact)
